from __future__ import annotations

import json
from dataclasses import replace
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
    cached = {
        "cache_read_input_token_cost": 3e-07,
        "cache_creation_input_token_cost": 3.75e-06,
        "cache_creation_input_token_cost_above_1hr": 6e-06,
    }
    found = prices_of({"claude-x": entry("anthropic", 3e-06, 1.5e-05, **cached)})
    assert found == {
        "claude-x": Price(
            model="claude-x",
            valid_from=NOW,
            input=Decimal(3),
            output=Decimal(15),
            cached_input=Decimal("0.3"),
            cache_write=Decimal("3.75"),
            cache_write_hour=Decimal(6),
        )
    }


def test_costs_above_a_length_become_prices_of_long_prompts() -> None:
    """Those of batches and priorities are left out; of several lengths the least counts."""
    long = {
        "input_cost_per_token_above_200k_tokens": 2.5e-06,
        "output_cost_per_token_above_200k_tokens": 1.5e-05,
        "cache_read_input_token_cost_above_200k_tokens": 2.5e-07,
        "cache_creation_input_token_cost_above_200k_tokens": None,
        "input_cost_per_token_above_200k_tokens_priority": 4.5e-06,
        "cache_creation_input_token_cost_above_1hr_above_200k_tokens": 1e-05,
    }
    longer = {**long, "input_cost_per_token_above_512k_tokens": 5e-06}
    models = {
        "m": entry("gemini", 1e-06, 1e-05, **long),
        "n": entry("gemini", 1e-06, 1e-05, **longer),
    }
    short = Price(model="m", valid_from=NOW, input=Decimal(1), output=Decimal(10))
    above = replace(
        short,
        above_tokens=200_000,
        input_above=Decimal("2.5"),
        output_above=Decimal(15),
        cached_input_above=Decimal("0.25"),
        cache_write_hour_above=Decimal(10),
    )

    found = prices_of(models)

    assert found == {"m": above, "n": replace(above, model="n", input_above=Decimal(5))}


def test_costs_of_a_tier_become_prices_of_the_model_with_it() -> None:
    """One that it lacks is that of other requests, and for long prompts not below its own."""
    costs = {
        "cache_read_input_token_cost": 1e-07,
        "input_cost_per_token_above_272k_tokens": 2e-06,
        "output_cost_per_token_above_272k_tokens": 1.5e-05,
        "input_cost_per_token_priority": 3e-06,
        "input_cost_per_token_above_272k_tokens_priority": 4e-06,
        "output_cost_per_token_priority": 3e-05,
        "input_cost_per_token_flex": 5e-07,
        "output_cost_per_token_batches": 9,
    }
    found = prices_of({"openai/m": entry("openai", 1e-06, 1e-05, **costs)})

    assert {
        name: (one.input, one.output, one.cached_input, one.input_above, one.output_above)
        for name, one in found.items()
    } == {
        "m": (Decimal(1), Decimal(10), Decimal("0.1"), Decimal(2), Decimal(15)),
        "m:priority": (Decimal(3), Decimal(30), Decimal("0.1"), Decimal(4), Decimal(30)),
        "m:flex": (Decimal("0.5"), Decimal(10), Decimal("0.1"), Decimal(2), Decimal(15)),
    }


def test_a_multiple_of_anthropic_s_fast_mode_becomes_prices_of_priority() -> None:
    """Of every price, those of caches too; `ultrafast` has prices of its own in the map."""
    models = {
        "c": entry(
            "anthropic",
            5e-06,
            2.5e-05,
            cache_read_input_token_cost=5e-07,
            provider_specific_entry={"us": 1.1, "fast": 2.0},
        ),
        "g": entry("openai", 1e-06, 1e-05, input_cost_per_token_ultrafast=9e-06),
    }
    found = {
        name: (one.input, one.output, one.cached_input) for name, one in prices_of(models).items()
    }

    assert found["c:priority"] == (Decimal(10), Decimal(50), Decimal(1))
    assert found["g:ultrafast"] == (Decimal(9), Decimal(10), None)
    assert set(found) == {"c", "c:priority", "g", "g:ultrafast"}


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
    long = {"input_cost_per_token_above_200k_tokens": cost}
    with pytest.raises(PriceFileError, match="gpt: input_above"):
        prices_of({"gpt": entry("openai", 1e-06, 1e-06, **long)})


@pytest.mark.parametrize("number", ["1e999999", "9e999999999", "-9e999999999"])
@pytest.mark.parametrize("fast", ["", ', "provider_specific_entry": {"fast": 6.0}'])
def test_a_number_beyond_all_others_is_named_with_its_model(number: str, fast: str) -> None:
    """It can be no sum and no product either."""
    text = f"""{{"gpt": {{"litellm_provider": "openai", "mode": "chat",
        "input_cost_per_token": {number}, "output_cost_per_token": {number}{fast}}}}}"""
    with pytest.raises(PriceFileError, match="gpt: input"):
        read_prices("map.json", text, now=NOW)


@pytest.mark.parametrize("fast", ["NaN", "Infinity", "true", "9e999999999", "-2", "0", '"2"'])
def test_a_multiple_that_is_none_is_named_with_its_model(fast: str) -> None:
    """Requests of the tier would have another price than the file says."""
    text = f"""{{"c": {{"litellm_provider": "anthropic", "mode": "chat",
        "input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6,
        "provider_specific_entry": {{"fast": {fast}}}}}}}"""
    with pytest.raises(PriceFileError, match=r"c: provider_specific_entry\.fast: must be"):
        read_prices("map.json", text, now=NOW)
