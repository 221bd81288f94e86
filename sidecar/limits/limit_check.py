"""The units that a request takes of each of its limits."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Iterable
from typing import Final, assert_never
from zoneinfo import ZoneInfo

import msgspec

from sidecar.domain.limits import (
    RESERVED,
    Level,
    Limit,
    Measure,
    Priority,
    Window,
    sliding_seconds,
)
from sidecar.domain.validation import may_be_model

PERIODS: Final = 4
"""Four borders bound three calendar periods (previous, current, next): Valkey's clock selects the
period, so the worker's clock may be off by up to one."""


class RequestCost(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The units that a request takes, as far as they are known before it is made.

    `input_tokens` is estimated, `output_tokens` the most it may produce; `cost` is of both, in
    millionths of a US dollar. If no `model` was read, it is None, and every limit by model holds.
    """

    operation: str | None
    model: str | None
    priority: Priority = Priority.STANDARD
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    request_bytes: int = 0

    def of(self, measure: Measure) -> int:
        """Return how much of *measure* it takes."""
        match measure:
            case Measure.REQUESTS | Measure.CONCURRENT:
                return 1
            case Measure.INPUT_TOKENS:
                return self.input_tokens
            case Measure.OUTPUT_TOKENS | Measure.MAX_OUTPUT_TOKENS:
                return self.output_tokens
            case Measure.TOKENS:
                return self.input_tokens + self.output_tokens
            case Measure.COST:
                return self.cost
            case Measure.REQUEST_BYTES:
                return self.request_bytes
            case _:
                assert_never(measure)


class SlidingWindow(msgspec.Struct, frozen=True, gc=False):
    """An amount in any stretch of time, a part of it at once (GCRA)."""

    window_seconds: int
    at_once: int


class CalendarWindow(msgspec.Struct, frozen=True, gc=False):
    """An amount in a calendar period; *borders* are seconds since the epoch, ascending."""

    borders: tuple[int, ...]

    @property
    def start(self) -> int:
        """The start of this period, by the clock of the worker."""
        return self.borders[1]


class ConcurrencyWindow(msgspec.Struct, frozen=True, gc=False):
    """A number of requests at any moment."""


LimitWindow = SlidingWindow | CalendarWindow | ConcurrencyWindow

_SLOTS: Final = ConcurrencyWindow()
_MINUTE: Final = 60


class LimitCheck(msgspec.Struct, frozen=True, gc=False):
    """The units one limit has to give. `reserve` is kept for requests of higher priority."""

    limit: Limit
    window: LimitWindow
    cost: int
    reserve: int

    @property
    def period_start(self) -> int:
        """The start of the calendar period, 0 for another window."""
        return self.window.start if isinstance(self.window, CalendarWindow) else 0

    @property
    def never_passes(self) -> bool:
        """Whether the limit has no room for it at any time."""
        window, amount = self.window, self.limit.amount
        whole = window.at_once if isinstance(window, SlidingWindow) else amount
        return not amount or self.cost + self.reserve > whole


class Exceeded(msgspec.Struct, frozen=True, gc=False):
    """A limit that one request exceeds by itself."""

    limit: Limit


def limit_checks(
    limits: Iterable[Limit], demand: RequestCost, *, now: float
) -> tuple[LimitCheck, ...] | Exceeded:
    """Return the claims of a request; *now* is in seconds since the epoch."""
    checks: list[LimitCheck] = []
    for limit in limits:
        if not is_for_operation(limit, demand.operation):
            continue
        if demand.model is not None and not is_for_model(limit, demand.model):
            continue
        measure = limit.measure
        cost = demand.of(measure)
        if measure is Measure.REQUEST_BYTES or measure is Measure.MAX_OUTPUT_TOKENS:
            if cost > limit.amount:
                return Exceeded(limit)
            continue
        window = window_of(limit, now=now)
        reserve = 0
        if limit.level is not Level.KEY:
            # Of a window, no more than the burst is ever left: the share is one of that.
            whole = window.at_once if isinstance(window, SlidingWindow) else limit.amount
            reserve = int(whole * RESERVED[demand.priority])
        # A limit of 0 refuses all, even a request whose cost is estimated as 0.
        checks.append(LimitCheck(limit, window, cost if limit.amount else max(1, cost), reserve))
    return tuple(checks)


def is_for_operation(limit: Limit, operation: str | None) -> bool:
    """Return whether *limit* holds for *operation*; every limit holds for an unknown one."""
    return limit.operations is None or operation is None or operation in limit.operations


def is_for_model(limit: Limit, model: str) -> bool:
    """Return whether *limit* holds for *model*."""
    return limit.models is None or may_be_model(model, limit.models)


def window_of(limit: Limit, *, now: float) -> LimitWindow:
    """Return the window in which *limit* counts, around *now*."""
    seconds = sliding_seconds(limit.window)
    if seconds is not None:
        return SlidingWindow(seconds, limit.at_once)
    if limit.window is Window.ONCE:
        return _SLOTS
    # No zone is off by part of a minute, and most requests of one, and their ends, ask the same.
    return _calendar(limit.window.value, limit.time_zone, int(now // _MINUTE))


@functools.lru_cache(maxsize=1_024)
def _calendar(name: str, time_zone: str, minute: int) -> CalendarWindow:
    """Return the periods around a minute since the epoch; *name* is a window's."""
    window, zone = Window(name), ZoneInfo(time_zone)
    start = _start(window, dt.datetime.fromtimestamp(minute * _MINUTE, zone).date())
    starts = [_start(window, start - dt.timedelta(days=1)), start]
    days = {Window.MONTH: 32, Window.WEEK: 7}.get(window, 1)  # into the next period
    while len(starts) < PERIODS:
        starts.append(_start(window, starts[-1] + dt.timedelta(days=days)))
    # Midnight by the wall clock of the zone: a day in March has 23 hours there.
    return CalendarWindow(
        tuple(int(dt.datetime.combine(one, dt.time(), zone).timestamp()) for one in starts)
    )


def _start(window: Window, day: dt.date) -> dt.date:
    match window:
        case Window.MONTH:
            return day.replace(day=1)
        case Window.WEEK:
            return day - dt.timedelta(days=day.weekday())
        case _:
            return day
