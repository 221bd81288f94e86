"""Interfaces between the key cache and its stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sidecar.domain.principal import KeyRecord
from sidecar.domain.report import CacheTier


class KeyStoreUnavailableError(Exception):
    """Nobody can tell now whether the key is good. Says what failed, never for which key."""


@dataclass(frozen=True, slots=True)
class LoadedKey:
    """What is stored of a key, None for no such key, and who said so.

    `age_seconds` is how long ago the database was read for it. With the tier `STALE` the database
    did not answer, and this is the last that was known.
    """

    record: KeyRecord | None
    tier: CacheTier = CacheTier.STORE
    age_seconds: float = 0.0


class KeyStore(Protocol):
    """Where key records come from when the process does not hold them."""

    async def load(self, key_id: str) -> LoadedKey:
        """Return what is stored of *key_id*.

        Raises:
            KeyStoreUnavailableError: nobody answered.
        """
        ...


@dataclass(frozen=True, slots=True)
class Fence:
    """A point in the database's history: every change committed before it was asked for.

    Made of a transaction id that was allocated at that point, on this timeline. A failover that
    loses transactions hands their ids out again; on another timeline. `last_change` is the highest
    id of a transaction that had changed a key or an owner by then; None where nobody knows.
    """

    timeline: int
    transaction: int
    last_change: int | None = None


@dataclass(frozen=True, slots=True)
class KeyReading:
    """A record as the database holds it, and two transaction ids.

    The reading saw everything that was committed when any transaction id below `horizon` was
    allocated, and everything that transactions with an id below `settled` have done.
    """

    record: KeyRecord | None
    horizon: int
    settled: int


class KeySource(Protocol):
    """The database of keys."""

    async def read(self, key_id: str) -> KeyReading:
        """Return the record of *key_id* as it is committed now.

        Raises:
            KeyStoreUnavailableError: the database did not answer.
        """
        ...

    async def fence(self) -> Fence:
        """Return a fence behind everything that is committed now.

        Raises:
            KeyStoreUnavailableError: the database did not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class SharedRecord:
    """A record as the shared cache keeps it.

    `timeline`, `horizon` and `settled` say what the reading had seen; `read_at`, in seconds since
    the epoch, says when it was made, by the clock of the worker that made it.
    """

    record: KeyRecord
    timeline: int
    horizon: int
    settled: int
    read_at: float

    def has_seen(self, fence: Fence) -> bool:
        """Tell whether this was read after every change before *fence*."""
        return self.timeline == fence.timeline and self.horizon > fence.transaction

    def has_seen_last_change(self, fence: Fence) -> bool:
        """Tell whether this was read when the last change before *fence* had ended."""
        is_same = self.timeline == fence.timeline
        return is_same and fence.last_change is not None and self.settled > fence.last_change


class SharedKeys(Protocol):
    """A cache that workers share. It never fails: what it cannot do, it counts and leaves."""

    async def get(self, key_id: str) -> SharedRecord | None:
        """Return what is kept of *key_id*; None for nothing, or nothing that can be believed."""
        ...

    async def put(self, key_id: str, shared: SharedRecord) -> None:
        """Keep a record in the place of any other."""
        ...

    async def discard(self, key_id: str) -> None:
        """Forget *key_id*."""
        ...
