"""Limits of keys, teams and organizations, and the state of one limit."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, assert_never

import msgspec


class Level(enum.Enum):
    """The owner of a limit."""

    KEY = "key"
    TEAM = "team"
    ORGANIZATION = "organization"


class Measure(enum.Enum):
    """The unit that is counted. COST is in millionths of a US dollar."""

    REQUESTS = "requests"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    TOKENS = "tokens"  # both together
    CONCURRENT = "concurrent"
    COST = "cost"
    REQUEST_BYTES = "request_bytes"  # of one request
    MAX_OUTPUT_TOKENS = "max_output_tokens"  # of one request


SETTLED: Final = frozenset(
    {Measure.INPUT_TOKENS, Measure.OUTPUT_TOKENS, Measure.TOKENS, Measure.COST}
)
"""Limits that are settled by the usage that the answer reports."""

MICROS: Final = 1_000_000
"""Units of COST in a US dollar."""


def dollars(micros: int) -> str:
    """Return an amount of money to its last digit, with the cents in any case."""
    whole, part = divmod(micros, MICROS)
    return f"{whole}.{f'{part:06d}'.rstrip('0'):0<2}"


class Window(enum.Enum):
    """The period of an amount.

    A second and a minute slide. A day, a week (from Monday) and a month are those of the calendar,
    in the limit's time zone. ONCE is for limits of one request or of any moment.
    """

    SECOND = "second"
    MINUTE = "minute"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    ONCE = "once"


def sliding_seconds(window: Window) -> int | None:
    """Return the seconds of a sliding window, None if it does not slide."""
    # No table: members of an enumeration are hashed in Python (3.11).
    match window:
        case Window.SECOND:
            return 1
        case Window.MINUTE:
            return 60
        case Window.DAY | Window.WEEK | Window.MONTH | Window.ONCE:
            return None
        case _:
            assert_never(window)


class Priority(enum.Enum):
    """The rank of a key when a shared limit runs short."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"


RESERVED: Final = {Priority.INTERACTIVE: 0.0, Priority.STANDARD: 0.05, Priority.BATCH: 0.2}
"""The share of a team's or organization's limit that a request leaves for higher priorities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limit. `id` is unique and stable; counts are kept under it.

    `burst` is the part of a sliding window's amount that may be used at once; None means a tenth
    of the requests and all of the tokens, since one request may take that many. `models` are
    globs, `operations` are names of `gen_ai.operation.name`; None is all.
    """

    id: str
    level: Level
    measure: Measure
    window: Window
    amount: int
    burst: int | None = None
    models: tuple[str, ...] | None = None
    operations: tuple[str, ...] | None = None
    time_zone: str = "UTC"

    @property
    def at_once(self) -> int:
        """Return the amount that may be used at once."""
        if self.burst is not None:
            return self.burst
        return max(1, self.amount // 10) if self.measure is Measure.REQUESTS else self.amount


class LimitStatus(msgspec.Struct, frozen=True, gc=False):
    """The remaining amount of one limit, and the seconds until it is whole again.

    For a limit that has just refused a request: the seconds until that request has room.
    """

    limit: Limit
    remaining: int
    reset_seconds: float


def slot_name(request_id: str, started_us: int) -> str:
    """Return the name under which a request holds a slot; *started_us* is since the epoch.

    A client may send many requests with one id, and Envoy may send one to two workers.
    """
    return f"{request_id}.{started_us}"


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """The amounts taken from limits for one request; `cost` in millionths of a US dollar.

    They were taken at `taken_us`, microseconds since the epoch. `by_model` names the limits for
    some models only that apply to the request.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    taken_us: int = 0
    by_model: tuple[str, ...] = ()
