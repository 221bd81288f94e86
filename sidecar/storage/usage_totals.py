"""What was used since a time, by the records of usage: where counts of limits begin anew."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any, Final

from sidecar.domain.limits import Limit, Measure
from sidecar.limits.ports import LimitsUnavailableError
from sidecar.settings import PostgresSettings
from sidecar.storage.pool import UNAVAILABLE, Pool, fetch

_TOTALS: Final = "SELECT * FROM egret_used($1, $2, $3)"
_MICROS: Final = 1_000_000


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
        return sum(_of(limit.measure, row) for row in rows if _holds(limit, row["model"]))


def _holds(limit: Limit, model: str) -> bool:
    """Tell whether usage of *model* counts; the records' sums know no operations."""
    if limit.models is None or not model:
        return True
    return any(fnmatchcase(model, pattern) for pattern in limit.models)


def _of(measure: Measure, row: Any) -> int:
    match measure:
        case Measure.COST:
            cost: Decimal = row["cost_usd"]
            return math.ceil(cost * _MICROS)
        case Measure.INPUT_TOKENS:
            return int(row["input_tokens"])
        case Measure.OUTPUT_TOKENS:
            return int(row["output_tokens"])
        case Measure.TOKENS:
            return int(row["input_tokens"] + row["output_tokens"])
        case _:
            return int(row["requests"])
