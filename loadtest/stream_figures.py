"""The arithmetic of the stream bench: what clients and the kernel say, as figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from loadtest.figures import Figures, per_request_us, percentile
from loadtest.stream_clients import Seen, StreamLoad

EDGE_SECONDS: Final = 1.0
"""At both ends of a measurement, where streams begin and end, the rate is another."""

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
    delays = [(came - sent) * _MS for sent, came in zip(seen.sent, seen.came, strict=True)]
    own = [(came - newest) * _MS for newest, came in zip(seen.newest, seen.came, strict=True)]
    return {
        **_percentiles("ttft", [one * _MS for one in seen.first]),
        **_percentiles("first_word", [one * _MS for one in seen.first_word]),
        **_percentiles("delay", delays),
        **_percentiles("release", own),
        "growth_ms": _growth_ms(cell, delays),
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


def _growth_ms(cell: StreamCell, delays: Sequence[float]) -> float:
    """Return how much longer events take in the last quarter of the time than in the first."""
    quarter = cell.load.seconds / 4 * 1e9
    began = cell.seen.began
    early = [
        delay for delay, sent in zip(delays, cell.seen.sent, strict=True) if sent - began < quarter
    ]
    late = [
        delay
        for delay, sent in zip(delays, cell.seen.sent, strict=True)
        if 3 * quarter <= sent - began < 4 * quarter
    ]
    return statistics.median(late) - statistics.median(early)


def _rate(cell: StreamCell) -> float:
    start = cell.seen.began + EDGE_SECONDS * 1e9
    end = cell.seen.began + (cell.load.seconds - EDGE_SECONDS) * 1e9
    within = sum(1 for came in cell.seen.came if start <= came < end)
    return within / (end - start) * 1e9
