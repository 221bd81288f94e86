"""What this worker has itself written to the spool, kept in memory as well, within bounds.

The files are what counts: they are read where something is not here, because it was too much or
because another worker wrote it. What is here need not be read, checked and decoded again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Final, NamedTuple

from sidecar.domain.usage import JudgedRequest, UsageRecord
from sidecar.storage.spool_files import HEAD_BYTES, Place, Segment

MAX_FRESH: Final = 5_000
"""Records that are not in the database yet; about 1 kB each."""

MAX_OPEN: Final = 20_000
"""Requests whose end is not in the database yet; about 0.5 kB each."""


class _Fresh(NamedTuple):
    record: UsageRecord
    start: int
    end: int


class FreshRecords:
    """Records beside their place in their file, in its order; some may be missing."""

    def __init__(self, most: int = MAX_FRESH) -> None:
        self._most = most
        self._count = 0
        self._by_segment: dict[Segment, deque[_Fresh]] = {}

    def put(self, place: Place, records: Iterable[UsageRecord], sizes: Iterable[int]) -> None:
        """Keep *records*, whose bytes stand at *place* one after the other."""
        if place.end <= place.segment.read_to:
            return  # read from the disk before it was put here
        kept = self._by_segment.setdefault(place.segment, deque())
        start = place.start
        for record, size in zip(records, sizes, strict=True):
            if self._count >= self._most:
                return
            end = start + HEAD_BYTES + size
            kept.append(_Fresh(record, start, end))
            self._count += 1
            start = end

    def next_of(self, segment: Segment, *, most: int) -> tuple[list[UsageRecord], int]:
        """Return what comes next in *segment*, and where it ends; nothing where it is not here."""
        self._forget_read(segment)
        end = segment.read_to
        records: list[UsageRecord] = []
        for fresh in islice(self._by_segment.get(segment, ()), most):
            if fresh.start != end:
                break
            records.append(fresh.record)
            end = fresh.end
        return records, end

    def gap_of(self, segment: Segment) -> int:
        """Return up to where *segment* has to be read from the disk."""
        self._forget_read(segment)
        kept = self._by_segment.get(segment)
        return kept[0].start if kept else segment.size

    def forget(self, segments: Iterable[Segment]) -> None:
        """Keep nothing more of files that are gone."""
        for segment in segments:
            self._count -= len(self._by_segment.pop(segment, ()))

    def _forget_read(self, segment: Segment) -> None:
        kept = self._by_segment.get(segment)
        while kept and kept[0].start < segment.read_to:
            kept.popleft()
            self._count -= 1


_Name = tuple[str, datetime]


class OpenRequests:
    """Of each file of notes, the requests whose end is not known to be in the database."""

    def __init__(self, most: int = MAX_OPEN) -> None:
        self._most = most
        self._by_segment: dict[Segment, dict[_Name, JudgedRequest]] = {}
        self._overfull: set[Segment] = set()

    def put(self, segment: Segment, requests: Sequence[JudgedRequest]) -> None:
        """Keep what was noted in *segment*, or nothing of it if that is too much."""
        if segment in self._overfull:
            return
        count = sum(map(len, self._by_segment.values()))
        if count + len(requests) > self._most:
            self._by_segment.pop(segment, None)
            self._overfull.add(segment)
            return
        kept = self._by_segment.setdefault(segment, {})
        for request in requests:
            kept[request.request_id, request.occurred_at] = request

    def let_go(self, records: Iterable[UsageRecord]) -> None:
        """Forget requests whose records are in the database."""
        for record in records:
            name = (record.request.request_id, record.request.occurred_at)
            for kept in self._by_segment.values():
                kept.pop(name, None)

    def of(self, segment: Segment) -> list[JudgedRequest] | None:
        """Return the open ones of all that were noted in *segment*, None where it must be read."""
        kept = self._by_segment.get(segment)
        return None if kept is None else list(kept.values())

    def forget(self, segments: Iterable[Segment]) -> None:
        """Keep nothing more of files that are gone."""
        for segment in segments:
            self._by_segment.pop(segment, None)
            self._overfull.discard(segment)
