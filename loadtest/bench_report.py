"""The tables and the plot of a bench run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from loadtest.figures import BASELINE, Figures
from loadtest.load import Load
from loadtest.results import Grid

PLOTTED: Final = (("p50_ms", "-"), ("p99_ms", ":"))
SPREAD: Final = "c16"
"""The load of which all quantiles are drawn."""


def load_grid(figures: Figures, loads: Sequence[Load], engines: Sequence[str]) -> Grid:
    """Return what a client sees, with and without Egret."""
    rows = [
        [
            _title(load),
            "Envoy alone" if target == BASELINE else f"+ Egret, {target}",
            *(_shown(figures, f"{target}.{load.name}.{name}", digits) for name, digits in _SEEN),
        ]
        for load in loads
        for target in (BASELINE, *engines)
    ]
    columns = ("load", "target", "RPS", "p50 ms", "p95 ms", "p99 ms", "errors", "dropped")
    return Grid("What a client sees", columns, rows, labels=2)


def engine_grid(figures: Figures, loads: Sequence[Load], engines: Sequence[str]) -> Grid:
    """Return what Egret adds to the latency, and the CPU time of each process."""
    rows = [list(_engine_row(figures, load, engine)) for engine in engines for load in loads]
    columns = (
        "load", "engine", "+p50 ms", "+p95 ms", "+p99 ms",
        "worker CPU µs", "Envoy CPU µs", "Envoy alone µs",
    )  # fmt: skip
    return Grid(
        "What Egret adds to a request, and what CPU time it takes", columns, rows, labels=2
    )


def memory_grid(figures: Figures, engines: Sequence[str]) -> Grid:
    """Return the resident memory of a worker after all of that."""
    rows = [[engine, _shown(figures, f"{engine}.rss_mb", 0)] for engine in engines]
    return Grid("Memory of a worker", ("engine", "RSS MB"), rows)


def bench_plot(
    figures: Figures, loads: Sequence[Load], engines: Sequence[str], *, path: Path
) -> None:
    """Draw how latency is spread at one load, and how it grows with the throughput."""
    import matplotlib as mpl  # noqa: PLC0415 - takes a second, and a screen unless told otherwise

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    closed = [load for load in loads if load.rate is None]
    figure, (spread, growth) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for number, target in enumerate((BASELINE, *engines)):
        label = "Envoy alone" if target == BASELINE else f"+ Egret, {target}"
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
    plt.close(figure)


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


def _engine_row(figures: Figures, load: Load, engine: str) -> Iterator[str]:
    key = f"{engine}.{load.name}"
    yield _title(load)
    yield engine
    for name in ("added_p50_ms", "added_p95_ms", "added_p99_ms"):
        yield _shown(figures, f"{key}.{name}", 2)
    yield _shown(figures, f"{key}.worker_cpu_us", 0)
    yield _shown(figures, f"{key}.envoy_cpu_us", 0)
    yield _shown(figures, f"{BASELINE}.{load.name}.envoy_cpu_us", 0)


def _shown(figures: Figures, key: str, digits: int) -> str:
    return f"{figures[key]:,.{digits}f}"


def _title(load: Load) -> str:
    return f"closed, {load.connections}" if load.rate is None else f"open, {load.rate}/s"
