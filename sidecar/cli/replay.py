"""`egret replay`: what a policy would make of requests that were kept, and another beside it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer

from sidecar.cli.input_file import open_file, size_of
from sidecar.cli.kept_requests import BadLine, kept_lines
from sidecar.cli.output import (
    FAILED,
    Output,
    OutputOption,
    fail,
    note,
    print_json,
    print_rows,
)
from sidecar.cli.policy_choice import chosen_document
from sidecar.cli.progress import progress
from sidecar.cli.replay_tally import ReplayTally
from sidecar.guardrails.database import CompileError
from sidecar.guardrails.policy_document import PolicyDocument
from sidecar.guardrails.rules.catalogue import is_remote
from sidecar.pipeline.replay import PolicyReplay

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
    policy: Annotated[
        str | None, typer.Option("--policy", "-p", help="Of the store, or of --policy-file.")
    ] = None,
    policy_file: Annotated[
        Path | None, typer.Option("--policy-file", help="A file of policies; needs no database.")
    ] = None,
    before: Annotated[
        str | None, typer.Option("--before", help="Compare with this policy of the store.")
    ] = None,
    before_file: Annotated[
        Path | None, typer.Option("--before-file", help="Compare with the one of this file.")
    ] = None,
    show: Annotated[int, typer.Option("--show", min=0, help="Changed requests to list.")] = SHOWN,
    fail_on_change: Annotated[
        bool, typer.Option("--fail-on-change", help="Exit with 1 if one comes out another way.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Judge kept requests by a policy, and count what becomes of them; none is sent anywhere.

    With --before or --before-file also by that one, and what differs is listed, by line and id:
    texts are never shown. Roll-outs count as complete and exceptions as over; guardrails that ask
    a server are not asked. Exits with 1 if a line is no request.

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
            fail(str(error), mend="write fewer or simpler expressions")
    if output is Output.JSON:
        print_json(_as_json(tally, now, before=then))
    else:
        _show(tally, most=show, compares=compares)
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
        note(f"{len(changes)} of {tally.now.total()} requests come out another way")
    for bad in tally.bad[:most]:
        note(f"line {bad.number} is no request: {bad.problem}")
    if tally.bad:
        note(f"{len(tally.bad)} lines are no requests and were not judged")


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
