"""Thresholds of a budget, and where its period is going."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.limits import Level, Limit, Measure, Window
from sidecar.limits import budgets as budgets_module
from sidecar.limits.budgets import THRESHOLDS, BudgetWatch, Forecast, forecast, thresholds_passed
from sidecar.limits.store import State


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


class Told:
    """The port `ThresholdListener`: keeps what it was told."""

    def __init__(self) -> None:
        self.passed: list[tuple[str, int]] = []

    def threshold_passed(self, limit: Limit, threshold: int) -> None:
        """Keep it."""
        self.passed.append((limit.id, threshold))


@pytest.mark.parametrize(
    ("told", "passed", "heard"),
    [(0, 0, []), (0, 50, [50]), (0, 90, [50, 80, 90]), (80, 95, [90, 95]), (90, 90, [])],
)
def test_each_threshold_that_was_passed_is_told(told: int, passed: int, heard: list[int]) -> None:
    """One after the other, though a request may pass several."""
    listener = Told()
    state = State(0, 5, 10.0, reported=told, passed=passed)
    BudgetWatch(listener).note(budget(), state, now=0.0, is_taken=True)
    assert listener.passed == [("b", threshold) for threshold in heard]


def test_a_request_without_room_passes_no_threshold() -> None:
    """It took nothing, and whoever takes next is told of them."""
    listener = Told()
    state = State(0, 5, 10.0, reported=50, passed=95)
    BudgetWatch(listener).note(budget(), state, now=0.0, is_taken=False)
    assert listener.passed == []


def test_the_budget_with_least_left_is_shown_until_its_period_ends() -> None:
    """Of each level and window; a new period has all of it."""
    watched = BudgetWatch()
    for number, left in enumerate((60, 25, 80)):
        one = replace(budget(), id=f"b{number}")
        watched.note(one, State(0, left, 10.0), now=0.0, is_taken=True)
    monthly = replace(budget(window=Window.MONTH), id="m", level=Level.KEY)
    watched.note(monthly, State(0, 90, 99.0), now=0.0, is_taken=True)
    zero = replace(budget(amount=0, window=Window.WEEK), id="z")
    watched.note(zero, State(0, 0, 99.0), now=0.0, is_taken=False)
    kinds = [(Level.TEAM, Window.DAY), (Level.KEY, Window.MONTH), (Level.TEAM, Window.WEEK)]
    assert watched.lowest(now=5.0) == dict(zip(kinds, (0.25, 0.9, 0.0), strict=True))
    assert watched.lowest(now=10.0) == dict(zip(kinds, (1.0, 0.9, 0.0), strict=True))


@pytest.mark.parametrize("scope", ["team:t1", "*"])
def test_a_budget_whose_owner_has_changed_is_forgotten_until_its_next_request(scope: str) -> None:
    """It may be larger now, or gone: an alert on the old one would last until its period ends."""
    watched = BudgetWatch()
    for owner, left in (("t1", 5), ("t2", 80)):
        one = replace(budget(), id=f"{owner}/cost/day/0a1b2c3d")
        watched.note(one, State(0, left, 10.0), now=0.0, is_taken=True)
    watched.forget("key1")
    assert watched.lowest(now=0.0) == {(Level.TEAM, Window.DAY): 0.05}
    watched.forget(scope)
    left_over = 1.0 if scope == "*" else 0.8
    assert watched.lowest(now=0.0) == {(Level.TEAM, Window.DAY): left_over}


def test_a_worker_remembers_so_many_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand keys with budgets of their own are no leak."""
    monkeypatch.setattr(budgets_module, "MAX_WATCHED", 2)
    watched = BudgetWatch()
    for number, left in enumerate((10, 20, 30)):
        one = replace(budget(), id=f"b{number}")
        watched.note(one, State(0, left, 10.0), now=0.0, is_taken=True)
    assert watched.lowest(now=0.0) == {(Level.TEAM, Window.DAY): 0.2}


def test_a_limit_on_something_else_is_no_budget() -> None:
    """Nobody is told of tokens."""
    listener = Told()
    watched = BudgetWatch(listener)
    tokens = replace(budget(), measure=Measure.TOKENS)
    watched.note(tokens, State(0, 5, 10.0, reported=0, passed=95), now=0.0, is_taken=True)
    assert (listener.passed, watched.lowest(now=0.0)) == ([], {})
