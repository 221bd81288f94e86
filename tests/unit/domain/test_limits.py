from __future__ import annotations

import pytest

from sidecar.domain.limits import Level, Limit, Measure, Window, dollars, sliding_seconds


def test_a_second_and_a_minute_slide_and_no_other_window_does() -> None:
    """The others are those of the calendar, or of no time."""
    slide = {window: seconds for window in Window if (seconds := sliding_seconds(window))}
    assert slide == {Window.SECOND: 1, Window.MINUTE: 60}


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "0.00"), (250_000_000, "250.00"), (2_500_000, "2.50"), (1_000, "0.001"),
        (1_005_000, "1.005"), (1, "0.000001"), (999_999_999_999, "999999.999999"),
    ],
)  # fmt: skip
def test_dollars_are_written_to_their_last_digit(micros: int, text: str) -> None:
    """A budget of a tenth of a cent is not one of nothing."""
    assert dollars(micros) == text


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
