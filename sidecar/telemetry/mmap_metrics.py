"""Counts in the memory-mapped files of prometheus-client, written in place.

For each sample the library takes a lock and packs value and timestamp. A function from here adds
to the same eight bytes of the map and does nothing else. It reads private attributes of the
library, which a contract test pins to the version that was read. Without a directory for such
files (unit tests, the command line) the library's own methods are returned instead.

The library maps files without room on the disk for all of their pages: on a full disk the first
sample in such a page would end the process with SIGBUS. From here on its files are reserved.
"""

from __future__ import annotations

import io
import mmap
import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import IO, Final, NamedTuple, Protocol, cast

from prometheus_client import Counter, Gauge, Histogram, mmap_dict
from typing_extensions import override

from sidecar.telemetry.logs import get_logger
from sidecar.telemetry.names import LogEvent

_DOUBLE_BYTES: Final = 8

Count = Callable[[], None]
Observe = Callable[[float], None]
ObserveEach = Callable[[Sequence[float | None]], None]


class _File(Protocol):
    _m: mmap.mmap
    _positions: dict[str, int]


class _Value(Protocol):
    _multiprocess: bool
    _file: _File
    _key: str


class _Place(NamedTuple):
    """The position of a sample's number."""

    memory: memoryview[float]
    at: int


def counting(counter: Counter) -> Count:
    """Return a function that adds one to *counter*, which has its labels."""
    place = _place(counter._value)  # noqa: SLF001 - as the module says
    return counter.inc if place is None else _adding(place, 1.0)


def summing(counter: Counter) -> Observe:
    """Return a function that adds a number to *counter*, which has its labels."""
    place = _place(counter._value)  # noqa: SLF001
    if place is None:
        return counter.inc
    memory, at = place

    def add(amount: float) -> None:
        memory[at] += amount

    return add


def rising_and_falling(gauge: Gauge) -> tuple[Count, Count]:
    """Return functions that add one to *gauge*, which has its labels, and subtract one."""
    place = _place(gauge._value)  # noqa: SLF001
    if place is None:
        return gauge.inc, gauge.dec
    return _adding(place, 1.0), _adding(place, -1.0)


def observing(histogram: Histogram, *counters: Counter) -> Observe:
    """Return a function that observes a number in *histogram*, which has its labels.

    The same call adds one to each of *counters*.
    """
    mapped = _mapped(histogram)
    if mapped is None:

        def observe_in_process(amount: float) -> None:
            histogram.observe(amount)
            for counter in counters:
                counter.inc()

        return observe_in_process if counters else histogram.observe
    memory, total, buckets, bounds = mapped
    ones = [place for one in counters if (place := _place(one._value)) is not None]  # noqa: SLF001

    def observe(amount: float) -> None:
        memory[total] += amount
        memory[buckets[bisect_left(bounds, amount)]] += 1.0
        for counts, at in ones:
            counts[at] += 1.0

    return observe


def observing_each(histograms: Sequence[Histogram], *counters: Counter) -> ObserveEach:
    """Return a function that observes one number in each of *histograms*, which have their labels.

    None is not observed. The same call adds one to each of *counters*.
    """
    ones = [place for one in counters if (place := _place(one._value)) is not None]  # noqa: SLF001
    places = [mapped for one in histograms if (mapped := _mapped(one)) is not None]
    if not places:

        def observe_in_process(amounts: Sequence[float | None]) -> None:
            for histogram, amount in zip(histograms, amounts, strict=True):
                if amount is not None:
                    histogram.observe(amount)
            for counter in counters:
                counter.inc()

        return observe_in_process

    def observe_each(amounts: Sequence[float | None]) -> None:
        for (memory, total, buckets, bounds), amount in zip(places, amounts, strict=True):
            if amount is not None:
                memory[total] += amount
                memory[buckets[bisect_left(bounds, amount)]] += 1.0
        for counts, at in ones:
            counts[at] += 1.0

    return observe_each


def _mapped(
    histogram: Histogram,
) -> tuple[memoryview[float], int, tuple[int, ...], tuple[float, ...]] | None:
    """Return the memory of *histogram*, the places of its sum and buckets, and their bounds."""
    total = _place(histogram._sum)  # noqa: SLF001 - as the module says
    places = [place for one in histogram._buckets if (place := _place(one)) is not None]  # noqa: SLF001
    if total is None:
        return None
    # All are in one file, whose present map holds every place.
    buckets = tuple([place.at for place in places])
    return total.memory, total.at, buckets, _shared(tuple(histogram._upper_bounds))  # noqa: SLF001


@lru_cache(maxsize=64)
def _shared(bounds: tuple[float, ...]) -> tuple[float, ...]:
    """Return one tuple for all histograms with these bounds: it stays in the CPU's caches."""
    return bounds


def _place(sample: object) -> _Place | None:
    value = cast("_Value", sample)
    if not value._multiprocess:  # noqa: SLF001
        return None
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
        # One aligned store of eight bytes: a concurrent reader sees the old or the new number.
        memory[at] += amount

    return add


class _SampleFile(io.FileIO):
    """A file that the library maps, in the size that it had last by `truncate`."""

    @override
    def truncate(self, size: int | None = None, /) -> int:
        """Reserve *size* bytes; without room the samples continue in memory, unseen by scrapes."""
        bytes_before = os.fstat(self.fileno()).st_size
        size = bytes_before if size is None else size
        try:
            os.posix_fallocate(self.fileno(), 0, size)
        except OSError as error:
            os.ftruncate(self.fileno(), bytes_before)
            get_logger().error(LogEvent.METRICS_NO_ROOM, file=self.name, reason=error.strerror)
            memory = os.memfd_create("metrics")
            os.pwrite(memory, os.pread(self.fileno(), bytes_before, 0), 0)
            os.ftruncate(memory, size)
            os.dup2(memory, self.fileno(), inheritable=False)  # the library maps this descriptor
            os.close(memory)
        return size


def _open(name: str, mode: str) -> IO[bytes] | _SampleFile:
    return _SampleFile(name, mode) if mode == "a+b" else open(name, mode)  # noqa: PTH123


vars(mmap_dict)["open"] = _open
