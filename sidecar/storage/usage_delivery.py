"""Delivers spooled usage records to PostgreSQL in batches."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Final, Never, Protocol, TypeVar

import asyncpg
import msgspec
import structlog

from sidecar.domain.usage import JudgedRequest, UsageRecord
from sidecar.storage.pool import UNAVAILABLE
from sidecar.storage.spool import UsageSpool
from sidecar.storage.spool_files import Piece, Segment, SegmentKind, SpoolFullError
from sidecar.storage.usage_store import PostgresUsage
from sidecar.usage.prices import PriceList
from sidecar.usage.records import NotKeptError, record_of_lost

FLUSH_SECONDS: Final = 1.0
BATCH_RECORDS: Final = 500
"""A batch is decoded and encoded on the event loop, where it holds requests up for some ms."""
ADOPT_SECONDS: Final = 15.0
SEAL_SECONDS: Final = 60.0
"""How long notes of judged requests go to one file, to be looked up together."""
CLOSING_SECONDS: Final = 3.0

_REJECTED: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    OverflowError,  # COPY's encoders raise Python's own
    ValueError,
)

_log = structlog.get_logger(__name__)

_Note = TypeVar("_Note", JudgedRequest, UsageRecord)


class DeliveryMetrics(Protocol):
    """Counts records on their way."""

    def stored(self, records: Sequence[UsageRecord], *, added: int) -> None:
        """Count a batch of which *added* records were new."""
        ...

    def lost(self, reason: str, count: int = 1) -> None:
        """Count records that cannot be delivered."""
        ...

    def refused(self, count: int) -> None:
        """Count records that cannot be kept now."""
        ...

    def spool_holds(self, size: int, *, oldest_seconds: float) -> None:
        """Show the size and age of the records on the disk."""
        ...


class UsageDelivery:
    """Implements `UsageKeeper`, and delivers from the spool to the database."""

    def __init__(
        self,
        spool: UsageSpool,
        store: PostgresUsage,
        metrics: DeliveryMetrics,
        *,
        prices: Callable[[], Awaitable[PriceList]],
        settle_seconds: float,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._spool = spool
        self._store = store
        self._metrics = metrics
        self._settle_seconds = settle_seconds
        self._seal_seconds = min(SEAL_SECONDS, settle_seconds / 4)
        self._wall = wall
        self._prices = prices
        self._adopted_at = wall()
        self._is_failing = False
        # A single record is of an earlier release.
        self._records = msgspec.msgpack.Decoder(list[UsageRecord] | UsageRecord)
        self._notes = msgspec.msgpack.Decoder(list[JudgedRequest] | JudgedRequest)

    async def keep(self, records: Sequence[UsageRecord]) -> None:
        """Keep *records* on the disk, or in the database if the disk is full.

        Raises:
            NotKeptError: they are in neither.
        """
        try:
            await self._spool.keep(records)
        except SpoolFullError as full:
            _log.error("usage.spool_full", reason=str(full), bytes=self._spool.size)
            try:
                await self._add(records)
            except UNAVAILABLE as error:
                self._metrics.refused(len(records))
                raise NotKeptError from error

    async def run(self) -> Never:
        """Deliver until cancelled."""
        while True:
            await self.deliver()
            await asyncio.sleep(FLUSH_SECONDS)

    async def deliver(self) -> None:
        """Deliver waiting records to the database, and settle noted requests."""
        now = self._wall()
        try:
            if _is_past(self._adopted_at, ADOPT_SECONDS, now=now):
                self._adopted_at = now
                await self._spool.adopt()
            await self._deliver_ended()
            await self._settle_judged(now=now)
        except (*UNAVAILABLE, SpoolFullError, NotKeptError) as error:
            if not self._is_failing:
                _log.warning("usage.not_delivered", error_type=type(error).__name__)
            self._is_failing = True
        else:
            self._is_failing = False
        ended = self._spool.segments(SegmentKind.ENDED)
        waiting = [one.started_at for one in ended if not one.is_read]
        oldest = self._wall() - min(waiting) if waiting else 0.0
        self._metrics.spool_holds(self._spool.size, oldest_seconds=max(0.0, oldest))

    async def aclose(self) -> None:
        """Deliver records for some seconds at most; the rest waits on the disk."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_SECONDS):
                await self.deliver()
        await self._spool.aclose()

    async def _deliver_ended(self) -> None:
        for segment in self._spool.segments(SegmentKind.ENDED):
            while not segment.is_read:
                records, end = self._spool.fresh(segment, wanted=BATCH_RECORDS)
                if not records:
                    piece = await self._spool.read(segment)
                    records, end = self._decoded(self._records, segment, piece), piece.end
                for start in range(0, len(records), BATCH_RECORDS):
                    await self._add(records[start : start + BATCH_RECORDS])
                segment.read_to = end
        await self._spool.remove_read(SegmentKind.ENDED)

    async def _settle_judged(self, *, now: float) -> None:
        """Remove notes of ended requests, keep those of running ones, give up overdue ones."""
        segments = self._spool.segments(SegmentKind.JUDGED)
        due = [one for one in segments if _is_past(one.started_at, self._seal_seconds, now=now)]
        if due:
            await self._spool.seal(SegmentKind.JUDGED)
        for segment in due:
            requests = self._spool.open_requests(segment)
            if requests is not None:
                await self._settle(requests)
                segment.read_to = segment.size
            while not segment.is_read:
                piece = await self._spool.read(segment)
                await self._settle(self._decoded(self._notes, segment, piece))
                segment.read_to = piece.end
        await self._spool.remove_read(SegmentKind.JUDGED)

    async def _settle(self, requests: Sequence[JudgedRequest]) -> None:
        # All are looked up before any is noted anew: a second try would note it once more.
        unknown: list[JudgedRequest] = []
        for start in range(0, len(requests), BATCH_RECORDS):
            unknown += await self._store.unknown(requests[start : start + BATCH_RECORDS])
        give_up_before = datetime.fromtimestamp(self._wall() - self._settle_seconds, UTC)
        overdue = [one for one in unknown if one.occurred_at < give_up_before]
        running = [one for one in unknown if one.occurred_at >= give_up_before]
        if overdue:
            _log.warning("usage.requests_lost", count=len(overdue))
            # In the database if the disk is full: it may be full of these very notes.
            await self.keep([record_of_lost(request) for request in overdue])
        if running:
            await self._spool.note_again(running)

    async def _add(self, records: Sequence[UsageRecord]) -> None:
        prices = await self._prices()
        try:
            added = await self._store.add(records, prices)
        except _REJECTED as error:
            if len(records) > 1:
                for record in records:
                    await self._add([record])
                return
            _log.error(
                "usage.rejected",
                error_type=type(error).__name__,
                request_id=records[0].request.request_id,
            )
            self._metrics.lost("rejected")
            return
        self._metrics.stored(records, added=added)
        self._spool.forget(records)

    def _decoded(
        self, decoder: msgspec.msgpack.Decoder[list[_Note] | _Note], segment: Segment, piece: Piece
    ) -> list[_Note]:
        if piece.damaged_bytes:
            _log.error(
                "usage.spool_damaged",
                file=segment.path.name,
                bytes=piece.damaged_bytes,
                reason=piece.fault or "contents",
            )
            self._metrics.lost("damaged")
        notes: list[_Note] = []
        for payload in piece.payloads:
            try:
                found = decoder.decode(payload)
            except ValueError:  # of msgspec, or of a text that is not UTF-8
                # Sound, but written by another version.
                self._metrics.lost("unreadable")
            else:
                notes += found if isinstance(found, list) else [found]
        return notes


def _is_past(since: float, seconds: float, *, now: float) -> bool:
    """Return whether *seconds* are over; a future time is from before a clock was set back."""
    return not 0 <= now - since < seconds
