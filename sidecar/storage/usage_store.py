"""Writes usage records and reads prices in PostgreSQL."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import orjson

from sidecar.domain.limits import MICROS, Limit, Measure
from sidecar.domain.usage import JudgedRequest, UsageRecord
from sidecar.limits.limit_check import is_for_model
from sidecar.limits.store import LimitsUnavailableError
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import UNAVAILABLE, Connection, Pool, affected_rows, fetch
from sidecar.usage.prices import Price, PriceList

AMOUNT_COLUMNS: Final = {
    "input": "input_per_million",
    "output": "output_per_million",
    "cached_input": "cached_input_per_million",
    "cache_write": "cache_write_per_million",
    "cache_write_hour": "cache_write_hour_per_million",
    "input_above": "input_above_per_million",
    "output_above": "output_above_per_million",
    "cached_input_above": "cached_input_above_per_million",
    "cache_write_above": "cache_write_above_per_million",
    "cache_write_hour_above": "cache_write_hour_above_per_million",
    "above_tokens": "above_tokens",
}
"""The columns of a price by the names of `Price`, beside `model` and `valid_from`, its key."""

_PRICE_FIELDS: Final = {"model": "model", "valid_from": "valid_from", **AMOUNT_COLUMNS}
PRICE_COLUMNS: Final = ", ".join(_PRICE_FIELDS.values())

_SET: Final = f"""
INSERT INTO prices ({PRICE_COLUMNS})
VALUES ({", ".join(f"${number}" for number in range(1, len(_PRICE_FIELDS) + 1))})
ON CONFLICT (model, valid_from) DO UPDATE SET
    {", ".join(f"{name} = EXCLUDED.{name}" for name in AMOUNT_COLUMNS.values())}
"""  # noqa: S608 - names of our own

# Python has no infinite time, and none before the year 1; a price written by hand may have either.
_WITHIN_PYTHON: Final = "greatest(least(valid_from, '9999-12-31 00:00Z'), '0001-01-01 00:00Z')"
_READ_COLUMNS: Final = PRICE_COLUMNS.replace("valid_from", f"{_WITHIN_PYTHON} AS valid_from")

_LIST: Final = f"""
SELECT {_READ_COLUMNS} FROM prices AS p
WHERE ($1::timestamptz IS NULL OR valid_from = (
        SELECT max(valid_from) FROM prices WHERE model = p.model AND valid_from <= $1))
    AND ($3::text IS NULL OR model > $3
        OR (model = $3 AND {_WITHIN_PYTHON} < $4::timestamptz))
ORDER BY model, valid_from DESC LIMIT $2
"""  # noqa: S608 - names of our own


async def set_prices(connection: Connection, prices: Sequence[Price]) -> None:
    """Set *prices*; one of the same model and date is replaced."""
    await connection.executemany(
        _SET, [[getattr(price, name) for name in _PRICE_FIELDS] for price in prices]
    )


async def list_prices(
    connection: Connection,
    *,
    at: datetime | None = None,
    after: tuple[str, datetime] | None = None,
    most: int | None = None,
) -> list[Price]:
    """Return the prices by model, the latest first, or the *most* of them behind *after*.

    With *at*, those that hold at this time. A place is a model and the time of its price.
    """
    rows = await connection.fetch(_LIST, at, most, *(after or (None, None)))
    return list(prices_of(rows))


async def count_later_prices(connection: Connection, *, at: datetime) -> int:
    """Return the number of prices that begin to hold after *at*."""
    query = "SELECT count(*) FROM prices WHERE valid_from > $1"
    return int(await connection.fetchval(query, at))


def prices_of(rows: Iterable[Any]) -> Iterable[Price]:
    """Return the prices in rows of `PRICE_COLUMNS`."""
    return (Price(**{name: row[column] for name, column in _PRICE_FIELDS.items()}) for row in rows)


_COLUMNS: Final = {
    "occurred_at": "timestamptz", "request_id": "text", "key_id": "text", "team_id": "text",
    "organization_id": "text", "operation": "text", "provider": "text", "request_model": "text",
    "response_model": "text", "status": "smallint", "decision": "text", "guardrails": "jsonb",
    "input_tokens": "bigint", "cached_input_tokens": "bigint", "cache_write_tokens": "bigint",
    "output_tokens": "bigint", "reasoning_tokens": "bigint", "is_estimated": "boolean",
    "cost_usd": "numeric", "latency_ms": "float8", "first_token_ms": "float8", "ended": "text",
    "is_streamed": "boolean", "provider_request_id": "text", "cache_write_hour_tokens": "bigint",
}  # fmt: skip

_NAMES: Final = ", ".join(_COLUMNS)

# A table of the session's own, to COPY into: COPY itself cannot leave out rows that are there
# already. A pooler may give another session for each transaction, so each one creates it. With the
# columns its name changes: the session may have been that of an older worker.
_BATCH: Final = f"""
CREATE TEMPORARY TABLE IF NOT EXISTS egret_usage_batch_2
    ({", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())}) ON COMMIT DELETE ROWS
"""

_FOUND: Final = """
SELECT egret_usage_found(array_agg(occurred_at), array_agg(request_id))
FROM pg_temp.egret_usage_batch_2 WHERE ended <> 'lost'
"""

# Within a batch the note of a request that ended counts more than the guess that it was lost.
_ADD: Final = f"""
INSERT INTO usage ({_NAMES})
SELECT DISTINCT ON (occurred_at, request_id) {_NAMES} FROM pg_temp.egret_usage_batch_2
ORDER BY occurred_at, request_id, ended = 'lost'
ON CONFLICT (occurred_at, request_id) DO NOTHING
"""  # noqa: S608 - names of our own

_TRIES: Final = 5
"""How often a batch may meet requests that are being given up; each is given up once."""

_UNKNOWN: Final = """
SELECT n.position FROM unnest($1::timestamptz[], $2::text[])
    WITH ORDINALITY AS n (occurred_at, request_id, position)
WHERE NOT EXISTS (SELECT FROM usage AS u
    WHERE u.occurred_at = n.occurred_at AND u.request_id = n.request_id)
"""

_PRICES: Final = f"SELECT {_READ_COLUMNS} FROM prices"  # noqa: S608 - names of our own


class PostgresUsage:
    """Adds records and looks up which are there; a record is known by its time and request id."""

    def __init__(self, pool: Pool, settings: PostgresSettings, *, batch_seconds: float) -> None:
        self._pool = pool
        self._settings = settings
        self._batch_seconds = batch_seconds

    async def add(self, records: Sequence[UsageRecord], prices: PriceList) -> int:
        """Add those of *records* that are not there yet, and return how many that were.

        Raises:
            One of `UNAVAILABLE`: none was added, or the answer was lost; adding again is harmless.
        """
        rows = [_row(record, prices.cost_of(record)) for record in records]
        seconds = self._batch_seconds
        async with (
            self._pool.acquire(timeout=self._settings.acquire_seconds) as connection,
            connection.transaction(isolation="read_committed"),
        ):
            await connection.execute(_BATCH, timeout=seconds)
            await connection.copy_records_to_table(
                "egret_usage_batch_2", records=rows, columns=list(_COLUMNS), timeout=seconds
            )
            # One call for both; the status is that of the last.
            status = await connection.execute(f"{_FOUND};{_ADD}", timeout=seconds)
            added = affected_rows(status)
            for _ in range(_TRIES):
                # A record that was not added has a row already, perhaps from a worker that gave
                # the request up since `_FOUND`: that row gives way like an older one.
                if added == len(rows) or not await connection.fetchval(_FOUND, timeout=seconds):
                    break
                added += affected_rows(await connection.execute(_ADD, timeout=seconds))
            return added

    async def unknown(self, requests: Sequence[JudgedRequest]) -> list[JudgedRequest]:
        """Return those of *requests* of which there is no record.

        Raises:
            One of `UNAVAILABLE`.
        """
        rows = await fetch(
            self._pool,
            _UNKNOWN,
            [request.occurred_at for request in requests],
            [request.request_id for request in requests],
            settings=self._settings,
        )
        return [requests[row["position"] - 1] for row in rows]

    async def load_prices(self) -> PriceList:
        """Return all prices.

        Raises:
            One of `UNAVAILABLE`.
        """
        rows = await fetch(self._pool, _PRICES, settings=self._settings)
        return PriceList(prices_of(rows))


def _row(record: UsageRecord, cost: Decimal | None) -> tuple[object, ...]:
    request, tokens = record.request, record.tokens
    first = record.first_token_seconds
    return (
        request.occurred_at, request.request_id, request.key_id, request.team_id,
        request.organization_id, request.operation, request.provider, request.model,
        record.response_model, record.status, request.decision.value,
        orjson.dumps(request.guardrails).decode() if request.guardrails else "{}",
        tokens.input, tokens.cached_input, tokens.cache_write_input,
        tokens.output, tokens.reasoning, record.is_estimated,
        None if cost is None else round(cost, 9), record.latency_seconds * 1000,
        None if first is None else first * 1000, record.end.value,
        request.is_streamed, record.provider_request_id, tokens.cache_write_hour,
    )  # fmt: skip


_TOTALS: Final = "SELECT * FROM egret_used($1, $2, $3)"
_SUMMED: Final = """
SELECT asked.number, used.* FROM asked CROSS JOIN LATERAL (
    SELECT model, sum(requests)::bigint AS requests, sum(input_tokens)::bigint AS input_tokens,
        sum(output_tokens)::bigint AS output_tokens, sum(cost_usd) AS cost_usd
    FROM (
        SELECT model, requests, input_tokens, output_tokens, cost_usd FROM usage_by_day
        WHERE {owner} = asked.subject AND began_at >= asked.day
        UNION ALL
        SELECT model, requests, input_tokens, output_tokens, cost_usd FROM usage_by_hour
        WHERE {owner} = asked.subject AND began_at >= asked.since AND began_at < asked.day
    ) AS sums GROUP BY model
) AS used WHERE asked.level = '{level}' AND asked.is_whole_hour
"""
# As `egret_used` adds up, without a plan of its own for each: that alone knows parts of an hour.
_MANY: Final = f"""
WITH asked AS MATERIALIZED (
    SELECT level, subject, since, number,
        date_trunc('hour', since, 'UTC') = since AS is_whole_hour,
        date_trunc('day', since + interval '23 hours', 'UTC') AS day
    FROM unnest($1::text[], $2::text[], $3::timestamptz[])
        WITH ORDINALITY AS asked (level, subject, since, number)
)
{
    "UNION ALL".join(
        _SUMMED.format(level=level, owner=owner)
        for level, owner in (
            ("key", "key_id"),
            ("team", "team_id"),
            ("organization", "organization_id"),
        )
    )
}
UNION ALL SELECT asked.number, used.* FROM asked
CROSS JOIN LATERAL egret_used(asked.level, asked.subject, asked.since) AS used
WHERE NOT asked.is_whole_hour
"""  # noqa: S608 - names of our own
_DATED: Final = re.compile(r"-(?:[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{8}|[0-9]{3,4})$")
"""How providers write which state of a model answered: a day, or a number."""


class PostgresTotals:
    """Implements `UsageTotals`, by the sums of days, those of the first hours, and records.

    Records come some seconds after an answer has ended; running requests are not in them.
    """

    def __init__(self, pool: Pool, settings: PostgresSettings) -> None:
        self._pool = pool
        self._settings = settings

    async def used(self, limit: Limit, *, subject: str, start: int) -> int:
        """Return how much of the limit's measure *subject* has used since *start*.

        Raises:
            LimitsUnavailableError: the database does not answer.
        """
        since = datetime.fromtimestamp(start, UTC)
        try:
            rows = await fetch(
                self._pool, _TOTALS, limit.level.value, subject, since, settings=self._settings
            )
        except UNAVAILABLE as error:
            raise LimitsUnavailableError(type(error).__name__) from error
        return _total(limit, rows)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question: the use of a limit by *subject* since *start*, in epoch seconds."""

    limit: Limit
    subject: str
    start: int


async def totals_of(connection: Connection, asked: Sequence[Asked]) -> list[int]:
    """Return the use of each limit, by the same records that workers read."""
    found: list[list[Any]] = [[] for _ in asked]
    rows = await connection.fetch(
        _MANY,
        [one.limit.level.value for one in asked],
        [one.subject for one in asked],
        [datetime.fromtimestamp(one.start, UTC) for one in asked],
    )
    for row in rows:
        found[row["number"] - 1].append(row)
    return [_total(one.limit, of_one) for one, of_one in zip(asked, found, strict=True)]


def _total(limit: Limit, rows: Iterable[Any]) -> int:
    """Add up the rows of models that *limit* is for; the sums of records hold no operations."""
    total = 0
    for row in rows:
        model = row["model"]
        # Sums go by the model that answered: for `gpt-4o`, `gpt-4o-2024-08-06` may answer.
        models = (model, _DATED.sub("", model)) if model else ()
        if not models or any(is_for_model(limit, one) for one in models):
            match limit.measure:
                case Measure.COST:
                    cost: Decimal = row["cost_usd"]
                    total += math.ceil(cost * MICROS)
                case Measure.INPUT_TOKENS:
                    total += int(row["input_tokens"])
                case Measure.OUTPUT_TOKENS:
                    total += int(row["output_tokens"])
                case Measure.TOKENS:
                    total += int(row["input_tokens"] + row["output_tokens"])
                case _:
                    total += int(row["requests"])
    return total
