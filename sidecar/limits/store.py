"""The port of the shared counters, and the serialization of limits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from sidecar.domain.limits import Level, Limit, Measure, Window
from sidecar.limits.limit_check import LimitCheck


class LimitsUnavailableError(Exception):
    """Nobody can tell now how much is left. Says what failed, never for whom."""


class NotSentError(LimitsUnavailableError):
    """Nobody was even asked, so nothing can have been taken."""


@dataclass(frozen=True, slots=True)
class Acquire:
    """One limit is asked for `cost`, and for up to `ahead` more if plenty is left.

    `member` names the request where a slot is taken, so that any worker can free it.
    """

    check: LimitCheck
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
class Acquired:
    """All was taken."""

    states: tuple[State, ...]


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Nothing was taken: limit `index` has no room."""

    index: int
    states: tuple[State, ...]


@dataclass(frozen=True, slots=True)
class Uninitialized:
    """Nothing was taken: what was used of limit `index` since `start` has to be told first."""

    index: int
    start: int


Reply = Acquired | Exhausted | Uninitialized


@dataclass(frozen=True, slots=True)
class LimitReading:
    """How limits stood at `now`, in seconds since the epoch; None where nobody has counted yet."""

    now: float
    states: tuple[State | None, ...]


@dataclass(frozen=True, slots=True)
class Adjustment:
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

    def of(self, amount: int, *, taken_at: float) -> Adjustment:
        """Return the same of another *amount*, taken at another time."""
        # Not by dataclasses.replace: it looks at every field, for every request that ends.
        return Adjustment(
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

    async def take(self, scope: str, acquires: Sequence[Acquire], *, name: str) -> Reply:
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

    async def begin(self, scope: str, check: LimitCheck, *, start: int, used: int) -> None:
        """Tell what was used since *start*, unless somebody has.

        Raises:
            LimitsUnavailableError: no answer in time.
        """
        ...

    async def adjust(
        self, scope: str, changes: Sequence[Adjustment], *, sender: str, number: int
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


MAX_LIMITS: Final = 20
"""Of one owner. Each is one more number that every request has to ask for."""
MAX_AMOUNT: Final = 10**12

_PIECES: Final = {Measure.REQUESTS, Measure.INPUT_TOKENS, Measure.OUTPUT_TOKENS, Measure.TOKENS}
_PERIODS: Final = {Window.DAY, Window.WEEK, Window.MONTH}


class LimitError(ValueError):
    """A limit that cannot be kept; the message says which and why."""


class _Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    measure: Measure
    window: Window
    amount: Annotated[int, msgspec.Meta(ge=0, le=MAX_AMOUNT)]
    burst: Annotated[int, msgspec.Meta(ge=1, le=MAX_AMOUNT)] | None = None
    models: tuple[str, ...] | None = None
    operations: tuple[str, ...] | None = None
    time_zone: str = "UTC"


_decoder: Final = msgspec.json.Decoder(tuple[_Written, ...])
_encoder: Final = msgspec.json.Encoder()


def read_limits(text: str | bytes, *, level: Level, owner: str) -> tuple[Limit, ...]:
    """Return the limits of *owner*, an id.

    Raises:
        LimitError: not what `write_limits` writes.
    """
    if text in {"[]", b"[]"}:
        return ()
    try:
        written = _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise LimitError(str(error)) from None
    limits = tuple(_limit(one, level=level, owner=owner) for one in written)
    check_limits(limits)
    return limits


def write_limits(limits: Iterable[Limit]) -> str:
    """Return the text that stands for the limits of one owner; equal limits, equal texts."""
    written = [
        _Written(
            measure=limit.measure,
            window=limit.window,
            amount=limit.amount,
            burst=limit.burst,
            models=limit.models,
            operations=limit.operations,
            time_zone=limit.time_zone,
        )
        for limit in limits
    ]
    return _encoder.encode(written).decode()


def limit_id(owner: str, one: _Written | Limit) -> str:
    """Return the id under which a limit is counted: the same while only amounts change."""
    selectors = repr((one.models, one.operations, one.time_zone)).encode()
    digest = hashlib.sha256(selectors).hexdigest()[:8]
    return f"{owner}/{one.measure.value}/{one.window.value}/{digest}"


def owner_of(limit_id: str) -> str:
    """Return the id of the owner of a limit."""
    return limit_id.partition("/")[0]


def check_limits(limits: tuple[Limit, ...]) -> None:
    """Check what no single field tells.

    Raises:
        LimitError: two of the same kind, a window that does not go with what is measured, a
            burst that is out of bounds, a time zone that nobody knows, or too many.
    """
    if len(limits) > MAX_LIMITS:
        raise LimitError(f"more than {MAX_LIMITS} limits")
    if len({limit.id for limit in limits}) < len(limits):
        raise LimitError("two limits measure the same; keep one of them")
    for limit in limits:
        if limit.window not in _windows_of(limit.measure):
            takes = ", ".join(
                window.value for window in Window if window in _windows_of(limit.measure)
            )
            raise LimitError(f"{limit.measure.value} goes with {takes}, not {limit.window.value}")
        if limit.burst is not None and limit.window in {*_PERIODS, Window.ONCE}:
            raise LimitError("a burst goes with second and minute only")
        if limit.burst is not None and not 1 <= limit.burst <= MAX_AMOUNT:
            raise LimitError(f"a burst is between 1 and {MAX_AMOUNT}")
        _check_time_zone(limit.time_zone)


def _check_time_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # the name of a folder, or too long
        raise LimitError(f"there is no time zone {name[:60]}") from None


def _windows_of(measure: Measure) -> set[Window]:
    if measure in _PIECES:
        return {Window.SECOND, Window.MINUTE, Window.DAY}
    return _PERIODS if measure is Measure.COST else {Window.ONCE}


def _limit(one: _Written, *, level: Level, owner: str) -> Limit:
    return Limit(
        id=limit_id(owner, one),
        level=level,
        measure=one.measure,
        window=one.window,
        amount=one.amount,
        burst=one.burst,
        models=one.models,
        operations=one.operations,
        time_zone=one.time_zone,
    )
