"""What a worker has taken ahead of one limit, so that most requests ask nobody.

No I/O and no clock: times are monotonic seconds, passed in. All units of a lease were taken from
the shared count before they are given out here, so a lease cannot let more through than the
limit; at worst it holds back what another worker could have used, for `TTL_SECONDS` at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

TTL_SECONDS: Final = 1.0
"""Units that are not used within it are given back."""
HORIZON_SECONDS: Final = 0.25
"""A lease is meant to last so long at the present rate."""
LARGEST_SHARE: Final = 64
"""One lease is at most this fraction of the limit's amount."""
SHORT_SECONDS: Final = 0.05
"""After a refill that brought nothing, how long until the next try; requests ask one by one."""


@dataclass(slots=True)
class Lease:
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

    def take(self, cost: int, *, now: float, period_start: int = 0) -> bool:
        """Give out *cost* units, or none; those of a calendar period are for that period only.

        What costs nothing, say of a model without a price, is refused only by a limit that is
        overdrawn: after an answer that was none, it asks no sooner than units would expire.
        """
        self._measure(cost, now)
        until = self.expires_at if cost else self._granted_until
        if now >= until or self.left < cost or period_start != self.period_start:
            return False
        self.left -= cost
        return True

    def put_back(self, cost: int) -> None:
        """Take back units that were given out and not used after all."""
        self.left += cost

    def wanted(self, *, now: float) -> int:
        """Return how many units a refill should bring; 0 where none is due."""
        size = min(int(self.rate * HORIZON_SECONDS) + 1, self.amount // LARGEST_SHARE)
        if size < 2 or now < self._short_until:  # noqa: PLR2004 - one unit is what a request asks for itself
            return 0
        is_low = self.left * 2 < size or now >= self.expires_at
        return max(0, size - self.left) if is_low and not self.refilling else 0

    def filled(
        self, units: int, *, asked: int, now: float, period_start: int = 0, begun: float = 0.0
    ) -> int:
        """Keep what a refill brought of the count that was *begun* then.

        Return what is left of another count, now given up: one of an earlier period, or one that
        was lost and begun anew, which lacks what was taken before.
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
        """Tell whether anybody has asked lately."""
        return now - self._measured_at < 2 * TTL_SECONDS

    def expired(self, *, now: float) -> int:
        """Give up what was not used in time; return how much that is."""
        return 0 if now < self.expires_at else self.give_up()

    def give_up(self) -> int:
        """Give up what is left; return how much that is."""
        units, self.left = self.left, 0
        return units

    def _measure(self, cost: int, now: float) -> None:
        """Follow the rate of demand, in units a second."""
        self._measured += cost
        passed = now - self._measured_at
        if passed >= HORIZON_SECONDS:
            latest = self._measured / min(passed, TTL_SECONDS)
            self.rate = (self.rate + latest) / 2 if passed < TTL_SECONDS else latest
            self._measured, self._measured_at = 0, now
