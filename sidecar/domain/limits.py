"""How much a key, a team or an organization may use; immutable once loaded."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, assert_never


class Level(enum.Enum):
    """Whose limit it is."""

    KEY = "key"
    TEAM = "team"
    ORGANIZATION = "organization"


class Measure(enum.Enum):
    """What is counted. COST is in millionths of a US dollar, all else in pieces."""

    REQUESTS = "requests"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    TOKENS = "tokens"  # both together
    CONCURRENT = "concurrent"
    COST = "cost"
    REQUEST_BYTES = "request_bytes"  # of one request
    MAX_OUTPUT_TOKENS = "max_output_tokens"  # of one request


MICROS: Final = 1_000_000
"""Of COST in a dollar."""


class Window(enum.Enum):
    """Over what time an amount holds.

    A second and a minute slide. A day, a week (from Monday) and a month are those of the calendar,
    in the limit's time zone. ONCE is for what holds for a request or at any moment.
    """

    SECOND = "second"
    MINUTE = "minute"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    ONCE = "once"


def sliding_seconds(window: Window) -> int | None:
    """Return how long a sliding window is, None where it does not slide."""
    # No table: to find a member of an enum in one, Python calls a function of its own.
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
    """Who keeps capacity when a shared limit runs short."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"


RESERVED: Final = {Priority.INTERACTIVE: 0.0, Priority.STANDARD: 0.05, Priority.BATCH: 0.2}
"""The share of a team's or organization's limit that a request leaves for those before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limit. `id` is unique and stable; counts are kept under it.

    `burst` is how much of a sliding window's amount may be used at once; None means a tenth of
    the requests and all of the tokens, since one request may take that many. `models` are globs,
    `operations` are names of `gen_ai.operation.name`; None is all.
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
        """How much may be used at once."""
        if self.burst is not None:
            return self.burst
        return max(1, self.amount // 10) if self.measure is Measure.REQUESTS else self.amount


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """How one limit stands: what is left, and in how many seconds it is whole again.

    Of a limit that has just refused a request: in how many seconds that has room.
    """

    limit: Limit
    remaining: int
    reset_seconds: float


@dataclass(frozen=True, slots=True)
class Reservation:
    """What was taken for a request of the limits it was judged by; `cost` in millionths of $1.

    It was taken at `taken_us`, microseconds since the epoch. `by_model` names, of the limits that
    are for some models only, those that held for it.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    taken_us: int = 0
    by_model: tuple[str, ...] = ()
