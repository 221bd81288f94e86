"""Metric samples in memory-mapped files, written in place."""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple, Protocol, cast

from prometheus_client import Counter, Gauge, Histogram

_DOUBLE_BYTES: Final = 8

Count = Callable[[], None]
Observe = Callable[[float], None]


class _File(Protocol):
    _m: mmap.mmap
    _positions: dict[str, int]


class _Value(Protocol):
    _multiprocess: bool
    _file: _File
    _key: str


class _Place(NamedTuple):
    """Where the number of a sample stands."""

    memory: memoryview[float]
    at: int


def counting(counter: Counter) -> Count:
    """Return a function that adds one to *counter*, which has its labels."""
    value = cast("_Value", counter._value)  # noqa: SLF001 - see above
    return _adding(_place(value), 1.0) if value._multiprocess else counter.inc  # noqa: SLF001


def summing(counter: Counter) -> Observe:
    """Return a function that adds a number to *counter*, which has its labels."""
    value = cast("_Value", counter._value)  # noqa: SLF001 - see above
    if not value._multiprocess:  # noqa: SLF001
        return counter.inc
    memory, at = _place(value)

    def add(amount: float) -> None:
        memory[at] += amount

    return add


def rising_and_falling(gauge: Gauge) -> tuple[Count, Count]:
    """Return functions that add one to *gauge*, which has its labels, and take one away."""
    value = cast("_Value", gauge._value)  # noqa: SLF001 - see above
    if not value._multiprocess:  # noqa: SLF001
        return gauge.inc, gauge.dec
    place = _place(value)
    return _adding(place, 1.0), _adding(place, -1.0)


def observing(histogram: Histogram) -> Observe:
    """Return a function that observes a number in *histogram*, which has its labels."""
    total = cast("_Value", histogram._sum)  # noqa: SLF001 - see above
    if not total._multiprocess:  # noqa: SLF001
        return histogram.observe
    buckets = [_place(cast("_Value", bucket)) for bucket in histogram._buckets]  # noqa: SLF001
    return _observing(_place(total), buckets, list(histogram._upper_bounds))  # noqa: SLF001


def _place(value: _Value) -> _Place:
    # The file may grow into a new map later: this one remains, and is the same memory.
    memory = _doubles(value._file._m)  # noqa: SLF001
    return _Place(memory, value._file._positions[value._key] // _DOUBLE_BYTES)  # noqa: SLF001


@lru_cache(maxsize=8)
def _doubles(memory: mmap.mmap) -> memoryview[float]:
    """Return one view for all samples of a file: it stays in the CPU's caches."""
    return memoryview(memory).cast("d")


def _adding(place: _Place, amount: float) -> Count:
    memory, at = place

    def add() -> None:
        # One aligned store of eight bytes: who reads meanwhile sees the old or the new.
        memory[at] += amount

    return add


def _observing(total: _Place, buckets: list[_Place], bounds: list[float]) -> Observe:
    total_memory, total_at = total

    def observe(amount: float) -> None:
        total_memory[total_at] += amount
        memory, at = buckets[bisect_left(bounds, amount)]
        memory[at] += 1.0

    return observe
