"""The arithmetic of the bench: results of k6 and the kernel as published figures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from loadtest.load import Measured

BASELINE: Final = "envoy"
"""The same Envoy without Egret, to which all else is compared within one round."""

Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Cell:
    """One load on one target in one round. CPU seconds are user and system time."""

    measured: Measured
    worker_cpu_seconds: float
    envoy_cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Round:
    """One load on every target, one after the other; the baseline is one of them."""

    load: str
    cells: Mapping[str, Cell]


def cell_figures(cell: Cell) -> Figures:
    """Return the figures of one target by itself."""
    measured = cell.measured
    return {
        "rps": measured.rps,
        "p50_ms": measured.p50_ms,
        "p95_ms": measured.p95_ms,
        "p99_ms": measured.p99_ms,
        "envoy_cpu_us": per_request_us(cell.envoy_cpu_seconds, measured.requests),
        "errors": measured.errors,
        "dropped": measured.dropped,
        **{f"q{percent:g}_ms": value for percent, value in measured.quantiles_ms.items()},
    }


def egret_figures(cell: Cell, baseline: Cell) -> Figures:
    """Return the figures of Egret, compared with the *baseline* of the same round."""
    mine, theirs = cell_figures(cell), cell_figures(baseline)
    added = {f"added_{name}": mine[name] - theirs[name] for name in ("p50_ms", "p95_ms", "p99_ms")}
    worker_us = per_request_us(cell.worker_cpu_seconds, cell.measured.requests)
    return {**mine, **added, "worker_cpu_us": worker_us}


def per_request_us(cpu_seconds: float, requests: int) -> float:
    """Return microseconds a request."""
    return cpu_seconds / requests * 1e6


def bench_figures(rounds: Sequence[Round]) -> dict[str, float]:
    """Return flat figures, `<target>.<load>.<figure>`: medians over the rounds of each load.

    Differences are taken within a round, before the median: a drift of the machine is
    the same for both. Errors and dropped requests are summed, so that no round hides any.
    """
    series: dict[str, list[float]] = {}
    for one in rounds:
        baseline = one.cells[BASELINE]
        for target, cell in one.cells.items():
            figures = cell_figures(cell) if cell is baseline else egret_figures(cell, baseline)
            for name, value in figures.items():
                series.setdefault(f"{target}.{one.load}.{name}", []).append(value)
    return {key: _joined(key, values) for key, values in series.items()}


def errors_of(figures: Figures) -> int:
    """Return how many requests failed in all of a run."""
    return int(sum(value for key, value in figures.items() if key.endswith(".errors")))


def _joined(key: str, values: Sequence[float]) -> float:
    if key.endswith((".errors", ".dropped")):
        return sum(values)
    return statistics.median(values)
