"""What a worker holds of limits: leases, by limit and priority, and how the limits stood."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from sidecar.domain.limits import Limit, Standing
from sidecar.limits.claims import Claim, Slots
from sidecar.limits.lease import Lease
from sidecar.limits.local import Known
from sidecar.limits.ports import Change, State

MAX_KNOWN: Final = 50_000
"""Of so many limits it is remembered how they stood, some 20 MB; beyond, of those in use."""


@dataclass(slots=True)
class _Held:
    scope: str
    claim: Claim
    lease: Lease


Returned = Iterator[tuple[str, Change]]
"""Whose count, and what is given back to it."""


class Holdings:
    """No I/O and no clock: times are monotonic seconds, passed in."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, int], _Held] = {}
        self.known: dict[str, Known] = {}

    def take(
        self, scope: str, claims: tuple[Claim, ...], *, now: float
    ) -> tuple[Lease, ...] | None:
        """Give out what *claims* ask for and return the lease of each; all, or nothing: None."""
        given: list[Lease] = []
        for claim in claims:
            lease = None if isinstance(claim.span, Slots) else self.lease(scope, claim)
            period = claim.period_start
            if lease is None or not lease.take(claim.cost, now=now, period_start=period):
                for one, taken in zip(given, claims, strict=False):
                    one.put_back(taken.cost)
                return None
            given.append(lease)
        return tuple(given)

    def lease(self, scope: str, claim: Claim) -> Lease:
        """Return the lease that *claim* is taken from, an empty one where there was none."""
        key = (claim.limit.id, claim.reserve)
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = _Held(scope, claim, Lease(claim.limit.amount))
        held.claim = claim
        held.lease.amount = claim.limit.amount
        return held.lease

    def fill(
        self, scope: str, claim: Claim, state: State, *, asked: int, now: float
    ) -> Change | None:
        """Keep what was taken ahead and how the limit stands; return what is given back."""
        self.note(claim, state, now=now)
        if isinstance(claim.span, Slots):
            return None
        period = claim.period_start
        lease = self.lease(scope, claim)
        before, begun = lease.period_start, lease.begun
        units = lease.filled(
            state.ahead, asked=asked, now=now, period_start=period, begun=state.begun
        )
        return _returned(claim.limit, units, start=before, begun=begun) if units else None

    def note(self, claim: Claim, state: State, *, now: float) -> None:
        """Keep in mind how the limit of *claim* stands."""
        self.known.pop(claim.limit.id, None)  # the newest are last
        self.known[claim.limit.id] = Known(state, now, claim.period_start)

    def standing(self, claim: Claim, lease: Lease | None) -> Standing:
        """Return how a limit stands of which *lease* or an answer has just given something."""
        state = self.known[claim.limit.id].state
        held = 0 if lease is None else lease.left
        return Standing(claim.limit, state.remaining + held, state.reset_seconds)

    def expired(self, *, now: float) -> Returned:
        """Give up what was not used in time, and forget what nobody asks for."""
        for key, held in list(self._held.items()):
            lease = held.lease
            if units := lease.expired(now=now):
                yield held.scope, _back(held, units)
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
                yield held.scope, _back(held, units)

    def held(self) -> Iterator[Change]:
        """Yield what giving up everything would give back."""
        for held in self._held.values():
            if held.lease.left:
                yield _back(held, held.lease.left)


def _back(held: _Held, units: int) -> Change:
    lease = held.lease
    return _returned(held.claim.limit, units, start=lease.period_start, begun=lease.begun)


def _returned(limit: Limit, units: int, *, start: int, begun: float) -> Change:
    # As if taken the moment its count was begun, by the clock of who counts: to that count it can
    # be given back, to one that was begun later it cannot.
    return Change(limit, -units, period_start=start, taken_at=begun)
