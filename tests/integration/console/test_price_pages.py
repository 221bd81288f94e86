from __future__ import annotations

from fastapi import FastAPI

from tests.support.console import HOSTILE, Visitor

FORM = {"model": HOSTILE, "input": "2.5", "output": "10", "cached_input": "", "cache_write": ""}


async def test_a_price_is_set_from_now_on_by_those_who_may(console: FastAPI) -> None:
    """A model's name is text; a refused form comes back without a repeated amount."""
    visitor, viewer = await Visitor.of(console, "admin"), await Visitor.of(console, "viewer")
    await visitor.get("/prices")
    await viewer.get("/prices")

    made = await visitor.send("/prices", FORM)
    wrong = await visitor.send("/prices", FORM | {"output": "-1"})

    assert "&lt;img src=x" in made
    assert "$2.50" in made
    assert "output: must be at least 0" in wrong
    assert "Set a price" not in await viewer.get("/prices")
    await viewer.send("/prices", FORM, status=403)


async def test_a_price_for_long_prompts_is_a_second_row(console: FastAPI) -> None:
    """A price above no length is refused with its reason."""
    visitor = await Visitor.of(console, "admin")
    await visitor.get("/prices")
    amounts = {"input_above": "6.5", "above_tokens": "", "cache_write_hour": "4.2"}
    long = FORM | {"model": "m", **amounts}

    wrong = await visitor.send("/prices", long)
    made = await visitor.send("/prices", long | {"above_tokens": "200000"})

    assert "above_tokens: is required by a price above it" in wrong
    assert "up to 200,000 tokens of input" in made
    assert "$6.50" in made
    assert "$4.20" in made
