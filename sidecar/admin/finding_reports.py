"""Reports over the findings of guardrails: which types, in which role, how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sidecar.admin.usage_reports import FIRST_DAY
from sidecar.storage.pool import Connection


@dataclass(frozen=True, slots=True)
class FindingSum:
    """The findings of one type, in texts of one role, that a guardrail made under some policies.

    `requests` are those with such a finding. In shadow the verdict is what enforce would have had.
    `team` is None for the sum of all; a deleted one is named by its id.
    """

    team: str | None
    guardrail: str
    type: str
    role: str
    verdict: str
    mode: str
    policies: Sequence[str]
    requests: int
    findings: int


_SUMS: Final = """
SELECT {team} AS team, guardrail, type, role, verdict, mode,
    array_agg(DISTINCT policy ORDER BY policy) AS policies,
    sum(requests)::bigint AS requests, sum(findings)::bigint AS findings
FROM {rows}
WHERE ($1::timestamptz IS NULL OR began_at >= date_trunc('hour', $1, 'UTC'))
    AND ($2::timestamptz IS NULL OR began_at < $2)
    AND ($3::text IS NULL OR policy = $3)
GROUP BY 1, guardrail, type, role, verdict, mode
ORDER BY sum(requests) DESC, sum(findings) DESC, guardrail, type, role, verdict, mode, 1
LIMIT $4
"""
_ALL: Final = _SUMS.format(team="NULL::text", rows="findings_by_hour")
_OF_TEAMS: Final = """(
    SELECT f.*, COALESCE(o.name || '/' || t.name, f.team_id) AS path FROM findings_by_team AS f
    LEFT JOIN teams AS t ON t.id = f.team_id
    LEFT JOIN organizations AS o ON o.id = t.organization_id
    WHERE $5::text[] IS NULL OR f.organization_id = ANY($5) OR f.team_id = ANY($5)
) AS of_teams"""
_WITHIN: Final = _SUMS.format(team="NULL::text", rows=_OF_TEAMS)
_BY_TEAM: Final = _SUMS.format(team="path", rows=_OF_TEAMS)

_REQUESTS: Final = f"""
SELECT sum(requests)::bigint FROM (
    SELECT requests, organization_id, team_id FROM usage_by_day
    WHERE $1::timestamptz IS NULL OR began_at >= {FIRST_DAY}
    UNION ALL SELECT requests, organization_id, team_id FROM usage_by_hour
    WHERE began_at >= date_trunc('hour', $1, 'UTC') AND began_at < {FIRST_DAY}
) AS recorded WHERE $2::text[] IS NULL OR organization_id = ANY($2) OR team_id = ANY($2)
"""  # noqa: S608 - names of our own


async def finding_sums(
    connection: Connection,
    *,
    since: datetime | None,
    policy: str | None,
    limit: int,
    until: datetime | None = None,
    within: Sequence[str] | None = None,
    by_team: bool = False,
) -> list[FindingSum]:
    """Return the sums from the hour of *since* to that of *until*, the most frequent first.

    None is no border. *within* holds ids of organizations and teams that are counted; None is
    all. Findings are known by team since migration 0017.
    """
    if within is None and not by_team:
        rows = await connection.fetch(_ALL, since, until, policy, limit)
    else:
        statement = _BY_TEAM if by_team else _WITHIN
        rows = await connection.fetch(statement, since, until, policy, limit, within)
    return [FindingSum(**dict(row)) for row in rows]


async def recorded_requests(
    connection: Connection, *, since: datetime | None, within: Sequence[str] | None = None
) -> int:
    """Return the number of requests in usage since the hour of *since*; 0 without usage."""
    return await connection.fetchval(_REQUESTS, since, within) or 0
