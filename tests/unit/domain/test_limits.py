from __future__ import annotations

import pytest

from sidecar.domain.limits import Level, Limit, Measure, Window, sliding_seconds


def test_a_second_and_a_minute_slide_and_no_other_window_does() -> None:
    """The others are those of the calendar, or of no time."""
    slide = {window: seconds for window in Window if (seconds := sliding_seconds(window))}
    assert slide == {Window.SECOND: 1, Window.MINUTE: 60}


@pytest.mark.parametrize(
    ("measure", "amount", "burst", "at_once"),
    [
        (Measure.REQUESTS, 600, None, 60),
        (Measure.REQUESTS, 5, None, 1),
        (Measure.TOKENS, 600, None, 600),
        (Measure.REQUESTS, 600, 7, 7),
    ],
    ids=["a tenth of the requests", "at least one", "all tokens", "as the limit says"],
)
def test_a_part_of_a_sliding_window_may_be_used_at_once(
    measure: Measure, amount: int, burst: int | None, at_once: int
) -> None:
    """One request may take all tokens of a minute."""
    limit = Limit(
        id="l", level=Level.KEY, measure=measure, window=Window.MINUTE, amount=amount, burst=burst
    )
    assert limit.at_once == at_once
