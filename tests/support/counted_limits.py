"""Counts of limits as `limits.lua` and its like keep them, by a clock and with faults of a test's.

That both count the same is tested on a real Valkey (`tests/integration/test_limits_drift.py`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sidecar.domain.limits import Limit, Measure, sliding_seconds
from sidecar.limits.limit_check import CalendarWindow, ConcurrencyWindow, LimitCheck, SlidingWindow
from sidecar.limits.local_shares import period_start
from sidecar.limits.store import (
    Acquire,
    Acquired,
    Adjustment,
    Exhausted,
    LimitsUnavailableError,
    Reply,
    State,
    Uninitialized,
)

LEFT_FOR_ONE = 16
Answered = TypeVar("Answered")


class Fault(enum.Enum):
    """What becomes of a call."""

    NONE = "none"
    LOST = "it never arrives"
    UNHEARD = "it is done, and its answer is lost"


@dataclass
class Slid:
    """The theoretical arrival time, and the last long time in which all was free."""

    tat: float
    since: float
    until: float


@dataclass
class Server:
    """The memory that all workers share; `clock` is in seconds."""

    clock: Callable[[], float]
    sliding: dict[str, Slid] = field(default_factory=dict)
    periods: dict[str, tuple[int, int]] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)
    early: dict[str, tuple[int, int]] = field(default_factory=dict)
    slots: dict[str, set[str]] = field(default_factory=dict)
    names: dict[str, tuple[int, ...] | None] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    senders: dict[str, int] = field(default_factory=dict)

    def forget(self) -> None:
        """Lose all memory, as a server that was started again."""
        for memory in (
            self.sliding,
            self.periods,
            self.begun,
            self.early,
            self.slots,
            self.names,
            self.owners,
            self.senders,
        ):
            memory.clear()

    def try_one(self, acquire: Acquire) -> tuple[bool, State]:
        """Tell whether there is room, and how the limit stands then."""
        now, check = self.clock(), acquire.check
        limit, need = check.limit, acquire.cost + check.reserve
        match check.window:
            case SlidingWindow(window_seconds=window, at_once=at_once):
                interval = window / max(1, limit.amount)
                left = at_once - (self.slid(limit).tat - now) / interval
                if limit.amount == 0 or left + 1e-6 < need:
                    return False, State(0, max(0, int(left)), (need - left) * interval)
                ahead = max(0, min(acquire.ahead, int((left - need) / LEFT_FOR_ONE)))
                left -= acquire.cost + ahead
                return True, State(ahead, int(left + 1e-6), (at_once - left) * interval)
            case CalendarWindow(borders):
                used, begun = self.periods[limit.id][1], self.begun[limit.id]
                left = limit.amount - used
                reset = next(border for border in borders if border > now) - now
                if left < need:
                    return False, State(0, max(0, left), reset, used, begun=begun)
                ahead = max(0, min(acquire.ahead, (left - need) // LEFT_FOR_ONE))
                taken = acquire.cost + ahead
                return True, State(ahead, left - taken, reset, used + taken, begun=begun)
            case ConcurrencyWindow():
                used = len(self.slots.get(limit.id, ()))
                return used + need <= limit.amount, State(0, limit.amount - used, 1.0, used)

    def take_one(self, acquire: Acquire, units: int) -> None:
        """Take *units* and what was asked for."""
        limit = acquire.check.limit
        match acquire.check.window:
            case SlidingWindow():
                slid = self.sliding[limit.id] = self.slid(limit)
                slid.tat += (acquire.cost + units) * _interval(limit)
            case CalendarWindow():
                start, used = self.periods[limit.id]
                self.periods[limit.id] = (start, used + acquire.cost + units)
            case ConcurrencyWindow():
                self.slots.setdefault(limit.id, set()).add(acquire.member)

    def slid(self, limit: Limit) -> Slid:
        """Return the state of a sliding limit now."""
        now = self.clock()
        slid = self.sliding.get(limit.id)
        if slid is None:
            return Slid(now, now, now)
        kept = slid.until - slid.since - (now - slid.until)
        if slid.tat <= now and now - slid.tat > kept:
            return Slid(now, slid.tat, now)
        return replace(slid, tat=max(now, slid.tat))

    def slide(self, limit: Limit, units: int, *, age: float = 0.0) -> None:
        """Move the state of a sliding limit; what is given back late has drained."""
        now, slid = self.clock(), self.sliding.get(limit.id, Slid(0, 0, 0))
        move = units * _interval(limit)
        if units > 0:
            begin = max(slid.since, now - age)
            fits = max(0.0, min(move, slid.until - begin))
            since = begin + fits if fits else slid.since
            tat = max(slid.tat, now - age) + move - fits
            self.sliding[limit.id] = Slid(tat, since, slid.until)
        elif slid.tat > now:
            drained = min(0.0, age - limit.at_once * _interval(limit))
            slid.tat = max(now, slid.tat + max(move, drained))

    def unknown(self, acquires: Sequence[Acquire]) -> Uninitialized | None:
        """Return the first limit of which nothing is known in this period."""
        for index, acquire in enumerate(acquires):
            if isinstance(acquire.check.window, CalendarWindow):
                start = period_start(acquire.check.window.borders, self.clock())
                if self.periods.get(acquire.check.limit.id, (None, 0))[0] != start:
                    return Uninitialized(index, start)
        return None


@dataclass
class CountedLimits:
    """Implements `LimitStore`: one worker's connection to *server*, with faults."""

    server: Server
    fault: Callable[[], Fault] = lambda: Fault.NONE

    async def take(self, scope: str, acquires: Sequence[Acquire], *, name: str) -> Reply:
        """Take all, or nothing."""
        del scope
        return self._call(lambda: self._take(acquires, name))

    async def void(self, scope: str, names: Sequence[str]) -> tuple[tuple[int, ...] | None, ...]:
        """Tell what was taken under these names, and take nothing under them from now on."""
        del scope
        known = self.server.names
        return self._call(lambda: tuple(known.setdefault(name, None) for name in names))

    async def claim(self, scope: str, names: Sequence[str], *, sender: str) -> tuple[bool, ...]:
        """Tell which of these ends nobody else has claimed."""
        del scope
        owners = self.server.owners
        return self._call(
            lambda: tuple(owners.setdefault(name, sender) == sender for name in names)
        )

    async def begin(self, scope: str, check: LimitCheck, *, start: int, used: int) -> None:
        """Begin to count."""
        del scope
        self._call(lambda: self._begin(check, start, used))

    async def adjust(
        self, scope: str, changes: Sequence[Adjustment], *, sender: str, number: int
    ) -> None:
        """Put right, once."""
        del scope
        self._call(lambda: self._adjust(changes, sender, number))

    def _call(self, call: Callable[[], Answered]) -> Answered:
        fault = self.fault()
        if fault is Fault.LOST:
            raise LimitsUnavailableError(fault.value)
        answer = call()
        if fault is Fault.UNHEARD:
            raise LimitsUnavailableError(fault.value)
        return answer

    def _take(self, acquires: Sequence[Acquire], name: str) -> Reply:
        server = self.server
        unknown = server.unknown(acquires)
        if unknown is not None:
            return unknown
        tried = [server.try_one(acquire) for acquire in acquires]
        states = tuple(state for _, state in tried)
        for index, (has_room, _) in enumerate(tried):
            if not has_room:
                return Exhausted(index, states)
        server.names[name] = tuple(state.ahead for state in states)
        for acquire, state in zip(acquires, states, strict=True):
            server.take_one(acquire, state.ahead)
        return Acquired(states)

    def _adjust(self, changes: Sequence[Adjustment], sender: str, number: int) -> None:
        server = self.server
        if server.senders.get(sender, 0) >= number:
            return
        server.senders[sender] = number
        for change in changes:
            limit = change.limit
            if limit.measure is Measure.CONCURRENT:
                server.slots.get(limit.id, set()).discard(change.member)
            elif sliding_seconds(limit.window) is not None:
                server.slide(limit, change.amount, age=change.age_seconds)
            else:
                self._count(change)

    def _count(self, change: Adjustment) -> None:
        limit_id, start, server = change.limit.id, change.period_start, self.server
        begun, used = server.periods.get(limit_id, (0, 0))
        early_start, early = server.early.get(limit_id, (0, 0))
        since = server.begun.get(limit_id, 0.0)
        if change.amount < 0 and (begun != start or change.taken_at < since):
            return
        if begun == start:
            server.periods[limit_id] = (start, max(0, used + change.amount))
        elif early_start == start:
            server.early[limit_id] = (start, early + change.amount)
        elif begun < start:
            server.early[limit_id] = (start, change.amount)

    def _begin(self, check: LimitCheck, start: int, used: int) -> None:
        server, limit_id, now = self.server, check.limit.id, self.server.clock()
        assert isinstance(check.window, CalendarWindow)
        end = next(border for border in check.window.borders if border > start)
        if server.periods.get(limit_id, (0, 0))[0] != start and now < end:
            server.begun[limit_id] = now - 0.1
            early_start, early = server.early.pop(limit_id, (0, 0))
            server.periods[limit_id] = (start, max(0, used + early * (early_start == start)))


def _interval(limit: Limit) -> float:
    window = sliding_seconds(limit.window)
    assert window is not None
    return window / max(1, limit.amount)
