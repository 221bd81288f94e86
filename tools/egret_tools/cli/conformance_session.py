"""One run of `egret conformance`: the cases, the progress, the table, the exit code."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from egret_tools.cli.up_session import until_signal
from egret_tools.conformance.case import CaseFile, Group, load_cases, own_files
from egret_tools.conformance.modes import MODES
from egret_tools.conformance.suite import Options, Result, Run, results_of, runs_of
from egret_tools.conformance.target import UnixTarget, read_target
from egret_tools.devstack.processes import PartError
from sidecar.cli.terminal import FAILED, Output, Row, fail, note, print_rows, progress

_FAILURE_COLUMNS: Final = ("case", "mode", "protocol", "differs")
_SUMMARY_COLUMNS: Final = ("mode", "protocol", "conform", "differ")


@dataclass(frozen=True, slots=True)
class Plan:
    """The target, and the headers of requests that must pass."""

    options: Options

    @classmethod
    def of(
        cls,
        target: str,
        *,
        headers: tuple[tuple[str, str], ...],
        key: str | None,
        path: str,
        envoy: Path | None,
    ) -> Self:
        """Read the options.

        Raises:
            ValueError: the target is no address, or there is no such Envoy.
        """
        if envoy is not None and not envoy.is_file():
            raise ValueError(f"there is no file {envoy}")
        if key is not None:
            headers = (*headers, ("authorization", f"Bearer {key}"))
        return cls(Options(target=read_target(target), path=path, headers=headers, envoy=envoy))


def choose(
    *, files: Sequence[Path], modes: Sequence[str], names: Sequence[str], with_egret: bool
) -> list[Run]:
    """Return the runs of all cases that are asked for.

    Raises:
        ValueError: a mode is unknown, a file cannot be used, or nothing is left to run.
    """
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown:
        raise ValueError(f"no such mode: {', '.join(unknown)}; there are {', '.join(MODES)}")
    documents = [load_cases(file) for file in (*own_files(), *files)]
    cases = [
        case
        for document in documents
        if with_egret or _is_for_all(document)
        for case in document.cases
        if not names or any(name in case.name for name in names)
    ]
    runs = runs_of(cases, modes=modes)
    if not runs:
        raise ValueError("no case has such a name and such a mode")
    return runs


def _is_for_all(document: CaseFile) -> bool:
    return document.group is Group.ANY


def run(plan: Plan, runs: Sequence[Run], *, output: Output) -> int:
    """Run everything and print it. Returns 0 when all conforms, else 1."""
    target = plan.options.target
    if isinstance(target, UnixTarget) and not target.path.is_socket():
        fail(f"there is no socket {target.path}", hint="start the server first")
    results: list[Result] = []
    try:
        asyncio.run(until_signal(lambda: _collect(plan, runs, results)))
    except PartError as error:
        fail(str(error), hint=error.hint)
    if output is Output.JSON:
        print_rows([_row(result) for result in results], columns=(), output=output)
    else:
        _print_tables(results)
    differing = sum(bool(result.differences) for result in results)
    missing = len(runs) - len(results)
    unrun = f", {missing} not run" if missing else ""
    note(f"{len(results) - differing} conform, {differing} differ{unrun}")
    return FAILED if differing or missing else 0


async def _collect(plan: Plan, runs: Sequence[Run], results: list[Result]) -> None:
    with progress("Cases", total=len(runs)) as advance:
        async for result in results_of(runs, plan.options):
            results.append(result)
            advance(len(results))


def _row(result: Result) -> Row:
    return {
        "case": result.run.case.name,
        "why": result.run.case.why,
        "mode": result.run.mode,
        "protocol": result.run.protocol.value,
        "conforms": not result.differences,
        "differs": result.differences,
        "milliseconds": round(result.milliseconds),
    }


def _print_tables(results: Sequence[Result]) -> None:
    rows = [_row(result) for result in results]
    counts = Counter((row["mode"], row["protocol"], row["conforms"]) for row in rows)
    summary: list[Row] = [
        {
            "mode": mode,
            "protocol": protocol,
            "conform": counts[mode, protocol, True],
            "differ": counts[mode, protocol, False],
        }
        for mode, protocol in dict.fromkeys((row["mode"], row["protocol"]) for row in rows)
    ]
    print_rows(summary, columns=_SUMMARY_COLUMNS, output=Output.TABLE)
    failures = [
        {**row, "differs": "\n".join(result.differences)}
        for row, result in zip(rows, results, strict=True)
        if result.differences
    ]
    if failures:
        print_rows(failures, columns=_FAILURE_COLUMNS, output=Output.TABLE)
