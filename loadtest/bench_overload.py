"""Goodput under twice the load that can be served.

    python -m loadtest.bench_overload [--seconds 8] [--times 2] [--connections 3000]

Finds the peak by a closed loop, then sends a multiple of it by an open loop. Goodput is the
share answered 200; all else must be refused as overloaded (503 with retry-after). Prints a table,
writes build/bench/bench-overload.json. Exits 1 when anything fails otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from egret_tools.devstack.run_directory import run_directory

from loadtest.bench_stack import HERE, running_gateways
from loadtest.generators import put_by_k6
from loadtest.load import Load, Measured, Target
from loadtest.results import Grid, Report, prints_failure
from loadtest.texts import chat_body

PEAK: Final = Load("peak", 64)
WARM_UP_SECONDS: Final = 2.0
COLUMNS: Final = (
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


@prints_failure
def main() -> int:
    """Measure, show and write; return the exit code."""
    plan = _plan()
    report = Report("bench-overload")
    figures = asyncio.run(_measure(plan))
    report.write(figures, overload_grid(figures))
    return report.exit_code(figures["failed"])


def overload_figures(*, peak: Measured, over: Measured) -> dict[str, float]:
    """Return the figures; requests that k6 could not send are `unsent`."""
    return {
        "peak_rps": peak.rps,
        "peak_p99_ms": peak.p99_ms,
        "offered_rps": (over.requests + over.dropped) / over.seconds,
        "goodput_rps": over.rps,
        "goodput_share": over.rps / peak.rps,
        "admitted_p99_ms": over.admitted_p99_ms,
        "refused_rps": over.refused / over.seconds,
        "unsent_rps": over.dropped / over.seconds,
        "failed": over.errors - over.refused + peak.errors,
    }


def overload_grid(figures: Mapping[str, float]) -> Grid:
    """Return the figures as a line."""
    row = [f"{figures[name]:.4g}" for name in COLUMNS]
    return Grid("More than can be served", COLUMNS, [row])


async def _measure(plan: Plan) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="egret-over-") as place:
        body = Path(place) / "body.json"
        body.write_bytes(chat_body())
        with run_directory(Path(place) / "run") as run:
            async with running_gateways((HERE,), run=run) as gateways:
                gateway = gateways[HERE.name]
                target = Target(gateway.url, gateway.key, body)
                put = functools.partial(put_by_k6, target=target, scratch=run.path)
                await put(PEAK, seconds=WARM_UP_SECONDS)
                peak = await put(PEAK, seconds=plan.seconds)
                load = Load("over", plan.connections, rate=round(peak.rps * plan.times))
                return overload_figures(peak=peak, over=await put(load, seconds=plan.seconds))


def _plan() -> Plan:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench_overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of one measurement")
    parser.add_argument("--times", type=float, default=2.0, help="of the peak")
    parser.add_argument("--connections", type=int, default=3000, help="at most")
    options = parser.parse_args()
    return Plan(options.seconds, options.times, options.connections)


if __name__ == "__main__":
    sys.exit(main())
