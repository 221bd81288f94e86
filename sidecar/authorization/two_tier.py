"""The shared cache before the database, for what the process itself does not hold.

The record of a key is taken from the shared cache only if no change to it can have been missed;
`fences` says how that is known. The database is read otherwise. Where it does not answer, a record
that is not known to be outdated is told as `STALE`, for as long as `max_stale_seconds` allow.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Final, Never

from sidecar.authorization.fences import Belief, Fences
from sidecar.authorization.ports import (
    KeySource,
    KeyStoreUnavailableError,
    Loaded,
    Reading,
    SharedKeys,
    SharedRecord,
)
from sidecar.authorization.record_size import fits
from sidecar.telemetry.report import CacheTier

MAX_WRITES: Final = 64
"""Writes to the shared cache under way at once; one more is left out, not queued."""
FENCE_RETRY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedLimits:
    """How long shared records are used, in seconds since the database was read for them.

    `patience_seconds` is how long the database may take while there is something to fall back on.
    """

    ttl_seconds: float = 300.0
    max_stale_seconds: float = 600.0
    patience_seconds: float = 0.25


class TwoTierKeys:
    """Implements `KeyStore`. `wall` is seconds since the epoch. Belongs to one event loop."""

    def __init__(
        self,
        source: KeySource,
        shared: SharedKeys | None = None,
        limits: SharedLimits | None = None,
        *,
        wall: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._source = source
        self._shared = shared
        self._limits = limits or SharedLimits()
        self._wall = wall
        self._fences = Fences()
        self._fence_wanted = asyncio.Event()
        self._writes: set[asyncio.Task[None]] = set()

    async def load(self, key_id: str) -> Loaded:
        """Return what is stored of *key_id*.

        Raises:
            KeyStoreUnavailableError: the database did not answer, and there is no other answer.
        """
        if self._shared is None:
            return Loaded((await self._source.read(key_id)).record)
        shared = await self._shared.get(key_id)
        belief = Belief.OUTDATED if shared is None else self._fences.belief(shared)
        if shared is not None and belief is Belief.CURRENT:
            age_seconds = self._age_seconds(shared)
            if age_seconds < self._limits.ttl_seconds:
                return Loaded(shared.record, CacheTier.L2, age_seconds)
        notes, asked_at = self._fences.notes, self._wall()
        try:
            reading = await self._read(key_id, is_patient=belief is Belief.OUTDATED)
        except KeyStoreUnavailableError:
            if shared is None or not self._is_usable(shared):
                raise
            return Loaded(shared.record, CacheTier.STALE, self._age_seconds(shared))
        if self._may_share(reading, notes=notes):
            self._put(key_id, reading, read_at=asked_at)
        return Loaded(reading.record)

    def note_change(self, scope: str) -> None:
        """A key, a team, an organization or everything has changed: see `Fences.note_change`."""
        self._fences.note_change(scope)
        self._fence_wanted.set()

    def listening_began(self) -> None:
        """Changes are heard of from here on."""
        self._fences.listening_began()
        self._fence_wanted.set()

    def listening_ended(self) -> None:
        """Changes may be missed from here on."""
        self._fences.listening_ended()

    def forget_shared(self, key_id: str) -> None:
        """Take *key_id* out of the shared cache, soon; nothing relies on it."""
        if self._shared is not None:
            self._write(functools.partial(self._shared.discard, key_id))

    async def keep_fences(self) -> Never:
        """Ask the database for fences as they are wanted, until cancelled."""
        while True:
            await self._fence_wanted.wait()
            self._fence_wanted.clear()
            notes = self._fences.notes
            try:
                fence = await self._source.fence()
            except KeyStoreUnavailableError:
                await asyncio.sleep(FENCE_RETRY_SECONDS)
                self._fence_wanted.set()
            else:
                self._fences.resolve(notes=notes, fence=fence)

    async def aclose(self) -> None:
        """Give up the writes under way."""
        for write in list(self._writes):
            write.cancel()
        await asyncio.gather(*self._writes, return_exceptions=True)

    async def _read(self, key_id: str, *, is_patient: bool) -> Reading:
        if is_patient:
            return await self._source.read(key_id)
        try:
            async with asyncio.timeout(self._limits.patience_seconds):
                return await self._source.read(key_id)
        except TimeoutError as error:
            raise KeyStoreUnavailableError("the database takes too long") from error

    def _is_usable(self, shared: SharedRecord) -> bool:
        # Asked anew: a change may have been heard of while the database was waited for.
        is_outdated = self._fences.belief(shared) is Belief.OUTDATED
        return not is_outdated and self._age_seconds(shared) < self._limits.max_stale_seconds

    def _age_seconds(self, shared: SharedRecord) -> float:
        # Another machine's clock may be ahead of ours.
        return max(0.0, self._wall() - shared.read_at)

    def _may_share(self, reading: Reading, *, notes: int) -> bool:
        record = reading.record
        if record is None or not fits(record):
            return False
        # Nobody who heard of the change would believe it; it would only be in the way.
        return not self._fences.has_changed_since(notes, record)

    def _put(self, key_id: str, reading: Reading, *, read_at: float) -> None:
        record, timeline = reading.record, self._fences.timeline
        if self._shared is not None and record is not None and timeline is not None:
            shared = SharedRecord(
                record,
                timeline,
                horizon=reading.horizon,
                settled=reading.settled,
                read_at=read_at,
            )
            self._write(functools.partial(self._shared.put, key_id, shared))

    def _write(self, write: Callable[[], Coroutine[object, object, None]]) -> None:
        if len(self._writes) < MAX_WRITES:
            task = asyncio.get_running_loop().create_task(write())
            self._writes.add(task)
            task.add_done_callback(self._writes.discard)
