"""The worker's key cache: bounded LRU with refresh-ahead, negative entries and single flight."""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sidecar.domain.principal import KeyRecord
from sidecar.domain.report import CacheTier
from sidecar.keys.ports import (
    KeyStore,
    KeyStoreUnavailableError,
    KeyUnreadableError,
    LoadedKey,
)


class StoreHealth:
    """Circuit breaker of the database: while it is away, one request in `retry_seconds` probes it.

    Times are seconds of one monotonic clock. `jitter` gives numbers from 0 to 1, so that workers
    do not probe in step.
    """

    def __init__(self, *, retry_seconds: float, jitter: Callable[[], float]) -> None:
        self._retry_seconds = retry_seconds
        self._jitter = jitter
        self._next_probe_at: float | None = None

    @property
    def is_away(self) -> bool:
        """Whether the database did not answer the last time."""
        return self._next_probe_at is not None

    def failed(self, *, now: float) -> None:
        """The database did not answer; during an outage this changes nothing."""
        if self._next_probe_at is None:
            self._plan(now)

    def answered(self) -> None:
        """The database answered."""
        self._next_probe_at = None

    def may_probe(self, *, now: float) -> bool:
        """Return whether to ask the database now: True for one caller, then not for a while."""
        if self._next_probe_at is None:
            return True
        if now < self._next_probe_at:
            return False
        self._plan(now)
        return True

    def _plan(self, now: float) -> None:
        self._next_probe_at = now + self._retry_seconds * (0.5 + 0.5 * self._jitter())


MAX_RECORD_BYTES: Final = 2048
"""Of text and digest. A longer list of models belongs in a policy, which is shared."""


def record_bytes(record: KeyRecord) -> int:
    """Return the bytes of all fields of *record* whose length varies."""
    owner, policies = record.principal, record.policies
    texts = (
        owner.key_id,
        owner.team_id,
        owner.team_name,
        owner.organization_id,
        owner.organization_name,
        policies.key,
        policies.team,
        policies.organization,
        *(record.allowed_models or ()),
        *(record.allowed_operations or ()),
        *map(str, record.allowed_sources or ()),
        *(limit.id for limit in record.limits),
        *(name for limit in record.limits for name in limit.models or ()),
    )
    return len(record.secret_sha256) + sum(len(text.encode()) for text in texts if text)


def fits(record: KeyRecord) -> bool:
    """Return whether *record* may be kept in a cache."""
    return record_bytes(record) <= MAX_RECORD_BYTES


TTL_JITTER: Final = 0.1
"""So that keys that were loaded together, after a restart, do not expire together ever after."""
REFRESH_AT: Final = 0.8
"""Share of its time after which a record in use is loaded anew, while it still answers."""


@dataclass(frozen=True, slots=True)
class Hit:
    """The record is cached; `is_stale` if the stores cannot confirm it now."""

    record: KeyRecord
    is_stale: bool = False


@dataclass(frozen=True, slots=True)
class NegativeHit:
    """There was no such key a moment ago."""


@dataclass(frozen=True, slots=True)
class Miss:
    """The key has to be loaded."""


Lookup = Hit | NegativeHit | Miss

_NEGATIVE_HIT: Final = NegativeHit()
_MISS: Final = Miss()


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLimits:
    """Bounds of the cache. Times in seconds.

    Unknown ids are kept apart and bounded by `max_unknown`: anyone can make them up, and a flood
    of them must not push out keys that are good. `max_loads` bounds the loads under way at once
    for ids that are not kept; above it a load is refused rather than queued, so that the wait
    stays within its budget. Keys that are kept are not counted: a flood must not age them.
    `patience_seconds` is how long a request waits while there is a stale record to fall back on.
    """

    max_keys: int = 10_000
    ttl_seconds: float = 30.0
    max_unknown: int = 10_000
    negative_ttl_seconds: float = 5.0
    max_loads: int = 64
    max_stale_seconds: float = 600.0
    patience_seconds: float = 0.25
    retry_seconds: float = 1.0


@dataclass(slots=True)
class _Entry:
    """A record that is kept: loaded anew from `refresh_at`, stale from `current_until`."""

    hit: Hit
    refresh_at: float
    current_until: float
    usable_until: float


class KeyCache:
    """Bounded, least recently used out first, one load per key at a time.

    All times are seconds on one clock that never goes back, the same for `peek` and `load`.
    `jitter` gives numbers from 0 to 1. `on_oversized` is called for a record too large to keep.
    Belongs to one event loop; `peek` is called in it.
    """

    def __init__(
        self,
        store: KeyStore,
        limits: CacheLimits | None = None,
        *,
        jitter: Callable[[], float] = random.random,
        on_oversized: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._limits = limits = limits or CacheLimits()
        self._jitter = jitter
        self._on_oversized = on_oversized
        self._health = StoreHealth(retry_seconds=limits.retry_seconds, jitter=jitter)
        self._known: OrderedDict[str, _Entry] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._flights: dict[str, asyncio.Task[LoadedKey]] = {}
        self._loads: set[asyncio.Task[LoadedKey]] = set()
        self._cold_loads: set[asyncio.Task[LoadedKey]] = set()

    @property
    def key_count(self) -> int:
        """Records kept now, stale ones not yet met included."""
        return len(self._known)

    @property
    def load_count(self) -> int:
        """Loads under way, those that were detached included."""
        return len(self._loads)

    def peek(self, key_id: str, *, now: float) -> Lookup:
        """Look *key_id* up without waiting; a record in use is loaded anew before it expires."""
        entry = self._known.get(key_id)
        if entry is not None:
            self._known.move_to_end(key_id)
            if now < entry.refresh_at:
                return entry.hit
            if now >= entry.usable_until:
                del self._known[key_id]
                return _MISS
            is_current = now < entry.current_until
            if not is_current and not self._health.is_away:
                return _MISS
            if key_id not in self._flights and self._health.may_probe(now=now):
                self._start_load(key_id, asked_at=now)
            return entry.hit if is_current else Hit(entry.hit.record, is_stale=True)
        stale_at = self._unknown.get(key_id)
        if stale_at is None or now >= stale_at:
            return _MISS
        self._unknown.move_to_end(key_id)
        return _NEGATIVE_HIT

    async def load(self, key_id: str, *, now: Callable[[], float]) -> LoadedKey:
        """Load *key_id* from the store, once for all callers at a time, and keep the answer.

        The load belongs to the cache: a caller that gives up does not end it for the others.

        Raises:
            KeyStoreUnavailableError: the store did not answer and nothing usable is kept, or too
                many loads are under way.
            KeyUnreadableError: the record cannot be read, whatever is kept.
        """
        flight = self._flights.get(key_id) or self._start_load(key_id, asked_at=now())
        if key_id not in self._known:
            return await _wait_for_load(flight)
        try:
            async with asyncio.timeout(self._limits.patience_seconds):
                return await _wait_for_load(flight)
        except TimeoutError:
            self._health.failed(now=now())
            failure = KeyStoreUnavailableError("the store takes too long")
        except KeyUnreadableError:
            raise
        except KeyStoreUnavailableError as error:
            failure = error
        # Looked up anew: the record may have been dropped since, because it was revoked.
        entry = self._known.get(key_id)
        if entry is None or now() >= entry.usable_until:
            raise failure
        return LoadedKey(entry.hit.record, CacheTier.STALE)

    def drop(self, key_id: str) -> None:
        """Forget *key_id*: it has changed."""
        self._known.pop(key_id, None)
        self._unknown.pop(key_id, None)
        self._flights.pop(key_id, None)

    def drop_owned(self, owner_id: str) -> None:
        """Forget the keys of a team or an organization: it has changed."""
        owned = [
            key_id
            for key_id, entry in self._known.items()
            if owner_id in (entry.hit.record.principal.team_id,
                            entry.hit.record.principal.organization_id)
        ]  # fmt: skip
        for key_id in owned:
            del self._known[key_id]
        # The owner of a key that is being loaded is not known yet.
        self._flights.clear()

    def flush(self) -> None:
        """Forget everything: any number of keys have changed."""
        self._known.clear()
        self._unknown.clear()
        self._flights.clear()

    def mark_stale(self) -> None:
        """Confirm each record before its next use: changes may have been missed.

        Records stay usable as stale: a lost connection is often the start of an outage.
        """
        for entry in self._known.values():
            entry.refresh_at = entry.current_until = float("-inf")
        self._unknown.clear()
        self._flights.clear()

    def store_is_back(self) -> None:
        """The store answers again: wait for it."""
        self._health.answered()

    async def aclose(self) -> None:
        """Cancel the loads under way; for their callers the store is unavailable."""
        loads = list(self._loads)
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)

    def _start_load(self, key_id: str, *, asked_at: float) -> asyncio.Task[LoadedKey]:
        # The record's age counts from `asked_at`: a slow answer may have been read at once.
        is_cold = key_id not in self._known
        if is_cold and len(self._cold_loads) >= self._limits.max_loads:
            raise KeyStoreUnavailableError("too many key loads are under way")
        flight = asyncio.get_running_loop().create_task(self._store.load(key_id))

        def on_loaded(done: asyncio.Task[LoadedKey]) -> None:
            self._loads.discard(done)
            self._cold_loads.discard(done)
            is_current = self._flights.get(key_id) is done
            if is_current:
                del self._flights[key_id]
            # Asking for the exception also marks it as seen, should every caller have gone.
            if done.cancelled():
                return
            error = done.exception()
            if isinstance(error, KeyUnreadableError):
                self._health.answered()
                if is_current:
                    self._known.pop(key_id, None)
                return
            if error is not None:
                self._health.failed(now=asked_at)
                return
            loaded = done.result()
            if loaded.tier is CacheTier.STORE:
                self._health.answered()
            elif loaded.tier is CacheTier.STALE:
                self._health.failed(now=asked_at)
            if is_current:
                self._keep(key_id, loaded, asked_at=asked_at)

        self._flights[key_id] = flight
        self._loads.add(flight)
        if is_cold:
            self._cold_loads.add(flight)
        flight.add_done_callback(on_loaded)
        return flight

    def _keep(self, key_id: str, loaded: LoadedKey, *, asked_at: float) -> None:
        if loaded.record is None:
            self._known.pop(key_id, None)
            self._unknown[key_id] = asked_at + self._limits.negative_ttl_seconds
            self._unknown.move_to_end(key_id)
            if len(self._unknown) > self._limits.max_unknown:
                self._unknown.popitem(last=False)
            return
        self._unknown.pop(key_id, None)
        if not fits(loaded.record):
            self._known.pop(key_id, None)
            self._on_oversized()
            return
        usable_until = asked_at - loaded.age_seconds + self._limits.max_stale_seconds
        if loaded.tier is CacheTier.STALE:
            entry = _Entry(Hit(loaded.record), asked_at, asked_at, usable_until)
        else:
            ttl_seconds = self._limits.ttl_seconds * (1 - TTL_JITTER * self._jitter())
            current_until = asked_at + ttl_seconds
            entry = _Entry(
                Hit(loaded.record),
                refresh_at=asked_at + REFRESH_AT * ttl_seconds,
                current_until=current_until,
                usable_until=max(usable_until, current_until),
            )
        self._known[key_id] = entry
        self._known.move_to_end(key_id)
        if len(self._known) > self._limits.max_keys:
            self._known.popitem(last=False)


async def _wait_for_load(flight: asyncio.Task[LoadedKey]) -> LoadedKey:
    """Wait for *flight* without cancelling it.

    Raises:
        KeyStoreUnavailableError: the store did not answer, or the cache was closed.
    """
    try:
        return await asyncio.shield(flight)
    except asyncio.CancelledError:
        caller = asyncio.current_task()
        if flight.cancelled() and caller is not None and not caller.cancelling():
            # The cache was closed; this caller was not cancelled.
            raise KeyStoreUnavailableError("the key cache is closed") from None
        raise
