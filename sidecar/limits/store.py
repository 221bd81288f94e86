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
    """The shared counters do not answer. Names the failure, never the key."""


class NotSentError(LimitsUnavailableError):
    """The call was not sent, so nothing can have been taken."""


@dataclass(frozen=True, slots=True)
class Acquire:
    """Asks one limit for `cost` units, and for up to `ahead` more if plenty is left.

    `member` names the request for which a slot is taken, so that any worker can free it.
    """

    check: LimitCheck
    cost: int
    ahead: int = 0
    member: str = ""


@dataclass(frozen=True, slots=True)
class State:
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
    """Nothing was taken: the use of limit `index` since `start` has to be set first."""

    index: int
    start: int


Reply = Acquired | Exhausted | Uninitialized


@dataclass(frozen=True, slots=True)
class LimitReading:
    """The status of limits at `now`, in seconds since the epoch; None without a counter yet."""

    now: float
    states: tuple[State | None, ...]


@dataclass(frozen=True, slots=True)
class Adjustment:
    """Changes the count of a limit by `amount` units, or frees a slot.

    `period_start`, in seconds since the epoch, is that of the period the units were taken in.
    `is_new` marks units that the shared counter does not include: they were used `age_seconds`
    ago, and a sliding limit has drained since then. `taken_at` is when units were taken of a
    calendar limit: a counter that was begun later has nothing to return.
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
    """Counts for all workers; counters of one `scope` change together."""

    async def take(self, scope: str, acquires: Sequence[Acquire], *, name: str) -> Reply:
        """Take all that is asked for, or nothing; `void` knows it by its *name*.

        Raises:
            LimitsUnavailableError: no answer in time; it may have been taken all the same.
        """
        ...

    async def void(self, scope: str, names: Sequence[str]) -> tuple[tuple[int, ...] | None, ...]:
        """Keep takes of these names from being made, should they still be on their way.

        Return for each the units it took ahead of its limits, None if it was not made. Those and
        the units it asked for have to be returned.

        Raises:
            LimitsUnavailableError: no answer in time.
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


MAX_LIMITS: Final = 20
"""Of one owner. Each is one more counter that every request has to ask."""
MAX_AMOUNT: Final = 10**12

_PIECES: Final = {Measure.REQUESTS, Measure.INPUT_TOKENS, Measure.OUTPUT_TOKENS, Measure.TOKENS}
_PERIODS: Final = {Window.DAY, Window.WEEK, Window.MONTH}


class LimitError(ValueError):
    """A limit is not valid; the message names it and the reason."""


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
        LimitError: the text is not one of `write_limits`.
    """
    if text in {"[]", b"[]"}:
        return ()
    try:
        written = _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise LimitError(str(error)) from None
    limits = tuple(
        Limit(
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
        for one in written
    )
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
    """Check rules that concern several fields or limits.

    Raises:
        LimitError: two of the same kind, a window that does not go with the measure, a burst that
            is out of bounds, an unknown time zone, or too many limits.
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
        try:
            ZoneInfo(limit.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):  # the name of a folder, or too long
            raise LimitError(f"there is no time zone {limit.time_zone[:60]}") from None


def _windows_of(measure: Measure) -> set[Window]:
    if measure in _PIECES:
        return {Window.SECOND, Window.MINUTE, Window.DAY}
    return _PERIODS if measure is Measure.COST else {Window.ONCE}
