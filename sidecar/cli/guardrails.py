"""`egret guardrails test`: the findings of a policy in a text."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from sidecar.apis.request_text import read_request
from sidecar.apis.routes import recognise
from sidecar.cli.arguments import STANDARD_STREAM, read_file
from sidecar.cli.policy import chosen_document
from sidecar.cli.terminal import (
    WRONG_USAGE,
    Output,
    OutputOption,
    Row,
    console,
    fail,
    print_json,
    print_rows,
)
from sidecar.domain.finding import Allow, Deny, Finding, GuardrailResult, Redact, Verdict
from sidecar.domain.http import Headers
from sidecar.domain.policy import Mode, Stage
from sidecar.domain.subject import Malformed, Subject, TextPart, UnknownRoute, Unreadable
from sidecar.guardrails.detectors.secrets import LIKELY_TYPES
from sidecar.guardrails.matching.database import CompileError
from sidecar.pipeline.decide import decide
from sidecar.policy.parse import PolicyDocument
from sidecar.policy.tester import (
    PolicyTestResult,
    TimedResult,
    character_span,
    run_policy_test,
    spans_of,
)

_STYLES: Final = {
    Verdict.BLOCK: "bold white on red",
    Verdict.REDACT: "black on yellow",
    Verdict.FLAG: "black on cyan",
}
_PICTURES: Final = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"} | {
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
}
"""Control characters as pictures of themselves: a text from a log must not act on the terminal."""


def highlighted(subject: Subject, results: Iterable[GuardrailResult]) -> Iterator[Text]:
    """Return each text with its findings, its role before it."""
    findings = [(one, found) for one in results for found in one.findings]
    for index, part in enumerate(subject.parts):
        content = part.content.decode()
        role = f"{part.role.translate(_PICTURES)}: "
        text = Text(role, style="dim")
        text.append(content.translate(_PICTURES), style="not dim")
        for result, found in findings:
            if found.part == index:
                start, end = character_span(part.content, (found.start, found.end))
                style = _STYLES.get(result.verdict, "bold")
                text.stylize(style, len(role) + start, len(role) + end)
        yield text


guardrails = typer.Typer(
    no_args_is_help=True, help="Guardrails: their findings in a text, and in all requests."
)

_COLUMNS: Final = ("guardrail", "type", "mode", "verdict", "score", "finds", "µs")
_CHAT: Final = "/v1/chat/completions"


@guardrails.command("test")
def try_out(  # noqa: PLR0913, PLR0917 - options of a command
    text: Annotated[str | None, typer.Argument(help="The text; without, see --file.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="A file of text; - is standard input.")
    ] = None,
    body: Annotated[
        Path | None,
        typer.Option("--dialect-body", help="A request's body as a client sends it; - as above."),
    ] = None,
    path: Annotated[
        str, typer.Option("--path", help="Of the request with --dialect-body.")
    ] = _CHAT,
    role: Annotated[str, typer.Option("--role", help="Whose message the text is.")] = "user",
    answer: Annotated[
        bool,
        typer.Option("--answer", help="Take it for an answer: stages `output` and `both` judge."),
    ] = False,
    policy: Annotated[
        str | None, typer.Option("--policy", "-p", help="Of the store, or of --policy-file.")
    ] = None,
    policy_file: Annotated[
        Path | None, typer.Option("--policy-file", help="A file of policies; needs no database.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show each guardrail's verdict, findings, score and cost.

    Without a policy the built-in one judges. Routes, models, roll-outs and exceptions do not
    count here; guardrails that ask a server are not asked. The text goes nowhere.

    Example: egret guardrails test "write to bob@example.com" --policy-file policies.yaml
    """
    if answer and body is not None:
        hint = "give the text that the model said"
        fail("--dialect-body is a request, not an answer", hint=hint, code=WRONG_USAGE)
    document = chosen_document(policy, policy_file)
    subject = _subject(text, file, body, path=path, role="model" if answer else role)
    side = Stage.OUTPUT if answer else Stage.INPUT
    try:
        trial = asyncio.run(run_policy_test(document.text, subject, side=side))
    except CompileError as error:
        fail(str(error), hint="write fewer or simpler expressions")
    if output is Output.JSON:
        print_json(_as_json(document, subject, trial))
    else:
        _show(subject, trial)


def _subject(
    text: str | None, file: Path | None, body: Path | None, *, path: str, role: str
) -> Subject:
    given = [one for one in (text, file, body) if one is not None]
    if len(given) > 1 or (not given and sys.stdin.isatty()):
        hint = "give a text, --file or --dialect-body, or pipe it in"
        fail("say which text", hint=hint, code=WRONG_USAGE)
    if body is not None:
        route = recognise("POST", path)
        if isinstance(route, UnknownRoute):
            fail(f"no dialect knows POST {path}", hint="give --path", code=WRONG_USAGE)
        headers = Headers((("content-type", b"application/json"),))
        read = read_request(route, headers, read_file(body))
        if isinstance(read, Malformed):
            fail(read.problem.rstrip("."), hint="a request with this body is refused with 400")
        if isinstance(read, Unreadable):
            hint = "the policy's `unscanned` decides on such a request"
            fail(f"the body cannot be read ({read.reason.value})", hint=hint)
        return read
    if text is not None:
        content = text.encode(errors="replace")
    else:
        content = read_file(file or STANDARD_STREAM)
    try:
        content.decode()
    except UnicodeDecodeError as error:
        fail(f"byte {error.start} is not UTF-8", hint="save it as UTF-8")
    return Subject(model=None, streamed=False, parts=(TextPart(content, (0,), role),))


def _show(subject: Subject, trial: PolicyTestResult) -> None:
    rows: list[Row] = [_row(one) for one in trial.judged]
    rows += [
        {
            **dict.fromkeys(_COLUMNS, None),
            "guardrail": one.name,
            "type": one.settings.guardrail_type,
            "mode": one.mode.value,
            "verdict": "not asked",
        }
        for one in trial.not_asked
    ]
    screen = console()
    for text in highlighted(subject, trial.results):
        screen.print(text, soft_wrap=True)
    print_rows(rows, columns=_COLUMNS, output=Output.TABLE)
    decision = "Goes on unchanged"
    match decide(trial.results):
        case Deny(error):
            decision = f"Refused: {error.message}"
        case Redact(findings):
            decision = f"Goes on, with {len(findings)} values replaced"
        case Allow():
            if any(one.guardrail.mode is Mode.SHADOW and one.findings for one in trial.results):
                decision += " (in shadow some would act)"
    screen.print(Text(f"{decision}; one pass for all takes {trial.pass_microseconds:.0f} µs"))
    for reason in dict.fromkeys(subject.unscanned):
        screen.print(Text(f"holds content that no guardrail can read: {reason.value}"))


def _row(one: TimedResult) -> Row:
    result = one.result
    return {
        "guardrail": result.guardrail.name,
        "type": result.guardrail.settings.guardrail_type,
        "mode": result.guardrail.mode.value,
        "verdict": result.verdict.value + (f" ({result.error_type})" if result.error_type else ""),
        "score": None if result.score is None else f"{result.score:.2f}",
        "finds": ", ".join(dict.fromkeys(map(_words, result.findings))) or None,
        "µs": f"{one.microseconds:.0f}",
    }


def _words(finding: Finding) -> str:
    name = f"{finding.type} (likely)" if finding.type in LIKELY_TYPES else finding.type
    return name if finding.place is None else f"{name} at {finding.place}"


def _as_json(
    document: PolicyDocument, subject: Subject, trial: PolicyTestResult
) -> dict[str, object]:
    """Return all but the text itself; offsets count characters."""
    judged = [
        {
            "name": one.result.guardrail.name,
            "type": one.result.guardrail.settings.guardrail_type,
            "action": one.result.guardrail.action.value,
            "mode": one.result.guardrail.mode.value,
            "verdict": one.result.verdict.value,
            "score": one.result.score,
            "microseconds": round(one.microseconds, 1),
            "findings": spans_of(subject, one.result),
        }
        for one in trial.judged
    ]
    return {
        "policy": document.policy.name,
        "decision": type(decide(trial.results)).__name__.lower(),
        "pass_microseconds": round(trial.pass_microseconds, 1),
        "unscanned": [reason.value for reason in subject.unscanned],
        "guardrails": judged,
        "not_asked": [one.name for one in trial.not_asked],
    }
