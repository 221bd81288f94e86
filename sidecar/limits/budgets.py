"""Budget alerts at thresholds, and spend forecast."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sidecar.domain.limits import Level, Limit, LimitStatus, Measure, Window
from sidecar.limits.limit_check import CalendarWindow, window_of
from sidecar.limits.local_shares import period_start
from sidecar.limits.serialization import owner_of
from sidecar.limits.store import State, ThresholdListener

THRESHOLDS: Final = (50, 80, 90, 95)
"""In percent of a budget's amount. Each raises an alert once; no request is refused for it."""

FORECAST_SECONDS: Final = 3_600
"""A younger period has no forecast."""


def thresholds_passed(used: int, amount: int) -> tuple[int, ...]:
    """Return the thresholds that *used* of *amount* has reached."""
    return tuple(one for one in THRESHOLDS if used * 100 >= amount * one)


def highest_passed(standings: Iterable[LimitStatus]) -> int:
    """Return the highest threshold that any budget among *standings* has passed, else 0."""
    highest = 0
    for one in standings:
        if one.limit.measure is Measure.COST:
            amount = one.limit.amount
            highest = max(highest, *thresholds_passed(amount - one.remaining, amount), 0)
    return highest


MAX_WATCHED: Final = 2_000
"""Budgets that a worker remembers, and looks through once a second. Beyond, the one that it has
remembered for the longest time is dropped until its next request."""


@dataclass(frozen=True, slots=True)
class _Watched:
    level: Level
    window: Window
    left: float
    ends_at: float


class BudgetWatch:
    """The last known status of each budget that a request counted against; reports thresholds."""

    def __init__(self, listener: ThresholdListener | None = None) -> None:
        self._listener = listener
        self._watched: dict[str, _Watched] = {}
        self._kinds: dict[tuple[Level, Window], float] = {}

    def note(self, limit: Limit, state: State, *, now: float, is_taken: bool) -> None:
        """Keep how *limit* stands, if it is a budget; *now* is in seconds since the epoch."""
        if limit.measure is not Measure.COST:
            return
        if limit.id not in self._watched and len(self._watched) >= MAX_WATCHED:
            del self._watched[next(iter(self._watched))]
        left = state.remaining / limit.amount if limit.amount else 0.0
        ends_at = now + state.reset_seconds
        self._kinds[limit.level, limit.window] = 1.0
        self._watched[limit.id] = _Watched(limit.level, limit.window, left, ends_at)
        if self._listener is None or not is_taken:
            return
        for threshold in THRESHOLDS:
            if state.reported < threshold <= state.passed:
                self._listener.threshold_passed(limit, threshold)

    def lowest(self, *, now: float) -> dict[tuple[Level, Window], float]:
        """Return the smallest share that is left of any budget, by level and window.

        A budget whose period has ended since the last request counts as unused. If none of a kind
        is remembered any more, nothing of that kind is used.
        """
        found = self._kinds.copy()
        for one in self._watched.values():
            left = one.left if now < one.ends_at else 1.0
            kind = (one.level, one.window)
            found[kind] = min(found[kind], left)
        return found

    def forget(self, scope: str) -> None:
        """Forget the budgets of an owner that has changed: an id, or `team:<id>`; of all with `*`.

        They may be larger now, or gone. The next request shows those that are left.
        """
        owner = scope.rpartition(":")[2]
        self._watched = {
            limit_id: one
            for limit_id, one in self._watched.items()
            if scope != "*" and owner_of(limit_id) != owner
        }


@dataclass(frozen=True, slots=True)
class Forecast:
    """One period of a budget, in seconds since the epoch, and its end at the rate so far.

    `projected` is the use at its end, in the measure of the limit, None for a period that is too
    young. `runs_out_at` is the time at which the amount is used up, None if it is not.
    """

    start: int
    end: int
    projected: int | None = None
    runs_out_at: float | None = None


def forecast(limit: Limit, used: int, *, now: float) -> Forecast | None:
    """Forecast the period of *limit* around *now*; None for a limit without periods."""
    window = window_of(limit, now=now)
    if not isinstance(window, CalendarWindow):
        return None
    start = period_start(window.borders, now)
    end = next(border for border in window.borders if border > now)
    passed = now - start
    if passed < FORECAST_SECONDS:
        return Forecast(start, end)
    rate = used / passed
    runs_out_at = None
    if used >= limit.amount:
        runs_out_at = now
    elif rate * (end - start) > limit.amount:
        runs_out_at = start + limit.amount / rate
    return Forecast(start, end, round(rate * (end - start)), runs_out_at)
