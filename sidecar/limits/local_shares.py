"""Local limits of a worker while Valkey is unavailable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, assert_never

import msgspec

from sidecar.limits.limit_check import CalendarWindow, ConcurrencyWindow, LimitCheck, SlidingWindow
from sidecar.limits.store import Adjustment, State

LOCAL_SLOT_SECONDS: Final = 60.0
"""How long a slot is held at most: its release may reach another worker."""


class Instant(msgspec.Struct, frozen=True, gc=False):
    """Monotonic seconds, and seconds since the epoch: only calendars go by those."""

    monotonic: float
    wall: float


class LastState(msgspec.Struct, frozen=True, gc=False):
    """The status of a limit in the last reply of the shared counters.

    It came at `at` by the monotonic clock, in the calendar period that began at `period_start`.
    """

    state: State
    at: float
    period_start: int = 0


@dataclass(slots=True)
class _Count:
    tat: float = 0.0
    start: int = 0
    used: int = 0
    slots: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class SharingWorker:
    """One of `shares` workers that share limits now; `instance` was never another's before."""

    instance: str
    shares: int


class LocalShares:
    """A worker's share of the units that were left of every limit before the outage.

    Not of the whole limit: the worker has had its part of the used units already. Units used here
    are reported to the shared counters when they are back, and remembered until they are counted.
    """

    def __init__(self, worker: SharingWorker) -> None:
        self._worker = worker
        self._counts: dict[str, _Count] = {}

    def take(
        self,
        checks: tuple[LimitCheck, ...],
        *,
        member: str,
        now: Instant,
        known: Mapping[str, LastState],
    ) -> int | None:
        """Take all claims, or none; return the index of the one without room, else None."""
        for index, check in enumerate(checks):
            left = self.state(check, now=now, known=known.get(check.limit.id)).remaining
            if left < check.cost + check.reserve // self._worker.shares:
                return index
        for check in checks:
            count, window = self._counts[check.limit.id], check.window
            match window:
                case SlidingWindow():
                    interval = window.window_seconds / max(1, self._share(check.limit.amount))
                    count.tat = max(count.tat, now.monotonic) + check.cost * interval
                case CalendarWindow():
                    start = period_start(window.borders, now.wall)
                    count.used = check.cost + (count.used if count.start == start else 0)
                    count.start = start
                case ConcurrencyWindow():
                    count.slots[member] = now.monotonic + LOCAL_SLOT_SECONDS
                case _:
                    assert_never(window)
        return None

    def state(self, check: LimitCheck, *, now: Instant, known: LastState | None) -> State:
        """Return the status of a limit here; *known* is the last one of the shared counter."""
        count = self._counts.setdefault(check.limit.id, _Count())
        amount = self._share(check.limit.amount)
        match check.window:
            case SlidingWindow() as window:
                interval = window.window_seconds / max(1, amount)
                at_once = self._share(window.at_once)
                if known is not None and window.at_once:
                    # As full as the shared one was; it has drained since.
                    passed = now.monotonic - known.at
                    drained = passed * check.limit.amount / window.window_seconds
                    is_used = 1 - min(1.0, (known.state.remaining + drained) / window.at_once)
                    count.tat = max(count.tat, now.monotonic + at_once * interval * is_used)
                ahead = max(0.0, count.tat - now.monotonic)
                room = (at_once * interval - ahead) / interval
                left = 0 if check.limit.amount == 0 else max(0, int(room + 1e-6))
                return State(0, left, max(interval, ahead))
            case CalendarWindow(borders):
                start = period_start(borders, now.wall)
                used = count.used if count.start == start else 0
                if known is not None and known.period_start == start:
                    amount = self._share(max(0, check.limit.amount - known.state.used))
                ends = next((border for border in borders if border > now.wall), now.wall)
                return State(0, max(0, amount - used), ends - now.wall, used)
            case ConcurrencyWindow():
                count.slots = {
                    name: until for name, until in count.slots.items() if until > now.monotonic
                }
                return State(0, max(0, amount - len(count.slots)), 1.0, len(count.slots))
            case _:
                assert_never(check.window)

    def settle(self, change: Adjustment) -> None:
        """Free the slot of a request that has ended, and return its unused units of a period."""
        count = self._counts.get(change.limit.id)
        if count is None:
            return
        count.slots.pop(change.member, None)
        if change.period_start and count.start == change.period_start:
            count.used = max(0, count.used + change.amount)

    def is_counting(self, limit_id: str) -> bool:
        """Return whether any use of a limit is remembered here."""
        return limit_id in self._counts

    def forget(self, limit_id: str) -> None:
        """Forget the use of a period: the shared counters include it.

        Slots of running requests and the use of a sliding window stay.
        """
        count = self._counts.get(limit_id)
        if count is not None:
            count.used = count.start = 0

    def tidy(self, *, now: Instant) -> None:
        """Drop counts that no longer matter."""
        self._counts = {
            name: count
            for name, count in self._counts.items()
            if count.tat > now.monotonic or count.start or count.slots
        }

    def _share(self, amount: int) -> int:
        return 0 if amount == 0 else max(1, amount // self._worker.shares)


def period_start(borders: tuple[int, ...], now: float) -> int:
    """Return the start of the period around *now*, 0 outside of all periods."""
    return max((border for border in borders if border <= now), default=0)
