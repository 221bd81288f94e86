"""Reports and totals over usage records."""

from __future__ import annotations

import csv
import enum
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Final

from pydantic import PlainSerializer

from sidecar.storage.pool import Connection

Cost = Annotated[Decimal, PlainSerializer(lambda amount: f"{amount:f}", return_type=str)]
"""As JSON 0.000000000, and not 0E-9, which is no decimal to every reader."""


class By(enum.Enum):
    """The dimension that a report sums by."""

    TEAM = "team"
    KEY = "key"
    ORGANIZATION = "organization"
    MODEL = "model"
    TAG = "tag"
    """Of the key as it is now; a key with two tags counts for both."""


@dataclass(frozen=True, slots=True)
class UsageSum:
    """The total of one team, key, organization or model; a deleted one is named by its id."""

    name: str
    requests: int
    refused: int
    failed: int
    estimated: int
    unpriced: int
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_usd: Cost


@dataclass(frozen=True, slots=True)
class UsagePoint:
    """The total of one of them in one hour or day."""

    began_at: datetime
    name: str
    tokens: int
    cost_usd: Cost


NO_MODEL: Final = "(none)"
"""The name of requests without one: most of them were refused before their body was read."""
NO_TAG: Final = "(none)"
REST: Final = "all others"

_NAMES: Final = {
    By.TEAM: "COALESCE(o.name || '/' || t.name, s.team_id)",
    By.KEY: "COALESCE(o.name || '/' || t.name || '/' || k.name || ' ' || s.key_id, s.key_id)",
    By.ORGANIZATION: "COALESCE(o.name, s.organization_id)",
    By.MODEL: f"CASE s.model WHEN '' THEN '{NO_MODEL}' ELSE s.model END",
    By.TAG: f"COALESCE(g.tag, '{NO_TAG}')",
}

_FROM: Final = """
FROM {table} AS s
LEFT JOIN teams AS t ON t.id = s.team_id
LEFT JOIN organizations AS o ON o.id = s.organization_id
LEFT JOIN api_keys AS k ON k.public_id = s.key_id
{tags}
WHERE s.began_at >= date_trunc('hour', $1::timestamptz, 'UTC') AND s.began_at < $2::timestamptz
    AND ($3::text[] IS NULL OR s.organization_id = ANY($3) OR s.team_id = ANY($3))
"""
_TAGS: Final = "LEFT JOIN LATERAL unnest(k.tags) AS g (tag) ON true"

_SUMS: Final = (
    "requests", "refused", "failed", "estimated", "unpriced", "input_tokens",
    "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
)  # fmt: skip
_COLUMNS: Final = (
    f"began_at, key_id, team_id, organization_id, model, cost_usd, {', '.join(_SUMS)}"
)
_FIRST: Final = "date_trunc('day', date_trunc('hour', $1, 'UTC') + interval '23 hours', 'UTC')"
_LAST: Final = "date_trunc('day', $2, 'UTC')"
# Days are 24 times fewer rows; the hours before the first one and after the last are added.
_DAYS_AND_HOURS: Final = f"""(
    SELECT {_COLUMNS} FROM usage_by_day WHERE began_at >= {_FIRST} AND began_at < {_LAST}
    UNION ALL SELECT {_COLUMNS} FROM usage_by_hour WHERE began_at < {_FIRST}
    UNION ALL SELECT {_COLUMNS} FROM usage_by_hour WHERE began_at >= GREATEST({_FIRST}, {_LAST})
)"""  # noqa: S608 - names of our own


async def usage_sums(
    connection: Connection,
    by: By,
    *,
    since: datetime,
    until: datetime,
    within: Sequence[str] | None = None,
) -> list[UsageSum]:
    """Return the sums by *by*, the dearest first.

    *within* holds ids of organizations and teams that are counted; None is all.
    """
    rows = await connection.fetch(
        f"SELECT {_NAMES[by]} AS name,"
        f" {', '.join(f'sum(s.{name})::bigint AS {name}' for name in _SUMS)},"
        f" sum(s.cost_usd) AS cost_usd {_from(_DAYS_AND_HOURS, by)}"
        " GROUP BY 1 ORDER BY sum(s.cost_usd) DESC,"
        " sum(s.input_tokens + s.output_tokens) DESC, sum(s.requests) DESC, 1",
        since,
        until,
        within,
    )
    return [UsageSum(**dict(row)) for row in rows]


async def usage_points(
    connection: Connection,
    by: By,
    *,
    since: datetime,
    until: datetime,
    unit: str,
    within: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> list[UsagePoint]:
    """Return the sums by *by* of every hour or day in which there was anything.

    Of the first and the last day, as of `usage_sums`, the hours from *since* to *until* alone.
    With *names* those of all other names are one, called `REST`.
    """
    table = _DAYS_AND_HOURS if unit == "day" else "usage_by_hour"
    name = f"CASE WHEN $4::text[] IS NULL OR {_NAMES[by]} = ANY($4)"
    rows = await connection.fetch(
        f"SELECT date_trunc('{unit}', s.began_at, 'UTC') AS began_at,"
        f" {name} THEN {_NAMES[by]} ELSE '{REST}' END AS name,"
        " sum(s.input_tokens + s.output_tokens)::bigint AS tokens, sum(s.cost_usd) AS cost_usd"
        f" {_from(table, by)} GROUP BY 1, 2 ORDER BY 1, 2",
        since,
        until,
        within,
        names,
    )
    return [UsagePoint(**dict(row)) for row in rows]


async def drop_usage(connection: Connection, *, keep_months: int) -> list[str]:
    """Drop the requests of months before the last *keep_months* whole ones; return which."""
    dropped = await connection.fetchval("SELECT egret_drop_usage($1)", keep_months)
    return list(dropped)


def _from(table: str, by: By) -> str:
    return _FROM.format(table=table, tags=_TAGS if by is By.TAG else "")


_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def usage_csv_text(sums: Sequence[UsageSum], *, heading: str) -> str:
    """Return sums as CSV, their names below *heading*.

    A name that a spreadsheet would compute gets an apostrophe: models are named by clients.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([heading, *(field.name for field in fields(UsageSum)[1:])])
    for one in sums:
        row = asdict(one) | {"cost_usd": f"{one.cost_usd:f}"}
        if one.name.startswith(_FORMULA):
            row["name"] = f"'{one.name}"
        writer.writerow(row.values())
    return text.getvalue()
