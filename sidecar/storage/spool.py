"""The usage spool: acknowledges records once they are on disk."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Final, Self, TypeVar

import msgspec
import structlog

from sidecar.domain.usage import JudgedRequest, UsageRecord
from sidecar.storage.spool_files import (
    NotAdopted,
    Piece,
    Place,
    Segment,
    SegmentKind,
    SpoolError,
    SpoolFolder,
    SpoolFullError,
    SpoolLimits,
    frame,
    read_piece,
)

_log = structlog.get_logger(__name__)

TURN_SECONDS: Final = 0.05
"""How long notes and records are collected before they are written together.

A write forced to the disk costs much the same, however little is in it.
"""

NOTES_TURNS: Final = 2
"""Notes are written in one turn of so many: mapped memory has them, and nothing waits for them."""

ENTRY_RECORDS: Final = 100
"""Records with one checksum; damage hides all of them."""

READ_ENTRIES: Final = 100
"""Entries read together: notes, or the records of one message each."""

UNREPORTED_TURNS: Final = 16
"""After so many writes of notes only, the event loop collects their results."""

MAX_WAITING: Final = 20_000
"""Entries that wait for a slow disk; beyond, notes are dropped and records refused."""

MAX_FRESH: Final = 5_000
"""Records that are not in the database yet; about 1 kB each."""

MAX_OPEN: Final = 20_000
"""Requests whose end is not in the database yet; about 0.5 kB each."""


class FreshRecords:
    """Records of one write beside its place in its file, in its order; some may be missing."""

    def __init__(self, most: int = MAX_FRESH) -> None:
        self._most = most
        self._count = 0
        self._by_segment: dict[Segment, deque[tuple[Place, Sequence[UsageRecord]]]] = {}

    def put(self, place: Place, records: Sequence[UsageRecord]) -> None:
        """Keep *records*, which were written together at *place*, if there is room for them."""
        if place.end <= place.segment.read_to:
            return  # it was read from the disk meanwhile
        if self._count + len(records) <= self._most:
            self._by_segment.setdefault(place.segment, deque()).append((place, records))
            self._count += len(records)

    def next_of(self, segment: Segment, *, wanted: int) -> tuple[list[UsageRecord], int]:
        """Return the next records of *segment* and their end; none if they are not in memory.

        At least *wanted* if there are as many, and all of a write.
        """
        self._forget_read(segment)
        end = segment.read_to
        found: list[UsageRecord] = []
        for place, records in self._by_segment.get(segment, ()):
            if place.start != end or len(found) >= wanted:
                break
            found += records
            end = place.end
        return found, end

    def gap_of(self, segment: Segment) -> int:
        """Return the end of the part of *segment* that has to be read from the disk."""
        self._forget_read(segment)
        kept = self._by_segment.get(segment)
        return kept[0][0].start if kept else segment.size

    def forget(self, segments: Iterable[Segment]) -> None:
        """Forget files that are gone."""
        for segment in segments:
            self._count -= sum(len(one) for _, one in self._by_segment.pop(segment, ()))

    def _forget_read(self, segment: Segment) -> None:
        kept = self._by_segment.get(segment)
        while kept and kept[0][0].start < segment.read_to:
            self._count -= len(kept.popleft()[1])


_Name = tuple[str, datetime]


class OpenRequests:
    """Of each file of notes, the requests whose end is not known to be in the database."""

    def __init__(self, most: int = MAX_OPEN) -> None:
        self._most = most
        self._by_segment: dict[Segment, dict[_Name, JudgedRequest]] = {}
        self._overfull: set[Segment] = set()

    def put(self, segment: Segment, requests: Sequence[JudgedRequest]) -> None:
        """Keep requests that were noted in *segment*, or none of it if they are too many."""
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

    def forget_ended(self, records: Iterable[UsageRecord]) -> None:
        """Forget requests whose records are in the database."""
        ended = {(one.request.request_id, one.request.occurred_at) for one in records}
        for kept in self._by_segment.values():
            for name in kept.keys() & ended:
                del kept[name]

    def of(self, segment: Segment) -> list[JudgedRequest] | None:
        """Return the open requests of *segment*, None if the file has to be read."""
        kept = self._by_segment.get(segment)
        return None if kept is None else list(kept.values())

    def forget(self, segments: Iterable[Segment]) -> None:
        """Forget files that are gone."""
        for segment in segments:
            self._by_segment.pop(segment, None)
            self._overfull.discard(segment)


_T = TypeVar("_T")

_Note = tuple[JudgedRequest, bytes]
"""A request and its note, as `frame` returns it."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Records that are kept together; `kept` is done when they are on the disk."""

    records: Sequence[UsageRecord]
    framed: bytes
    kept: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class _Written:
    """The place of one write, or the reason for none."""

    place: Place | SpoolFullError
    batches: Sequence[_Batch] = ()
    notes: Sequence[_Note] = ()


class UsageSpool:
    """One a worker. Writes and reads on a thread of its own, many notes at a time.

    While entries come the thread takes a turn every `TURN_SECONDS`, by its own clock: the event
    loop only appends a note to a queue. Of each queue between the two, one side adds and the
    other takes.
    """

    def __init__(
        self,
        folder: SpoolFolder,
        threads: ThreadPoolExecutor,
        *,
        on_note_lost: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._put_note = folder.notes.put
        self._threads = threads
        self._on_note_lost = on_note_lost
        self._loop = asyncio.get_running_loop()
        self._encoder = msgspec.msgpack.Encoder()
        self._notes: deque[_Note] = deque()
        self._batches: deque[_Batch] = deque()
        self._written: deque[_Written] = deque()
        self._unwritten_records = 0
        self._fresh = FreshRecords()
        self._open = OpenRequests()
        self._refused: dict[str, NotAdopted] = {}
        self._turns = 0
        self._is_closed = False
        self._turning: asyncio.Future[None] | None = None
        """Done when the thread takes no more turns; None while it rests."""

    @classmethod
    async def open(
        cls,
        root: Path,
        *,
        instance: str,
        limits: SpoolLimits,
        on_note_lost: Callable[[], None],
    ) -> Self:
        """Make a folder for this worker, and adopt those of workers that are gone.

        Raises:
            SpoolError: the folder cannot be made.
        """
        threads = ThreadPoolExecutor(1, thread_name_prefix="usage-spool")
        name = f"{instance}-{os.getpid()}-{time.time_ns()}"
        run = asyncio.get_running_loop().run_in_executor
        try:
            folder = await run(threads, lambda: SpoolFolder(root, name, limits))
        except OSError as error:
            threads.shutdown(wait=False)
            raise SpoolError(
                f"cannot make a folder for usage in {root}: {error.strerror}; set"
                " EGRET_USAGE__SPOOL_DIRECTORY to a folder of ours, or EGRET_USAGE__SOURCE=off"
            ) from None
        spool = cls(folder, threads, on_note_lost=on_note_lost)
        await spool.adopt()
        return spool

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._folder.size

    def note(self, request: JudgedRequest) -> None:
        """Note that *request* goes to its provider. Never waits and never raises.

        From now on it outlives this process, and once it is written the machine.
        """
        if self._is_closed or len(self._notes) >= MAX_WAITING:
            self._on_note_lost()
            return
        framed = frame(self._encoder.encode(request))
        self._put_note(framed)
        self._notes.append((request, framed))
        if self._turning is None:
            self._take_turns()

    async def keep(self, records: Sequence[UsageRecord]) -> None:
        """Return when *records* are on the disk.

        Raises:
            SpoolFullError: they are not.
        """
        if self._is_closed:
            raise SpoolFullError("the worker is stopping")
        if self._unwritten_records + len(records) > MAX_WAITING:
            raise SpoolFullError("the disk does not answer")
        framed = b"".join(
            frame(self._encoder.encode(records[start : start + ENTRY_RECORDS]))
            for start in range(0, len(records), ENTRY_RECORDS)
        )
        kept = self._loop.create_future()
        self._unwritten_records += len(records)
        self._batches.append(_Batch(records, framed, kept))
        if self._turning is None:
            self._take_turns()
        await kept

    async def note_again(self, requests: Sequence[JudgedRequest]) -> None:
        """Note *requests* once more, so that the file they are in can go.

        Raises:
            SpoolFullError: they are not noted.
        """
        framed = [frame(self._encoder.encode(request)) for request in requests]
        place = await self.run(lambda: self._folder.append(SegmentKind.JUDGED, framed))
        self._collect_written()
        self._open.put(place.segment, requests)

    def segments(self, kind: SegmentKind) -> list[Segment]:
        """Return the files of *kind*, the oldest first."""
        return [segment for segment in tuple(self._folder.segments) if segment.kind is kind]

    def fresh(self, segment: Segment, *, wanted: int) -> tuple[list[UsageRecord], int]:
        """Return the next records of *segment* and their end, if they are still in memory."""
        self._collect_written()
        return self._fresh.next_of(segment, wanted=wanted)

    async def read(self, segment: Segment) -> Piece:
        """Return the next entries of *segment*; they stay there until it is removed."""
        start, stop = segment.read_to, self._fresh.gap_of(segment)
        piece = await self.run(
            lambda: read_piece(segment.path, start=start, stop=stop, max_records=READ_ENTRIES)
        )
        segment.is_kept = segment.is_kept or bool(piece.fault)
        return piece

    def forget(self, records: Sequence[UsageRecord]) -> None:
        """Forget the requests of *records*, which are in the database."""
        self._open.forget_ended(records)

    def open_requests(self, segment: Segment) -> list[JudgedRequest] | None:
        """Return requests of a sealed *segment* whose end is not known to be in the database.

        None if the file has to be read.
        """
        self._collect_written()
        return self._open.of(segment)

    async def seal(self, kind: SegmentKind) -> None:
        """Begin another file of *kind*."""
        await self.run(lambda: self._folder.seal(kind))

    async def remove_read(self, kind: SegmentKind) -> None:
        """Remove the files of *kind* that were read to their end."""
        if any(segment.is_read for segment in self.segments(kind)):
            removed = await self.run(lambda: self._folder.remove_read(kind))
            self._fresh.forget(removed)
            self._open.forget(removed)

    async def adopt(self) -> None:
        """Adopt the files of workers that are gone; log each folder that cannot be, once."""
        adoption = await self.run(self._folder.adopt)
        if adoption.folders:
            _log.info("usage.spool_adopted", folders=adoption.folders)
        for name, reason in adoption.refused.items():
            if self._refused.get(name) is not reason:
                _log.warning("usage.spool_not_adopted", folder=name, reason=reason.value)
        self._refused = dict(adoption.refused)

    async def aclose(self) -> None:
        """Write waiting entries, and release the folder; another worker adopts its files."""
        self._is_closed = True
        while self._turning is not None:
            await self._turning
        await self.run(self._folder.close)
        self._threads.shutdown(wait=False)

    async def run(self, work: Callable[[], _T]) -> _T:
        """Do *work* on the spool's thread."""
        return await self._loop.run_in_executor(self._threads, work)

    def _take_turns(self) -> None:
        self._turning = self._loop.create_future()
        self._threads.submit(self._turn)

    def _rest(self) -> None:
        """Stop the turns, as the thread found nothing; entries that came since start them anew."""
        self._collect_written()
        turning, self._turning = self._turning, None
        if self._notes or self._batches:
            self._take_turns()
        if turning is not None and not turning.done():  # cancelled with `aclose`
            turning.set_result(None)

    def _collect_written(self) -> None:
        """Acknowledge entries that the thread has written, and keep them in memory."""
        while self._written:
            written = self._written.popleft()
            place, batches, notes = written.place, written.batches, written.notes
            records = [*chain.from_iterable(batch.records for batch in batches)]
            self._unwritten_records -= len(records)
            if isinstance(place, SpoolFullError):
                for batch in batches:
                    if not batch.kept.done():
                        batch.kept.set_exception(SpoolFullError(str(place)))
                for _ in notes:
                    self._on_note_lost()
                continue
            if records:
                self._fresh.put(place, records)
            if notes:
                self._open.put(place.segment, [request for request, _ in notes])
            for batch in batches:
                if not batch.kept.done():  # its caller may have gone
                    batch.kept.set_result(None)

    # From here on: on the thread.

    def _turn(self) -> None:
        """Write the entries that came, and plan the next turn behind other work of the thread."""
        time.sleep(TURN_SECONDS)
        # Entries added meanwhile may stay for the next turn.
        batches = [self._batches.popleft() for _ in range(len(self._batches))]
        self._turns += 1
        is_due = self._turns % NOTES_TURNS == 0
        notes = [self._notes.popleft() for _ in range(len(self._notes))] if is_due else []
        if not batches and not self._notes and not notes:
            self._loop.call_soon_threadsafe(self._rest)
            return
        try:
            if batches:
                place = self._append(SegmentKind.ENDED, [batch.framed for batch in batches])
                self._written.append(_Written(place, batches=batches))
            if notes:
                place = self._append(SegmentKind.JUDGED, [framed for _, framed in notes])
                self._written.append(_Written(place, notes=notes))
        finally:
            if batches or len(self._written) >= UNREPORTED_TURNS:
                self._loop.call_soon_threadsafe(self._collect_written)
            self._threads.submit(self._turn)

    def _append(self, kind: SegmentKind, framed: Sequence[bytes]) -> Place | SpoolFullError:
        try:
            return self._folder.append(kind, framed)
        except SpoolFullError as error:
            return error
        except OSError as error:
            return SpoolFullError(str(error))
