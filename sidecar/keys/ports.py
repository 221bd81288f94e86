"""Interfaces between the key cache and its stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sidecar.domain.principal import KeyRecord
from sidecar.domain.report import CacheTier


class KeyStoreUnavailableError(Exception):
    """The validity of a key is not known now. Names the failure, never the key."""


class KeyUnreadableError(KeyStoreUnavailableError):
    """The database answered with a record that this release cannot read.

    No earlier record stands in for it: the key has changed since.
    """


@dataclass(frozen=True, slots=True)
class LoadedKey:
    """The record of a key, None for no such key, and the tier that answered.

    The database was read `age_seconds` ago. With the tier `STALE` it did not answer, and this is
    the last known record.
    """

    record: KeyRecord | None
    tier: CacheTier = CacheTier.STORE
    age_seconds: float = 0.0


class KeyStore(Protocol):
    """Loads key records that the process does not hold."""

    async def load(self, key_id: str) -> LoadedKey:
        """Return the record of *key_id*.

        Raises:
            KeyStoreUnavailableError: no store answered.
            KeyUnreadableError: the database answered with a record that cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class Fence:
    """A point in the database's history: every change committed before the query that made it.

    Made of a transaction id that was allocated at that point, on this timeline. A failover that
    loses transactions hands their ids out again; on another timeline. `last_change` is the highest
    id of a transaction that had changed a key or an owner by then, None if it is not known.
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
            KeyUnreadableError: it answered with a record that cannot be read.
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

    `timeline`, `horizon` and `settled` are those of its reading, made at `read_at`, in seconds
    since the epoch by the clock of the worker that made it.
    """

    record: KeyRecord
    timeline: int
    horizon: int
    settled: int
    read_at: float

    def has_seen(self, fence: Fence) -> bool:
        """Return whether this was read after every change before *fence*."""
        return self.timeline == fence.timeline and self.horizon > fence.transaction

    def has_seen_last_change(self, fence: Fence) -> bool:
        """Return whether this was read when the last change before *fence* had ended."""
        is_same = self.timeline == fence.timeline
        return is_same and fence.last_change is not None and self.settled > fence.last_change


class SharedKeys(Protocol):
    """A cache that workers share. It never raises: failed operations are counted."""

    async def get(self, key_id: str) -> SharedRecord | None:
        """Return the record of *key_id*, None if there is none or it is not authentic."""
        ...

    async def put(self, key_id: str, shared: SharedRecord) -> None:
        """Keep a record; it replaces an older one."""
        ...

    async def discard(self, key_id: str) -> None:
        """Forget *key_id*."""
        ...
