"""The JSON of limits, and the rules that they have to keep."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.limits import Level, Limit, Measure, Window
from sidecar.limits.serialization import (
    MAX_AMOUNT,
    MAX_LIMITS,
    LimitError,
    check_limits,
    limit_id,
    owner_of,
    read_limits,
    write_limits,
)

OWNER = "team_1"
REQUESTS = Limit(
    id="r", level=Level.TEAM, measure=Measure.REQUESTS, window=Window.MINUTE, amount=10
)
BUDGET = Limit(id="b", level=Level.TEAM, measure=Measure.COST, window=Window.DAY, amount=10)


@given(
    amount=st.integers(0, MAX_AMOUNT),
    burst=st.none() | st.integers(1, MAX_AMOUNT),
    models=st.none() | st.lists(st.text(max_size=20), max_size=3).map(tuple),
    operations=st.sampled_from([None, ("chat",), ("chat", "embeddings")]),
)
def test_limits_are_read_as_they_were_written(
    amount: int,
    burst: int | None,
    models: tuple[str, ...] | None,
    operations: tuple[str, ...] | None,
) -> None:
    """The id follows from the owner and the kind of limit."""
    limit = replace(REQUESTS, amount=amount, burst=burst, models=models, operations=operations)
    limit = replace(limit, id=limit_id(OWNER, limit))

    assert read_limits(write_limits([limit]), level=Level.TEAM, owner=OWNER) == (limit,)
    assert owner_of(limit.id) == OWNER


def test_a_limit_keeps_its_id_while_only_its_amount_changes() -> None:
    """Its counter goes on; other models are another limit."""
    other = replace(REQUESTS, models=("gpt-*",))

    assert limit_id(OWNER, replace(REQUESTS, amount=99, burst=5)) == limit_id(OWNER, REQUESTS)
    assert limit_id(OWNER, other) != limit_id(OWNER, REQUESTS)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ([REQUESTS] * 2, "measure the same"),
        ([replace(REQUESTS, id=str(one)) for one in range(MAX_LIMITS + 1)], "more than 20 limits"),
        ([replace(BUDGET, window=Window.MINUTE)], "cost goes with day, week, month, not minute"),
        ([replace(BUDGET, window=Window.ONCE)], "cost needs a window, one of day, week, month"),
        (
            [replace(REQUESTS, measure=Measure.CONCURRENT, window=Window.DAY)],
            "concurrent has no window; write concurrent=AMOUNT",
        ),
        ([replace(REQUESTS, window=Window.DAY, burst=1)], "a burst goes with"),
        ([replace(REQUESTS, burst=0)], "a burst is between"),
        ([replace(BUDGET, time_zone="Europe")], "there is no time zone Europe"),
        ([replace(BUDGET, time_zone="x" * 300)], "there is no time zone xxx"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused(limits: list[Limit], message: str) -> None:
    """The message names the rule."""
    with pytest.raises(LimitError, match=message):
        check_limits(tuple(limits))


@pytest.mark.parametrize("text", ["", "{}", '[{"measure": "cost"}]', '[{"mesure": "cost"}]'])
def test_other_text_is_no_list_of_limits(text: str) -> None:
    """Nothing of it is guessed."""
    with pytest.raises(LimitError):
        read_limits(text, level=Level.TEAM, owner=OWNER)
