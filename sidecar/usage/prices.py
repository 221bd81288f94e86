"""Prices of models, and price lists in files."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_UP, Decimal, DecimalException
from pathlib import PurePath
from typing import Annotated, Final, Self, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
)

from sidecar.domain.usage import (
    MAX_COUNT,
    NO_TOKENS,
    SERVICE_TIERS,
    TokenCounts,
    UsageRecord,
)
from sidecar.domain.validation import accepted, compile_glob, plain_fault
from sidecar.telemetry.names import OVERFLOW

_MILLION: Final = Decimal(1_000_000)
_WILD: Final = re.compile(r"[*?]")

MAX_REMEMBERED: Final = 10_000
"""Models whose prices are remembered; a client may ask for any number of models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """In US dollars for a million tokens. `model` is a glob, as in `allowed_models`.

    A glob that ends in a colon and one of `SERVICE_TIERS` is of requests that name this tier.
    None for tokens read from or written to the provider's cache: they cost as other input.
    None for those that it keeps for an hour: they cost as others written to it.
    All tokens of a request with more than `above_tokens` of input have the prices for that,
    `input_above` and so on; one of these that is None is as below.
    """

    model: str
    valid_from: datetime
    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_hour: Decimal | None = None
    above_tokens: int | None = None
    input_above: Decimal | None = None
    output_above: Decimal | None = None
    cached_input_above: Decimal | None = None
    cache_write_above: Decimal | None = None
    cache_write_hour_above: Decimal | None = None

    def cost_of(self, tokens: TokenCounts) -> Decimal:
        """Return the cost of *tokens*, to the last digit: display rounds it."""
        made, read, write = self.output, self.cached_input, self.cache_write
        given, hour = self.input, self.cache_write_hour
        if self.above_tokens is not None and tokens.input > self.above_tokens:
            given = given if self.input_above is None else self.input_above
            made = made if self.output_above is None else self.output_above
            read = read if self.cached_input_above is None else self.cached_input_above
            write = write if self.cache_write_above is None else self.cache_write_above
            hour = hour if self.cache_write_hour_above is None else self.cache_write_hour_above
        cached, written = tokens.cached_input, tokens.cache_write_input
        total = max(0, tokens.input - cached - written) * given + tokens.output * made
        if cached:
            total += cached * (given if read is None else read)
        if written:
            write, kept = given if write is None else write, tokens.cache_write_hour
            total += (written - kept) * write + kept * (write if hour is None else hour)
        return total / _MILLION


class PriceList:
    """The prices of all models.

    If several globs match a model, the most specific one counts: a name without a
    wildcard before any glob, then the one with the most characters before its first wildcard.
    Of two equal ones the price of the request's service tier counts.
    """

    def __init__(self, prices: Iterable[Price] = (), *, is_known: bool = True) -> None:
        """*is_known* is False until the prices have been read."""
        self.is_known = is_known
        by_glob: dict[tuple[str, str], list[Price]] = {}
        newest_first = sorted(prices, key=lambda one: (one.valid_from, one.model), reverse=True)
        for price in newest_first:
            glob, _, tier = price.model.rpartition(":")
            glob, tier = (glob, tier) if glob and tier in SERVICE_TIERS else (price.model, "")
            # A glob in another case matches the same models.
            by_glob.setdefault((glob.lower(), tier), []).append(price)

        def specific_first(key: tuple[str, str]) -> tuple[bool, int, str, bool]:
            glob, tier = key
            plain = _WILD.split(glob, 1)[0]
            return plain != glob, -len(plain), glob, not tier

        self._globs = [
            (compile_glob(key[0]), key[1], by_glob[key])
            for key in sorted(by_glob, key=specific_first)
        ]
        self._found: dict[tuple[str, str | None], list[Price]] = {}

    def price_of(self, model: str, *, at: datetime, tier: str | None = None) -> Price | None:
        """Return the price of *model* that was valid at *at*, None if there was none."""
        found = self._found.get((model, tier))
        if found is None:
            if len(self._found) >= MAX_REMEMBERED:
                self._found.clear()
            found = self._found[model, tier] = [
                price
                for matcher, of_tier, prices in self._globs
                if of_tier in {"", tier} and matcher.match(model)
                for price in prices
            ]
        for price in found:
            if price.valid_from <= at:
                return price
        return None

    def cost_of(self, record: UsageRecord) -> Decimal | None:
        """Return the cost of a request, None if its model has no price.

        The model that answered decides; if it has no price, the one that the client requested.
        """
        if record.tokens == NO_TOKENS:
            return Decimal(0)
        if not self._globs:
            return None
        answered, requested = record.response_model, record.request.model
        # A name that is not recorded has at most the price of all models, as one not given has.
        models = (requested, answered) if answered == OVERFLOW else (answered, requested)
        at, tier = record.request.occurred_at, record.request.service_tier
        for model in models:
            price = model and self.price_of(model, at=at, tier=tier)
            if price:
                return price.cost_of(record.tokens)
        of_all = None if answered or requested else self.price_of("", at=at, tier=tier)
        return None if of_all is None else of_all.cost_of(record.tokens)


_PROVIDERS: Final = ("openai", "azure", "anthropic", "gemini", "vertex_ai", "bedrock")
"""Providers whose APIs pass through Egret; variants such as `bedrock_converse` count too."""

_COSTS: Final = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cached_input": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "cache_write_hour": "cache_creation_input_token_cost_above_1hr",
}
_FIELDS: Final = {theirs: ours for ours, theirs in _COSTS.items()}
_ABOVE: Final = re.compile(rf"({'|'.join(_FIELDS)})_above_([1-9][0-9]{{0,6}})k_tokens")
"""A cost for long prompts: of all tokens of a request with more than so many thousand of input."""
_TOKENS: Final = 1_000_000
_DIGITS: Final = Decimal("0.000001")
_MOST: Final = Decimal("Infinity")
_MOST_TIMES: Final = 1000
"""A multiple of prices beyond it is a mistake in the file."""

_Row = dict[str, object]


def is_price_map(value: Mapping[str, object]) -> bool:
    """Return whether *value* is LiteLLM's map of models: an entry has a cost of a token."""
    return any(isinstance(one, dict) and _COSTS["input"] in one for one in value.values())


def price_rows(value: Mapping[str, object]) -> Iterator[tuple[str, _Row]]:
    """Yield the model and the row of each entry with prices of tokens, and of each of its tiers.

    A name that stands for several entries has the price of the one without a provider in front,
    else the dearest: a budget is to end too early rather than too late.
    """
    found: dict[str, tuple[bool, Decimal, list[_Row]]] = {}
    for name, entry in value.items():
        if not isinstance(entry, dict):
            continue
        entry = cast("dict[str, object]", entry)
        provider = entry.get("litellm_provider")
        if not isinstance(provider, str) or not provider.startswith(_PROVIDERS):
            continue
        row = _row_of(entry)
        if "input" not in row or "output" not in row:
            continue
        first, slash, rest = name.partition("/")
        model = rest if slash and first.startswith(_PROVIDERS) else name
        amount = sum((cost for cost in row.values() if isinstance(cost, Decimal)), Decimal())
        rows: list[_Row] = [{"model": model, **row}]
        special = entry.get("provider_specific_entry")
        # Of Anthropic's fast mode: how many times each price.
        times = _checked_times(model, special.get("fast") if isinstance(special, dict) else None)
        for tier in SERVICE_TIERS:
            # A cost that a tier does not have is that of other requests.
            costs = [(one.removesuffix(f"_{tier}"), one, cost) for one, cost in entry.items()]
            own = {cost_name: cost for cost_name, one, cost in costs if cost_name != one}
            if tier == "priority" and not own and times is not None:
                own = {
                    one: _times(cost, times)
                    for one, cost in entry.items()
                    if (one in _FIELDS or _ABOVE.fullmatch(one))
                    and isinstance(cost, (int, Decimal))
                }
            if _COSTS["input"] in own:
                of_tier = _row_of({**entry, **own})
                for above in ABOVE_PRICES:
                    pair = of_tier.get(above), of_tier.get(above.removesuffix("_above"))
                    amounts = [one for one in pair if isinstance(one, Decimal)]
                    if len(amounts) == len(pair):  # a long prompt is not cheaper than a short one
                        of_tier[above] = max(amounts)
                rows.append({"model": f"{model}:{tier}", **of_tier})
        ranked = (model == name, amount, rows)
        if model not in found or ranked[:2] > found[model][:2]:
            found[model] = ranked
    for _, _, rows in found.values():
        yield from ((str(row["model"]), row) for row in rows)


def _checked_times(model: str, times: object) -> int | Decimal | None:
    """Return a multiple of prices.

    Raises:
        PriceFileError: it is none; a price that is not set would end no budget.
    """
    if times is None:
        return None
    if isinstance(times, (int, Decimal)) and times is not True and 0 < times <= _MOST_TIMES:
        return times
    raise PriceFileError(
        f"{model}: provider_specific_entry.fast: must be a number above 0, at most {_MOST_TIMES}"
    )


def _times(cost: int | Decimal, times: int | Decimal) -> int | Decimal:
    try:
        return cost * times
    except DecimalException:  # too high already, and named so by the check of the row
        return cost


def _row_of(entry: _Row) -> _Row:
    """Return the prices of *entry*.

    Those for long prompts begin at the least of several lengths, at the highest price.
    """
    costs = {ours: entry[theirs] for ours, theirs in _COSTS.items() if theirs in entry}
    if entry.get("mode") == "embedding":
        costs.setdefault("output", 0)
    row = {name: _for_a_million(cost) for name, cost in costs.items() if cost is not None}
    lengths: list[int] = []
    above: dict[str, list[object]] = {}
    for name, cost in entry.items():
        if cost is not None and (found := _ABOVE.fullmatch(name)):
            lengths.append(int(found[2]) * 1000)
            above.setdefault(f"{_FIELDS[found[1]]}_above", []).append(_for_a_million(cost))
    if lengths:
        row["above_tokens"] = min(lengths)
    for name, amounts in above.items():
        # One that is no number is left for the check of the row, whatever stands beside it.
        row[name] = max(amounts, key=lambda one: one if isinstance(one, Decimal) else _MOST)
    return row


def _for_a_million(cost: object) -> object:
    """Return a price; a value that is no number is left for the check of the row."""
    if isinstance(cost, bool) or not isinstance(cost, (int, str, Decimal)):
        return cost
    try:
        amount = (Decimal(cost) * _TOKENS).quantize(_DIGITS, rounding=ROUND_UP)
    except DecimalException:
        return str(cost)  # as a number it would be added to others, where it raises
    return amount if amount.is_finite() else cost


MAX_ROWS: Final = 100_000

Amount = Annotated[Decimal, Field(ge=0, max_digits=14, decimal_places=6, allow_inf_nan=False)]


ABOVE_PRICES: Final = tuple(f"{name}_above" for name in _COSTS)


def _checked_length(tokens: int | None, info: ValidationInfo) -> int | None:
    if all(name in info.data for name in ABOVE_PRICES):  # each is valid by itself
        has_price = any(info.data[name] is not None for name in ABOVE_PRICES)
        if tokens is None and has_price:
            raise ValueError("is required by a price above it")
        if tokens is not None and not has_price:
            raise ValueError(f"needs a price above it: one of {', '.join(ABOVE_PRICES)}")
    return tokens


AboveTokens = Annotated[
    Annotated[int, Field(ge=1, le=MAX_COUNT)] | None,
    AfterValidator(_checked_length),
    Field(validate_default=True),
]
"""The input of a request beyond which `ABOVE_PRICES` hold, the fields before this one."""


class PriceFileError(ValueError):
    """The file is not valid; names every fault and its place. No price of it is set."""


class PriceRow(BaseModel):
    """One price, in US dollars for a million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    model: Annotated[str, Field(min_length=1, max_length=200)]
    input: Amount
    output: Amount
    cached_input: Amount | None = None
    cache_write: Amount | None = None
    cache_write_hour: Amount | None = None
    input_above: Amount | None = None
    output_above: Amount | None = None
    cached_input_above: Amount | None = None
    cache_write_above: Amount | None = None
    cache_write_hour_above: Amount | None = None
    above_tokens: AboveTokens = None
    valid_from: Annotated[datetime, AfterValidator(accepted)] | None = None

    @classmethod
    def of(cls, price: Price) -> Self:
        """Return the row of *price*."""
        return cls.model_construct(**{name: getattr(price, name) for name in cls.model_fields})

    def to_price(self, *, now: datetime) -> Price:
        """Return the price; it is valid from *now* unless the row has a time."""
        return Price(**self.model_dump() | {"valid_from": self.valid_from or now})


def read_prices(name: str, text: str, *, now: datetime) -> list[Price]:
    """Read the prices of a file called *name*, JSON or CSV by its suffix.

    Raises:
        PriceFileError: naming every row that is wrong.
    """
    rows = list(_rows(name, text))
    if not rows:
        raise PriceFileError("no price in here")
    if len(rows) > MAX_ROWS:
        raise PriceFileError(f"more than {MAX_ROWS} prices")
    prices: list[Price] = []
    places: dict[tuple[str, datetime], str] = {}
    faults: list[str] = []
    for place, fields in rows:
        try:
            price = PriceRow.model_validate(fields).to_price(now=now)
        except ValidationError as error:
            for fault in error.errors(include_url=False, include_input=False):
                field = ".".join(map(str, fault["loc"]))
                faults.append(f"{place}: {field}: {plain_fault(fault)}")
            continue
        first = places.setdefault((price.model, price.valid_from), place)
        if first != place:
            faults.append(f"{place}: {first} has a price of the same model from the same time")
        prices.append(price)
    if faults:
        raise PriceFileError("; ".join(faults[:20]))
    return prices


def _rows(name: str, text: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the place and the fields of each row."""
    if PurePath(name).suffix != ".json":
        file = io.StringIO(text.removeprefix("\ufeff"))
        reader = csv.DictReader(file, restkey="more", strict=True)
        try:
            for cells in reader:
                # An empty cell is a value that is not given.
                yield f"line {reader.line_num}", {key: cell for key, cell in cells.items() if cell}
        except csv.Error as error:
            raise PriceFileError(f"line {reader.line_num}: {error}") from None
        return
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
