"""Whether a server is to be asked at all. A value machine: told the time, it waits for nothing.

CLOSED ──so many failures in a row──▶ OPEN ──after a while──▶ HALF_OPEN
   ▲                                   ▲                        │
   └──────────── success ──────────────┼────────────────────────┤
                                       └────────── failure ─────┘
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class BreakerState(enum.IntEnum):
    """How a server is treated; the number is what the metric shows."""

    CLOSED = 0
    """Asked."""
    HALF_OPEN = 1
    """Tried with one request at a time."""
    OPEN = 2
    """Let alone."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Leave to ask, to be given back with how it went, once.

    `is_trial`: the only request under way, on which it depends whether others follow.
    """

    period: int
    is_trial: bool


class Breaker:
    """The state of one server. `now` is monotonic seconds."""

    def __init__(self, *, failures: int, open_seconds: float) -> None:
        self._limit = failures
        self._open_seconds = open_seconds
        self._failures = 0
        self._open_until: float | None = None
        self._trial: Admission | None = None
        # Ends with every change of state: what was asked before says nothing about the server now.
        self._period = 0

    def state(self, now: float) -> BreakerState:
        """Return the state at *now*."""
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._open_until else BreakerState.HALF_OPEN

    def admit(self, now: float) -> Admission | None:
        """Return leave to ask, or None."""
        if self._open_until is None:
            return Admission(self._period, is_trial=False)
        if now < self._open_until or self._trial is not None:
            return None
        self._trial = Admission(self._period, is_trial=True)
        return self._trial

    def succeeded(self, admission: Admission) -> None:
        """Take note that the server answered."""
        if admission.period != self._period:
            return
        self._failures = 0
        if admission.is_trial:
            self._open_until = self._trial = None
            self._period += 1

    def failed(self, admission: Admission, now: float) -> None:
        """Take note that the server did not answer, or is not well."""
        if admission.period != self._period:
            return
        self._failures += 1
        if admission.is_trial or self._failures >= self._limit:
            self._open_until = now + self._open_seconds
            self._failures = 0
            self._trial = None
            self._period += 1

    def abandoned(self, admission: Admission) -> None:
        """Take note that nobody waited for how it went; another may try."""
        if admission == self._trial:
            self._trial = None
