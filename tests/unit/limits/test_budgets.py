"""Thresholds of a budget, and where its period is going."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.limits import Level, Limit, Measure, Window
from sidecar.limits.budgets import THRESHOLDS, Forecast, forecast, thresholds_passed


def at(*parts: int) -> float:
    return datetime(*parts, tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc] # year, month, …


def budget(amount: int = 100, window: Window = Window.DAY) -> Limit:
    return Limit(id="b", level=Level.TEAM, measure=Measure.COST, window=window, amount=amount)


@pytest.mark.parametrize(
    ("used", "passed"),
    [
        (0, ()), (49, ()), (50, (50,)), (79, (50,)), (80, (50, 80)), (94, (50, 80, 90)),
        (95, THRESHOLDS), (300, THRESHOLDS),
    ],
)  # fmt: skip
def test_a_threshold_is_passed_when_it_is_reached(used: int, passed: tuple[int, ...]) -> None:
    """Not rounded."""
    assert thresholds_passed(used, 100) == passed


@given(st.integers(0, 10**12), st.integers(1, 10**12), st.integers(0, 10**6))
def test_using_more_passes_no_fewer_thresholds(used: int, amount: int, more: int) -> None:
    """Those passed are always the lowest ones."""
    fewer, all_ = thresholds_passed(used, amount), thresholds_passed(used + more, amount)
    assert all_[: len(fewer)] == fewer == THRESHOLDS[: len(fewer)]


def test_a_period_goes_on_as_it_began() -> None:
    """A quarter of the day, and thirty of a hundred."""
    day, now = at(2026, 3, 4), at(2026, 3, 4, 6)
    assert forecast(budget(), 30, now=now) == Forecast(
        int(day), int(day) + 86_400, projected=120, runs_out_at=day + 72_000
    )
    assert forecast(budget(), 25, now=now) == Forecast(int(day), int(day) + 86_400, 100)


def test_what_has_run_out_has_run_out_now() -> None:
    """The rate does not say when it happened."""
    now = at(2026, 3, 4, 6)
    found = forecast(budget(), 100, now=now)
    assert found is not None
    assert found.runs_out_at == now


def test_the_first_hour_of_a_period_projects_nothing() -> None:
    """One request in its first minute would be forty thousand in the month."""
    month = at(2026, 3, 1)
    found = forecast(budget(window=Window.MONTH), 99, now=month + 3_599)
    assert found == Forecast(int(month), int(at(2026, 4, 1)))


def test_what_slides_has_no_period() -> None:
    """So nothing is forecast."""
    assert forecast(budget(window=Window.MINUTE), 1, now=at(2026, 3, 4)) is None
