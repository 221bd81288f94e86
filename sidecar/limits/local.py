"""A worker's own share of limits, for while the shared counts are away. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, assert_never

from sidecar.limits.claims import Calendar, Claim, Sliding, Slots
from sidecar.limits.ports import State

SLOT_SECONDS: Final = 60.0
"""How long a slot is held at most: its release may reach another worker."""


@dataclass(slots=True)
class _Count:
    tat: float = 0.0
    start: int = 0
    used: int = 0
    slots: dict[str, float] = field(default_factory=dict)


class LocalShares:
    """Every limit divided by the number of workers, rounded down to one at least.

    What is used here of a calendar period is told to the shared counts when they are back;
    `LocalShares` forgets everything then.
    """

    def __init__(self, *, shares: int) -> None:
        self._shares = shares
        self._counts: dict[str, _Count] = {}

    def take(self, claims: tuple[Claim, ...], *, member: str, now: float) -> int | None:
        """Take all claims, or none; return the index of the one without room, else None.

        *now* is in seconds since the epoch.
        """
        for index, claim in enumerate(claims):
            if not self._has_room(claim, now):
                return index
        for claim in claims:
            self._take(claim, member=member, now=now)
        return None

    def state(self, claim: Claim, *, now: float) -> State:
        """Return how a limit stands here."""
        count = self._count(claim)
        amount = self._share(claim.limit.amount)
        match claim.span:
            case Sliding():
                interval = claim.span.window_seconds / max(1, amount)
                ahead = max(0.0, count.tat - now)
                room = self._share(claim.span.at_once) * interval - ahead
                return State(0, max(0, int(room / interval)), max(interval, ahead))
            case Calendar(borders):
                used = count.used if count.start == period_start(borders, now) else 0
                ends = next((border for border in borders if border > now), now)
                return State(0, max(0, amount - used), ends - now, used)
            case Slots():
                return State(0, max(0, amount - len(count.slots)), 1.0, len(count.slots))
            case _:
                assert_never(claim.span)

    def release(self, claim: Claim, member: str) -> None:
        """Free a slot."""
        self._count(claim).slots.pop(member, None)

    def _share(self, amount: int) -> int:
        return 0 if amount == 0 else max(1, amount // self._shares)

    def _count(self, claim: Claim) -> _Count:
        return self._counts.setdefault(claim.limit.id, _Count())

    def _has_room(self, claim: Claim, now: float) -> bool:
        self._forget_slots(claim, now)
        reserve = claim.reserve // self._shares
        return self.state(claim, now=now).remaining >= claim.cost + reserve

    def _take(self, claim: Claim, *, member: str, now: float) -> None:
        count = self._count(claim)
        match claim.span:
            case Sliding(window_seconds=window):
                interval = window / max(1, self._share(claim.limit.amount))
                count.tat = max(count.tat, now) + claim.cost * interval
            case Calendar(borders):
                start = period_start(borders, now)
                count.used = claim.cost + (count.used if count.start == start else 0)
                count.start = start
            case Slots():
                count.slots[member] = now + SLOT_SECONDS
            case _:
                assert_never(claim.span)

    def _forget_slots(self, claim: Claim, now: float) -> None:
        if isinstance(claim.span, Slots):
            count = self._count(claim)
            count.slots = {name: until for name, until in count.slots.items() if until > now}


def period_start(borders: tuple[int, ...], now: float) -> int:
    """Return the start of the period that *now* is in, 0 where it is in none."""
    return max((border for border in borders if border <= now), default=0)
