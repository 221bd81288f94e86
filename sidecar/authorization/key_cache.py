"""Key records kept in the process, so that a hot key costs no query.

What keeps it right: a record is kept at most its time to live; `drop` and `flush` detach every
load that is under way, so that a record read before a change is never kept after it, and no later
caller joins such a load. Whether a record is good is judged anew on every hit, by `judge`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from sidecar.authorization.ports import KeyStore, KeyStoreUnavailableError
from sidecar.domain.principal import KeyRecord

_Kept = TypeVar("_Kept")


@dataclass(frozen=True, slots=True)
class Hit:
    """The record is at hand."""

    record: KeyRecord


@dataclass(frozen=True, slots=True)
class KnownUnknown:
    """The store said a moment ago that there is no such key."""


@dataclass(frozen=True, slots=True)
class Miss:
    """Only the store can tell."""


Peek = Hit | KnownUnknown | Miss

_KNOWN_UNKNOWN: Final = KnownUnknown()
_MISS: Final = Miss()


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLimits:
    """Bounds of the cache. Times in seconds.

    Unknown ids are kept apart and bounded by `max_unknown`: anyone can make them up, and a flood
    of them must not push out keys that are good. `max_loads` bounds the loads under way at once;
    above it a load is refused rather than queued, so that the wait stays within its budget.
    """

    max_keys: int = 10_000
    ttl_seconds: float = 30.0
    max_unknown: int = 10_000
    negative_ttl_seconds: float = 5.0
    max_loads: int = 64


class KeyCache:
    """Bounded, least recently used out first, one load per key at a time.

    All times are seconds on one clock that never goes back, the same for `peek` and `load`.
    Belongs to one event loop.
    """

    def __init__(self, store: KeyStore, limits: CacheLimits | None = None) -> None:
        limits = limits or CacheLimits()
        self._store = store
        self._max_loads = limits.max_loads
        self._known = _Shelf[Hit](capacity=limits.max_keys, ttl_seconds=limits.ttl_seconds)
        self._unknown = _Shelf[KnownUnknown](
            capacity=limits.max_unknown, ttl_seconds=limits.negative_ttl_seconds
        )
        self._flights: dict[str, asyncio.Task[KeyRecord | None]] = {}
        self._loads: set[asyncio.Task[KeyRecord | None]] = set()

    @property
    def key_count(self) -> int:
        """Records kept now, stale ones not yet met included."""
        return len(self._known)

    @property
    def load_count(self) -> int:
        """Loads under way, those that were detached included."""
        return len(self._loads)

    def peek(self, key_id: str, *, now: float) -> Peek:
        """Say what is known of *key_id* without asking anyone."""
        return self._known.get(key_id, now=now) or self._unknown.get(key_id, now=now) or _MISS

    async def load(self, key_id: str, *, now: Callable[[], float]) -> KeyRecord | None:
        """Ask the store, together with whoever else is asking for *key_id*, and keep the answer.

        The load belongs to the cache: a caller that gives up does not end it for the others.

        Raises:
            KeyStoreUnavailableError: the store did not answer, or too many loads are under way.
        """
        flight = self._flights.get(key_id)
        if flight is None:
            if len(self._loads) >= self._max_loads:
                raise KeyStoreUnavailableError("too many key loads are under way")
            flight = self._take_off(key_id, now=now)
        try:
            return await asyncio.shield(flight)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if flight.cancelled() and caller is not None and not caller.cancelling():
                # The cache was closed; nobody asked this caller to stop.
                raise KeyStoreUnavailableError("the key cache is closed") from None
            raise

    def drop(self, key_id: str) -> None:
        """Forget *key_id*: it has changed."""
        self._known.discard(key_id)
        self._unknown.discard(key_id)
        self._flights.pop(key_id, None)

    def flush(self) -> None:
        """Forget everything: something has changed, and nobody can say what."""
        self._known.clear()
        self._unknown.clear()
        self._flights.clear()

    async def aclose(self) -> None:
        """End the loads that are under way; their callers are told the store is unavailable."""
        loads = list(self._loads)
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)

    def _take_off(
        self, key_id: str, *, now: Callable[[], float]
    ) -> asyncio.Task[KeyRecord | None]:
        # The record's age counts from here: how fresh a slow answer is, nobody knows.
        asked_at = now()
        flight = asyncio.get_running_loop().create_task(self._store.load(key_id))

        def land(done: asyncio.Task[KeyRecord | None]) -> None:
            self._loads.discard(done)
            is_current = self._flights.get(key_id) is done
            if is_current:
                del self._flights[key_id]
            # Asking for the exception also marks it as seen, should every caller have gone.
            if done.cancelled() or done.exception() is not None or not is_current:
                return
            self._keep(key_id, done.result(), asked_at=asked_at)

        self._flights[key_id] = flight
        self._loads.add(flight)
        flight.add_done_callback(land)
        return flight

    def _keep(self, key_id: str, record: KeyRecord | None, *, asked_at: float) -> None:
        if record is None:
            self._known.discard(key_id)
            self._unknown.put(key_id, _KNOWN_UNKNOWN, now=asked_at)
        else:
            self._unknown.discard(key_id)
            self._known.put(key_id, Hit(record), now=asked_at)


class _Shelf(Generic[_Kept]):
    """A bounded mapping whose entries go stale; the least recently used goes first."""

    def __init__(self, *, capacity: int, ttl_seconds: float) -> None:
        self._capacity = capacity
        self._ttl_seconds = ttl_seconds
        self._entries: OrderedDict[str, tuple[_Kept, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key_id: str, *, now: float) -> _Kept | None:
        entry = self._entries.get(key_id)
        if entry is None:
            return None
        kept, stale_at = entry
        if now >= stale_at:
            del self._entries[key_id]
            return None
        self._entries.move_to_end(key_id)
        return kept

    def put(self, key_id: str, kept: _Kept, *, now: float) -> None:
        self._entries[key_id] = (kept, now + self._ttl_seconds)
        self._entries.move_to_end(key_id)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def discard(self, key_id: str) -> None:
        self._entries.pop(key_id, None)

    def clear(self) -> None:
        self._entries.clear()
