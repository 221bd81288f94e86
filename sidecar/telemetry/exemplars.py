"""Exemplars beside the metrics files: the last trace that fell into each bucket.

prometheus-client keeps no exemplars in multiprocess mode. Each worker has one file of fixed slots,
one for a bucket; a checksum lets the supervisor skip a slot that is being written.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, cast

import orjson
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from sidecar.domain.report import ExchangeReport
from sidecar.telemetry.names import MetricName
from sidecar.telemetry.sanitize import LabelCap

SLOTS: Final = 4096
"""Buckets of one worker that may have an exemplar; the file has 1 MiB."""

_SLOT_BYTES: Final = 256
_CHECKSUM: Final = struct.Struct("<I")
_PART: Final = struct.Struct("<16sddH")
"""Trace id, value, seconds since the epoch, length of the key that follows."""
_KEY_BYTES: Final = _SLOT_BYTES - _CHECKSUM.size - _PART.size

_go: Final = cast("Callable[[float], str]", floatToGoString)
"""How prometheus-client writes the bound of a bucket; it has no types of its own (0.26)."""

Key = tuple[str, frozenset[tuple[str, str]]]
"""A sample's name and its labels, `le` among them."""


def exemplar_path(directory: Path, pid: int) -> Path:
    """Return where the worker with this process id keeps its exemplars."""
    return directory / f"exemplars_{pid}"


class TraceRef(NamedTuple):
    """A trace and its end, in seconds since the epoch."""

    trace_id: int
    at: float


class _Found(NamedTuple):
    key: Key
    trace_id: str
    value: float
    at: float


class ExemplarFile:
    """The file of this process."""

    def __init__(self, path: Path) -> None:
        size = SLOTS * _SLOT_BYTES
        with path.open("w+b") as file:
            try:
                # Reserved: to write to a page without room on the disk would end the process.
                os.posix_fallocate(file.fileno(), 0, size)
                self._memory = mmap.mmap(file.fileno(), size)
            except OSError:
                file.truncate(0)
                self._memory = mmap.mmap(-1, size)  # of this worker no exemplar is shown
        self._used = 0

    def slot(self) -> int | None:
        """Take a slot, None if all are taken."""
        if self._used == SLOTS:
            return None
        self._used += 1
        return self._used - 1

    def write(self, slot: int, key: bytes, value: float, trace: TraceRef) -> None:
        """Replace the content of a slot."""
        trace_id = trace.trace_id.to_bytes(16, "big")
        part = _PART.pack(trace_id, value, trace.at, len(key)) + key
        start = slot * _SLOT_BYTES
        whole = _CHECKSUM.pack(zlib.crc32(part)) + part
        self._memory[start : start + len(whole)] = whole


class BucketExemplars:
    """The exemplars of one histogram."""

    def __init__(
        self,
        file: ExemplarFile,
        name: str,
        *,
        buckets: Sequence[float],
        labels: Sequence[str] = (),
    ) -> None:
        self._file = file
        self._name = f"{name}_bucket"
        self._buckets = tuple(buckets)
        self._labels = tuple(labels)
        self._slots: dict[tuple[int, tuple[str, ...]], tuple[int, bytes] | None] = {}

    def note(self, value: float, trace: TraceRef, *labels: str) -> None:
        """Keep *trace* as the last one that fell into the bucket of *value*."""
        bucket = bisect_left(self._buckets, value)
        if (bucket, labels) not in self._slots:
            bound = self._buckets[bucket] if bucket < len(self._buckets) else float("inf")
            named = dict(zip(self._labels, labels, strict=True)) | {"le": _go(bound)}
            key = orjson.dumps([self._name, named])
            slot = self._file.slot() if len(key) <= _KEY_BYTES else None
            self._slots[bucket, labels] = None if slot is None else (slot, key)
        place = self._slots[bucket, labels]
        if place is not None:
            self._file.write(*place, value, trace)


def read_exemplars(directory: Path) -> Mapping[Key, Exemplar]:
    """Return the latest exemplar of each bucket that any worker keeps."""
    found = sorted(
        (one for path in directory.glob("exemplars_*") for one in _read(path.read_bytes())),
        key=lambda one: one.at,
    )
    return {one.key: Exemplar({"trace_id": one.trace_id}, one.value, one.at) for one in found}


def _read(content: bytes) -> Iterator[_Found]:
    for start in range(0, len(content), _SLOT_BYTES):
        slot = content[start : start + _SLOT_BYTES]
        (checksum,) = _CHECKSUM.unpack_from(slot)
        trace_id, value, at, length = _PART.unpack_from(slot, _CHECKSUM.size)
        if not length:
            return
        end = _CHECKSUM.size + _PART.size + length
        if zlib.crc32(slot[_CHECKSUM.size : end]) != checksum:
            continue
        name, labels = orjson.loads(slot[end - length : end])
        yield _Found((name, frozenset(labels.items())), trace_id.hex(), value, at)


SECONDS_BUCKETS: Final = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5,
)  # fmt: skip
"""From a quarter of a millisecond, which is about what an exchange without remote checks costs."""


class ExchangeExemplars:
    """The exemplars of a request's histograms. One instance a process, as of the metrics."""

    def __init__(self, file: ExemplarFile) -> None:
        self._overhead = BucketExemplars(
            file, MetricName.OVERHEAD_SECONDS, buckets=SECONDS_BUCKETS
        )
        self._phases = BucketExemplars(
            file, MetricName.PHASE_SECONDS, buckets=SECONDS_BUCKETS, labels=("phase",)
        )
        self._guardrails = BucketExemplars(
            file, MetricName.GUARDRAIL_SECONDS, buckets=SECONDS_BUCKETS, labels=("guardrail",)
        )

    def note(self, report: ExchangeReport, trace_id: int, *, guardrail_label: LabelCap) -> None:
        """Keep the trace of an exchange for each bucket that it fell into."""
        trace = TraceRef(trace_id, report.wall_ns / 1e9 + report.seconds)
        self._overhead.note(report.overhead_seconds, trace)
        for phase, step in (
            ("authorize", report.authorize),
            ("read", report.read),
            ("guardrails", report.guardrails),
        ):
            if step is not None:
                self._phases.note(step[1], trace, phase)
        for result in report.results:
            name = guardrail_label(result.guardrail.name)
            self._guardrails.note(report.step_of(result)[1], trace, name)
