"""Writes the time of last use of each key, in batches, and how any counts are batched."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import ClassVar, Final, Generic, Never, TypeVar

import structlog
from typing_extensions import override

from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import UNAVAILABLE, Pool, add

FLUSH_SECONDS: Final = 5.0
MAX_KEYS: Final = 100_000
"""Keys with uses that are not written yet, some 20 MB: a day without the database loses no count
of the keys that were used before the bound was reached."""

ROWS_AT_ONCE: Final = 1000
"""Written in one transaction: some 20 ms."""

# In the order of ids, so that two workers that write the same keys wait for each other and do not
# deadlock. A key that is gone is left out.
_ADD: Final = """
INSERT INTO key_activity AS a (key_id, last_used_at, requests, refused)
SELECT u.key_id, u.last_used_at, u.requests, u.refused
FROM unnest($1::text[], $2::timestamptz[], $3::bigint[], $4::bigint[])
    AS u (key_id, last_used_at, requests, refused)
WHERE EXISTS (SELECT FROM api_keys AS k WHERE k.public_id = u.key_id)
ORDER BY u.key_id
ON CONFLICT (key_id) DO UPDATE SET
    last_used_at = GREATEST(a.last_used_at, EXCLUDED.last_used_at),
    requests = a.requests + EXCLUDED.requests,
    refused = a.refused + EXCLUDED.refused
"""

_log = structlog.get_logger(__name__)

_Key = TypeVar("_Key")
_Counts = TypeVar("_Counts")


class CountBatches(ABC, Generic[_Key, _Counts]):
    """Adds counts up in memory and writes them to the database every few seconds.

    Counts stay in memory until the database has confirmed them. A worker that is killed (SIGKILL)
    loses the counts since its last batch, at most `flush_seconds` of them. A batch whose
    confirmation was lost is written again, so that some requests may then count twice.
    """

    name: ClassVar[str]
    """Of the events of the log; *unit* is the field that counts keys or rows in them."""
    unit: ClassVar[str]
    statement: ClassVar[str]
    """Adds a batch, in the order of its keys."""

    def __init__(
        self,
        pool: Pool,
        settings: PostgresSettings,
        *,
        most: int,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._most = most
        self._flush_seconds = flush_seconds
        self._counts: dict[_Key, _Counts] = {}
        self._writing = asyncio.Lock()
        self.dropped = 0
        """Requests that were not counted, for want of room while the database was away."""

    @property
    def pending(self) -> int:
        """How many keys or rows are not written yet."""
        return len(self._counts)

    async def run(self) -> Never:
        """Write a batch every few seconds until cancelled; log each outage once."""
        is_failing = False
        while True:
            await asyncio.sleep(self._flush_seconds)
            try:
                await self.flush()
            except UNAVAILABLE as error:
                if not is_failing:
                    _log.warning(f"{self.name}.not_written", error_type=type(error).__name__)
                is_failing = True
            else:
                is_failing = False

    async def flush(self) -> None:
        """Write the counts so far.

        Raises:
            One of `UNAVAILABLE`: counts that were not written stay for the next time.
        """
        async with self._writing:
            batch, self._counts = self._counts, {}
            try:
                while piece := dict(islice(batch.items(), ROWS_AT_ONCE)):
                    columns = self._columns(piece)
                    await add(self._pool, self.statement, *columns, settings=self._settings)
                    for key in piece:
                        del batch[key]
            except BaseException:
                for key, counts in batch.items():
                    self._add(key, counts)
                raise

    async def aclose(self) -> None:
        """Write the remaining counts; if the database does not take them, they are lost."""
        with contextlib.suppress(*UNAVAILABLE):
            await self.flush()
        if self._counts:
            _log.warning(f"{self.name}.lost", **{self.unit: self.pending})

    @abstractmethod
    def _columns(self, batch: Mapping[_Key, _Counts]) -> Iterable[Sequence[object]]:
        """Return the arguments of the statement."""

    @abstractmethod
    def _add(self, key: _Key, counts: _Counts) -> None:
        """Add to the counts of *key*, or begin them if there is room."""


@dataclass(slots=True)
class _Uses:
    """Uses of one key that are not written yet."""

    last_used_at: float
    requests: int = 0
    refused: int = 0


class KeyActivity(CountBatches[str, _Uses]):
    """Counts uses of keys; at most `MAX_KEYS` wait."""

    name = "key_activity"
    unit = "keys"
    statement = _ADD

    def note(self, key_id: str, *, refused: bool, at: float) -> None:
        """Count a request that came with a key that exists, *at* seconds since the epoch.

        Never waits and never raises. For a made-up id call it not: it would take up room.
        """
        known = self._counts.get(key_id)
        if known is None:
            self._add(key_id, _Uses(last_used_at=at, requests=1, refused=int(refused)))
            return
        # In place, as each request comes here.
        known.last_used_at = max(known.last_used_at, at)
        known.requests += 1
        known.refused += refused

    @override
    def _columns(self, batch: Mapping[str, _Uses]) -> Iterable[Sequence[object]]:
        return (
            list(batch),
            [datetime.fromtimestamp(uses.last_used_at, UTC) for uses in batch.values()],
            [uses.requests for uses in batch.values()],
            [uses.refused for uses in batch.values()],
        )

    @override
    def _add(self, key: str, counts: _Uses) -> None:
        known = self._counts.get(key)
        if known is not None:
            known.last_used_at = max(known.last_used_at, counts.last_used_at)
            known.requests += counts.requests
            known.refused += counts.refused
        elif len(self._counts) < self._most:
            self._counts[key] = counts
        else:
            self.dropped += counts.requests
