"""Goodput under twice the load that can be served.

    python -m loadtest.bench_overload [--seconds 8] [--times 2] [--connections 3000] [--engine …]

Finds the peak by a closed loop, then sends a multiple of it by an open loop. Goodput is the
share answered 200; all else must be refused as overloaded (503 with retry-after). Prints a table,
writes build/bench/bench-overload.json. Exits 1 when anything fails otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from egret_tools.devstack.processes import PartError
from egret_tools.devstack.run_directory import run_directory

from loadtest.bench import ENGINES
from loadtest.bench_stack import HERE, running_gateways
from loadtest.generators import put_by_k6
from loadtest.load import Load, LoadError, Measured, Target
from loadtest.results import Grid, circumstances, new_console, write_json
from loadtest.texts import chat_body

PEAK: Final = Load("peak", 64)
WARM_UP_SECONDS: Final = 2.0
COLUMNS: Final = (
    "engine",
    "peak_rps",
    "offered_rps",
    "goodput_rps",
    "goodput_share",
    "admitted_p99_ms",
    "refused_rps",
    "unsent_rps",
    "failed",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how much, and over how many connections at most."""

    seconds: float
    times: float
    connections: int
    engines: tuple[str, ...]


def main() -> int:
    """Measure, show and write; return the exit code."""
    plan = _plan()
    console = new_console()
    run = circumstances(" ".join(["python -m loadtest.bench_overload", *sys.argv[1:]]))
    try:
        figures = asyncio.run(_measure(plan))
    except (PartError, LoadError) as error:
        console.print(f"✗ {error}", markup=False, style="red")
        return 1
    overload_grid(figures, plan.engines).show(console)
    console.print(f"\nWritten to {write_json('bench-overload', figures, run)}.")
    failed = sum(value for key, value in figures.items() if key.endswith(".failed"))
    if failed:
        console.print(f"✗ {failed:.0f} requests failed otherwise.", style="red")
    return 1 if failed else 0


def overload_figures(engine: str, *, peak: Measured, over: Measured) -> dict[str, float]:
    """Return the figures of one engine; requests that k6 could not send are `unsent`."""
    return {
        f"{engine}.peak_rps": peak.rps,
        f"{engine}.peak_p99_ms": peak.p99_ms,
        f"{engine}.offered_rps": (over.requests + over.dropped) / over.seconds,
        f"{engine}.goodput_rps": over.rps,
        f"{engine}.goodput_share": over.rps / peak.rps,
        f"{engine}.admitted_p99_ms": over.admitted_p99_ms,
        f"{engine}.refused_rps": over.refused / over.seconds,
        f"{engine}.unsent_rps": over.dropped / over.seconds,
        f"{engine}.failed": over.errors - over.refused + peak.errors,
    }


def overload_grid(figures: Mapping[str, float], engines: Sequence[str]) -> Grid:
    """Return a line an engine."""
    rows = [
        [engine, *(f"{figures[f'{engine}.{name}']:.4g}" for name in COLUMNS[1:])]
        for engine in engines
    ]
    return Grid("More than can be served", COLUMNS, rows)


async def _measure(plan: Plan) -> dict[str, float]:
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="egret-over-") as place:
        body = Path(place) / "body.json"
        body.write_bytes(chat_body())
        with run_directory(Path(place) / "run") as run:
            async with running_gateways((HERE,), plan.engines, run=run) as gateways:
                for engine in plan.engines:
                    target = Target(gateways[engine].url, gateways[engine].key, body)
                    figures |= await _of_engine(engine, target, plan=plan, scratch=run.path)
    return figures


async def _of_engine(
    engine: str, target: Target, *, plan: Plan, scratch: Path
) -> dict[str, float]:
    await put_by_k6(PEAK, target=target, seconds=WARM_UP_SECONDS, scratch=scratch)
    peak = await put_by_k6(PEAK, target=target, seconds=plan.seconds, scratch=scratch)
    load = Load("over", plan.connections, rate=round(peak.rps * plan.times))
    over = await put_by_k6(load, target=target, seconds=plan.seconds, scratch=scratch)
    return overload_figures(engine, peak=peak, over=over)


def _plan() -> Plan:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench_overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of one measurement")
    parser.add_argument("--times", type=float, default=2.0, help="of the peak")
    parser.add_argument("--connections", type=int, default=3000, help="at most")
    parser.add_argument("--engine", choices=ENGINES, action="append", help="both by default")
    options = parser.parse_args()
    engines = tuple(options.engine or ENGINES)
    return Plan(options.seconds, options.times, options.connections, engines)


if __name__ == "__main__":
    sys.exit(main())
