"""Prices as people keep them: CSV with a head line, a JSON array, or LiteLLM's map of models."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, DecimalException
from pathlib import PurePath
from typing import Annotated, Final, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from sidecar.domain.accepted_times import ACCEPTED_TIMES, is_accepted
from sidecar.usage.price_map import is_price_map, price_rows
from sidecar.usage.prices import Price

MAX_ROWS: Final = 100_000

Amount = Annotated[Decimal, Field(ge=0, max_digits=14, decimal_places=6, allow_inf_nan=False)]


def _accepted(moment: datetime) -> datetime:
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    if not is_accepted(moment):
        raise ValueError(f"not {ACCEPTED_TIMES}")
    return moment


class PriceFileError(ValueError):
    """Every fault of a file, each with its place; nothing of it is taken."""


class PriceRow(BaseModel):
    """One price, in US dollars for a million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    model: Annotated[str, Field(min_length=1, max_length=200)]
    input: Amount
    output: Amount
    cached_input: Amount | None = None
    cache_write: Amount | None = None
    valid_from: Annotated[datetime, AfterValidator(_accepted)] | None = None

    def to_price(self, *, now: datetime) -> Price:
        """Return the price; it is valid from *now* where the row does not say."""
        return Price(
            model=self.model,
            valid_from=now if self.valid_from is None else self.valid_from,
            input=self.input,
            output=self.output,
            cached_input=self.cached_input,
            cache_write_input=self.cache_write,
        )


def read_prices(name: str, text: str, *, now: datetime) -> list[Price]:
    """Read the prices of a file called *name*; its suffix says what it is.

    Raises:
        PriceFileError: naming every row that is wrong.
    """
    rows = list(_json_rows(text) if PurePath(name).suffix == ".json" else _csv_rows(text))
    if not rows:
        raise PriceFileError("no price in here")
    if len(rows) > MAX_ROWS:
        raise PriceFileError(f"more than {MAX_ROWS} prices")
    prices: list[Price] = []
    faults: list[str] = []
    for place, fields in rows:
        try:
            prices.append(PriceRow.model_validate(fields).to_price(now=now))
        except ValidationError as error:
            faults += [f"{place}: {fault}" for fault in _faults(error)]
    if faults:
        raise PriceFileError("; ".join(faults[:20]))
    return prices


def _csv_rows(text: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")), restkey="more", strict=True)
    try:
        for row in reader:
            # An empty cell is a value that is not given.
            yield f"line {reader.line_num}", {name: cell for name, cell in row.items() if cell}
    except csv.Error as error:
        raise PriceFileError(f"line {reader.line_num}: {error}") from None


def _json_rows(text: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    try:
        # Decimal: 0.1 in the file is 0.1 in the database.
        value: object = json.loads(text, parse_float=Decimal)
    except json.JSONDecodeError as error:
        raise PriceFileError(f"line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise PriceFileError("nested too deeply to be a list of prices") from None
    except (ValueError, DecimalException):  # as Python has it of integers of thousands of digits
        raise PriceFileError("a number in it is too long to be a price") from None
    if isinstance(value, dict) and is_price_map(cast("dict[str, object]", value)):
        yield from price_rows(cast("dict[str, object]", value))
        return
    if not isinstance(value, list):
        raise PriceFileError("neither a JSON array nor LiteLLM's map of models")
    for number, row in enumerate(cast("list[object]", value), start=1):
        if not isinstance(row, dict):
            raise PriceFileError(f"row {number} is not an object")
        yield f"row {number}", cast("dict[str, object]", row)


def _faults(error: ValidationError) -> list[str]:
    return [
        f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
        for fault in error.errors(include_url=False, include_input=False)
    ]
