"""Adds up the findings of guardrails by hour, team, type and role, and writes them in batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import structlog
from typing_extensions import override

from sidecar.domain.finding import FindingCount
from sidecar.domain.principal import Principal
from sidecar.storage.key_activity import CountBatches

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


class FindingCounts(CountBatches[_Key, tuple[int, int]]):
    """Counts the requests with findings, and their findings; at most `MAX_ROWS` wait."""

    name = "findings"
    unit = "rows"
    statement = _ADD

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
                (1, one.findings),
            )  # fmt: skip

    @override
    def _columns(self, batch: Mapping[_Key, tuple[int, int]]) -> Iterable[Sequence[object]]:
        hours = [datetime.fromtimestamp(key[0], UTC) for key in batch]
        texts = zip(*[key[1:] for key in batch], strict=True)
        numbers = zip(*batch.values(), strict=True)
        return hours, *texts, *numbers

    @override
    def _add(self, key: _Key, counts: tuple[int, int]) -> None:
        known = self._counts.get(key)
        if known is not None:
            self._counts[key] = known[0] + counts[0], known[1] + counts[1]
        elif len(self._counts) < self._most:
            self._counts[key] = counts
        else:
            if not self.dropped:
                _log.warning("findings.dropped", rows=self.pending)
            self.dropped += counts[0]
