"""The arithmetic of the stream bench: what clients and the kernel say, as figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from loadtest.figures import Figures, per_request_us, percentile
from loadtest.streams.clients import Seen, StreamLoad

MOST_GROWTH_MS: Final = 5.0
LEAST_SHARE: Final = 0.97
"""Of the events that should have come in a second; what is late by seconds has not come."""

_MS: Final = 1e-6


@dataclass(frozen=True, slots=True)
class StreamCell:
    """One load on one target. CPU seconds are user and system time."""

    load: StreamLoad
    seen: Seen
    worker_cpu_seconds: float
    envoy_cpu_seconds: float


def stream_figures(cell: StreamCell) -> Figures:
    """Return the figures of one cell by itself."""
    seen = cell.seen
    chunks = len(seen.came)
    steady = [
        (sent, newest, came)
        for sent, newest, came in zip(seen.sent, seen.newest, seen.came, strict=True)
        if seen.steady <= sent < seen.until
    ]
    delays = [(sent, (came - sent) * _MS) for sent, _, came in steady]
    return {
        **_percentiles("ttft", [one * _MS for one in seen.first]),
        **_percentiles("first_word", [one * _MS for one in seen.first_word]),
        **_percentiles("delay", [delay for _, delay in delays]),
        **_percentiles("release", [(came - newest) * _MS for _, newest, came in steady]),
        "growth_ms": _growth_ms(seen, delays),
        "chunks_per_s": _rate(cell),
        "worker_cpu_us_per_chunk": per_request_us(cell.worker_cpu_seconds, chunks),
        "envoy_cpu_us_per_chunk": per_request_us(cell.envoy_cpu_seconds, chunks),
        "failed": seen.failed,
    }


def added(figures: Figures, baseline: Figures) -> Figures:
    """Return what a target adds to the *baseline* of the same load."""
    names = [f"{name}_{part}_ms" for name in _ADDED for part in ("p50", "p95")]
    return {f"added_{name}": figures[name] - baseline[name] for name in names}


def holds(cell: StreamCell) -> bool:
    """Tell whether events came as fast as they were sent, the last as soon as the first."""
    figures = stream_figures(cell)
    is_whole = figures["chunks_per_s"] >= LEAST_SHARE * cell.load.chunks_per_second
    return is_whole and figures["growth_ms"] <= MOST_GROWTH_MS and not cell.seen.failed


_ADDED: Final = ("ttft", "first_word", "delay", "release")


def _percentiles(name: str, values: Sequence[float]) -> Figures:
    return {f"{name}_p{part}_ms": percentile(values, part) for part in (50, 95)}


def _growth_ms(seen: Seen, delays: Sequence[tuple[int, float]]) -> float:
    """Return how much longer events take in the last quarter of the time than in the first."""
    quarter = (seen.until - seen.steady) / 4
    early = [delay for sent, delay in delays if sent < seen.steady + quarter]
    late = [delay for sent, delay in delays if sent >= seen.until - quarter]
    return statistics.median(late) - statistics.median(early)


def _rate(cell: StreamCell) -> float:
    seen = cell.seen
    within = sum(1 for came in seen.came if seen.steady <= came < seen.until)
    return within / (seen.until - seen.steady) * 1e9
