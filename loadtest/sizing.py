"""The cost of a request, and the workers that a load needs, by the published figures.

    python -m loadtest.sizing

Reads docs/figures/bench-against.json and bench.json, and writes two tables into
docs/performance.md. `bench` and `bench_against` do so as well when they publish.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from loadtest.results import PAGE, PUBLISHED, Grid, write_section

SOURCES: Final = ("bench-against", "bench")
COST: Final = {
    "new.h2corn.c16.cpu": "CPU time of a worker, µs",
    "new.h2corn.c16.envoy_cpu": "CPU time of Envoy, its own work included, µs",
    "rps_per_core": "requests a second that a core of workers can check",
    "new.h2corn.c1.added_p50": "added latency without a queue, median, ms",
    "new.h2corn.64k.cpu": "CPU time of a worker, body of 64 KB, µs",
    "new.h2corn.ttft.added_p50": "added time to the first event of a guarded stream, median, ms",
    "new.h2corn.chunk.cpu": "CPU time of a worker, each event of a guarded stream, µs",
    "egret.rss_mb": "memory of a worker, MB",
}
"""The rows, by figure; `h2corn` is the server of REV that they were measured beside."""
RATES: Final = (100, 500, 1_000, 2_000, 5_000, 10_000)
BUSY: Final = 0.5
"""The planned share of a worker's time: the other half is for bursts."""
LEAST_WORKERS: Final = 2
"""One serves while the other is replaced."""


def main() -> int:
    """Write both tables into the page."""
    write_sizing()
    return 0


def write_sizing(*, page: Path = PAGE, published: Path = PUBLISHED) -> None:
    """Write the cost of a request and the number of workers into *page*."""
    files = [json.loads((published / f"{name}.json").read_text("utf-8")) for name in SOURCES]
    figures = {key: value for file in reversed(files) for key, value in file.items()}
    links = [
        f"[{name}.json](figures/{name}.json) (commit {file['commit']}, {file['machine']})"
        for name, file in zip(SOURCES, files, strict=True)
    ]
    text = f"From {links[0]}; memory from {links[1]}."
    write_section("cost", f"{text}\n\n{cost_grid(figures).as_markdown()}", page=page)
    write_section("workers", workers_grid(figures).as_markdown(), page=page)


def cost_grid(figures: Mapping[str, float]) -> Grid:
    """Return a line for each figure that was measured."""
    if "new.h2corn.c16.cpu" in figures:
        figures = {**figures, "rps_per_core": 1e6 / figures["new.h2corn.c16.cpu"]}
    rows = [
        [words, f"{figures[key]:,.2f}" if key.endswith("p50") else f"{figures[key]:,.0f}"]
        for key, words in COST.items()
        if key in figures
    ]
    return Grid("Cost of a request", ("a chat of 900 bytes, unless named", "figure"), rows)


def workers_grid(figures: Mapping[str, float]) -> Grid:
    """Return the workers and the cores of Envoy for some rates, each half busy."""
    short, long, envoy = (
        figures.get(f"new.h2corn.{name}", math.nan)
        for name in ("c16.cpu", "64k.cpu", "c16.envoy_cpu")
    )
    memory = figures.get("egret.rss_mb", math.nan)
    rows = []
    for rate in RATES:
        workers = _cores(rate, short, least=LEAST_WORKERS)
        counted = (
            workers, _cores(rate, long, least=LEAST_WORKERS), _cores(rate, envoy, least=1),
            workers * memory,
        )  # fmt: skip
        shown = ("–" if math.isnan(one) else f"{one:,.0f}" for one in counted)  # noqa: RUF001 - a dash
        rows.append([f"{rate:,}", *shown])
    columns = (
        "requests a second", "workers, chats of 900 bytes", "workers, 64 KB",
        "cores of Envoy, 900 bytes", "memory of the workers, 900 bytes, MB",
    )  # fmt: skip
    return Grid("Workers for a load", columns, rows)


def _cores(rate: int, cpu_us: float, *, least: int) -> float:
    used = rate * cpu_us / 1e6 / BUSY
    return used if math.isnan(used) else max(least, math.ceil(used))


if __name__ == "__main__":
    sys.exit(main())
