"""Syntax of limits in commands and files, such as `requests/minute=600`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final

from sidecar.domain.limits import MICROS, Level, Limit, Measure, Window, dollars
from sidecar.domain.validation import fault_of_models, fault_of_operations
from sidecar.limits.serialization import MAX_AMOUNT, limit_id, windows_of

EXAMPLE: Final = "requests/minute=60"
_BELOW_A_CENT: Final = 4
"""Decimal places of millionths of a dollar."""


class LimitWordsError(ValueError):
    """Words that are no limit; the message names the part and gives an example."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selectors:
    """The scope of the limits of one command."""

    models: tuple[str, ...] | None = None
    operations: tuple[str, ...] | None = None
    time_zone: str = "UTC"
    burst: int | None = None


def parse_limit(words: str, *, level: Level, owner: str, selectors: Selectors) -> Limit:
    """Read one limit that is to be set.

    Raises:
        LimitWordsError: not MEASURE/WINDOW=AMOUNT, or for no model or operation that can be.
    """
    fault = fault_of_models(selectors.models or ()) or fault_of_operations(
        selectors.operations or ()
    )
    if fault or () in {selectors.models, selectors.operations}:
        raise LimitWordsError(fault or "a limit for no model, or for no operation, never applies")
    return read_limit(words, level=level, owner=owner, selectors=selectors)


@lru_cache(maxsize=1_000)  # thousands of owners have the same few limits
def read_limit(words: str, *, level: Level, owner: str, selectors: Selectors) -> Limit:
    """Read one limit that is set: it may be for an operation that this version does not know.

    Raises:
        LimitWordsError: not MEASURE/WINDOW=AMOUNT.
    """
    name, equals, amount = words.partition("=")
    if not equals:
        raise LimitWordsError(f"`{words[:60]}` has no amount; write for example {EXAMPLE}")
    measure, window = parse_kind(name)
    bare = Limit(
        id="",
        level=level,
        measure=measure,
        window=window,
        amount=_amount(measure, amount),
        burst=selectors.burst,
        models=selectors.models,
        operations=selectors.operations,
        time_zone=selectors.time_zone,
    )
    return replace(bare, id=limit_id(owner, bare))


def parse_kind(name: str) -> tuple[Measure, Window]:
    """Read MEASURE/WINDOW; a measure of the moment or of one request has no window.

    Raises:
        LimitWordsError: there is no such measure or window.
    """
    measure, _, window = name.strip().partition("/")
    if measure not in (measures := [one.value for one in Measure]):
        raise LimitWordsError(
            f"there is no measure `{measure[:60]}`; one of {', '.join(measures)}"
        )
    if window and window not in [one.value for one in Window]:
        windows = [one.value for one in windows_of(Measure(measure)) if one is not Window.ONCE]
        takes = f"one of {', '.join(windows)}" if windows else "none"
        raise LimitWordsError(f"there is no window `{window[:60]}`; {measure} takes {takes}")
    return Measure(measure), Window(window or Window.ONCE.value)


def shown(limit: Limit) -> str:
    """Return the words for a limit, without its scope."""
    amount = dollars(limit.amount) if limit.measure is Measure.COST else limit.amount
    return f"{shown_kind(limit.measure, limit.window)}={amount}"


def exact_words(limit: Limit) -> str:
    """Return the words that `parse_limit` reads as this very amount."""
    amount = Decimal(limit.amount) / (MICROS if limit.measure is Measure.COST else 1)
    return f"{shown_kind(limit.measure, limit.window)}={amount:f}"


def written(limit: Limit) -> dict[str, Any]:
    """Return the fields that files and the API write a limit with: its words and its scope."""
    return {
        "limit": exact_words(limit),
        "burst": limit.burst,
        "models": limit.models,
        "operations": limit.operations,
        "time_zone": limit.time_zone,
    }


def shown_kind(measure: Measure, window: Window) -> str:
    """Return the words that `parse_kind` reads."""
    return measure.value if window is Window.ONCE else f"{measure.value}/{window.value}"


def shown_amount(measure: Measure, amount: int) -> str:
    """Return an amount as people read it: money in US dollars, in full below one dollar."""
    if measure is Measure.COST:
        return dollars(amount if amount < MICROS else round(amount, -_BELOW_A_CENT))
    return str(amount)


def shown_span(seconds: float) -> str:
    """Return a time from now as people read it, in its largest unit or two."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours == 0:
        return f"{minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min"


def shown_whose(level: Level, name: str) -> str:
    """Return whose a limit is."""
    return f"{level.value} {name}"


def shown_for(limit: Limit) -> str:
    """Return the scope of a limit, and where its periods begin, if not everything and in UTC."""
    zone = () if limit.time_zone == "UTC" else (limit.time_zone,)
    return ", ".join((*(limit.models or ()), *(limit.operations or ()), *zone)) or "-"


def _amount(measure: Measure, text: str) -> int:
    try:
        number = Decimal(text.replace("_", ""))
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        raise LimitWordsError(f"`{text[:60]}` is no amount")
    units = MICROS if measure is Measure.COST else 1
    # Before anything is converted: an integer of 10^99999999 takes Python hours.
    if not 0 <= number <= Decimal(MAX_AMOUNT) / units:
        raise LimitWordsError(
            f"`{text[:60]}` is not between 0 and {shown_amount(measure, MAX_AMOUNT)}"
        )
    if number != number.quantize(Decimal(1) / units):
        finest = "finer than a millionth of a dollar" if units > 1 else "no whole number"
        raise LimitWordsError(f"`{text[:60]}` is {finest}")
    return int(number * units)
