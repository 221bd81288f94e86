"""What is told of a budget before it is used up: thresholds that were passed, and a forecast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sidecar.domain.limits import Limit
from sidecar.limits.claims import Calendar, span_of
from sidecar.limits.local import period_start

THRESHOLDS: Final = (50, 80, 90, 95)
"""In percent of a budget's amount. Nothing stops there; somebody is told."""

FORECAST_SECONDS: Final = 3_600
"""A period younger than this says nothing about its end."""


def thresholds_passed(used: int, amount: int) -> tuple[int, ...]:
    """Return the thresholds that *used* of *amount* has reached."""
    return tuple(one for one in THRESHOLDS if used * 100 >= amount * one)


@dataclass(frozen=True, slots=True)
class Forecast:
    """One period of a budget, in seconds since the epoch, and how it ends at its rate so far.

    `projected` is what will have been used by its end, in the measure of the limit; None where the
    period is too young to tell. `runs_out_at` is when the amount will be, None if in no time.
    """

    start: int
    end: int
    projected: int | None = None
    runs_out_at: float | None = None


def forecast(limit: Limit, used: int, *, now: float) -> Forecast | None:
    """Return how the period of *limit* that *now* is in goes on; None where it has no periods."""
    span = span_of(limit, now=now)
    if not isinstance(span, Calendar):
        return None
    start = period_start(span.borders, now)
    end = next(border for border in span.borders if border > now)
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
