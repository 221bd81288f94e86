"""The phases of an exchange, and what an event out of turn is called."""

from __future__ import annotations

import enum

from sidecar.domain.errors import ErrorKind
from sidecar.exchange import events as on


class Phase(enum.Enum):
    """Where in its life the exchange is."""

    AWAIT_OPENING = enum.auto()
    AWAIT_REQUEST_HEADERS = enum.auto()
    JUDGING_HEADERS = enum.auto()
    AWAIT_REQUEST_BODY = enum.auto()
    JUDGING_BODY = enum.auto()
    WORDING_REFUSAL = enum.auto()
    PASSING_REQUEST = enum.auto()  # cleared on headers; body and trailers are still answered
    RESPONDING = enum.auto()
    JUDGING_ANSWER = enum.auto()  # all of it is there and held; a refusal is still possible
    ENDED = enum.auto()


UNANSWERED = frozenset(
    {
        Phase.AWAIT_OPENING,
        Phase.AWAIT_REQUEST_HEADERS,
        Phase.JUDGING_HEADERS,
        Phase.AWAIT_REQUEST_BODY,
        Phase.JUDGING_BODY,
        Phase.WORDING_REFUSAL,
    }
)
"""The request is neither forwarded nor refused yet: a refusal is still possible."""

JUDGING = frozenset({Phase.JUDGING_HEADERS, Phase.JUDGING_BODY, Phase.JUDGING_ANSWER})

LATE = {
    Phase.JUDGING_HEADERS: ErrorKind.AUTHORIZATION_UNAVAILABLE,
    Phase.AWAIT_REQUEST_BODY: ErrorKind.BODY_TIMEOUT,
    Phase.JUDGING_BODY: ErrorKind.GUARDRAIL_UNAVAILABLE,
    Phase.JUDGING_ANSWER: ErrorKind.GUARDRAIL_UNAVAILABLE,
}
"""What a passed deadline means where the exchange waits; elsewhere the answer was faster."""

COLLECTING = frozenset({Phase.JUDGING_HEADERS, Phase.AWAIT_REQUEST_BODY})
"""Where the pieces of a request's body are kept."""


class ProtocolViolationError(Exception):
    """An event arrived that this phase does not expect."""

    def __init__(self, phase: Phase, event: on.Event) -> None:
        """Name both sides of the mismatch."""
        super().__init__(f"{type(event).__name__} in phase {phase.name}")
        self.phase = phase
        self.event = event
