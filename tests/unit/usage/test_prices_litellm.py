from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from sidecar.usage.prices import Price, PriceFileError, read_prices

NOW = datetime(2026, 11, 27, tzinfo=UTC)


def entry(provider: str, input_cost: Any, output_cost: Any, **more: Any) -> dict[str, Any]:
    costs = {"input_cost_per_token": input_cost, "output_cost_per_token": output_cost}
    return {"litellm_provider": provider, "mode": "chat", **costs, **more}


def prices_of(models: dict[str, Any]) -> dict[str, Price]:
    found = read_prices("map.json", json.dumps(models), now=NOW)
    return {one.model: one for one in found}


def test_costs_of_a_token_become_prices_of_a_million() -> None:
    """Cached input too; floats stand for the decimals that they are written as."""
    cached = {"cache_read_input_token_cost": 3e-07, "cache_creation_input_token_cost": 3.75e-06}
    found = prices_of({"claude-x": entry("anthropic", 3e-06, 1.5e-05, **cached)})
    assert found == {
        "claude-x": Price(
            model="claude-x",
            valid_from=NOW,
            input=Decimal(3),
            output=Decimal(15),
            cached_input=Decimal("0.3"),
            cache_write_input=Decimal("3.75"),
        )
    }


def test_a_price_finer_than_the_database_keeps_is_rounded_up() -> None:
    """A budget must not end too late."""
    found = prices_of({"m": entry("openai", 1.0000000001e-06, "2e-06")})
    assert (found["m"].input, found["m"].output) == (Decimal("1.000001"), Decimal(2))


def test_an_embedding_needs_no_price_of_output() -> None:
    """It has none; of other models one that lacks is left out."""
    costs = {"litellm_provider": "openai", "input_cost_per_token": 2e-08}
    found = prices_of({"e": {**costs, "mode": "embedding"}, "c": {**costs, "mode": "chat"}})
    assert {name: one.output for name, one in found.items()} == {"e": Decimal(0)}


def test_a_name_is_that_without_its_provider() -> None:
    """The plain name's own price counts; of others the dearest."""
    found = prices_of(
        {
            "azure/gpt": entry("azure", 9e-06, 9e-06),
            "gpt": entry("openai", 1e-06, 1e-06),
            "gemini/flash": entry("gemini", 1e-06, 1e-06),
            "vertex_ai/flash": entry("vertex_ai-language-models", 2e-06, 2e-06),
        }
    )
    assert {name: one.input for name, one in found.items()} == {
        "gpt": Decimal(1),
        "flash": Decimal(2),
    }


def test_what_does_not_pass_through_egret_is_left_out() -> None:
    """Other providers, and what is paid by the picture or the second."""
    found = prices_of(
        {
            "sample_spec": {"litellm_provider": "one of many", "input_cost_per_token": 0},
            "fal/picture": entry("fal_ai", 1e-06, 1e-06),
            "dall-e": {"litellm_provider": "openai", "input_cost_per_image": 0.04},
            "gpt": entry("openai", 1e-06, 1e-06),
        }
    )
    assert list(found) == ["gpt"]


@pytest.mark.parametrize("cost", ["much", -1e-06, True, 1e30], ids=str)
def test_a_cost_that_is_none_is_named_with_its_model(cost: object) -> None:
    """And nothing of the file is taken."""
    with pytest.raises(PriceFileError, match="gpt: output"):
        prices_of({"gpt": entry("openai", 1e-06, cost), "m": entry("openai", 1e-06, 1e-06)})
