"""Reports each worker in the table `workers`, and reads these reports."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Never

import asyncpg
import orjson

from sidecar import __version__
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import UNAVAILABLE, Connection, Pool, fetch

REPORT_SECONDS: Final = 5.0
LIVE_SECONDS: Final = 3 * REPORT_SECONDS
"""A worker that has not reported for so long may be dead, or cut off from the database."""
GONE_SECONDS: Final = 600.0
"""Reports that are older than this are not read. As long as a worker cut off from the database
accepts keys from its cache, by default."""
MAX_TOKENS: Final = 64
MAX_TOKEN_CHARACTERS: Final = 32

_REPORT: Final = """
INSERT INTO workers (host, socket, process, version, seen_at, policies, acknowledged)
VALUES ($1, $2, $3, $4, clock_timestamp(), $5::jsonb, $6)
ON CONFLICT (host, socket) DO UPDATE SET process = $3, version = $4, seen_at = clock_timestamp(),
    policies = $5::jsonb, acknowledged = $6
RETURNING true
"""
_REPORT_AGAIN: Final = """
UPDATE workers SET seen_at = clock_timestamp(), acknowledged = $4
WHERE host = $1 AND socket = $2 AND process = $3
RETURNING true
"""
"""Without the policies: of thousands they take tens of kilobytes, and change seldom."""
_END: Final = """
DELETE FROM workers
WHERE process = $1 OR seen_at < clock_timestamp() - make_interval(secs => 2 * $2::float8)
"""
_COUNT: Final = """
SELECT count(*) FROM workers WHERE seen_at > clock_timestamp() - make_interval(secs => $1::float8)
"""
_READ: Final = """
SELECT host, socket, version, acknowledged, CASE WHEN $2::text[] IS NULL THEN policies::text
    ELSE (SELECT COALESCE(jsonb_object_agg(name, policies -> name), '{}')::text
          FROM unnest($2::text[]) AS name WHERE policies ? name) END AS policies,
    extract(epoch FROM clock_timestamp() - seen_at)::float8 AS silent_seconds
FROM workers AS w
WHERE seen_at > clock_timestamp() - make_interval(secs => $1::float8)
ORDER BY host, socket
"""


class WorkerStatus:
    """Writes the row of one worker: every few seconds, and at once if it has changed."""

    def __init__(
        self,
        pool: Pool,
        settings: PostgresSettings,
        *,
        host: str,
        socket: str,
        counted: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Each report gives *counted* the number of live workers, this one among them."""
        self._pool = pool
        self._counted = counted
        self._settings = settings
        self._place = (host, socket)
        self._process = secrets.token_hex(8)
        self._policies: Mapping[str, int] = {}
        self._stored: Mapping[str, int] | None = None
        """The policies that the row has, as this process has written it."""
        self._writing = asyncio.Lock()  # an earlier report must not come last
        self._acknowledged: deque[str] = deque(maxlen=MAX_TOKENS)
        self._changed = asyncio.Event()

    def policies_loaded(self, versions: Mapping[str, int]) -> None:
        """Report soon that requests are judged by these versions from now on."""
        self._policies = versions
        self._changed.set()

    def barrier_received(self, token: str) -> None:
        """Report soon that every change from before *token* was received."""
        # The database cannot hold every text, and any client of Valkey can publish one.
        is_token = len(token) <= MAX_TOKEN_CHARACTERS and token.isalnum()
        if is_token and token not in self._acknowledged:
            self._acknowledged.append(token)
            self._changed.set()

    async def report(self) -> None:
        """Write the row; a database that does not take it is reported by every other part."""
        async with self._writing:
            self._changed.clear()
            policies, acknowledged = self._policies, list(self._acknowledged)
            row = (*self._place, self._process)
            is_stored = self._stored is policies
            if not (is_stored and await self._execute(_REPORT_AGAIN, *row, acknowledged)):
                values = (__version__, orjson.dumps(policies).decode(), acknowledged)
                is_stored = bool(await self._execute(_REPORT, *row, *values))
            self._stored = policies if is_stored else None
            for (live,) in await self._execute(_COUNT, LIVE_SECONDS):
                self._counted(live)

    async def run(self) -> Never:
        """Report until cancelled."""
        while True:
            await self.report()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_SECONDS):
                    await self._changed.wait()

    async def aclose(self) -> None:
        """Delete the row, unless another process has taken it over, and those long gone."""
        await self._execute(_END, self._process, GONE_SECONDS)

    async def _execute(self, statement: str, *values: object) -> Sequence[asyncpg.Record]:
        """Return the rows of the statement; none if the database has not taken it."""
        with contextlib.suppress(*UNAVAILABLE):
            return await fetch(self._pool, statement, *values, settings=self._settings)
        return ()


@dataclass(frozen=True, slots=True)
class ReportedWorker:
    """One worker as it last reported, `silent_seconds` ago."""

    host: str
    socket: str
    version: str
    policies: Mapping[str, int]
    acknowledged: frozenset[str]
    silent_seconds: float

    @property
    def is_live(self) -> bool:
        """Whether it still reports."""
        return self.silent_seconds < LIVE_SECONDS

    def has(self, token: str, versions: Mapping[str, int]) -> bool:
        """Return whether it has received all from before *token*, and serves these versions."""
        return token in self.acknowledged and all(
            self.policies.get(name, 0) >= version for name, version in versions.items()
        )


async def reported_workers(
    connection: Connection, *, policies: Collection[str] | None = None
) -> tuple[ReportedWorker, ...]:
    """Return the workers that reported within the last minutes. Raises one of `UNAVAILABLE`.

    Of the policies that they serve only those named are read, by default all.
    """
    names = None if policies is None else list(policies)
    return tuple(
        ReportedWorker(
            **dict(row)
            | {
                "policies": orjson.loads(row["policies"]),
                "acknowledged": frozenset(row["acknowledged"]),
            }
        )
        for row in await connection.fetch(_READ, GONE_SECONDS, names)
    )
