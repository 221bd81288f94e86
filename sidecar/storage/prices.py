"""Prices as the command line reads and writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sidecar.storage.pool import Connection
from sidecar.usage.prices import Price

PRICE_COLUMNS: Final = (
    "model, valid_from, input_per_million, output_per_million, cached_input_per_million,"
    " cache_write_per_million"
)

_SET: Final = f"""
INSERT INTO prices ({PRICE_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (model, valid_from) DO UPDATE SET
    input_per_million = EXCLUDED.input_per_million,
    output_per_million = EXCLUDED.output_per_million,
    cached_input_per_million = EXCLUDED.cached_input_per_million,
    cache_write_per_million = EXCLUDED.cache_write_per_million
"""  # noqa: S608 - names of our own

_LIST: Final = f"SELECT {PRICE_COLUMNS} FROM prices ORDER BY model, valid_from DESC"  # noqa: S608 - names of our own


async def set_prices(connection: Connection, prices: Sequence[Price]) -> None:
    """Set *prices*; one of the same model and date is replaced."""
    await connection.executemany(
        _SET,
        [
            (
                price.model,
                price.valid_from,
                price.input,
                price.output,
                price.cached_input,
                price.cache_write_input,
            )
            for price in prices
        ],
    )


async def list_prices(connection: Connection) -> list[Price]:
    """Return all prices by model, the latest first."""
    return list(prices_of(await connection.fetch(_LIST)))


def prices_of(rows: Iterable[Any]) -> Iterable[Price]:
    """Return the prices that rows of `PRICE_COLUMNS` tell."""
    return (
        Price(
            model=row["model"],
            valid_from=row["valid_from"],
            input=row["input_per_million"],
            output=row["output_per_million"],
            cached_input=row["cached_input_per_million"],
            cache_write_input=row["cache_write_per_million"],
        )
        for row in rows
    )
