"""The tables and the plot of a bench run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from loadtest.figures import BASELINE, Figures
from loadtest.k6 import Load
from loadtest.results import Grid

PLOTTED: Final = (("p50_ms", "-"), ("p99_ms", ":"))


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


def latency_plot(
    figures: Figures, loads: Sequence[Load], engines: Sequence[str], *, path: Path
) -> None:
    """Draw latency by concurrency of the closed loops, with and without Egret."""
    import matplotlib as mpl  # noqa: PLC0415 - takes a second, and a screen unless told otherwise

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    closed = [load for load in loads if load.rate is None]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for number, target in enumerate((BASELINE, *engines)):
        for name, line in PLOTTED:
            axes.plot(
                [str(load.connections) for load in closed],
                [figures[f"{target}.{load.name}.{name}"] for load in closed],
                linestyle=line,
                marker="o",
                color=f"C{number}",
                label=f"{'Envoy alone' if target == BASELINE else target} {name[:3]}",
            )
    axes.set(xlabel="connections (closed loop)", ylabel="latency, ms", yscale="log")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


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
