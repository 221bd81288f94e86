"""What limits need of the outside: a place that all workers share, and what was used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sidecar.domain.limits import Limit
from sidecar.limits.claims import Claim


class LimitsUnavailableError(Exception):
    """Nobody can tell now how much is left. Says what failed, never for whom."""


class NotAskedError(LimitsUnavailableError):
    """Nobody was even asked, so nothing can have been taken."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One limit is asked for `cost`, and for up to `ahead` more if plenty is left.

    `member` names the request where a slot is taken, so that any worker can free it.
    """

    claim: Claim
    cost: int
    ahead: int = 0
    member: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """How a limit stands: taken ahead for us, left, seconds until it is whole again, used.

    Of a budget: the highest threshold that somebody was told of in this period, and the highest
    that is passed now. Where all was taken, nobody else is told of those between. A calendar
    limit has counted all that was taken since `begun`, in seconds since the epoch.
    """

    ahead: int
    remaining: int
    reset_seconds: float
    used: int = 0
    told: int = 0
    passed: int = 0
    begun: float = 0.0


@dataclass(frozen=True, slots=True)
class Taken:
    """All was taken."""

    states: tuple[State, ...]


@dataclass(frozen=True, slots=True)
class Short:
    """Nothing was taken: limit `index` has no room."""

    index: int
    states: tuple[State, ...]


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing was taken: what was used of limit `index` since `start` has to be told first."""

    index: int
    start: int


Answer = Taken | Short | Unknown


@dataclass(frozen=True, slots=True)
class Seen:
    """How limits stood at `now`, in seconds since the epoch; None where nobody has counted yet."""

    now: float
    states: tuple[State | None, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """What was taken of a limit is put right by `amount`; a slot is freed.

    `period_start`, in seconds since the epoch, is that of the period it was taken in. A change
    `is_new` where it is of units that nobody has counted: they were used `age_seconds` ago, and a
    sliding limit drains since then.
    `taken_at` is when it was taken of a calendar limit: the shared count may have been begun
    later, and has nothing to give back then.
    """

    limit: Limit
    amount: int
    member: str = ""
    period_start: int = 0
    is_new: bool = False
    age_seconds: float = 0.0
    taken_at: float = 0.0

    def of(self, amount: int, *, taken_at: float) -> Change:
        """Return the same of another *amount*, taken at another time."""
        # Not by dataclasses.replace: it looks at every field, for every request that ends.
        return Change(
            self.limit,
            amount,
            self.member,
            self.period_start,
            self.is_new,
            self.age_seconds,
            taken_at,
        )


class LimitStore(Protocol):
    """Counts for all workers; `scope` keeps together what is taken in one step."""

    async def take(self, scope: str, asks: Sequence[Ask], *, name: str) -> Answer:
        """Take all that is asked for, or nothing; `void` knows it by its *name*.

        Raises:
            LimitsUnavailableError: no answer in time; it may have been taken all the same.
        """
        ...

    async def void(self, scope: str, names: Sequence[str]) -> tuple[tuple[int, ...] | None, ...]:
        """Keep takes of these names from being made, should they still be on their way.

        Return of each what it took ahead of its limits, where it was made: that and what it asked
        for is to be given back; None where it was not.

        Raises:
            LimitsUnavailableError: no answer in time.
        """
        ...

    async def begin(self, scope: str, claim: Claim, *, start: int, used: int) -> None:
        """Tell what was used since *start*, unless somebody has.

        Raises:
            LimitsUnavailableError: no answer in time.
        """
        ...

    async def adjust(
        self, scope: str, changes: Sequence[Change], *, sender: str, number: int
    ) -> None:
        """Put right what was taken; nothing is done for a *number* that *sender* has used.

        Raises:
            LimitsUnavailableError: no answer in time.
        """
        ...


class ThresholdListener(Protocol):
    """Who is told once when a threshold of a budget is passed."""

    def threshold_passed(self, limit: Limit, threshold: int) -> None:
        """So many percent of *limit* are used in this period."""
        ...


class UsageTotals(Protocol):
    """What was used, by the records of usage."""

    async def used(self, limit: Limit, *, subject: str, start: int) -> int:
        """Return how much of the limit's measure *subject* has used since *start*.

        Raises:
            LimitsUnavailableError: the records cannot be read now.
        """
        ...
