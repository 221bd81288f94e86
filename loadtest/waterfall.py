"""Where the microseconds of one request go inside a worker.

    python -m loadtest.waterfall [--seconds 8] [--quick] [--markdown]

Takes the CPU time of a worker under load, plays the same request's recorded conversation to the
worker's own parts without any gRPC, and shows the stages and what is left for gRPC and kernel.
A second table shows what telemetry adds, step by step; spans go to a collector that runs beside.
Writes build/bench/bench-waterfall.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from egret_tools.devstack.child import PartError
from egret_tools.devstack.run_directory import run_directory

from loadtest.bench_stack import running_bench_stack
from loadtest.collector import running_collector
from loadtest.figures import per_request_us
from loadtest.generators import put_load
from loadtest.load import Load, LoadError, Target
from loadtest.processes import cpu_seconds
from loadtest.results import Grid, circumstances, new_console, write_json, write_section
from loadtest.stages import WHOLE
from loadtest.telemetry_costs import OFF, STEPS
from loadtest.texts import chat_body
from sidecar.settings.sections import inherited_environment

ENGINE: Final = "h2corn"
"""The one that Egret takes where it brings the Envoy."""
LOAD: Final = Load("c16", 16)
WARM_UP_SECONDS: Final = 2.0
WORKER: Final = "worker"
TRANSPORT: Final = "gRPC, event loop, kernel"


@dataclass(frozen=True, slots=True)
class _Effort:
    """How often what telemetry adds is measured: processes, and rounds in each."""

    processes: int
    rounds: int


FULL: Final = _Effort(processes=5, rounds=400)
QUICK: Final = _Effort(processes=2, rounds=60)


def main() -> int:
    """Measure, show and write; return the exit code."""
    options = _options()
    console = new_console()
    run = circumstances(" ".join(["python -m loadtest.waterfall", *sys.argv[1:]]))
    try:
        worker_us = asyncio.run(_worker_us(2.0 if options.quick else options.seconds))
    except (PartError, LoadError) as error:
        console.print(f"✗ {error}", markup=False, style="red")
        return 1
    figures = waterfall(_stages(), worker_us=worker_us)
    runs = asyncio.run(_telemetry(QUICK if options.quick else FULL))
    grid, telemetry = waterfall_grid(figures), telemetry_grid(runs)
    grid.show(console)
    telemetry.show(console)
    path = write_json("bench-waterfall", {**figures, **telemetry_figures(runs)}, run)
    console.print(f"\nWritten to {path}.")
    if options.markdown:
        write_section("waterfall", f"{run.as_sentence()}\n\n{grid.as_markdown()}")
        write_section("telemetry", f"{run.as_sentence()}\n\n{telemetry.as_markdown()}")
    return 0


def waterfall(costs: Mapping[str, float], *, worker_us: float) -> dict[str, float]:
    """Return microseconds by stage that add up to those of the *worker*.

    The stopwatch costs time itself, in proportion to how often it is asked: the stages are scaled
    so that they add up to the conversation that nothing watched.
    """
    stages = {stage: us for stage, us in costs.items() if stage != WHOLE}
    scale = costs[WHOLE] / sum(stages.values())
    figures = {stage: us * scale for stage, us in stages.items()}
    figures[TRANSPORT] = worker_us - costs[WHOLE]
    figures[WORKER] = worker_us
    return figures


def waterfall_grid(figures: Mapping[str, float]) -> Grid:
    """Return the stages, the dearest first, and their sum."""
    stages = sorted(
        ((stage, us) for stage, us in figures.items() if stage != WORKER),
        key=lambda one: -one[1],
    )
    total = figures[WORKER]
    rows = [[stage, f"{us:.1f}", f"{us / total:.1%}"] for stage, us in [*stages, (WORKER, total)]]
    return Grid("Where a worker's CPU time goes, per request", ("stage", "µs", "share"), rows)


def telemetry_figures(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return what each step adds to an exchange that nobody is told of, in microseconds."""
    return {f"telemetry.{step}": _middle(runs, step) for step in STEPS if step != OFF}


def telemetry_grid(runs: Sequence[Mapping[str, float]]) -> Grid:
    """Return the middle of what each step adds, and the lowest and highest of all *runs*."""
    rows = [
        [
            step,
            f"{_middle(runs, step):.1f}",
            f"{min(run[step] for run in runs):.1f}",
            f"{max(run[step] for run in runs):.1f}",
        ]
        for step in STEPS
        if step != OFF
    ]
    return Grid("What telemetry adds to a request", ("enabled", "µs", "lowest", "highest"), rows)


def _middle(runs: Sequence[Mapping[str, float]], step: str) -> float:
    return statistics.median(run[step] for run in runs)


async def _telemetry(effort: _Effort) -> list[dict[str, float]]:
    with tempfile.TemporaryDirectory(prefix="egret-waterfall-") as place:
        async with running_collector(Path(place)) as collector:
            arguments = (collector.grpc_endpoint, str(effort.rounds))
            return [
                await asyncio.to_thread(_costs, "loadtest.telemetry_costs", *arguments)
                for _ in range(effort.processes)
            ]


def _stages() -> dict[str, float]:
    return _costs("loadtest.stages")


def _costs(module: str, *arguments: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="egret-waterfall-") as metrics:
        done = subprocess.run(  # noqa: S603 - a module of ours
            [sys.executable, "-m", module, *arguments],
            stdout=subprocess.PIPE,
            check=True,
            # prometheus-client chooses its storage when it is imported; as in a worker.
            env=inherited_environment() | {"PROMETHEUS_MULTIPROC_DIR": metrics},
        )
    costs: dict[str, float] = json.loads(done.stdout)
    return costs


async def _worker_us(seconds: float) -> float:
    with tempfile.TemporaryDirectory(prefix="egret-bench-") as place:
        body = Path(place) / "body.json"
        body.write_bytes(chat_body())
        with run_directory(Path(place) / "run") as run:
            async with running_bench_stack(
                (ENGINE,), workers=1, envoy_threads=1, run=run
            ) as stack:
                target = Target(stack.urls[ENGINE], stack.key, body)
                await put_load(LOAD, target=target, seconds=WARM_UP_SECONDS, scratch=run.path)
                before = cpu_seconds(stack.workers[ENGINE])
                measured = await put_load(LOAD, target=target, seconds=seconds, scratch=run.path)
                if measured.errors:
                    raise LoadError(f"{measured.errors} requests failed")
                spent = cpu_seconds(stack.workers[ENGINE]) - before
    return per_request_us(spent, measured.requests)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.waterfall", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of the load")
    parser.add_argument("--quick", action="store_true", help="2 s of load: a smoke test")
    parser.add_argument("--markdown", action="store_true", help="write docs/performance.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
