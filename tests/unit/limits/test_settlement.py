from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest
from msgspec.structs import replace

from sidecar.domain.limits import Level, Limit, Measure, Reservation, Window
from sidecar.limits.limit_check import RequestCost
from sidecar.limits.settlement import FinishedRequest, adjustments_of, finished_request, unreported
from sidecar.limits.store import Adjustment
from sidecar.usage.records import record_of
from tests.support.usage import ended as ended_exchange
from tests.support.usage import judged

AT = dt.datetime(2026, 5, 17, 12, tzinfo=dt.UTC).timestamp()
MAY = int(dt.datetime(2026, 5, 1, tzinfo=dt.UTC).timestamp())
TAKEN = RequestCost(operation="chat", model="gpt-5", input_tokens=100, output_tokens=400, cost=50)


def limit(measure: Measure, window: Window = Window.MINUTE, **fields: object) -> Limit:
    """Return a key's limit."""
    return Limit(
        id=measure.value, level=Level.KEY, measure=measure, window=window, amount=1_000,
        **fields,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("one", "change"),
    [
        (limit(Measure.INPUT_TOKENS), 20),
        (limit(Measure.OUTPUT_TOKENS), -390),
        (limit(Measure.TOKENS), -370),
    ],
    ids=lambda value: value.measure.value if isinstance(value, Limit) else "",
)
def test_what_was_taken_becomes_what_was_used(one: Limit, change: int) -> None:
    """More or less than the estimate."""
    ended = FinishedRequest(TAKEN, "r1", AT, input_tokens=120, output_tokens=10, cost=50)
    assert adjustments_of([one], ended, now=AT + 9) == (
        Adjustment(one, change, age_seconds=9, taken_at=AT),
    )


def test_money_is_put_right_in_the_month_it_was_taken_in() -> None:
    """A stream may end in the next one."""
    one = limit(Measure.COST, Window.MONTH)
    ended = FinishedRequest(TAKEN, "r1", AT, input_tokens=100, output_tokens=400, cost=45)
    assert adjustments_of([one], ended, now=AT) == (
        Adjustment(one, -5, period_start=MAY, taken_at=AT),
    )


def test_a_request_that_never_was_gives_back_all_but_itself() -> None:
    """Blocked by a guardrail, or refused by the provider: it was asked for all the same."""
    slots = limit(Measure.CONCURRENT, Window.ONCE)
    both = [limit(Measure.REQUESTS), limit(Measure.TOKENS), slots]
    assert adjustments_of(both, FinishedRequest(TAKEN, "r1", AT), now=AT) == (
        Adjustment(both[1], -500, taken_at=AT),
        Adjustment(slots, 0, member="r1"),
    )


def test_limits_by_model_are_put_right_where_they_were_taken() -> None:
    """By name: of the model, the end of a request may say less than was known before."""
    held = limit(Measure.TOKENS, models=("arn:*",))
    other = limit(Measure.OUTPUT_TOKENS, models=("other",))
    told = RequestCost(operation="chat", model="other", input_tokens=100, output_tokens=400)
    ended = FinishedRequest(told, "r1", AT, input_tokens=100, by_model=(held.id,))
    assert adjustments_of([held, other], ended, now=AT) == (Adjustment(held, -400, taken_at=AT),)


def test_many_requests_for_less_than_a_millionth_of_a_dollar_sum_up_to_their_cost() -> None:
    """Each would else count as a whole one: an embedding of 20 tokens two or three times."""
    used = 0
    for microsecond in range(10_000):
        at = judged().occurred_at.replace(microsecond=microsecond)
        request = judged(occurred_at=at, reserved=Reservation(20, 0, 1))
        record = record_of(ended_exchange(request=request))
        ends = finished_request(record, request, cost=Decimal("0.0000004"))
        assert ends is not None
        used += ends.cost
    assert used == 4_000


def test_what_was_taken_for_a_model_whose_price_is_not_known_in_the_end_stays_taken() -> None:
    """Too much rather than too little; a request that never was gives it back."""
    request = replace(judged(), reserved=Reservation(100, 400, 50))
    record = record_of(ended_exchange(request=request))
    for ends, cost in (
        (finished_request(record, request, cost=None), 50),
        (unreported(request, is_used=False), 0),
    ):
        assert ends is not None
        assert ends.cost == cost


def test_what_was_used_as_taken_changes_nothing() -> None:
    """Neither do limits that did not hold for the request."""
    ended = FinishedRequest(TAKEN, "r1", AT, input_tokens=100, output_tokens=400, cost=50)
    others = limit(Measure.TOKENS, models=("claude-*",))
    bytes_ = limit(Measure.REQUEST_BYTES, Window.ONCE)
    assert adjustments_of([limit(Measure.TOKENS), others, bytes_], ended, now=AT) == ()
