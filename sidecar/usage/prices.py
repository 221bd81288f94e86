"""What tokens cost: prices by model, each valid from a date until the next one is."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from sidecar.domain.usage import NO_TOKENS, TokenCounts, UsageRecord

_MILLION: Final = Decimal(1_000_000)
_WILD: Final = re.compile(r"[*?]")

MAX_REMEMBERED: Final = 10_000
"""Models whose prices are kept found; a client may ask for as many as it likes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """In US dollars for a million tokens. `model` is a glob, as in `allowed_models`.

    None for tokens that the provider's cache gave or took means: as any other input.
    """

    model: str
    valid_from: datetime
    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    cache_write_input: Decimal | None = None

    def cost_of(self, tokens: TokenCounts) -> Decimal:
        """Return what *tokens* cost, to the last digit: rounding is for whoever shows it."""
        cached, written = tokens.cached_input, tokens.cache_write_input
        plain = max(0, tokens.input - cached - written)
        total = (
            plain * self.input
            + cached * (self.input if self.cached_input is None else self.cached_input)
            + written * (self.input if self.cache_write_input is None else self.cache_write_input)
            + tokens.output * self.output
        )
        return total / _MILLION


class PriceList:
    """All prices there are.

    Where several globs match a model, the one that says most about it counts: a name without a
    wildcard before any glob, then the one with the most characters before its first wildcard.
    """

    def __init__(self, prices: Iterable[Price] = ()) -> None:
        by_glob: dict[str, list[Price]] = {}
        for price in sorted(prices, key=lambda price: price.valid_from, reverse=True):
            by_glob.setdefault(price.model, []).append(price)
        self._globs = [(_matcher(glob), by_glob[glob]) for glob in sorted(by_glob, key=_vagueness)]
        self._found: dict[str, list[Price]] = {}

    def price_of(self, model: str, *, at: datetime) -> Price | None:
        """Return the price of *model* that was valid at *at*, None where there was none."""
        found = self._found.get(model)
        if found is None:
            if len(self._found) >= MAX_REMEMBERED:
                self._found.clear()
            found = self._found[model] = [
                price
                for matcher, prices in self._globs
                if matcher.match(model)
                for price in prices
            ]
        return next((price for price in found if price.valid_from <= at), None)

    def cost_of(self, record: UsageRecord) -> Decimal | None:
        """Return what a request cost, None where no price is known of a model that counted.

        The model that answered decides; where its name has no price, the one that was asked for.
        """
        if record.tokens == NO_TOKENS:
            return Decimal(0)
        for model in (record.response_model, record.request.model):
            price = model and self.price_of(model, at=record.request.occurred_at)
            if price:
                return price.cost_of(record.tokens)
        return None


def _matcher(glob: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(glob.replace("[", "[[]")))


def _vagueness(glob: str) -> tuple[bool, int, str]:
    wild = _WILD.search(glob)
    return (False, 0, glob) if wild is None else (True, -wild.start(), glob)
