"""How fast requests pass, and what Egret adds: one Envoy, with and without it, in turn.

    python -m loadtest.bench [--quick] [--seconds 8] [--rounds 3] [--workers 1] [--markdown]

Prints a table, writes build/bench/bench.json and bench.png. Exits 1 when any request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from egret_tools.devstack.child import PartError
from egret_tools.devstack.run_directory import run_directory
from rich.console import Console

from loadtest.bench_report import bench_plot, engine_grid, load_grid, memory_grid
from loadtest.bench_stack import BenchStack, running_bench_stack
from loadtest.figures import BASELINE, Cell, Round, bench_figures, errors_of
from loadtest.generators import put_load
from loadtest.load import OPEN_LOOP_CONNECTIONS, Load, LoadError, Target
from loadtest.processes import cpu_seconds, resident_mb
from loadtest.results import (
    DIRECTORY,
    circumstances,
    new_console,
    publish,
    publish_picture,
    write_json,
    write_section,
)
from loadtest.texts import chat_body

ENGINES: Final = ("grpcio", "h2corn")
LOADS: Final = (
    Load("c1", 1),
    Load("c16", 16),
    Load("c64", 64),
    Load("open500", OPEN_LOOP_CONNECTIONS, rate=500),
    Load("open2000", OPEN_LOOP_CONNECTIONS, rate=2000),
)
WARM_UP: Final = Load("warm-up", 16)
WARM_UP_SECONDS: Final = 2.0
SETTLE_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often."""

    seconds: float
    rounds: int
    workers: int
    envoy_threads: int


def main() -> int:
    """Measure, show and write; return the exit code."""
    options = _options()
    plan = Plan(
        seconds=2.0 if options.quick else options.seconds,
        rounds=1 if options.quick else options.rounds,
        workers=options.workers,
        envoy_threads=options.envoy_threads,
    )
    console = new_console()
    run = circumstances(" ".join(["python -m loadtest.bench", *sys.argv[1:]]))
    try:
        figures = asyncio.run(_measure(plan, console))
    except (PartError, LoadError) as error:
        console.print(f"✗ {error}", markup=False, style="red")
        return 1
    grids = (
        load_grid(figures, LOADS, ENGINES),
        engine_grid(figures, LOADS, ENGINES),
        memory_grid(figures, ENGINES),
    )
    for grid in grids:
        grid.show(console)
    path = write_json("bench", figures, run)
    bench_plot(figures, LOADS, ENGINES, path=DIRECTORY / "bench.png")
    console.print(f"\nWritten to {path} and {DIRECTORY / 'bench.png'}.")
    if options.markdown:
        tables = "\n\n".join(grid.as_markdown() for grid in grids)
        write_section("bench", f"{run.as_sentence()}\n\n{tables}")
        publish("bench")
        publish_picture("bench")
    errors = errors_of(figures)
    if errors:
        console.print(f"✗ {errors} requests failed.", style="red")
    return 1 if errors else 0


async def _measure(plan: Plan, console: Console) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="egret-bench-") as place:
        body = Path(place) / "body.json"
        body.write_bytes(chat_body())
        with run_directory(Path(place) / "run") as run:
            async with running_bench_stack(
                ENGINES, workers=plan.workers, envoy_threads=plan.envoy_threads, run=run
            ) as stack:
                rounds = await _Runner(stack, body, console).rounds(plan)
                memory = {
                    f"{engine}.rss_mb": max(resident_mb(pid) for pid in stack.workers[engine])
                    for engine in ENGINES
                }
    return {**bench_figures(rounds), **memory}


class _Runner:
    """Puts one load after another on one target after another, and watches the processes."""

    def __init__(self, stack: BenchStack, body: Path, console: Console) -> None:
        self._stack = stack
        self._body = body
        self._console = console
        self._targets = (BASELINE, *ENGINES)

    async def rounds(self, plan: Plan) -> list[Round]:
        """Measure all of *plan*; the order of the targets turns round with every round."""
        for target in self._targets:
            await self._cell(WARM_UP, target, seconds=WARM_UP_SECONDS)
        measured: list[Round] = []
        for number in range(plan.rounds):
            for load in LOADS:
                targets = self._targets if number % 2 == 0 else self._targets[::-1]
                measured.append(await self._round(load, targets, seconds=plan.seconds))
        return measured

    async def _round(self, load: Load, targets: Sequence[str], *, seconds: float) -> Round:
        cells: dict[str, Cell] = {}
        for target in targets:
            with self._console.status(f"{load.name} on {target} …"):
                cells[target] = await self._cell(load, target, seconds=seconds)
            await asyncio.sleep(SETTLE_SECONDS)
        return Round(load.name, cells)

    async def _cell(self, load: Load, target: str, *, seconds: float) -> Cell:
        workers, envoy = self._stack.workers.get(target, ()), (self._stack.envoy_pid,)
        workers_before, envoy_before = cpu_seconds(workers), cpu_seconds(envoy)
        measured = await put_load(
            load,
            target=Target(self._stack.urls[target], self._stack.key, self._body),
            seconds=seconds,
            scratch=self._body.parent,
        )
        return Cell(
            measured,
            worker_cpu_seconds=cpu_seconds(workers) - workers_before,
            envoy_cpu_seconds=cpu_seconds(envoy) - envoy_before,
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="each figure is a median of these")
    parser.add_argument("--workers", type=int, default=1, help="workers of each engine")
    parser.add_argument("--envoy-threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one round of 2 s: a smoke test")
    parser.add_argument("--markdown", action="store_true", help="write docs/performance.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
