from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sidecar.console.limit_bars import forecast_of
from sidecar.domain.limits import Level, Limit, Measure, Window


def _limit(measure: Measure, window: Window) -> Limit:
    return Limit(id="1", level=Level.TEAM, measure=measure, window=window, amount=100)


@pytest.mark.parametrize(
    ("day", "used", "forecast"), [(11, 30, 93.0), (31, 60, 62.0), (1, 30, None)]
)
def test_a_forecast_is_the_amount_at_the_end_of_the_month_at_the_same_pace(
    day: int, used: int, forecast: float | None
) -> None:
    now = datetime(2026, 1, day, tzinfo=UTC).timestamp()

    found = forecast_of(_limit(Measure.COST, Window.MONTH), used, now=now)

    assert found == (None if forecast is None else pytest.approx(forecast))


def test_a_sliding_window_has_no_forecast() -> None:
    assert forecast_of(_limit(Measure.REQUESTS, Window.MINUTE), 5, now=1e9) is None
