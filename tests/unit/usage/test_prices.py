from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from sidecar.domain.usage import NO_TOKENS, TokenCounts
from sidecar.usage.prices import Price, PriceList
from tests.support.usage import MOMENT, judged, record

LATER = MOMENT + timedelta(days=1)


def price(model: str, input_price: int = 1, **changes: object) -> Price:
    made = Price(model=model, valid_from=MOMENT, input=Decimal(input_price), output=Decimal(10))
    return replace(made, **changes)  # type: ignore[arg-type] # as the test says


def test_every_kind_of_token_has_its_own_price() -> None:
    """A million of each, in dollars."""
    full = price("*", cached_input=Decimal("0.1"), cache_write=Decimal("1.25"))
    million = 1_000_000
    tokens = TokenCounts(
        input=4 * million, output=million, cached_input=2 * million, cache_write_input=million
    )

    assert full.cost_of(tokens) == 1 + Decimal("0.2") + Decimal("1.25") + Decimal(10)


def test_cached_input_costs_as_other_input_unless_it_has_a_price() -> None:
    """Nothing is free for want of a number."""
    tokens = TokenCounts(input=1_000_000, cached_input=300_000, cache_write_input=200_000)

    assert price("*").cost_of(tokens) == 1


def test_input_that_a_cache_keeps_for_an_hour_has_its_own_price() -> None:
    """Without one it costs as all that is written to a cache; in a long prompt as below."""
    million = 1_000_000
    tokens = TokenCounts(
        input=3 * million, cache_write_input=3 * million, cache_write_hour=2 * million
    )
    plain = price("*", cache_write=Decimal("1.25"))
    own = replace(plain, cache_write_hour=Decimal(2))
    long = replace(own, above_tokens=million, cache_write_above=Decimal("2.5"))

    assert price("*").cost_of(tokens) == 3
    assert plain.cost_of(tokens) == 3 * Decimal("1.25")
    assert own.cost_of(tokens) == Decimal("1.25") + 2 * 2
    assert long.cost_of(tokens) == Decimal("2.5") + 2 * 2
    assert replace(long, cache_write_hour_above=Decimal(4)).cost_of(tokens) == Decimal("10.5")


def test_all_tokens_of_a_long_prompt_have_the_prices_for_it() -> None:
    """Beyond the length and not at it; a price that is not given there is as below."""
    long = price(
        "*",
        cached_input=Decimal("0.1"),
        above_tokens=200_000,
        input_above=Decimal(2),
        output_above=Decimal(15),
    )

    def cost(tokens: int) -> Decimal:
        return long.cost_of(TokenCounts(input=tokens, output=1_000_000, cached_input=100_000))

    assert cost(200_000) == Decimal("0.1") + Decimal("0.01") + 10
    assert cost(200_001) == Decimal("0.200002") + Decimal("0.01") + 15


@given(
    st.builds(
        TokenCounts,
        input=st.integers(0, 10**9),
        output=st.integers(0, 10**9),
        cached_input=st.integers(0, 10**9),
        cache_write_input=st.integers(0, 10**9),
    )
)
def test_no_count_makes_a_cost_negative(tokens: TokenCounts) -> None:
    """A provider may say that more was cached than there was."""
    assert price("*", cached_input=Decimal(0)).cost_of(tokens) >= 0


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o-2024-08-06", "gpt-4o-*"),
        ("gpt-4.1", "gpt-4*"),
        ("gpt-5", "gpt-*"),
        ("claude", "*"),
        ("[x]", "[x]"),
        ("GPT-4O", "gpt-4o"),
        ("O3", "o3"),
    ],
)
def test_the_glob_that_says_most_about_a_model_counts(model: str, found: str) -> None:
    """Whatever the order they were set in."""
    globs = ["*", "gpt-*", "gpt-4*", "gpt-4o-*", "gpt-4o", "[x]", "O3", "o3"]
    for order in (globs, globs[::-1]):
        chosen = PriceList([price(glob) for glob in order]).price_of(model, at=LATER)
        assert chosen is not None
        assert chosen.model == found


def test_a_price_is_valid_from_its_date_until_the_next() -> None:
    """To the microsecond; before the first there is none."""
    prices = PriceList([price("m", 1), price("m", 2, valid_from=LATER)])
    tick = timedelta(microseconds=1)

    found = [prices.price_of("m", at=at) for at in (MOMENT - tick, MOMENT, LATER - tick, LATER)]
    assert [one and one.input for one in found] == [None, 1, 1, 2]


def test_a_request_of_a_tier_has_the_price_of_the_tier() -> None:
    """A tier without a price, and a price that is not of a tier, are as without tiers."""
    prices = PriceList(
        [
            price("gpt-5*", 1),
            price("gpt-5*:priority", 2, valid_from=LATER),
            price("gpt-5-mini", 3),
            price("*:flex", 4),
            price("odd:priority:x", 5),
        ]
    )
    later = LATER + timedelta(days=1)

    def found(model: str, tier: str | None, at: datetime = later) -> Decimal | None:
        one = prices.price_of(model, at=at, tier=tier)
        return None if one is None else one.input

    assert [found("gpt-5", tier) for tier in (None, "priority", "flex")] == [1, 2, 1]
    assert [found("other", tier) for tier in (None, "priority", "flex")] == [None, None, 4]
    assert found("gpt-5", "priority", at=MOMENT) == 1
    assert found("gpt-5-mini", "priority") == 3
    assert found("odd:priority:x", None) == 5

    one = record(
        request=judged(model="gpt-5", occurred_at=later, service_tier="priority"),
        response_model="gpt-5",
        tokens=TokenCounts(input=1_000_000),
    )
    assert prices.cost_of(one) == 2


def test_a_newer_glob_does_not_hide_an_older_name() -> None:
    """What is said of a model by name counts until something newer is said by name."""
    prices = PriceList([price("gpt-4o", 1), price("gpt-*", 2, valid_from=LATER)])
    found = prices.price_of("gpt-4o", at=LATER)

    assert found is not None
    assert found.input == 1


def test_the_model_that_answered_is_paid_for_else_the_one_asked_for() -> None:
    """Where neither has a price, nobody knows; where nothing was used, nothing is owed."""
    prices = PriceList([price("big", 1_000_000, output=Decimal(0)), price("small")])
    one = TokenCounts(input=1)

    def cost(asked: str | None, answered: str | None, tokens: TokenCounts = one) -> Decimal | None:
        return prices.cost_of(
            record(request=judged(model=asked), response_model=answered, tokens=tokens)
        )

    assert cost("small", "big") == 1
    assert cost("big", "big-2027-01-01") == 1
    assert cost("big", None) == 1
    assert cost(None, "other") is None
    assert cost(None, None, NO_TOKENS) == 0


def test_a_request_of_which_no_model_is_known_has_the_price_of_all_models() -> None:
    """A picture may be asked for without one, and its answer names none."""
    million = TokenCounts(input=1_000_000)
    asked = structs.replace(judged(), model=None)
    ended = record(tokens=million, request=asked, response_model=None)

    assert PriceList([price("gpt-*"), price("*", 3)]).cost_of(ended) == 3
    assert PriceList([price("gpt-*")]).cost_of(ended) is None


def test_a_name_that_is_not_recorded_is_no_model_that_answered() -> None:
    """It stands as `other`; a price for all models must not go before the requested one's own."""
    prices = PriceList([price("*", input=Decimal(1)), price("big", input=Decimal(10))])
    tokens = TokenCounts(input=1_000_000)

    def cost(asked: str | None) -> Decimal | None:
        request = judged(model=asked)
        return prices.cost_of(record(request=request, response_model="other", tokens=tokens))

    assert [cost("big"), cost("small"), cost("other"), cost(None)] == [10, 1, 1, 1]
