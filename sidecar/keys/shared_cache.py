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
    KeySource,
    KeyStoreUnavailableError,
    KeyUnreadableError,
    LoadedKey,
    SharedKeys,
    SharedRecord,
)

ANY_KEY: Final = "*"
"""The scope of a change that may have met any key."""
MAX_FLOORS: Final = 10_000


class Freshness(enum.Enum):
    """Whether a shared record may be used."""

    CURRENT = "current"
    """No change to it can have been missed."""
    UNCERTAIN = "uncertain"
    """A change may have been missed: usable only while the database is away."""
    OUTDATED = "outdated"
    """A change was received, and the record may be from before it."""


@dataclass(slots=True)
class _Floor:
    """A record is stale if it was read before `fence`, or while no fence is known."""

    noted_as: int
    fence: Fence | None = None

    def is_below(self, shared: SharedRecord) -> bool:
        return self.fence is not None and shared.has_seen(self.fence)

    def has_no_change_after(self, shared: SharedRecord) -> bool:
        return self.fence is not None and shared.has_seen_last_change(self.fence)


class Fences:
    """Changes this worker has received, and whether it is subscribed to them now.

    A note is without a fence first; `resolve` gives it one that a query after the note returned.
    The oldest notes beyond `max_floors` become one for all keys: too much is forgotten, never
    too little. Reads no clock. Belongs to one event loop.
    """

    def __init__(self, *, max_floors: int = MAX_FLOORS) -> None:
        self._max_floors = max_floors
        self._floors: OrderedDict[str, _Floor] = OrderedDict()
        self._under_all: _Floor | None = None
        self._listening_since = _Floor(noted_as=0)
        self._is_listening = False
        self._notes = 0

    @property
    def notes(self) -> int:
        """How many notes were taken: the number of the latest."""
        return self._notes

    @property
    def timeline(self) -> int | None:
        """The database's timeline since this worker listens; None while it does not."""
        fence = self._listening_since.fence
        return fence.timeline if self._is_listening and fence is not None else None

    def note_change(self, scope: str) -> None:
        """Note that *scope* has changed: a key's id, `team:…`, `organization:…` or `ANY_KEY`."""
        if scope == ANY_KEY:
            self._floors.clear()
            self._under_all = self._note()
            return
        self._floors[scope] = self._note()
        self._floors.move_to_end(scope)
        if len(self._floors) > self._max_floors:
            _, self._under_all = self._floors.popitem(last=False)

    def listening_began(self) -> None:
        """From here on every change is received; earlier ones may have been missed."""
        self._is_listening = True
        self._listening_since = self._note()

    def listening_ended(self) -> None:
        """From here on changes may be missed."""
        self._is_listening = False

    def resolve(self, *, notes: int, fence: Fence) -> None:
        """Give *fence* to the notes up to number *notes*, which were taken before it was made."""
        for floor in (self._listening_since, self._under_all):
            if floor is not None and floor.fence is None and floor.noted_as <= notes:
                floor.fence = fence
        for floor in reversed(self._floors.values()):
            if floor.fence is not None:
                break  # as is every older one
            if floor.noted_as <= notes:
                floor.fence = fence

    def freshness(self, shared: SharedRecord) -> Freshness:
        """Return whether *shared* may be used."""
        if any(not floor.is_below(shared) for floor in self._floors_of(shared.record)):
            return Freshness.OUTDATED
        since = self._listening_since
        if self._is_listening and (since.is_below(shared) or since.has_no_change_after(shared)):
            return Freshness.CURRENT
        return Freshness.UNCERTAIN

    def has_changed_since(self, notes: int, record: KeyRecord) -> bool:
        """Return whether *record* has changed since *notes*, or a change may have been missed.

        While the worker does not listen, there is no `timeline`.
        """
        floors = (self._listening_since, *self._floors_of(record))
        return any(floor.noted_as > notes for floor in floors)

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

    With a record to fall back on, the database may take `patience_seconds`.
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
        """Return the record of *key_id*.

        Raises:
            KeyStoreUnavailableError: neither the database nor the shared cache has an answer.
            KeyUnreadableError: the database has one that cannot be read.
        """
        if self._shared is None:
            return LoadedKey((await self._source.read(key_id)).record)
        shared = await self._shared.get(key_id)
        freshness = Freshness.OUTDATED if shared is None else self._fences.freshness(shared)
        if shared is not None and freshness is Freshness.CURRENT:
            age_seconds = self._age_seconds(shared)
            if age_seconds < self._limits.ttl_seconds:
                return LoadedKey(shared.record, CacheTier.L2, age_seconds)
        notes, asked_at = self._fences.notes, self._wall()
        # Without a record to fall back on, the database may take as long as its own timeouts.
        seconds = None if freshness is Freshness.OUTDATED else self._limits.patience_seconds
        try:
            async with asyncio.timeout(seconds):
                reading = await self._source.read(key_id)
        except KeyUnreadableError:
            if shared is not None:
                self.forget_shared(key_id)
            raise
        except (KeyStoreUnavailableError, TimeoutError) as error:
            reason = str(error) or "the database takes too long"
            # Asked anew: a change may have been received while the database was waited for.
            if shared is None or self._fences.freshness(shared) is Freshness.OUTDATED:
                raise KeyStoreUnavailableError(reason) from error
            age_seconds = self._age_seconds(shared)
            if age_seconds >= self._limits.max_stale_seconds:
                raise KeyStoreUnavailableError(reason) from error
            return LoadedKey(shared.record, CacheTier.STALE, age_seconds)
        record, timeline = reading.record, self._fences.timeline
        if (
            record is not None
            and timeline is not None
            # One from before a change would be of no use to workers that received the change.
            and not self._fences.has_changed_since(notes, record)
            and fits(record)
        ):
            to_share = SharedRecord(
                record,
                timeline,
                horizon=reading.horizon,
                settled=reading.settled,
                read_at=asked_at,
            )
            self._write(functools.partial(self._shared.put, key_id, to_share))
        return LoadedKey(record)

    def note_change(self, scope: str) -> None:
        """A key, a team, an organization or everything has changed: see `Fences.note_change`."""
        self._fences.note_change(scope)
        self._fence_wanted.set()

    def listening_began(self) -> None:
        """Changes are received from here on."""
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
        """Read a fence from the database whenever notes are without one, until cancelled."""
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

    def _age_seconds(self, shared: SharedRecord) -> float:
        # Another machine's clock may be ahead of ours.
        return max(0.0, self._wall() - shared.read_at)

    def _write(self, write: Callable[[], Coroutine[object, object, None]]) -> None:
        if len(self._writes) < MAX_WRITES:
            task = asyncio.get_running_loop().create_task(write())
            self._writes.add(task)
            task.add_done_callback(self._writes.discard)


_OWNERS = ("team:", "organization:")


@dataclass(slots=True)
class KeyChanges:
    """Applies received changes to the cache of the process and to the shared one.

    `channels` are the names of the connections that carry changes. Changes count as received
    while all of them are up: each may carry changes that the others do not.
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
        # First the shared record loses its validity, then no copy of it may be held.
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
        """*channel* is up; its earlier changes were missed."""
        self._listening.add(channel)
        if self.is_listening:
            self.tiers.listening_began()
        self.cache.mark_stale()
        self.cache.store_is_back()

    def listening_ended(self, channel: str) -> None:
        """*channel* was lost."""
        if channel in self._listening:
            self._listening.remove(channel)
            self.tiers.listening_ended()
            self.cache.mark_stale()
