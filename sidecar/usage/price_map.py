"""LiteLLM's map of models, `model_prices_and_context_window.json`, read as rows of prices.

It is an object by model. Costs are US dollars for one token: `input_cost_per_token`,
`output_cost_per_token`, `cache_read_input_token_cost`, `cache_creation_input_token_cost`.
`litellm_provider` says whose model it is; many names have a provider in front (`azure/gpt-4o`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import ROUND_UP, Decimal, DecimalException
from typing import Final, cast

_PROVIDERS: Final = ("openai", "azure", "anthropic", "gemini", "vertex_ai", "bedrock")
"""Whose APIs pass through Egret; `bedrock_converse` and other variants are of them too."""

_COSTS: Final = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cached_input": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
}
_TOKENS: Final = 1_000_000
_DIGITS: Final = Decimal("0.000001")

_Row = dict[str, object]


def is_price_map(value: Mapping[str, object]) -> bool:
    """Tell whether *value* looks like such a map: an entry has a cost of a token."""
    return any(isinstance(one, dict) and _COSTS["input"] in one for one in value.values())


def price_rows(value: Mapping[str, object]) -> Iterator[tuple[str, _Row]]:
    """Yield the model and the row of each entry with prices of tokens.

    A name that stands for several entries has the price of the one without a provider in front,
    else the dearest: a budget is to end too early rather than too late.
    """
    found: dict[str, tuple[bool, Decimal, _Row]] = {}
    for name, entry in value.items():
        if not isinstance(entry, dict):
            continue
        row = _row(cast("dict[str, object]", entry))
        if row is None:
            continue
        model = _without_provider(name)
        amount = sum((cost for cost in row.values() if isinstance(cost, Decimal)), Decimal())
        ranked = (model == name, amount, {"model": model, **row})
        if model not in found or ranked[:2] > found[model][:2]:
            found[model] = ranked
    for model, (_, _, row) in found.items():
        yield model, row


def _row(entry: Mapping[str, object]) -> _Row | None:
    provider = entry.get("litellm_provider")
    if not isinstance(provider, str) or not provider.startswith(_PROVIDERS):
        return None
    if _COSTS["input"] not in entry:
        return None
    costs = {ours: entry[theirs] for ours, theirs in _COSTS.items() if theirs in entry}
    if entry.get("mode") == "embedding":
        costs.setdefault("output", 0)
    if "output" not in costs:
        return None
    return {name: _for_a_million(cost) for name, cost in costs.items() if cost is not None}


def _for_a_million(cost: object) -> object:
    """Return a price; what is no number is left for whoever checks the row."""
    if isinstance(cost, bool) or not isinstance(cost, (int, str, Decimal)):
        return cost
    try:
        amount = (Decimal(cost) * _TOKENS).quantize(_DIGITS, rounding=ROUND_UP)
    except DecimalException:
        return cost
    return amount if amount.is_finite() else cost


def _without_provider(name: str) -> str:
    first, slash, rest = name.partition("/")
    return rest if slash and first.startswith(_PROVIDERS) else name
