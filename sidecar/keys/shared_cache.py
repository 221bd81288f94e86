"""Key records shared through Valkey, fenced against records older than a change."""

from __future__ import annotations

import asyncio
import enum
import functools
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Final, Never

from sidecar.domain.principal import KeyRecord
from sidecar.domain.report import CacheTier
from sidecar.keys.cache import KeyCache, fits
from sidecar.keys.ports import (
    Fence,
    KeyReading,
    KeySource,
    KeyStoreUnavailableError,
    LoadedKey,
    SharedKeys,
    SharedRecord,
)

ANY_KEY: Final = "*"
"""The scope of a change that may have met any key."""
MAX_FLOORS: Final = 10_000


class Freshness(enum.Enum):
    """What a shared record is good for."""

    CURRENT = "current"
    """No change to it can have been missed."""
    UNCERTAIN = "uncertain"
    """A change may have been missed: better than nothing, while the database is away."""
    OUTDATED = "outdated"
    """A change was heard of, and the record may be from before it."""


@dataclass(slots=True)
class _Floor:
    """Records from before `fence` are too old; without a fence yet, all are."""

    noted_as: int
    fence: Fence | None = None

    def is_below(self, shared: SharedRecord) -> bool:
        return self.fence is not None and shared.has_seen(self.fence)

    def has_no_change_after(self, shared: SharedRecord) -> bool:
        return self.fence is not None and shared.has_seen_last_change(self.fence)


class Fences:
    """Changes this worker heard of, and whether it would hear of one now.

    A note is without a fence first; `resolve` gives one that was asked for after the note.
    The oldest notes beyond `max_floors` become one for all keys: too much is forgotten, never
    too little. Reads no clock. Belongs to one event loop.
    """

    def __init__(self, *, max_floors: int = MAX_FLOORS) -> None:
        self._max_floors = max_floors
        self._floors: OrderedDict[str, _Floor] = OrderedDict()
        self._under_all: _Floor | None = None
        self._heard_since = _Floor(noted_as=0)
        self._is_listening = False
        self._notes = 0
        self._resolved_notes = 0

    @property
    def notes(self) -> int:
        """How many notes were taken: the number of the latest."""
        return self._notes

    @property
    def wants_fence(self) -> bool:
        """Whether any note is without a fence."""
        return self._resolved_notes < self._notes

    @property
    def timeline(self) -> int | None:
        """The database's timeline since this worker listens; None while it does not."""
        fence = self._heard_since.fence
        return fence.timeline if self._is_listening and fence is not None else None

    def note_change(self, scope: str) -> None:
        """Keep that *scope* has changed: a key's id, `team:…`, `organization:…` or `ANY_KEY`."""
        if scope == ANY_KEY:
            self._floors.clear()
            self._under_all = self._note()
            return
        self._floors[scope] = self._note()
        self._floors.move_to_end(scope)
        if len(self._floors) > self._max_floors:
            _, self._under_all = self._floors.popitem(last=False)

    def listening_began(self) -> None:
        """From here on every change is heard of; whatever came before may have been missed."""
        self._is_listening = True
        self._heard_since = self._note()

    def listening_ended(self) -> None:
        """From here on changes may be missed."""
        self._is_listening = False

    def resolve(self, *, notes: int, fence: Fence) -> None:
        """Give *fence* to the notes up to number *notes*, which were taken before it was made."""
        self._resolved_notes = max(self._resolved_notes, notes)
        for floor in (self._heard_since, self._under_all):
            if floor is not None and floor.fence is None and floor.noted_as <= notes:
                floor.fence = fence
        for floor in reversed(self._floors.values()):
            if floor.fence is not None:
                break  # as is every older one
            if floor.noted_as <= notes:
                floor.fence = fence

    def belief(self, shared: SharedRecord) -> Freshness:
        """Say what *shared* is good for."""
        if any(not floor.is_below(shared) for floor in self._floors_of(shared.record)):
            return Freshness.OUTDATED
        since = self._heard_since
        if self._is_listening and (since.is_below(shared) or since.has_no_change_after(shared)):
            return Freshness.CURRENT
        return Freshness.UNCERTAIN

    def has_changed_since(self, notes: int, record: KeyRecord) -> bool:
        """Tell whether a change to *record* was noted, or may have been missed, since *notes*."""
        if not self._is_listening or self._heard_since.noted_as > notes:
            return True
        return any(floor.noted_as > notes for floor in self._floors_of(record))

    def _floors_of(self, record: KeyRecord) -> list[_Floor]:
        floors = [] if self._under_all is None else [self._under_all]
        if self._floors:
            owner = record.principal
            scopes = (
                owner.key_id,
                f"team:{owner.team_id}",
                f"organization:{owner.organization_id}",
            )
            floors += [self._floors[scope] for scope in scopes if scope in self._floors]
        return floors

    def _note(self) -> _Floor:
        self._notes += 1
        return _Floor(noted_as=self._notes)


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

    async def load(self, key_id: str) -> LoadedKey:
        """Return what is stored of *key_id*.

        Raises:
            KeyStoreUnavailableError: the database did not answer, and there is no other answer.
        """
        if self._shared is None:
            return LoadedKey((await self._source.read(key_id)).record)
        shared = await self._shared.get(key_id)
        belief = Freshness.OUTDATED if shared is None else self._fences.belief(shared)
        if shared is not None and belief is Freshness.CURRENT:
            age_seconds = self._age_seconds(shared)
            if age_seconds < self._limits.ttl_seconds:
                return LoadedKey(shared.record, CacheTier.L2, age_seconds)
        notes, asked_at = self._fences.notes, self._wall()
        try:
            reading = await self._read(key_id, is_patient=belief is Freshness.OUTDATED)
        except KeyStoreUnavailableError:
            if shared is None or not self._is_usable(shared):
                raise
            return LoadedKey(shared.record, CacheTier.STALE, self._age_seconds(shared))
        if self._may_share(reading, notes=notes):
            self._put(key_id, reading, read_at=asked_at)
        return LoadedKey(reading.record)

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

    async def _read(self, key_id: str, *, is_patient: bool) -> KeyReading:
        if is_patient:
            return await self._source.read(key_id)
        try:
            async with asyncio.timeout(self._limits.patience_seconds):
                return await self._source.read(key_id)
        except TimeoutError as error:
            raise KeyStoreUnavailableError("the database takes too long") from error

    def _is_usable(self, shared: SharedRecord) -> bool:
        # Asked anew: a change may have been heard of while the database was waited for.
        is_outdated = self._fences.belief(shared) is Freshness.OUTDATED
        return not is_outdated and self._age_seconds(shared) < self._limits.max_stale_seconds

    def _age_seconds(self, shared: SharedRecord) -> float:
        # Another machine's clock may be ahead of ours.
        return max(0.0, self._wall() - shared.read_at)

    def _may_share(self, reading: KeyReading, *, notes: int) -> bool:
        record = reading.record
        if record is None or not fits(record):
            return False
        # Nobody who heard of the change would believe it; it would only be in the way.
        return not self._fences.has_changed_since(notes, record)

    def _put(self, key_id: str, reading: KeyReading, *, read_at: float) -> None:
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


_OWNERS = ("team:", "organization:")


@dataclass(slots=True)
class KeyChanges:
    """Tells the cache of the process and the use of the shared one.

    `channels` are the names of those that changes come by. Changes count as heard while all of
    them are up: each may carry what the others do not.
    """

    cache: KeyCache
    tiers: TwoTierKeys
    channels: frozenset[str]
    _listening: set[str] = field(default_factory=set[str])

    @property
    def is_listening(self) -> bool:
        """Whether every channel is up."""
        return self._listening >= self.channels

    def key_changed(self, key_id: str) -> None:
        """A key was made, changed, revoked or deleted."""
        # First of all nobody may believe the shared record, then nobody may hold one.
        self.tiers.note_change(key_id)
        self.cache.drop(key_id)
        self.tiers.forget_shared(key_id)

    def scope_changed(self, scope: str) -> None:
        """A team or an organization, as `team:<id>`, or with `*` any number of keys changed."""
        if scope.startswith(_OWNERS):
            self.tiers.note_change(scope)
            self.cache.drop_owned(scope.partition(":")[2])
        else:
            self.tiers.note_change(ANY_KEY)
            self.cache.flush()

    def listening_began(self, channel: str) -> None:
        """*channel* is up; what it carried before was missed."""
        self._listening.add(channel)
        if self.is_listening:
            self.tiers.listening_began()
        self.cache.suspect()
        self.cache.store_is_back()

    def listening_ended(self, channel: str) -> None:
        """*channel* was lost."""
        if channel in self._listening:
            self._listening.remove(channel)
            self.tiers.listening_ended()
            self.cache.suspect()
