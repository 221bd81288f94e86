"""What was used since a time, by the records of usage: where counts of limits begin anew."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from sidecar.domain.limits import MICROS, Limit, Measure
from sidecar.limits.claims import is_for_model
from sidecar.limits.ports import LimitsUnavailableError
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import UNAVAILABLE, Connection, Pool, fetch

_TOTALS: Final = "SELECT * FROM egret_used($1, $2, $3)"
_MANY: Final = """
SELECT asked.number, used.* FROM unnest($1::text[], $2::text[], $3::timestamptz[])
    WITH ORDINALITY AS asked (level, subject, since, number)
CROSS JOIN LATERAL egret_used(asked.level, asked.subject, asked.since) AS used
"""
_DATED: Final = re.compile(r"-(?:[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{8}|[0-9]{3,4})$")
"""How providers write which state of a model answered: a day, or a number."""


class PostgresTotals:
    """Implements `UsageTotals`, by the hour: of an hour that began before, all counts.

    Records come some seconds after an answer has ended; what is under way is not in them.
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
    """How much of a limit's measure has *subject* used since *start*, in epoch seconds?"""

    limit: Limit
    subject: str
    start: int


async def totals_of(connection: Connection, asked: Sequence[Asked]) -> list[int]:
    """Return what was used of each limit, by the same records as workers go by."""
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
    return sum(_of(limit.measure, row) for row in rows if _holds(limit, row["model"]))


def _holds(limit: Limit, model: str) -> bool:
    """Tell whether usage of *model* counts; the records' sums know no operations."""
    if not model or is_for_model(limit, model):
        return True
    # Sums go by the model that answered: asked for `gpt-4o`, `gpt-4o-2024-08-06` says it did.
    return is_for_model(limit, _DATED.sub("", model))


def _of(measure: Measure, row: Any) -> int:
    match measure:
        case Measure.COST:
            cost: Decimal = row["cost_usd"]
            return math.ceil(cost * MICROS)
        case Measure.INPUT_TOKENS:
            return int(row["input_tokens"])
        case Measure.OUTPUT_TOKENS:
            return int(row["output_tokens"])
        case Measure.TOKENS:
            return int(row["input_tokens"] + row["output_tokens"])
        case _:
            return int(row["requests"])
