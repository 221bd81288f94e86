"""Latency, throughput and CPU time of requests, with Egret and without it, in turn.

    python -m loadtest.bench [--quick] [--seconds 8] [--rounds 3] [--workers 1] [--markdown]

Prints a table, writes build/bench/bench.json and bench.png. Exits 1 when any request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from egret_tools.devstack.run_directory import run_directory
from rich.console import Console

from loadtest.bench_stack import HERE, Gateway, StackOptions, running_gateways
from loadtest.figures import BASELINE, Cell, Figures, Round, bench_figures, errors_of
from loadtest.generators import put_load
from loadtest.load import OPEN_LOOP_CONNECTIONS, Load, Target
from loadtest.processes import resident_mb
from loadtest.results import DIRECTORY, Grid, Report, prints_failure, publish, publish_picture
from loadtest.sizing import write_sizing
from loadtest.texts import chat_body

PLOTTED: Final = (("p50_ms", "-"), ("p99_ms", ":"))
SPREAD: Final = "c16"
"""The load of which all quantiles are drawn."""


def load_grid(figures: Figures, loads: Sequence[Load]) -> Grid:
    """Return throughput and latency as clients see them, with and without Egret."""
    rows = [
        [
            _title(load),
            TITLES[target],
            *(_shown(figures, f"{target}.{load.name}.{name}", digits) for name, digits in _SEEN),
        ]
        for load in loads
        for target in TITLES
    ]
    columns = ("load", "target", "RPS", "p50 ms", "p95 ms", "p99 ms", "errors", "dropped")
    return Grid("Throughput and latency", columns, rows, labels=2)


def cost_grid(figures: Figures, loads: Sequence[Load]) -> Grid:
    """Return the latency that Egret adds, and the CPU time of each process."""
    rows = [list(_cost_row(figures, load)) for load in loads]
    columns = (
        "load", "+p50 ms", "+p95 ms", "+p99 ms",
        "worker CPU µs", "Envoy CPU µs", "Envoy alone µs",
    )  # fmt: skip
    return Grid("Added latency and CPU time of a request", columns, rows)


def bench_plot(figures: Figures, loads: Sequence[Load], *, path: Path) -> None:
    """Draw how latency is spread at one load, and how it grows with the throughput."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes a second

    closed = [load for load in loads if load.rate is None]
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    spread, growth = figure.subplots(1, 2)
    for number, (target, label) in enumerate(TITLES.items()):
        points = quantiles(figures, f"{target}.{SPREAD}")
        latencies, shares = [ms for _, ms in points], [percent / 100 for percent, _ in points]
        spread.plot(latencies, shares, marker=".", color=f"C{number}", label=label)
        for name, line in PLOTTED:
            growth.plot(
                [figures[f"{target}.{load.name}.rps"] for load in closed],
                [figures[f"{target}.{load.name}.{name}"] for load in closed],
                linestyle=line,
                marker="o",
                color=f"C{number}",
                label=f"{label}, {name[:3]}",
            )
    spread.set(xlabel=f"latency, ms ({SPREAD})", ylabel="share of requests", xscale="log")
    connections = ", ".join(str(load.connections) for load in closed)
    growth.set(xlabel=f"requests a second ({connections} connections)", ylabel="ms", yscale="log")
    for axes in (spread, growth):
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def quantiles(figures: Figures, key: str) -> list[tuple[float, float]]:
    """Return percent and latency of each quantile of a load on a target, the smallest first."""
    start = f"{key}.q"
    return sorted(
        (float(name.removeprefix(start).removesuffix("_ms")), value)
        for name, value in figures.items()
        if name.startswith(start)
    )


_SEEN: Final = (
    ("rps", 0), ("p50_ms", 2), ("p95_ms", 2), ("p99_ms", 2), ("errors", 0), ("dropped", 0),
)  # fmt: skip


def _cost_row(figures: Figures, load: Load) -> Iterator[str]:
    key = f"{HERE.name}.{load.name}"
    yield _title(load)
    for name in ("added_p50_ms", "added_p95_ms", "added_p99_ms"):
        yield _shown(figures, f"{key}.{name}", 2)
    yield _shown(figures, f"{key}.worker_cpu_us", 0)
    yield _shown(figures, f"{key}.envoy_cpu_us", 0)
    yield _shown(figures, f"{BASELINE}.{load.name}.envoy_cpu_us", 0)


def _shown(figures: Figures, key: str, digits: int) -> str:
    return f"{figures[key]:,.{digits}f}"


def _title(load: Load) -> str:
    return f"closed, {load.connections}" if load.rate is None else f"open, {load.rate}/s"


MEMORY: Final = f"{HERE.name}.rss_mb"
TITLES: Final = {BASELINE: "Envoy alone", HERE.name: "+ Egret"}
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


@prints_failure
def main() -> int:
    """Measure, show and write; return the exit code."""
    options = _options()
    plan = Plan(
        seconds=2.0 if options.quick else options.seconds,
        rounds=1 if options.quick else options.rounds,
        workers=options.workers,
        envoy_threads=options.envoy_threads,
    )
    report = Report("bench", "bench", for_page=options.markdown)
    figures = asyncio.run(_measure(plan, report.console))
    remark = f"Memory of a worker after all of that: {_shown(figures, MEMORY, 0)} MB."
    report.write(figures, load_grid(figures, LOADS), cost_grid(figures, LOADS), remark=remark)
    bench_plot(figures, LOADS, path=DIRECTORY / "bench.png")
    if options.markdown:
        publish("bench")
        publish_picture("bench")
        write_sizing()
    return report.exit_code(errors_of(figures))


async def _measure(plan: Plan, console: Console) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="egret-bench-") as place:
        body = Path(place) / "body.json"
        body.write_bytes(chat_body())
        with run_directory(Path(place) / "run") as run:
            options = StackOptions(workers=plan.workers, envoy_threads=plan.envoy_threads)
            async with running_gateways((HERE,), run=run, options=options) as gateways:
                rounds = await _Runner(gateways, body, console).rounds(plan)
                memory = max(map(resident_mb, gateways[HERE.name].processes))
    return {**bench_figures(rounds), MEMORY: memory}


class _Runner:
    """Puts one load after another on one target after another, and watches the processes."""

    def __init__(self, gateways: Mapping[str, Gateway], body: Path, console: Console) -> None:
        self._gateways = gateways
        self._body = body
        self._console = console
        self._targets = tuple(TITLES)

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
        gateway = self._gateways[target]
        before = gateway.cpu_seconds()
        measured = await put_load(
            load,
            target=Target(gateway.url, gateway.key, self._body),
            seconds=seconds,
            scratch=self._body.parent,
        )
        used = [now - then for now, then in zip(gateway.cpu_seconds(), before, strict=True)]
        return Cell(measured, worker_cpu_seconds=used[0], envoy_cpu_seconds=used[1])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="each figure is a median of these")
    parser.add_argument("--workers", type=int, default=1, help="workers of Egret")
    parser.add_argument("--envoy-threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one round of 2 s: a smoke test")
    parser.add_argument("--markdown", action="store_true", help="write docs/performance.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
