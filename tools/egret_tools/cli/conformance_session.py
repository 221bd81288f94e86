"""One run of `egret conformance`: the cases, the progress, the report, the exit code."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self, TextIO, assert_never

import typer

from egret_tools.cli.conformance import ConformanceOutput
from egret_tools.cli.up_session import until_signal
from egret_tools.conformance.case import CaseFile, Group, load_cases, own_files
from egret_tools.conformance.causes import cause_of, grouped, unserved_modes, unserved_sentence
from egret_tools.conformance.diagnosis import diagnosis
from egret_tools.conformance.modes import MODES
from egret_tools.conformance.report import junit, sarif
from egret_tools.conformance.suite import Options, Result, Run, results_of, runs_of
from egret_tools.conformance.target import UnixTarget, read_target
from egret_tools.devstack.processes import PartError
from sidecar.cli.terminal import (
    FAILED,
    Output,
    Row,
    console,
    counted,
    fail,
    note,
    print_json,
    print_rows,
    progress,
)

_SUMMARY_COLUMNS: Final = ("mode", "protocol", "conform", "differ", "not_run")
NOTE_SECONDS: Final = 10.0
SHOWN_CASES: Final = 5


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
    """Return the runs of all cases that *files*, *modes* and *names* select.

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


@dataclass(frozen=True, slots=True)
class Printing:
    """The form of the report, and the file that gets each result as soon as it is there."""

    output: ConformanceOutput
    results: Path | None = None


def run(plan: Plan, runs: Sequence[Run], printing: Printing, *, gives_up: bool) -> int:
    """Run everything and print it. Returns 0 when all conforms, else 1."""
    target = plan.options.target
    if isinstance(target, UnixTarget) and not target.path.is_socket():
        fail(f"there is no socket {target.path}", hint="start the server first")
    collected = _Collected(plan.options, runs)
    try:
        with ExitStack() as files:
            if printing.results is not None:
                collected.file = files.enter_context(printing.results.open("w", encoding="utf-8"))
            asyncio.run(until_signal(lambda: collected.run(gives_up=gives_up)))
    except OSError as error:
        fail(f"cannot write {printing.results}: {error.strerror}", hint="name another file")
    except PartError as error:
        fail(str(error), hint=error.hint)
    _print(collected, printing.output)
    results = collected.results
    differing = sum(bool(result.differences) for result in results)
    missing = len(runs) - sum(result.was_run for result in results)
    unrun = f", {missing} not run" if missing else ""
    conforming = sum(result.conforms for result in results)
    note(f"{conforming} conform, {differing} differ{unrun}")
    return FAILED if differing or missing else 0


@dataclass
class _Collected:
    """The results so far, and why modes are not served."""

    options: Options
    runs: Sequence[Run]
    results: list[Result] = field(default_factory=list)
    diagnoses: dict[str, str | None] = field(default_factory=dict)
    file: TextIO | None = None
    noted_at: float = field(default_factory=time.monotonic)

    async def run(self, *, gives_up: bool) -> None:
        """Run all cases; on a terminal with a bar, elsewhere with a line now and then."""
        with progress("Cases", total=len(self.runs)) as advance:
            async for result in results_of(self.runs, self.options, gives_up=gives_up):
                self._note_mode(result)
                self.results.append(result)
                advance(len(self.results))
                if self.file is not None:
                    self.file.write(json.dumps(_row(result)) + "\n")
                    self.file.flush()
        for mode in unserved_modes(self.results):
            self.diagnoses[mode] = await diagnosis(
                self.options.target, MODES[mode],
                path=self.options.path, headers=self.options.headers,
            )  # fmt: skip

    def _note_mode(self, result: Result) -> None:
        """Note each mode that begins, and every ten seconds how far the run is."""
        if console(stderr=True).is_terminal:
            return
        is_new = not self.results or self.results[-1].run.mode != result.run.mode
        if is_new or time.monotonic() - self.noted_at > NOTE_SECONDS:
            self.noted_at = time.monotonic()
            note(f"mode {result.run.mode}: {len(self.results)} of {len(self.runs)} runs done")


def _print(collected: _Collected, output: ConformanceOutput) -> None:
    results, diagnoses = collected.results, collected.diagnoses
    match output:
        case ConformanceOutput.TABLE:
            _print_tables(collected)
        case ConformanceOutput.JSON:
            print_rows([_row(result) for result in results], columns=(), output=Output.JSON)
        case ConformanceOutput.JUNIT:
            typer.echo(junit(results, diagnoses))
        case ConformanceOutput.SARIF:
            print_json(sarif(results, diagnoses))
        case _:
            assert_never(output)


def _row(result: Result) -> Row:
    return {
        "case": result.run.case.name,
        "why": result.run.case.why,
        "mode": result.run.mode,
        "protocol": result.run.protocol.value,
        "was_run": result.was_run,
        "conforms": result.conforms,
        "cause": cause_of(result).sentence if result.differences else None,
        "differs": result.differences,
        "milliseconds": round(result.milliseconds),
    }


def _print_tables(collected: _Collected) -> None:
    counts = Counter(
        (one.run.mode, one.run.protocol.value, one.was_run, one.conforms)
        for one in collected.results
    )
    summary: list[Row] = [
        {
            "mode": mode,
            "protocol": protocol,
            "conform": counts[mode, protocol, True, True],
            "differ": counts[mode, protocol, True, False],
            "not_run": counts[mode, protocol, False, False],
        }
        for mode, protocol in dict.fromkeys((mode, protocol) for mode, protocol, _, _ in counts)
    ]
    print_rows(summary, columns=_SUMMARY_COLUMNS, output=Output.TABLE)
    for mode, diagnosed in collected.diagnoses.items():
        _say(unserved_sentence(mode, diagnosed))
    for cause, found in grouped(collected.results, collected.diagnoses).items():
        _say(f"{counted(len(found), 'run')}: {cause.sentence}")
        cases = dict.fromkeys(one.run.case.name for one in found)
        for name in list(cases)[:SHOWN_CASES]:
            of_case = [one for one in found if one.run.case.name == name]
            places = ", ".join(f"{one.run.mode} {one.run.protocol.value}" for one in of_case)
            _say(f"  {name} ({places}): {of_case[0].differences[0]}")
        if len(cases) > SHOWN_CASES:
            more = counted(len(cases) - SHOWN_CASES, "further case")
            _say(f"  and {more}: --output json has all")


def _say(line: str) -> None:
    typer.echo("".join(one if one.isprintable() else ascii(one)[1:-1] for one in line))
