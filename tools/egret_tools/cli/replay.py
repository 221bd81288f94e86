"""`egret replay`: judges recorded requests by another policy, and compares."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, BinaryIO, Final, cast

import orjson
import typer

from egret_tools.policy_replay import KeptRequest, PolicyReplay, ReplayResult
from sidecar.cli.arguments import open_file, size_of
from sidecar.cli.policy import ChosenPolicyOption, PolicyFileOption, chosen_document
from sidecar.cli.terminal import (
    FAILED,
    Output,
    OutputOption,
    Row,
    counted,
    fail,
    note,
    print_json,
    print_rows,
    progress,
)
from sidecar.domain.finding import Verdict
from sidecar.domain.policy import Guardrail
from sidecar.guardrails.matching.database import CompileError
from sidecar.guardrails.registry import is_remote
from sidecar.policy.parse import PolicyDocument

MAX_LINE_BYTES: Final = 64 * 1024 * 1024
"""As much as a worker takes in one message."""


@dataclass(frozen=True, slots=True)
class KeptLine:
    """A request with its line, from 1, and its `id`, where the line has one."""

    number: int
    id: str | None
    request: KeptRequest


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no request, and why."""

    number: int
    problem: str


def kept_lines(stream: BinaryIO, *, path: str) -> Iterator[KeptLine | BadLine]:
    """Yield the request of each line, skipping empty ones; *path* is for bare bodies."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            yield BadLine(number, f"longer than {MAX_LINE_BYTES} bytes; nothing after it was read")
            return
        if line.strip():
            yield _read(line, number, path)


def _read(line: bytes, number: int, path: str) -> KeptLine | BadLine:
    try:
        value: object = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return BadLine(number, f"not JSON at character {error.colno}")
    if not isinstance(value, dict):
        return BadLine(number, "not an object")
    fields = cast("dict[str, object]", value)
    if "body" not in fields:
        return KeptLine(number, None, KeptRequest("POST", path, line.strip()))
    path_, method = fields.get("path", path), fields.get("method", "POST")
    if not isinstance(path_, str) or not isinstance(method, str):
        return BadLine(number, "`path` and `method` are strings")
    body, name = fields["body"], fields.get("id")
    content = body.encode() if isinstance(body, str) else orjson.dumps(body)
    return KeptLine(
        number, None if name is None else str(name), KeptRequest(method, path_, content)
    )


_Acted = Counter[tuple[str, str, str]]
"""How often by guardrail, mode and verdict."""


@dataclass(frozen=True, slots=True)
class ChangedRequest:
    """A request that comes out another way; `guardrails` are those that act in one case alone."""

    line: int
    id: str | None
    before: str
    now: str
    guardrails: tuple[str, ...]


@dataclass(slots=True)
class ReplayTally:
    """Adds requests up; `bad` are lines that were none."""

    now: Counter[str] = field(default_factory=Counter)
    before: Counter[str] = field(default_factory=Counter)
    acted_now: _Acted = field(default_factory=Counter)
    acted_before: _Acted = field(default_factory=Counter)
    changed: list[ChangedRequest] = field(default_factory=list)
    bad: list[BadLine] = field(default_factory=list)

    def add(self, line: KeptLine, now: ReplayResult, before: ReplayResult | None) -> None:
        """Count one request."""
        self.now[_words(now)] += 1
        self.acted_now.update(map(_named, now.acted))
        if before is None:
            return
        self.before[_words(before)] += 1
        self.acted_before.update(map(_named, before.acted))
        if _words(now) != _words(before):
            differ = set(map(_named, now.acted)) ^ set(map(_named, before.acted))
            names = tuple(sorted({name for name, _, _ in differ}))
            self.changed.append(
                ChangedRequest(line.number, line.id, _words(before), _words(now), names)
            )

    def outcomes(self) -> list[Row]:
        """Return a row for each outcome."""
        return [
            {"outcome": one, "requests": self.now[one], "before": self.before[one]}
            for one in sorted(self.now | self.before)
        ]

    def verdicts(self) -> list[Row]:
        """Return a row for each verdict of each guardrail but to pass."""
        return [
            {
                "guardrail": name,
                "mode": mode,
                "verdict": verdict,
                "requests": self.acted_now[name, mode, verdict],
                "before": self.acted_before[name, mode, verdict],
            }
            for name, mode, verdict in sorted(self.acted_now | self.acted_before)
        ]

    def changes(self) -> list[Row]:
        """Return a row for each request that comes out another way."""
        return [asdict(one) for one in self.changed]


def _words(rehearsed: ReplayResult) -> str:
    error = "" if rehearsed.error is None else f" ({rehearsed.error.value})"
    return rehearsed.outcome.value + error


def _named(acted: tuple[Guardrail, Verdict]) -> tuple[str, str, str]:
    guardrail, verdict = acted
    return guardrail.name, guardrail.mode.value, verdict.value


SHOWN: Final = 20
_OUTCOMES: Final = ("outcome", "requests", "before")
_VERDICTS: Final = ("guardrail", "mode", "verdict", "requests", "before")
_CHANGES: Final = ("line", "id", "before", "now", "guardrails")


def replay(  # noqa: PLR0913, PLR0917 - options of a command
    file: Annotated[
        Path,
        typer.Argument(help="JSON lines: {path, body}, or a body a line; - is standard input."),
    ],
    path: Annotated[
        str, typer.Option("--path", help="Of bodies that stand alone.")
    ] = "/v1/chat/completions",
    policy: ChosenPolicyOption = None,
    policy_file: PolicyFileOption = None,
    before: Annotated[
        str | None, typer.Option("--before", help="Compare with this policy of the store.")
    ] = None,
    before_file: Annotated[
        Path | None, typer.Option("--before-file", help="Compare with the one of this file.")
    ] = None,
    show: Annotated[int, typer.Option("--show", min=0, help="Changed requests to list.")] = SHOWN,
    fail_on_change: Annotated[
        bool,
        typer.Option("--fail-on-change", help="Exit with 1 if one would be decided differently."),
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Judge recorded requests by a policy, and count the decisions; none is sent anywhere.

    With --before or --before-file also by that one, and differences are listed, by line and id:
    texts are never shown. Roll-outs count as complete and exceptions as over; guardrails that ask
    a server are not asked. Exits with 1 if a line is no request, or if there is none.

    Example: egret replay requests.jsonl --policy-file new.yaml --before default
    """
    now = chosen_document(policy, policy_file)
    compares = before is not None or before_file is not None
    then = chosen_document(before, before_file) if compares else None
    with open_file(file) as stream:
        size = size_of(file)
        try:
            tally = asyncio.run(_judge_all(stream, size, path=path, now=now, before=then))
        except CompileError as error:
            fail(str(error), hint="write fewer or simpler expressions")
    if output is Output.JSON:
        print_json(_as_json(tally, now, before=then))
    else:
        _show(tally, most=show, compares=compares)
    if not tally.now:
        fail(f"{file} holds no request", hint="name a file with one request a line")
    if tally.bad or (fail_on_change and tally.changed):
        raise typer.Exit(FAILED)


async def _judge_all(
    stream: BinaryIO, size: int, *, path: str, now: PolicyDocument, before: PolicyDocument | None
) -> ReplayTally:
    rehearsal = await PolicyReplay.compile(now.text)
    earlier = None if before is None else await PolicyReplay.compile(before.text)
    tally = ReplayTally()
    with progress("Judging", total=size) as advance:
        for line in kept_lines(stream, path=path):
            if size:  # standard input has none, and no place either
                advance(stream.tell())
            if isinstance(line, BadLine):
                tally.bad.append(line)
                continue
            judged = await rehearsal.judge(line.request)
            compared = None if earlier is None else await earlier.judge(line.request)
            tally.add(line, judged, compared)
    return tally


def _show(tally: ReplayTally, *, most: int, compares: bool) -> None:
    def columns(*all_of_them: str) -> tuple[str, ...]:
        return tuple(one for one in all_of_them if compares or one != "before")

    print_rows(tally.outcomes(), columns=columns(*_OUTCOMES), output=Output.TABLE)
    if verdicts := tally.verdicts():
        print_rows(verdicts, columns=columns(*_VERDICTS), output=Output.TABLE)
    if compares:
        changes = tally.changes()
        if changes[:most]:
            print_rows(changes[:most], columns=_CHANGES, output=Output.TABLE)
        total = counted(tally.now.total(), "request")
        note(f"{len(changes)} of {total} would be decided differently")
    for bad in tally.bad[:most]:
        note(f"line {bad.number} is no request: {bad.problem}")
    if tally.bad:
        note(f"{counted(len(tally.bad), 'line')} not judged: not a request")


def _as_json(
    tally: ReplayTally, now: PolicyDocument, *, before: PolicyDocument | None
) -> dict[str, object]:
    return {
        "policy": now.policy.name,
        "before": None if before is None else before.policy.name,
        "requests": tally.now.total(),
        "outcomes": tally.outcomes(),
        "guardrails": tally.verdicts(),
        "changed": tally.changes(),
        "bad_lines": [{"line": one.number, "problem": one.problem} for one in tally.bad],
        "not_asked": [one.name for one in now.policy.guardrails if is_remote(one)],
    }
