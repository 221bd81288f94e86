"""Usage on its way to the database: first on disk, so that nothing that was acknowledged is lost.

Two kinds of note are kept. A request that is let through is noted when it has been judged; one
that ended is noted when Envoy's access log tells of it. What was judged and never ended is found
that way, whatever died.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self, TypeVar

import msgspec

from sidecar.domain.usage import JudgedRequest, UsageRecord
from sidecar.storage.spool_files import (
    Kind,
    Piece,
    Segment,
    SpoolError,
    SpoolFolder,
    SpoolFullError,
    SpoolLimits,
    read_piece,
)

NOTE_SECONDS: Final = 0.02
"""How long notes of judged requests are collected before they are written together."""

MAX_WAITING: Final = 20_000
"""Notes that wait for a disk that does not answer; then notes are dropped, and records refused."""

_T = TypeVar("_T")


class UsageSpool:
    """One a worker. Writes and reads on a thread of its own, many notes at a time."""

    def __init__(
        self,
        folder: SpoolFolder,
        threads: ThreadPoolExecutor,
        *,
        on_note_lost: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._threads = threads
        self._on_note_lost = on_note_lost
        self._encoder = msgspec.msgpack.Encoder()
        self._notes: list[bytes] = []
        self._records: list[bytes] = []
        self._kept: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        root: Path,
        *,
        instance: str,
        limits: SpoolLimits,
        on_note_lost: Callable[[], None],
    ) -> Self:
        """Make a folder of this worker's own and take over those of workers that are gone.

        Raises:
            SpoolError: the folder cannot be made.
        """
        threads = ThreadPoolExecutor(1, thread_name_prefix="usage-spool")
        name = f"{instance}-{os.getpid()}-{time.time_ns()}"
        run = asyncio.get_running_loop().run_in_executor
        try:
            folder = await run(threads, lambda: SpoolFolder(root, name, limits))
            await run(threads, folder.adopt)
        except OSError as error:
            threads.shutdown(wait=False)
            raise SpoolError(
                f"cannot make a folder for usage in {root}: {error.strerror}; set"
                " EGRET_USAGE__SPOOL_DIRECTORY to a folder of ours, or EGRET_USAGE__SOURCE=off"
            ) from None
        return cls(folder, threads, on_note_lost=on_note_lost)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._folder.size

    def note(self, request: JudgedRequest) -> None:
        """Note that *request* goes to its provider. Never waits and never raises."""
        if len(self._notes) >= MAX_WAITING:
            self._on_note_lost()
            return
        self._notes.append(self._encoder.encode(request))
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(NOTE_SECONDS, self._write_soon)

    async def keep(self, records: Sequence[UsageRecord]) -> None:
        """Return when *records* are on the disk.

        Raises:
            SpoolFullError: they are not.
        """
        if len(self._records) + len(records) > MAX_WAITING:
            raise SpoolFullError("the disk does not answer")
        self._records += map(self._encoder.encode, records)
        if self._kept is None:
            self._kept = asyncio.get_running_loop().create_future()
        kept = self._kept
        self._write_soon()
        await asyncio.shield(kept)

    async def carry_over(self, requests: Sequence[JudgedRequest]) -> None:
        """Note *requests* once more, so that the file they are in can go.

        Raises:
            SpoolFullError: they are not noted.
        """
        payloads = [self._encoder.encode(request) for request in requests]
        await self.run(lambda: self._folder.append(Kind.JUDGED, payloads))

    def segments(self, kind: Kind) -> list[Segment]:
        """Return the files of *kind*, the oldest first."""
        return [segment for segment in tuple(self._folder.segments) if segment.kind is kind]

    async def read(self, segment: Segment, *, max_records: int) -> Piece:
        """Return the next records of *segment*; they stay there until it is removed."""
        start, stop = segment.read_to, segment.size
        return await self.run(
            lambda: read_piece(segment.path, start=start, stop=stop, max_records=max_records)
        )

    async def seal(self, kind: Kind) -> None:
        """Begin another file of *kind*."""
        await self.run(lambda: self._folder.seal(kind))

    async def remove_read(self, kind: Kind) -> None:
        """Remove the files of *kind* of which everything was taken."""
        await self.run(lambda: self._remove_read(kind))

    async def adopt(self) -> int:
        """Take over the files of workers that are gone; return of how many."""
        return await self.run(self._folder.adopt)

    async def aclose(self) -> None:
        """Write what waits, and let go of the folder; another worker takes what is left in it."""
        if self._timer is not None:
            self._timer.cancel()
        self._write_soon()
        while self._writing is not None:
            await asyncio.wait([self._writing])
        await self.run(self._folder.close)
        self._threads.shutdown(wait=False)

    async def run(self, work: Callable[[], _T]) -> _T:
        """Do *work* on the spool's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _remove_read(self, kind: Kind) -> None:
        for segment in self.segments(kind):
            if segment.is_read and self._folder.is_sealed(segment):
                self._folder.remove(segment)

    def _write_soon(self) -> None:
        self._timer = None
        if self._writing is None and (self._notes or self._records):
            self._writing = asyncio.get_running_loop().create_task(self._write())
            self._writing.add_done_callback(self._written)

    def _written(self, _: asyncio.Task[None]) -> None:
        self._writing = None
        self._write_soon()

    async def _write(self) -> None:
        if self._records:
            await self._write_records()
        if self._notes:
            await self._write_notes()

    async def _write_records(self) -> None:
        records, self._records = self._records, []
        kept, self._kept = self._kept, None
        try:
            await self.run(lambda: self._folder.append(Kind.ENDED, records))
        except (SpoolFullError, OSError) as error:
            if kept is not None:
                kept.set_exception(SpoolFullError(str(error)))
                kept.exception()  # whoever waits gets it; nobody may wait any more
        else:
            if kept is not None:
                kept.set_result(None)

    async def _write_notes(self) -> None:
        notes, self._notes = self._notes, []
        try:
            await self.run(lambda: self._folder.append(Kind.JUDGED, notes))
        except (SpoolFullError, OSError):
            for _ in notes:
                self._on_note_lost()
