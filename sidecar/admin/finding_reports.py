"""Reports over the findings of guardrails: which types, in which role, how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sidecar.storage.pool import Connection


@dataclass(frozen=True, slots=True)
class FindingSum:
    """The findings of one type, in texts of one role, that a guardrail made under some policies.

    `requests` are those with such a finding. In shadow the verdict is what enforce would have had.
    """

    guardrail: str
    type: str
    role: str
    verdict: str
    mode: str
    policies: Sequence[str]
    requests: int
    findings: int


_SUMS: Final = """
SELECT guardrail, type, role, verdict, mode,
    array_agg(DISTINCT policy ORDER BY policy) AS policies,
    sum(requests)::bigint AS requests, sum(findings)::bigint AS findings
FROM findings_by_hour
WHERE ($1::timestamptz IS NULL OR began_at >= date_trunc('hour', $1, 'UTC'))
    AND ($2::text IS NULL OR policy = $2)
GROUP BY guardrail, type, role, verdict, mode
ORDER BY sum(requests) DESC, sum(findings) DESC, guardrail, type, role, verdict, mode
LIMIT $3
"""

_REQUESTS: Final = """
SELECT sum(requests)::bigint FROM usage_by_hour
WHERE $1::timestamptz IS NULL OR began_at >= date_trunc('hour', $1, 'UTC')
"""


async def finding_sums(
    connection: Connection, *, since: datetime | None, policy: str | None, limit: int
) -> list[FindingSum]:
    """Return the sums since the hour of *since*, None for all, the most frequent first."""
    rows = await connection.fetch(_SUMS, since, policy, limit)
    return [FindingSum(**dict(row)) for row in rows]


async def recorded_requests(connection: Connection, *, since: datetime | None) -> int:
    """Return the number of requests in usage since the hour of *since*; 0 without usage."""
    return await connection.fetchval(_REQUESTS, since) or 0
