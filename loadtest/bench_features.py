"""What each feature adds to a request: switched on one by one, on the same Envoy.

    python -m loadtest.bench_features [--seconds 5] [--rounds 2] [--engine …] [--markdown]

Prints a table, writes build/bench/bench-features.json and, as a waterfall, bench-features.png.
Exits 1 when a request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from egret_tools.devstack.child import PartError
from egret_tools.devstack.run_directory import run_directory
from rich.console import Console

from loadtest.bench import ENGINES
from loadtest.feature_stack import FEATURES, Feature, FeatureStack, running_feature_stack
from loadtest.figures import per_request_us
from loadtest.generators import put_load
from loadtest.load import Load, LoadError, Target
from loadtest.processes import cpu_seconds
from loadtest.results import (
    DIRECTORY,
    Grid,
    circumstances,
    new_console,
    publish_picture,
    write_json,
    write_section,
)
from loadtest.texts import chat_body

LOADS: Final = (Load("c1", 1), Load("c16", 16))
WARM_UP: Final = Load("warm-up", 8)
WARM_UP_SECONDS: Final = 1.5
CHAIN: Final = FEATURES[:-1]
"""Each has what the one before it has, and one thing more."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how often, on which engines."""

    seconds: float
    rounds: int
    engines: tuple[str, ...]


def main() -> int:
    """Measure, show and write; return the exit code."""
    plan, is_published = _plan()
    console = new_console()
    run = circumstances(" ".join(["python -m loadtest.bench_features", *sys.argv[1:]]))
    figures: dict[str, float] = {}
    try:
        for engine in plan.engines:
            figures |= asyncio.run(_measure(engine, plan, console))
    except (PartError, LoadError) as error:
        console.print(f"✗ {error}", markup=False, style="red")
        return 1
    grids = [features_grid(figures, engine) for engine in plan.engines]
    for grid in grids:
        grid.show(console)
    picture = DIRECTORY / "bench-features.png"
    features_plot(figures, plan.engines, path=picture)
    console.print(f"\nWritten to {write_json('bench-features', figures, run)} and {picture}.")
    if is_published:
        tables = "\n\n".join(grid.as_markdown() for grid in grids)
        write_section("features", f"{run.as_sentence()}\n\n{tables}")
        publish_picture("bench-features")
    errors = sum(value for name, value in figures.items() if name.endswith(".errors"))
    if errors:
        console.print(f"✗ {errors:.0f} requests failed.", style="red")
    return 1 if errors else 0


def features_grid(figures: Mapping[str, float], engine: str) -> Grid:
    """Return a line a feature; CPU time is that at 16 connections."""
    rows = [
        [
            engine,
            feature.name,
            *(
                f"{figures[f'{engine}.{feature.name}.{name}']:,.{digits}f}"
                for name, digits in _SHOWN
            ),
        ]
        for feature in FEATURES
    ]
    columns = ("engine", "features", "c=1 p50 ms", "c=1 p99 ms", "c=16 RPS", "c=16 p99 ms",
               "worker CPU µs", "Envoy CPU µs")  # fmt: skip
    return Grid("Features one by one", columns, rows, labels=2)


def features_plot(figures: Mapping[str, float], engines: Sequence[str], *, path: Path) -> None:
    """Draw what each feature of the chain adds to the CPU time of a request, as a waterfall."""
    import matplotlib as mpl  # noqa: PLC0415 - takes a second, and a screen unless told otherwise

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(
        len(engines), figsize=(8, 3 * len(engines)), sharex=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for row, engine in enumerate(engines):
        steps = waterfall_steps(figures, engine)
        names = [name for name, _, _ in steps]
        below, added = [low for _, low, _ in steps], [more for _, _, more in steps]
        bars = axes[row][0].barh(names, added, left=below, color=f"C{row}")
        axes[row][0].bar_label(bars, labels=[f"{one:+.0f}" for one in added], padding=3)
        axes[row][0].invert_yaxis()
        axes[row][0].set(title=f"{engine}: CPU time of worker and Envoy, µs a request")
        axes[row][0].margins(x=0.12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def waterfall_steps(figures: Mapping[str, float], engine: str) -> list[tuple[str, float, float]]:
    """Return what stands before each feature of the chain and what it adds, at 16 connections."""
    steps, before = [], 0.0
    for feature in CHAIN:
        key = f"{engine}.{feature.name}.c16"
        whole = figures[f"{key}.worker_cpu_us"] + figures[f"{key}.envoy_cpu_us"]
        steps.append((feature.name, before, whole - before))
        before = whole
    return steps


_SHOWN: Final = (
    ("c1.p50_ms", 2), ("c1.p99_ms", 2), ("c16.rps", 0), ("c16.p99_ms", 2),
    ("c16.worker_cpu_us", 0), ("c16.envoy_cpu_us", 0),
)  # fmt: skip


async def _measure(engine: str, plan: Plan, console: Console) -> dict[str, float]:
    series: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="egret-bench-") as place:
        body = Path(place) / "body.json"
        body.write_bytes(chat_body())
        with run_directory(Path(place) / "run") as run:
            async with running_feature_stack(engine, run=run) as stack:
                measure = _Measure(engine, stack, body)
                for feature in FEATURES:
                    await measure.cell(feature, WARM_UP, seconds=WARM_UP_SECONDS)
                for number in range(plan.rounds):
                    for load in LOADS:
                        for feature in FEATURES if number % 2 == 0 else FEATURES[::-1]:
                            with console.status(f"{engine}, {load.name}: {feature.name} …"):
                                found = await measure.cell(feature, load, seconds=plan.seconds)
                            for name, value in found.items():
                                key = f"{engine}.{feature.name}.{load.name}.{name}"
                                series.setdefault(key, []).append(value)
    return {
        key: sum(values) if key.endswith(".errors") else statistics.median(values)
        for key, values in series.items()
    }


@dataclass(frozen=True, slots=True)
class _Measure:
    engine: str
    stack: FeatureStack
    body: Path

    async def cell(self, feature: Feature, load: Load, *, seconds: float) -> dict[str, float]:
        """Put one load on one feature."""
        listener = feature.listener.format(self.engine)
        target = Target(self.stack.bench.urls[listener], self.stack.key(feature.key), self.body)
        workers, envoy = self.stack.pids(listener), (self.stack.bench.envoy_pid,)
        before = cpu_seconds(workers), cpu_seconds(envoy)
        seen = await put_load(load, target=target, seconds=seconds, scratch=self.body.parent)
        return {
            "rps": seen.rps,
            "p50_ms": seen.p50_ms,
            "p99_ms": seen.p99_ms,
            "worker_cpu_us": per_request_us(cpu_seconds(workers) - before[0], seen.requests),
            "envoy_cpu_us": per_request_us(cpu_seconds(envoy) - before[1], seen.requests),
            "errors": seen.errors,
        }


def _plan() -> tuple[Plan, bool]:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench_features", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=2, help="each figure is a median of these")
    parser.add_argument("--engine", choices=ENGINES, action="append", help="both unless told")
    parser.add_argument("--markdown", action="store_true", help="write docs/performance.md")
    given = parser.parse_args()
    return Plan(given.seconds, given.rounds, tuple(given.engine or ENGINES)), given.markdown


if __name__ == "__main__":
    sys.exit(main())
