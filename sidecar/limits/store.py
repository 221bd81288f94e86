"""The interface of the shared counters and of the records of usage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from sidecar.domain.limits import Limit
from sidecar.limits.limit_check import LimitCheck


class LimitsUnavailableError(Exception):
    """The shared counters do not answer. Names the failure, never the key."""


class NotSentError(LimitsUnavailableError):
    """The call was not sent, so nothing can have been taken."""


class Acquire(msgspec.Struct, frozen=True, gc=False):
    """Asks one limit for `cost` units, and for up to `ahead` more if plenty is left.

    `member` names the request for which a slot is taken, so that any worker can free it.
    """

    check: LimitCheck
    cost: int
    ahead: int = 0
    member: str = ""


class State(msgspec.Struct, frozen=True, gc=False):
    """The status of a shared counter: units taken ahead for us, left, and used.

    It is whole again in `reset_seconds`. Of a budget, `reported` is the highest threshold that a
    worker has received in this period, and `passed` the highest that is passed now: if all was
    taken, no other worker receives those between. A calendar limit counts since `begun`, in
    seconds since the epoch.
    """

    ahead: int
    remaining: int
    reset_seconds: float
    used: int = 0
    reported: int = 0
    passed: int = 0
    begun: float = 0.0


class Acquired(msgspec.Struct, frozen=True, gc=False):
    """All was taken."""

    states: tuple[State, ...]


class Exhausted(msgspec.Struct, frozen=True, gc=False):
    """Nothing was taken: limit `index` has no room."""

    index: int
    states: tuple[State, ...]


class Uninitialized(msgspec.Struct, frozen=True, gc=False):
    """Nothing was taken: the use of limit `index` since `start` has to be set first."""

    index: int
    start: int


Reply = Acquired | Exhausted | Uninitialized


@dataclass(frozen=True, slots=True)
class LimitReading:
    """The status of limits at `now`, in seconds since the epoch; None without a counter yet."""

    now: float
    states: tuple[State | None, ...]


class Adjustment(msgspec.Struct, frozen=True, gc=False):
    """Changes the count of a limit by `amount` units, or frees a slot.

    `period_start`, in seconds since the epoch, is that of the period the units were taken in.
    `is_new` marks units that the shared counter does not include: they were used `age_seconds`
    ago, and a sliding limit has drained since then. Of units that are returned it is how long ago
    they were taken. `taken_at` is that time, in seconds since the epoch: a counter of a calendar
    limit that was begun later has nothing to return.
    """

    limit: Limit
    amount: int
    member: str = ""
    period_start: int = 0
    is_new: bool = False
    age_seconds: float = 0.0
    taken_at: float = 0.0


class LimitStore(Protocol):
    """Counts for all workers; counters of one `scope` change together."""

    async def take(self, scope: str, acquires: Sequence[Acquire], *, name: str) -> Reply:
        """Take all units that *acquires* request, or none; `void` finds the take by its *name*.

        Raises:
            LimitsUnavailableError: no answer in time; it may have been taken all the same.
        """
        ...

    async def void(self, scope: str, names: Sequence[str]) -> tuple[tuple[int, ...] | None, ...]:
        """Keep takes of these names from being made, should they still be on their way.

        Return for each the units it took ahead of its limits, None if it was not made. The caller
        has to return those, and the units that the take had requested.

        Raises:
            LimitsUnavailableError: no answer in time.
        """
        ...

    async def claim(self, scope: str, names: Sequence[str], *, sender: str) -> tuple[bool, ...]:
        """Claim the ends of requests by name for *sender*; return of each whether it is its own.

        Raises:
            LimitsUnavailableError: no answer in time; asked again, the answer is the same.
        """
        ...

    async def begin(self, scope: str, check: LimitCheck, *, start: int, used: int) -> None:
        """Begin a counter with the use since *start*, unless it has begun.

        Raises:
            LimitsUnavailableError: no answer in time.
        """
        ...

    async def adjust(
        self, scope: str, changes: Sequence[Adjustment], *, sender: str, number: int
    ) -> None:
        """Apply *changes* once: a *number* that *sender* has used before changes nothing.

        Raises:
            LimitsUnavailableError: no answer in time.
        """
        ...


class ThresholdListener(Protocol):
    """Receives each threshold of a budget that is passed, once."""

    def threshold_passed(self, limit: Limit, threshold: int) -> None:
        """*threshold* percent of *limit* are used in this period."""
        ...


class UsageTotals(Protocol):
    """Reads use from the records of usage."""

    async def used(self, limit: Limit, *, subject: str, start: int) -> int:
        """Return how much of the limit's measure *subject* has used since *start*.

        Raises:
            LimitsUnavailableError: the records cannot be read now.
        """
        ...
