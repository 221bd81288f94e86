from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest

from sidecar.domain.limits import Level, Limit, Measure, Priority, Window
from sidecar.limits.limit_check import (
    CalendarWindow,
    ConcurrencyWindow,
    Exceeded,
    LimitCheck,
    RequestCost,
    SlidingWindow,
    limit_checks,
)

NOW = dt.datetime(2026, 3, 29, 12, tzinfo=dt.UTC).timestamp()


def limit(measure: Measure = Measure.REQUESTS, **fields: object) -> Limit:
    """Return a limit of a team, a hundred a minute unless told otherwise."""
    defaults: dict[str, object] = {
        "id": "lim_1", "level": Level.TEAM, "window": Window.MINUTE, "amount": 100,
    }  # fmt: skip
    return Limit(measure=measure, **{**defaults, **fields})  # type: ignore[arg-type]


def demand(**fields: object) -> RequestCost:
    """Return a chat request."""
    defaults: dict[str, object] = {"operation": "chat", "model": "gpt-5-mini"}
    return RequestCost(**{**defaults, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("measure", "cost"),
    [
        (Measure.REQUESTS, 1),
        (Measure.INPUT_TOKENS, 30),
        (Measure.OUTPUT_TOKENS, 50),
        (Measure.TOKENS, 80),
        (Measure.COST, 7),
    ],
)
def test_a_claim_costs_what_its_limit_measures(measure: Measure, cost: int) -> None:
    """Tokens and money as estimated before the request is made."""
    one = limit(measure, level=Level.KEY)
    asked = demand(input_tokens=30, output_tokens=50, cost=7)
    checks = limit_checks([one], asked, now=NOW)
    at_once = 10 if measure is Measure.REQUESTS else 100
    assert checks == (LimitCheck(one, SlidingWindow(60, at_once), cost, 0),)


@pytest.mark.parametrize(
    ("models", "operations", "model", "operation", "holds"),
    [
        (None, None, "gpt-5", "chat", True),
        (("gpt-*",), None, "gpt-5", "chat", True),
        (("claude-*",), None, "gpt-5", "chat", False),
        (("claude-*",), None, None, "chat", True),
        (("gpt-5*",), None, "GPT-5", "chat", True),
        (("GPT-5*",), None, "gpt-5", "chat", True),
        (("claude-*",), None, "gpt-5 ", "chat", True),
        (("claude-*",), None, "gpt%2D5", "chat", True),
        (None, ("embeddings",), "gpt-5", "chat", False),
        (None, ("chat",), "gpt-5", "chat", True),
        (None, ("chat",), "gpt-5", None, True),
    ],
)
def test_a_limit_holds_for_its_models_and_operations(
    models: tuple[str, ...] | None,
    operations: tuple[str, ...] | None,
    model: str | None,
    operation: str | None,
    *,
    holds: bool,
) -> None:
    """What is unread, or could be read as another name, counts for every limit.

    Else a client that hides the model, or spells it in its own way, would hide from limits.
    """
    one = limit(models=models, operations=operations)
    checks = limit_checks([one], demand(model=model, operation=operation), now=NOW)
    assert bool(checks) is holds


@pytest.mark.parametrize(
    ("measure", "asked"),
    [
        (Measure.REQUEST_BYTES, {"request_bytes": 101}),
        (Measure.MAX_OUTPUT_TOKENS, {"output_tokens": 101}),
    ],
)
def test_one_request_can_break_a_limit_by_itself(measure: Measure, asked: dict[str, int]) -> None:
    """Nothing is counted for it."""
    one = limit(measure, window=Window.ONCE)
    assert limit_checks([one], demand(**asked), now=NOW) == Exceeded(one)
    assert limit_checks([one], demand(), now=NOW) == ()


@pytest.mark.parametrize(
    ("level", "priority", "reserve"),
    [
        (Level.TEAM, Priority.INTERACTIVE, 0),
        (Level.TEAM, Priority.STANDARD, 5),
        (Level.ORGANIZATION, Priority.BATCH, 20),
        (Level.KEY, Priority.BATCH, 0),
    ],
)
def test_a_shared_limit_is_left_for_those_before(
    level: Level, priority: Priority, reserve: int
) -> None:
    """A key's own limit is its own."""
    asked = demand(priority=priority)
    of_day, of_burst = limit(level=level, window=Window.DAY), limit(level=level, burst=100)
    checks = limit_checks([of_day, of_burst], asked, now=NOW)
    assert isinstance(checks, tuple)
    assert [check.reserve for check in checks] == [reserve, reserve]


def test_of_a_window_no_more_is_left_for_others_than_a_part_of_the_burst() -> None:
    """Or there would never be enough: of 600 a minute 60 can be had at once, a fifth is 120."""
    one = limit(amount=600)
    checks = limit_checks([one], demand(priority=Priority.BATCH), now=NOW)
    assert checks == (LimitCheck(one, SlidingWindow(60, 60), 1, 12),)


def test_of_nothing_not_even_what_costs_nothing_is_let_through() -> None:
    """The cost of a model without a price is not known."""
    one = limit(Measure.COST, level=Level.KEY, window=Window.MONTH, amount=0)
    checks = limit_checks([one], demand(cost=0), now=NOW)
    assert isinstance(checks, tuple)
    assert [check.cost for check in checks] == [1]


def test_a_bracket_in_a_glob_stands_for_itself() -> None:
    """As in every other list of models."""
    one = limit(models=("claude-opus-4[1m]",))
    assert isinstance(limit_checks([one], demand(model="claude-opus-4[1m]"), now=NOW), tuple)
    assert limit_checks([one], demand(model="claude-opus-41"), now=NOW) == ()


def test_slots_are_counted_at_any_moment() -> None:
    """Not over a time."""
    checks = limit_checks([limit(Measure.CONCURRENT, window=Window.ONCE)], demand(), now=NOW)
    assert isinstance(checks, tuple)
    assert [check.window for check in checks] == [ConcurrencyWindow()]


@pytest.mark.parametrize(
    ("window", "zone", "starts"),
    [
        (Window.DAY, "UTC", ["2026-03-28", "2026-03-29", "2026-03-30", "2026-03-31"]),
        (Window.DAY, "Europe/Berlin", ["2026-03-28", "2026-03-29", "2026-03-30", "2026-03-31"]),
        (Window.WEEK, "UTC", ["2026-03-16", "2026-03-23", "2026-03-30", "2026-04-06"]),
        (Window.MONTH, "UTC", ["2026-02-01", "2026-03-01", "2026-04-01", "2026-05-01"]),
        (Window.MONTH, "Asia/Tokyo", ["2026-02-01", "2026-03-01", "2026-04-01", "2026-05-01"]),
    ],
)
def test_periods_are_those_of_the_calendar_where_the_limit_is(
    window: Window, zone: str, starts: list[str]
) -> None:
    """Midnight by the wall clock there; the day the clocks change has 23 hours."""
    one = limit(Measure.COST, window=window, time_zone=zone)
    checks = limit_checks([one], demand(), now=NOW)
    assert isinstance(checks, tuple)
    midnights = tuple(
        int(dt.datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone)).timestamp())
        for start in starts
    )
    assert [check.window for check in checks] == [CalendarWindow(midnights)]
