"""Adds up the findings of guardrails by hour, team, type and role, and writes them in batches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, Never

import structlog

from sidecar.domain.finding import FindingCount
from sidecar.domain.principal import Principal
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.key_activity import FLUSH_SECONDS, flush_repeatedly
from sidecar.storage.pool import UNAVAILABLE, Pool, fetch

MAX_ROWS: Final = 10_000
"""Rows that are not written yet. A team has tens of types in a few roles."""
HOUR_SECONDS: Final = 3600

# In the order of the primary key, so that two workers that add to the same rows wait for each
# other and do not deadlock.
_ADD: Final = """
WITH noted AS (
    SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[],
        $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[], $11::bigint[]) AS n
        (began_at, team_id, organization_id, policy, guardrail, type, role, verdict, mode,
        requests, findings)
), by_team AS (
    INSERT INTO findings_by_team AS f SELECT * FROM noted ORDER BY 1, 2, 4, 5, 6, 7, 8, 9
    ON CONFLICT (began_at, team_id, policy, guardrail, type, role, verdict, mode) DO UPDATE SET
        requests = f.requests + EXCLUDED.requests,
        findings = f.findings + EXCLUDED.findings
)
INSERT INTO findings_by_hour AS f
    (began_at, policy, guardrail, type, role, verdict, mode, requests, findings)
SELECT began_at, policy, guardrail, type, role, verdict, mode, sum(requests), sum(findings)
FROM noted GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7
ON CONFLICT (began_at, policy, guardrail, type, role, verdict, mode) DO UPDATE SET
    requests = f.requests + EXCLUDED.requests,
    findings = f.findings + EXCLUDED.findings
"""

_log = structlog.get_logger(__name__)


_Key = tuple[int, str, str, str, str, str, str, str, str]
"""The primary key of a row, and its organization; the hour is in seconds since the epoch."""


class FindingCounts:
    """Counts findings in memory and adds them to the database every few seconds.

    Counts are lost and repeated as those of `KeyActivity` are.
    """

    def __init__(
        self,
        pool: Pool,
        settings: PostgresSettings,
        *,
        flush_seconds: float = FLUSH_SECONDS,
        max_rows: int = MAX_ROWS,
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._flush_seconds = flush_seconds
        self._max_rows = max_rows
        self._rows: dict[_Key, tuple[int, int]] = {}
        self._writing = asyncio.Lock()
        self.dropped = 0

    @property
    def pending(self) -> int:
        """How many rows are not written yet."""
        return len(self._rows)

    def note(
        self, policy: str, counts: Iterable[FindingCount], *, of: Principal, at: float
    ) -> None:
        """Count the findings in one request, *at* seconds since the epoch.

        Never waits and never raises.
        """
        hour = int(at) // HOUR_SECONDS * HOUR_SECONDS
        for one in counts:
            guardrail = one.guardrail
            verdict, mode = one.verdict._value_, guardrail.mode._value_  # `value` is slow in 3.11
            self._add(
                (hour, of.team_id, of.organization_id, policy, guardrail.name, one.type, one.role,
                 verdict, mode),
                1,
                one.findings,
            )  # fmt: skip

    async def run(self) -> Never:
        """Write a batch every few seconds until cancelled."""
        await flush_repeatedly(self.flush, self._flush_seconds, event="findings.not_written")

    async def flush(self) -> None:
        """Write the counts so far, in one statement.

        Raises:
            One of `UNAVAILABLE`: the counts stay for the next time.
        """
        async with self._writing:
            batch, self._rows = self._rows, {}
            if not batch:
                return
            hours = [datetime.fromtimestamp(key[0], UTC) for key in batch]
            texts = zip(*[key[1:] for key in batch], strict=True)
            numbers = zip(*batch.values(), strict=True)
            try:
                await fetch(self._pool, _ADD, hours, *texts, *numbers, settings=self._settings)
            except BaseException:
                for key, (requests, findings) in batch.items():
                    self._add(key, requests, findings)
                raise

    async def aclose(self) -> None:
        """Write the remaining counts; if the database does not take them, they are lost."""
        with contextlib.suppress(*UNAVAILABLE):
            await self.flush()
        if self._rows:
            _log.warning("findings.lost", rows=len(self._rows))

    def _add(self, key: _Key, requests: int, findings: int) -> None:
        known = self._rows.get(key)
        if known is not None:
            self._rows[key] = known[0] + requests, known[1] + findings
        elif len(self._rows) < self._max_rows:
            self._rows[key] = requests, findings
        else:
            if not self.dropped:
                _log.warning("findings.dropped", rows=len(self._rows))
            self.dropped += requests
