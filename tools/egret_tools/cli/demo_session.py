"""One run of `egret demo`: the stack, the tour, the table, the exit code."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from egret_tools.cli.up_session import ConsoleProgress, show_error, show_logs, until_signal
from egret_tools.devstack.processes import PartError
from egret_tools.devstack.run_directory import run_directory
from egret_tools.devstack.stack import StackOptions, running_stack
from egret_tools.devstack.tour import CASES, Case, GuideError, Observation, faults, guide

PLAIN_WIDTH: Final = 120
"""Columns if standard output is no terminal."""


@dataclass(frozen=True, slots=True)
class Row:
    """A case, its outcome, and the faults of that."""

    case: Case
    seen: Observation
    faults: list[str]

    def as_json(self) -> dict[str, object]:
        """Return the row for programs."""
        return {
            "case": self.case.title,
            "status": self.seen.status,
            "verdict": self.seen.verdict,
            "server_timing": self.seen.server_timing,
            "response_time": self.seen.response_time,
            "received": self.seen.received,
            "faults": self.faults,
        }


def run_demo(*, prints_json: bool) -> int:
    """Walk the tour. Returns 0 if all came out as expected, 128 and a signal's number, or 1."""
    console = Console(stderr=prints_json)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    rows: list[Row] = []
    place = Path(tempfile.mkdtemp(prefix="egret-demo-"))
    try:
        code = asyncio.run(until_signal(lambda: _walk(console, place / "run", rows)))
    except PartError as error:
        show_error(console, error)
        show_logs(console, place / "run" / "logs")
        return 1
    except (GuideError, aiohttp.ClientError) as error:
        console.print(f"✗ The tour stopped: {error}", markup=False)
        return 1
    finally:
        with suppress(OSError):  # the logs of a failure are in it
            place.rmdir()
    if code:
        return code
    if prints_json:
        print(orjson.dumps([row.as_json() for row in rows]).decode())  # noqa: T201 - the output
    else:
        _show(console, rows)
    return 0 if not any(row.faults for row in rows) else 1


async def _walk(console: Console, place: Path, rows: list[Row]) -> None:
    with run_directory(place) as run:
        async with (
            running_stack(StackOptions(), run=run, progress=ConsoleProgress(console)) as stack,
            guide(stack.facts) as walk,
        ):
            for case in CASES:
                seen = await walk.observe(case)
                rows.append(Row(case, seen, faults(case, seen)))


def _show(console: Console, rows: list[Row]) -> None:
    table = Table(title="\nWhat Egret does with a request", title_justify="left", show_lines=True)
    table.add_column()
    table.add_column("Request, and what reached the provider")
    table.add_column("Status")
    table.add_column("Verdict, and Server-Timing", no_wrap=True)
    for row in rows:
        received = row.seen.received
        reached = "nothing" if received is None else _words(received)
        table.add_row(
            Text("✗", "red") if row.faults else Text("✓", "green"),
            Text.assemble(row.case.title, "\n", (reached, "dim")),
            str(row.seen.status),
            Text.assemble(
                row.seen.verdict, "\n", (row.seen.server_timing.replace(", ", "\n"), "dim")
            ),
        )
    console.print(table)
    for row in rows:
        for fault in row.faults:
            console.print(f"✗ {row.case.title}: {fault}", markup=False, style="red")
    if rows and not any(row.faults for row in rows):
        console.print("Every request came out as expected.", style="green")


def _words(body: str) -> str:
    """Return the text that the model would read, from the body the provider received."""
    try:
        return str(orjson.loads(body)["messages"][0]["content"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return body
