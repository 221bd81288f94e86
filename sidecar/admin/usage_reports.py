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

from sidecar.admin.owners import InvalidValueError
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
MAX_POINTS: Final = 50_000

_TEAM: Final = """LEFT JOIN teams AS t ON t.id = s.team_id
LEFT JOIN organizations AS o ON o.id = t.organization_id"""
_KEY: Final = "LEFT JOIN api_keys AS k ON k.public_id = s.key_id"


@dataclass(frozen=True, slots=True)
class _Dimension:
    """The columns that rows are added up by, and the tables and the words of their names."""

    columns: str
    joined: str
    name: str


_DIMENSIONS: Final = {
    By.TEAM: _Dimension("team_id", _TEAM, "COALESCE(o.name || '/' || t.name, s.team_id)"),
    By.KEY: _Dimension(
        "key_id, team_id",
        f"{_TEAM} {_KEY}",
        "COALESCE(o.name || '/' || t.name || '/' || k.name || ' ' || s.key_id, s.key_id)",
    ),
    By.ORGANIZATION: _Dimension(
        "organization_id",
        "LEFT JOIN organizations AS o ON o.id = s.organization_id",
        "COALESCE(o.name, s.organization_id)",
    ),
    By.MODEL: _Dimension("model", "", f"CASE s.model WHEN '' THEN '{NO_MODEL}' ELSE s.model END"),
    By.TAG: _Dimension(
        "key_id",
        f"{_KEY} LEFT JOIN LATERAL unnest(k.tags) AS g (tag) ON true",
        f"COALESCE(g.tag, '{NO_TAG}')",
    ),
}

_COUNTS: Final = (
    "requests", "refused", "failed", "estimated", "unpriced", "input_tokens",
    "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
)  # fmt: skip
_COLUMNS: Final = (
    f"began_at, key_id, team_id, organization_id, model, cost_usd, {', '.join(_COUNTS)}"
)
_ADDED: Final = ", ".join(
    (*(f"sum({name})::bigint AS {name}" for name in _COUNTS), "sum(cost_usd) AS cost_usd")
)
FIRST_DAY: Final = "date_trunc('day', date_trunc('hour', $1, 'UTC') + interval '23 hours', 'UTC')"
_LAST: Final = "date_trunc('day', $2, 'UTC')"
_IS_LATEST: Final = "SELECT NOT EXISTS (SELECT FROM usage_by_hour WHERE began_at >= $2)"
# Days are 24 times fewer rows; the hours before the first one and after the last are added. The
# last day of a report until now has no later hours, so that it counts as a whole one.
_PARTS: Final = (
    ("usage_by_day", f"began_at >= {FIRST_DAY} AND (began_at < {_LAST} OR ({_IS_LATEST}))"),
    ("usage_by_hour", f"began_at < {FIRST_DAY}"),
    ("usage_by_hour", f"began_at >= GREATEST({FIRST_DAY}, {_LAST}) AND NOT ({_IS_LATEST})"),
)
_DAYS_AND_HOURS: Final = " UNION ALL ".join(
    f"SELECT {_COLUMNS} FROM {table} WHERE {condition}"  # noqa: S608 - names of our own
    for table, condition in _PARTS
)
_WHERE: Final = """
WHERE began_at >= date_trunc('hour', $1::timestamptz, 'UTC') AND began_at < $2::timestamptz
    AND ($3::text[] IS NULL OR organization_id = ANY($3) OR team_id = ANY($3))
"""

# Each table for itself: of both together PostgreSQL expects 200 sums.
_PART: Final = """
SELECT {columns}, {added} FROM {table} {where} AND {condition} GROUP BY {columns}
"""
_NAMED: Final = "SELECT {one.name} AS name, {counts} FROM ({parts}) AS s {one.joined}"
# Names are joined to the largest sums alone, of which there are far fewer than of all.
_SUMS: Final = """
WITH sums AS MATERIALIZED (
    SELECT {one.columns}, {added} FROM ({parts}) AS parts GROUP BY {one.columns}
), largest AS MATERIALIZED (
    SELECT * FROM sums ORDER BY {order}, requests DESC, {one.columns} LIMIT $4
), reported AS (
    SELECT 1 AS place, name, {added} FROM (
        SELECT {one.name} COLLATE "C" AS name, {counts} FROM largest AS s {one.joined}
    ) AS named GROUP BY name
    UNION ALL
    SELECT 2, '{rest}', {others} FROM (SELECT count(*) AS sums, {added} FROM sums) AS a,
        (SELECT count(*) AS sums, {added} FROM largest) AS l WHERE a.sums > l.sums
)
SELECT name, {counts} FROM reported ORDER BY place, {order}, requests DESC, name
"""
_POINTS: Final = """
SELECT began_at,
    CASE WHEN $4::text[] IS NULL OR name = ANY($4) THEN name ELSE '{rest}' END AS name,
    sum(tokens)::bigint AS tokens, sum(cost_usd) AS cost_usd
FROM (
    SELECT began_at, {one.name} AS name, tokens, cost_usd FROM (
        SELECT date_trunc('{unit}', began_at, 'UTC') AS began_at, {one.columns},
            sum(input_tokens + output_tokens) AS tokens, sum(cost_usd) AS cost_usd
        FROM {rows} AS r {where} GROUP BY 1, {one.columns}
    ) AS s {one.joined}
) AS named GROUP BY 1, 2 ORDER BY 1, 2 LIMIT $5
"""


class Order(enum.Enum):
    """The amount by which the largest sums come first."""

    COST = "cost_usd DESC, input_tokens + output_tokens DESC"
    TOKENS = "input_tokens + output_tokens DESC, cost_usd DESC"


def sums_statement(by: By, order: Order) -> str:
    """Return the statement of `usage_sums`."""
    one, sums = _DIMENSIONS[by], (*_COUNTS, "cost_usd")
    parts = "UNION ALL".join(
        _PART.format(
            columns=one.columns, added=_ADDED, table=table, where=_WHERE, condition=condition
        )
        for table, condition in _PARTS
    )
    if by is By.TAG:  # a tag has many keys: its sum is known once they have their tags
        parts = _NAMED.format(one=one, counts=", ".join(sums), parts=parts)
        one = _Dimension("name", "", "s.name")
    return _SUMS.format(
        one=one, added=_ADDED, parts=parts, order=order.value, counts=", ".join(sums), rest=REST,
        others=", ".join(f"a.{name} - l.{name}" for name in sums),
    )  # fmt: skip


async def usage_sums(
    connection: Connection,
    by: By,
    *,
    since: datetime,
    until: datetime,
    within: Sequence[str] | None = None,
    order: Order = Order.COST,
    largest: int | None = None,
) -> list[UsageSum]:
    """Return the sums by *by*, the dearest first.

    *within* holds ids of organizations and teams that are counted; None is all. With *largest*
    so many come, and those of all other names as one, called `REST`.
    """
    statement = sums_statement(by, order)
    rows = await connection.fetch(statement, since, until, within, largest)
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

    Raises:
        InvalidValueError: there are more than `MAX_POINTS`.
    """
    rows = f"({_DAYS_AND_HOURS})" if unit == "day" else "usage_by_hour"
    statement = _POINTS.format(one=_DIMENSIONS[by], rows=rows, where=_WHERE, unit=unit, rest=REST)
    found = await connection.fetch(statement, since, until, within, names, MAX_POINTS + 1)
    if len(found) > MAX_POINTS:
        problem = f"the report has more than {MAX_POINTS:,} points in time"
        hint = "ask for fewer names, days in place of hours, or a shorter time"
        raise InvalidValueError(problem, hint=hint)
    return [UsagePoint(**dict(row)) for row in found]


async def drop_usage(
    connection: Connection, *, keep_months: int, keep_hour_months: int
) -> list[str]:
    """Drop requests, and sums by hour, of before the last so many whole months; return which."""
    query = "SELECT egret_drop_usage($1) || egret_drop_hours($2)"
    return list(await connection.fetchval(query, keep_months, keep_hour_months))


# The wide forms as well, which some spreadsheets take for the narrow ones.
_FORMULA: Final = (*"=+-@\t\r\n", *"\uff1d\uff0b\uff0d\uff20")


def usage_csv_text(sums: Sequence[UsageSum], *, heading: str) -> str:
    """Return sums as CSV, their names below *heading*.

    A name that a spreadsheet would compute gets an apostrophe: models are named by clients. One
    with a semicolon or a tab is quoted: spreadsheets of some languages end a cell there.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow([heading, *(field.name for field in fields(UsageSum)[1:])])
    for one in sums:
        row = asdict(one) | {"cost_usd": f"{one.cost_usd:f}"}
        if one.name.startswith(_FORMULA):
            row["name"] = f"'{one.name}"
        (quoting if {";", "\t"} & {*one.name} else writer).writerow(row.values())
    return text.getvalue()
