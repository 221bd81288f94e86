"""Writes the time of last use of each key, in batches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Never

import structlog

from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import UNAVAILABLE, Pool, fetch

FLUSH_SECONDS: Final = 5.0
MAX_KEYS: Final = 100_000
"""Keys with uses that are not written yet, some 20 MB: a day without the database loses no count
of the keys that were used before the bound was reached."""

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


@dataclass(slots=True)
class _Uses:
    """Uses of one key that are not written yet."""

    last_used_at: float
    requests: int = 0
    refused: int = 0


async def flush_repeatedly(
    flush: Callable[[], Awaitable[None]], seconds: float, *, event: str
) -> Never:
    """Call *flush* every few seconds; log *event* when the database has gone away."""
    is_failing = False
    while True:
        await asyncio.sleep(seconds)
        try:
            await flush()
        except UNAVAILABLE as error:
            if not is_failing:
                _log.warning(event, error_type=type(error).__name__)
            is_failing = True
        else:
            is_failing = False


class KeyActivity:
    """Counts uses of keys in memory and adds them to the database every few seconds.

    Counts stay in memory until the database has confirmed them. A worker that is killed (SIGKILL)
    loses the uses since its last batch, at most `flush_seconds` of them. A batch whose
    confirmation was lost is written again, so that some uses may then count twice.
    """

    def __init__(
        self,
        pool: Pool,
        settings: PostgresSettings,
        *,
        flush_seconds: float = FLUSH_SECONDS,
        max_keys: int = MAX_KEYS,
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._flush_seconds = flush_seconds
        self._max_keys = max_keys
        self._uses: dict[str, _Uses] = {}
        self._dropped = 0
        self._writing = asyncio.Lock()

    @property
    def pending(self) -> int:
        """How many keys have uses that are not written yet."""
        return len(self._uses)

    @property
    def dropped(self) -> int:
        """How many uses were not counted, for want of room while the database was away."""
        return self._dropped

    def note(self, key_id: str, *, refused: bool, at: float) -> None:
        """Count a request that came with a key that exists, *at* seconds since the epoch.

        Never waits and never raises. For a made-up id call it not: it would take up room.
        """
        known = self._uses.get(key_id)
        if known is None:
            self._add(key_id, _Uses(last_used_at=at, requests=1, refused=int(refused)))
            return
        # In place, as each request comes here.
        known.last_used_at = max(known.last_used_at, at)
        known.requests += 1
        known.refused += refused

    async def run(self) -> Never:
        """Write a batch every few seconds until cancelled."""
        await flush_repeatedly(self.flush, self._flush_seconds, event="key_activity.not_written")

    async def flush(self) -> None:
        """Write the counts so far, in one statement.

        Raises:
            One of `UNAVAILABLE`: the counts stay for the next time.
        """
        async with self._writing:
            batch, self._uses = self._uses, {}
            if not batch:
                return
            columns = (
                list(batch),
                [datetime.fromtimestamp(uses.last_used_at, UTC) for uses in batch.values()],
                [uses.requests for uses in batch.values()],
                [uses.refused for uses in batch.values()],
            )
            try:
                await fetch(self._pool, _ADD, *columns, settings=self._settings)
            except BaseException:
                for key_id, uses in batch.items():
                    self._add(key_id, uses)
                raise

    async def aclose(self) -> None:
        """Write the remaining counts; if the database does not take them, they are lost."""
        with contextlib.suppress(*UNAVAILABLE):
            await self.flush()
        if self._uses:
            _log.warning("key_activity.lost", keys=len(self._uses))

    def _add(self, key_id: str, uses: _Uses) -> None:
        known = self._uses.get(key_id)
        if known is not None:
            known.last_used_at = max(known.last_used_at, uses.last_used_at)
            known.requests += uses.requests
            known.refused += uses.refused
        elif len(self._uses) < self._max_keys:
            self._uses[key_id] = uses
        else:
            self._dropped += uses.requests
