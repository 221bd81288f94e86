"""Traffic of the last hours: requests, refusals, cost and latency, for an overview."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from sidecar.storage.pool import Connection


@dataclass(frozen=True, slots=True)
class TrafficHour:
    """The totals of one hour; zero where there was no request."""

    began_at: datetime
    requests: int
    refused: int
    failed: int
    tokens: int
    cost_usd: Decimal


# Rows of these hours alone: joined by equality, the whole table was read.
_WHERE: Final = """
WHERE began_at >= date_trunc('hour', $1::timestamptz, 'UTC') AND began_at <= $2::timestamptz
    AND ($3::text[] IS NULL OR organization_id = ANY($3) OR team_id = ANY($3))
"""
_EACH: Final = """generate_series(
    date_trunc('hour', $1::timestamptz, 'UTC'), $2, interval '1 hour') AS h (began_at)"""
_HOURS: Final = f"""
SELECT h.began_at, COALESCE(requests, 0) AS requests, COALESCE(refused, 0) AS refused,
    COALESCE(failed, 0) AS failed, COALESCE(tokens, 0) AS tokens,
    COALESCE(cost_usd, 0) AS cost_usd
FROM {_EACH} LEFT JOIN (
    SELECT began_at, sum(requests)::bigint AS requests, sum(refused)::bigint AS refused,
        sum(failed)::bigint AS failed, sum(input_tokens + output_tokens)::bigint AS tokens,
        sum(cost_usd) AS cost_usd
    FROM usage_by_hour {_WHERE} GROUP BY began_at
) AS s ON s.began_at = h.began_at
ORDER BY h.began_at
"""  # noqa: S608 - names of our own


async def traffic_by_hour(
    connection: Connection, *, since: datetime, until: datetime, within: Sequence[str] | None
) -> list[TrafficHour]:
    """Return each hour from that of *since* on; *within* is as for `usage_sums`."""
    rows = await connection.fetch(_HOURS, since, until, within)
    return [TrafficHour(**dict(row)) for row in rows]


@dataclass(frozen=True, slots=True)
class Latency:
    """Median and 95th percentile in milliseconds; None without requests."""

    requests: int
    p50_ms: float | None
    p95_ms: float | None
    first_token_p95_ms: float | None


RECENT: Final = timedelta(minutes=15)
MOST_REQUESTS: Final = 20_000
"""Requests that count, the latest first: an overview must not read a million rows."""

_LATENCY: Final = """
SELECT count(*) AS requests,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms) AS p50_ms,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms) AS p95_ms,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY first_token_ms) AS first_token_p95_ms
FROM (
    SELECT latency_ms, first_token_ms FROM usage
    WHERE occurred_at >= $1 AND ended = 'completed'
        AND ($2::text[] IS NULL OR organization_id = ANY($2) OR team_id = ANY($2))
    ORDER BY occurred_at DESC LIMIT $3
) AS latest
"""


async def latency_since(
    connection: Connection, since: datetime, *, within: Sequence[str] | None
) -> Latency:
    """Return the latency of completed requests since *since*."""
    row = await connection.fetchrow(_LATENCY, since, within, MOST_REQUESTS)
    assert row is not None  # noqa: S101 - an aggregate always has a row
    return Latency(**dict(row))


@dataclass(frozen=True, slots=True)
class LatencyHour:
    """Median and 95th percentile of one hour, to within a twentieth; None without requests."""

    began_at: datetime
    p50_ms: int | None
    p95_ms: int | None


BUCKET: Final = 1.1
"""A bucket of `latency_by_hour` ends at so many times its beginning (db/versions/0017)."""

_BUCKETS: Final = f"""
SELECT h.began_at, s.bucket, s.requests
FROM {_EACH} LEFT JOIN (
    SELECT began_at, bucket, sum(requests)::bigint AS requests
    FROM latency_by_hour {_WHERE} GROUP BY began_at, bucket
) AS s ON s.began_at = h.began_at
ORDER BY 1, 2
"""  # noqa: S608 - names of our own


async def latency_by_hour(
    connection: Connection, *, since: datetime, until: datetime, within: Sequence[str] | None
) -> list[LatencyHour]:
    """Return the latency of completed requests in each hour from that of *since* on."""
    hours: dict[datetime, dict[int, int]] = {}
    for row in await connection.fetch(_BUCKETS, since, until, within):
        counts = hours.setdefault(row["began_at"], {})
        if row["bucket"] is not None:
            counts[row["bucket"]] = row["requests"]
    return [
        LatencyHour(began_at, percentile(counts, 0.5), percentile(counts, 0.95))
        for began_at, counts in hours.items()
    ]


def percentile(counts: Mapping[int, int], share: float) -> int | None:
    """Return the middle, in milliseconds, of the bucket of the request at *share*."""
    wanted = share * sum(counts.values())
    seen = 0
    for bucket, count in sorted(counts.items()):
        seen += count
        if seen >= wanted:
            return round(math.pow(BUCKET, bucket + 0.5))
    return None


_KEYS_IN_USE: Final = """
SELECT count(*) FROM api_keys AS k JOIN teams AS t ON t.id = k.team_id
WHERE k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
    AND ($1::text[] IS NULL OR t.organization_id = ANY($1) OR t.id = ANY($1))
"""


async def keys_in_use(connection: Connection, *, within: Sequence[str] | None) -> int:
    """Return the number of keys that are neither revoked nor expired."""
    found: int = await connection.fetchval(_KEYS_IN_USE, within)
    return found
