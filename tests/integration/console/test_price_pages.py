from __future__ import annotations

import re

import pytest
from fastapi import FastAPI

from sidecar.console import price_pages
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


async def test_prices_that_hold_come_page_by_page(
    console: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A former price and a later one are on no page; the later one is counted."""
    monkeypatch.setattr(price_pages, "PAGE_SIZE", 1)
    async with console.state.pool.acquire() as connection:
        await connection.execute(
            "INSERT INTO prices (model, valid_from, input_per_million, output_per_million) VALUES"
            " ('a', '2020-01-01', 1, 1), ('a', '2021-01-01', 2, 1), ('a', '2090-01-01', 3, 1),"
            " ('b', '2021-01-01', 4, 1)"
        )
    visitor = await Visitor.of(console, "viewer")

    first = await visitor.get("/prices")
    link = re.search(r'href="(/prices\?after=[^"]+)"', first)
    assert link is not None
    second = await visitor.get(link[1])

    shown = [re.findall(r'data-label="Input">(\$\d)', page) for page in (first, second)]
    assert shown == [["$2"], ["$4"]]
    assert "1 more begin later" in first
    assert "Next page" not in second
