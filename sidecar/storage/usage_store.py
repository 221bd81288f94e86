"""Usage in PostgreSQL: batches by COPY, each request once."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

import orjson

from sidecar.domain.usage import JudgedRequest, UsageRecord
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import Pool, affected_rows, fetch
from sidecar.storage.prices import PRICE_COLUMNS, prices_of
from sidecar.usage.prices import PriceList

_COLUMNS: Final = {
    "occurred_at": "timestamptz", "request_id": "text", "key_id": "text", "team_id": "text",
    "organization_id": "text", "operation": "text", "provider": "text", "request_model": "text",
    "response_model": "text", "status": "smallint", "decision": "text", "guardrails": "jsonb",
    "input_tokens": "bigint", "cached_input_tokens": "bigint", "cache_write_tokens": "bigint",
    "output_tokens": "bigint", "reasoning_tokens": "bigint", "is_estimated": "boolean",
    "cost_usd": "numeric", "latency_ms": "float8", "first_token_ms": "float8", "ended": "text",
    "is_streamed": "boolean", "provider_request_id": "text",
}  # fmt: skip

_NAMES: Final = ", ".join(_COLUMNS)

# A table of the session's own, to COPY into: COPY itself knows nothing of rows that are there
# already. A pooler may give another session for each transaction, so it is asked for in each.
_BATCH: Final = f"""
CREATE TEMPORARY TABLE IF NOT EXISTS egret_usage_batch
    ({", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())}) ON COMMIT DELETE ROWS
"""

_FOUND: Final = """
SELECT egret_usage_found(array_agg(occurred_at), array_agg(request_id))
FROM pg_temp.egret_usage_batch WHERE ended <> 'lost'
"""

# Within a batch the note of a request that ended counts more than the guess that it was lost.
_ADD: Final = f"""
INSERT INTO usage ({_NAMES})
SELECT DISTINCT ON (occurred_at, request_id) {_NAMES} FROM pg_temp.egret_usage_batch
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

_PRICES: Final = f"SELECT {PRICE_COLUMNS} FROM prices"  # noqa: S608 - names of our own


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
                "egret_usage_batch", records=rows, columns=list(_COLUMNS), timeout=seconds
            )
            await connection.execute(_FOUND, timeout=seconds)
            added = affected_rows(await connection.execute(_ADD, timeout=seconds))
            for _ in range(_TRIES):
                # What was not added has a row already. It may be the guess of another worker that
                # gave the request up since `_FOUND`: that gives way like an older one.
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
        orjson.dumps(request.guardrails or {}).decode(),
        tokens.input, tokens.cached_input, tokens.cache_write_input,
        tokens.output, tokens.reasoning, record.is_estimated,
        None if cost is None else round(cost, 9), record.latency_seconds * 1000,
        None if first is None else first * 1000, record.end.value,
        request.is_streamed, record.provider_request_id,
    )  # fmt: skip
