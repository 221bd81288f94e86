"""`egret guardrails`: the findings of a policy in a text, and those of all requests."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from sidecar.admin.finding_reports import FindingSum, finding_sums, recorded_requests
from sidecar.admin.policy_changes import existing_policy
from sidecar.admin.usage_reports import UsageSum
from sidecar.apis.request_text import read_request
from sidecar.apis.routes import recognise
from sidecar.cli.admin_server import AdminServer, most_rows
from sidecar.cli.arguments import STANDARD_STREAM, read_file, since_or_exit
from sidecar.cli.connection import on_connection
from sidecar.cli.policy import ChosenPolicyOption, PolicyFileOption, chosen_document
from sidecar.cli.terminal import (
    WIDTH,
    WRONG_USAGE,
    Output,
    OutputOption,
    Row,
    console,
    fail,
    note,
    print_json,
    print_rows,
)
from sidecar.domain.finding import Allow, Finding, GuardrailResult, Verdict
from sidecar.domain.http import Headers
from sidecar.domain.policy import Mode, Stage
from sidecar.domain.subject import Malformed, Subject, TextPart, UnknownRoute, Unreadable
from sidecar.guardrails.detectors.secrets import LIKELY_TYPES
from sidecar.guardrails.matching.database import CompileError
from sidecar.pipeline.decide import decide
from sidecar.policy.tester import (
    PICTURES,
    PolicyTestResult,
    TextRole,
    TimedResult,
    character_span,
    decision_words,
    run_policy_test,
)
from sidecar.storage.pool import Connection

_STYLES: Final = {
    Verdict.BLOCK: "bold white on red",
    Verdict.REDACT: "black on yellow",
    Verdict.FLAG: "black on cyan",
}


def highlighted(subject: Subject, results: Iterable[GuardrailResult]) -> Iterator[Text]:
    """Return each text with its findings, its role before it."""
    findings = [(one, found) for one in results for found in one.findings]
    for index, part in enumerate(subject.parts):
        content = part.content.decode()
        role = f"{part.role.translate(PICTURES)}: "
        text = Text(role, style="dim")
        text.append(content.translate(PICTURES), style="not dim")
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
        str | None,
        typer.Option("--path", help=f"Of the request with --dialect-body; without, {_CHAT}."),
    ] = None,
    role: Annotated[
        TextRole | None,
        typer.Option("--role", help="Whose message the text is; without, the user's."),
    ] = None,
    answer: Annotated[
        bool,
        typer.Option("--answer", help="Take it for an answer: stages `output` and `both` judge."),
    ] = False,
    policy: ChosenPolicyOption = None,
    policy_file: PolicyFileOption = None,
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
    if path is not None and body is None:
        fail("only a request has a --path", hint="give --dialect-body too", code=WRONG_USAGE)
    if role is not None and (answer or body is not None):
        hint = "leave --role out: an answer is the model's, and a request names its roles"
        fail("only a text has a --role", hint=hint, code=WRONG_USAGE)
    document = chosen_document(policy, policy_file)
    own_role = TextRole.MODEL if answer else role or TextRole.USER
    subject = _subject(text, file, body, path=path or _CHAT, role=own_role)
    side = Stage.OUTPUT if answer else Stage.INPUT
    try:
        trial = asyncio.run(run_policy_test(document.text, subject, side=side))
    except CompileError as error:
        fail(str(error), hint="write fewer or simpler expressions")
    if output is Output.JSON:
        print_json(
            {
                "policy": document.policy.name,
                "decision": type(decide(trial.results)).__name__.lower(),
                "unscanned": [reason.value for reason in subject.unscanned],
                **trial.described(subject),
            }
        )
    else:
        _show(subject, trial)


def _subject(
    text: str | None, file: Path | None, body: Path | None, *, path: str, role: TextRole
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
    return Subject(model=None, streamed=False, parts=(TextPart(content, (0,), role.value),))


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
    decision = decide(trial.results)
    words = decision_words(decision)
    in_shadow = (one.guardrail.mode is Mode.SHADOW and one.findings for one in trial.results)
    if isinstance(decision, Allow) and any(in_shadow):
        words += " (in shadow some would act)"
    screen.print(Text(f"{words}; one pass for all takes {trial.pass_microseconds:.0f} µs"))
    for reason in dict.fromkeys(subject.unscanned):
        screen.print(Text(f"holds content that no guardrail can read: {reason.value}"))


def _row(one: TimedResult) -> Row:
    result = one.result
    return {
        "guardrail": result.guardrail.name,
        "type": result.guardrail.settings.guardrail_type,
        "mode": result.guardrail.mode.value,
        "verdict": result.verdict.value
        + ("" if result.failure is None else f" ({result.failure.error_type})"),
        "score": None if result.score is None else f"{result.score:.2f}",
        "finds": ", ".join(dict.fromkeys(map(_words, result.findings))) or None,
        "µs": f"{one.microseconds:.0f}",
    }


def _words(finding: Finding) -> str:
    name = f"{finding.type} (likely)" if finding.type in LIKELY_TYPES else finding.type
    return name if finding.place is None else f"{name} at {finding.place}"


_AUDIT_COLUMNS: Final = (
    "guardrail", "type", "role", "verdict", "policies", "requests", "findings", "share", "chart",
)  # fmt: skip
_BLOCKS: Final = " ▏▎▍▌▋▊▉"


@guardrails.command("audit")
def audit(
    since: Annotated[
        str, typer.Option("--since", help="How long ago (1h, 7d), or a time (2027-01-31).")
    ] = "24h",
    policy: Annotated[
        str | None, typer.Option("--policy", "-p", help="Only findings under this policy.")
    ] = None,
    by_team: Annotated[bool, typer.Option("--by-team", help="A row for each team.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most.")] = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show which types of findings are most frequent, and in which role. Never content.

    A rule that is wrong shows here first: a type in a third of all requests, or in a role where it
    makes no sense. Times are whole hours, UTC; counts of the last seconds are not in it yet.

    `requests` had such a finding, `findings` are the values in them, `share` is of all requests
    in usage. A conversation counts with each turn.

    Example: egret guardrails audit --since 1h
    """
    start = since_or_exit(since)

    async def read(connection: Connection) -> tuple[list[FindingSum], int]:
        sums = await finding_sums(
            connection, since=start, policy=policy, limit=limit, by_team=by_team
        )
        if policy is not None and not sums:
            await existing_policy(connection, policy)
        return sums, await recorded_requests(connection, since=start)

    def remote(server: AdminServer) -> tuple[list[FindingSum], int]:
        query = {
            "since": start,
            "policy": policy,
            "by_team": by_team,
            "limit": most_rows(limit),
        }
        sums = server.call(list[FindingSum], "GET", "/findings", query=query)
        usage = server.call(list[UsageSum], "GET", "/usage", query={"since": start})
        return sums, sum(one.requests for one in usage)

    sums, requests = on_connection(read, remote=remote)
    if output is Output.JSON:
        rows = [asdict(one) | {"share": share_of(one, requests)} for one in sums]
        left_out = set() if by_team else {"team"}
        print_json([{k: v for k, v in row.items() if k not in left_out} for row in rows])
    elif sums:
        columns = ("team", *_AUDIT_COLUMNS) if by_team else _AUDIT_COLUMNS
        print_rows(rows_of(sums, requests), columns=columns, output=output)
    else:
        note("no guardrail has found anything in this time")


def share_of(one: FindingSum, requests: int) -> float | None:
    """Return the share of all *requests*; None if usage does not have all of them yet."""
    return round(one.requests / requests, 4) if requests >= one.requests else None


def rows_of(sums: Sequence[FindingSum], requests: int) -> list[Row]:
    """Return the rows of the table, each with its part of a bar chart."""
    most = max(one.requests for one in sums)
    rows: list[Row] = []
    for one in sums:
        share = share_of(one, requests)
        eighths = max(1, round(one.requests / most * WIDTH * 8))
        rows.append(
            {
                "team": one.team,
                "guardrail": one.guardrail,
                "type": one.type,
                "role": one.role,
                "verdict": one.verdict
                if one.mode == Mode.ENFORCE.value
                else f"{one.verdict} (shadow)",
                "policies": one.policies,
                "requests": f"{one.requests:,}",
                "findings": f"{one.findings:,}",
                "share": None if share is None else f"{share * 100:.1f} %",
                "chart": ("█" * (eighths // 8) + _BLOCKS[eighths % 8]).strip(),
            }
        )
    return rows
