"""Leases: shares of a limit that a worker takes in advance."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

import msgspec

from sidecar.domain.limits import Limit, LimitStatus
from sidecar.limits.limit_check import ConcurrencyWindow, LimitCheck
from sidecar.limits.local_shares import LastState
from sidecar.limits.store import Adjustment, State

TTL_SECONDS: Final = 1.0
"""Units that are not used within it are given back."""
HORIZON_SECONDS: Final = 0.25
"""A lease is meant to last so long at the present rate."""
LARGEST_SHARE: Final = 64
"""One lease is at most this fraction of the limit's amount."""
SMALLEST: Final = 2
"""A lease of one unit would save no call: a request asks for that itself."""
SHORT_SECONDS: Final = 0.05
"""After a refill that brought nothing, how long until the next try; requests ask one by one."""


class Lease(msgspec.Struct, gc=False):
    """The units of one limit that this worker may give out."""

    amount: int
    left: int = 0
    expires_at: float = 0.0
    period_start: int = 0
    begun: float = 0.0
    rate: float = 0.0
    refilling: bool = False
    _measured_at: float = 0.0
    _measured: int = 0
    _short_until: float = 0.0
    _granted_until: float = 0.0

    def take(
        self, cost: int, *, now: float, period_start: int = 0, is_measured: bool = False
    ) -> bool:
        """Give out *cost* units, or none; those of a calendar period are for that period only.

        A request that asks again was measured before (*is_measured*): it is one demand.
        A request that costs nothing, say for a model without a price, is refused only by an
        overdrawn limit: once refused, it asks again when granted units would have expired.
        """
        if not is_measured:
            self._measured += cost
        passed = now - self._measured_at
        if passed >= HORIZON_SECONDS:  # follow the rate of demand, in units a second
            latest = self._measured / min(passed, TTL_SECONDS)
            self.rate = (self.rate + latest) / 2 if passed < TTL_SECONDS else latest
            self._measured, self._measured_at = 0, now
        until = self.expires_at if cost else self._granted_until
        if now >= until or self.left < cost or period_start != self.period_start:
            return False
        self.left -= cost
        return True

    def put_back(self, cost: int) -> None:
        """Take back units that were given out and not used after all."""
        self.left += cost

    def wanted(self, *, now: float) -> int:
        """Return how many units a refill should bring, 0 if none is due."""
        size = min(int(self.rate * HORIZON_SECONDS) + 1, self.amount // LARGEST_SHARE)
        if size < SMALLEST or now < self._short_until:
            return 0
        is_low = self.left * 2 < size or now >= self.expires_at
        return max(0, size - self.left) if is_low and not self.refilling else 0

    def filled(
        self, units: int, *, asked: int, now: float, period_start: int = 0, begun: float = 0.0
    ) -> int:
        """Keep the units of a refill from the counter that was *begun* then.

        Return the units left of another counter, now given up: one of an earlier period, or one
        that was lost and begun anew, which does not include units taken before.
        """
        self._granted_until = now + TTL_SECONDS
        given_up = 0
        if (self.period_start, self.begun) != (period_start, begun):
            given_up = self.give_up()
            self.period_start, self.begun = period_start, begun
        if units:
            self.left += units
            self.expires_at = now + TTL_SECONDS
        elif asked:
            self._short_until = now + SHORT_SECONDS
        return given_up

    def is_in_demand(self, *, now: float) -> bool:
        """Return whether a request has needed units lately."""
        return now - self._measured_at < 2 * TTL_SECONDS

    def expired(self, *, now: float) -> int:
        """Give up units that were not used in time; return their number."""
        return 0 if now < self.expires_at else self.give_up()

    def give_up(self) -> int:
        """Give up all units that are left; return their number."""
        units, self.left = self.left, 0
        return units


def are_leasable(checks: tuple[LimitCheck, ...]) -> bool:
    """Return whether leases can ever have all units of *checks*.

    If one of them has to ask for itself each time, units ahead of the others would lie unused.
    """
    for check in checks:
        if isinstance(check.window, ConcurrencyWindow) or (
            check.cost and check.limit.amount < SMALLEST * LARGEST_SHARE
        ):
            return False
    return True


MAX_KNOWN: Final = 50_000
"""Limits whose last status is remembered, some 20 MB; beyond, only those with leases."""


class _Held(msgspec.Struct, gc=False):
    scope: str
    check: LimitCheck
    lease: Lease


Returned = Iterator[tuple[str, Adjustment]]
"""Scopes of shared counters, and the units returned to them."""


class LeaseTable:
    """The leases of a worker. No I/O and no clock: times are monotonic seconds, passed in."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, int], _Held] = {}
        self.known: dict[str, LastState] = {}

    def take(
        self, scope: str, checks: tuple[LimitCheck, ...], *, now: float, is_measured: bool
    ) -> tuple[Lease, ...] | None:
        """Give out all units that *checks* ask for and return their leases, else None."""
        if not are_leasable(checks):
            return None
        given: list[Lease] = []
        for check in checks:
            lease, period = self.lease(scope, check), check.period_start
            if not lease.take(check.cost, now=now, period_start=period, is_measured=is_measured):
                for one, taken in zip(given, checks, strict=False):
                    one.put_back(taken.cost)
                return None
            given.append(lease)
        return tuple(given)

    def lease(self, scope: str, check: LimitCheck) -> Lease:
        """Return the lease for *check*, a new one if there is none."""
        key = (check.limit.id, check.reserve)
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = _Held(scope, check, Lease(check.limit.amount))
        held.check = check
        held.lease.amount = check.limit.amount
        return held.lease

    def fill(
        self, scope: str, check: LimitCheck, state: State, *, asked: int, now: float
    ) -> Adjustment | None:
        """Keep units taken ahead and the status of the limit; return units to be given back."""
        self.note(check, state, now=now)
        if isinstance(check.window, ConcurrencyWindow):
            return None
        period = check.period_start
        lease = self.lease(scope, check)
        before, begun = lease.period_start, lease.begun
        units = lease.filled(
            state.ahead, asked=asked, now=now, period_start=period, begun=state.begun
        )
        return _units_back(check.limit, units, before, begun) if units else None

    def note(self, check: LimitCheck, state: State, *, now: float) -> None:
        """Remember the status of the limit of *check*."""
        self.known.pop(check.limit.id, None)  # the newest are last
        self.known[check.limit.id] = LastState(state, now, check.period_start)

    def standing(self, check: LimitCheck) -> LimitStatus:
        """Return the status of a limit of which a lease or a reply has just given units."""
        state = self.known[check.limit.id].state
        held = self._held.get((check.limit.id, check.reserve))
        left = 0 if held is None else held.lease.left
        return LimitStatus(check.limit, state.remaining + left, state.reset_seconds)

    def expired(self, *, now: float) -> Returned:
        """Give up units that were not used in time, and forget leases without demand."""
        for key, held in list(self._held.items()):
            lease = held.lease
            if units := lease.expired(now=now):
                yield held.scope, _returned(held, units)
            elif not lease.refilling and not lease.left and not lease.is_in_demand(now=now):
                del self._held[key]
        if len(self.known) > MAX_KNOWN:
            leased = {limit_id for limit_id, _ in self._held}
            for limit_id in list(islice(self.known, len(self.known) - MAX_KNOWN)):
                if limit_id not in leased:
                    del self.known[limit_id]

    def give_up(self) -> Returned:
        """Give up everything."""
        for held in self._held.values():
            if units := held.lease.give_up():
                yield held.scope, _returned(held, units)

    def held(self) -> Iterator[Adjustment]:
        """Yield the units that `give_up` would return."""
        for held in self._held.values():
            if held.lease.left:
                yield _returned(held, held.lease.left)


def _returned(held: _Held, units: int) -> Adjustment:
    return _units_back(held.check.limit, units, held.lease.period_start, held.lease.begun)


def _units_back(limit: Limit, units: int, period_start: int, begun: float) -> Adjustment:
    # As if taken when their counter was begun, by the clock of the store: units can be returned
    # to that counter, and not to one that was begun later.
    return Adjustment(limit, -units, period_start=period_start, taken_at=begun)
