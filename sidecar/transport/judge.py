"""What the transport needs of whoever judges: the port between the stream and the checks."""

from __future__ import annotations

import enum
from collections.abc import Awaitable
from typing import Protocol

from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import Headers
from sidecar.domain.report import FaultKind
from sidecar.exchange.events import (
    BodyRequired,
    RequestCleared,
    RequestRefused,
    ResponseCleared,
    ResponseHeld,
    ResponseJudged,
    ResponsePieceJudged,
    ResponseStreamed,
)

HeadersVerdict = BodyRequired | RequestCleared | RequestRefused
BodyVerdict = RequestCleared | RequestRefused
ResponseHeadersVerdict = ResponseCleared | ResponseStreamed | ResponseHeld | RequestRefused
AnswerVerdict = ResponseJudged | RequestRefused


class Ending(enum.Enum):
    """How a stream ended, seen from our side."""

    COMPLETED = "completed"  # the last answer owed was given
    ABORTED = "aborted"  # we ended it with an error: Envoy fails closed
    CANCELLED = "cancelled"  # Envoy reset it: the client left


class Judge(Protocol):
    """Judges one exchange.

    A verdict that needs no waiting is returned, not awaited: the common request costs no task.
    """

    def judge_headers(
        self, headers: Headers, *, has_body: bool, source_address: str | None = None
    ) -> HeadersVerdict | Awaitable[HeadersVerdict]:
        """Authorize by the request headers and the client's address, None if not known."""
        ...

    def judge_body(
        self, body: bytes, *, may_judge_answer: bool = True
    ) -> BodyVerdict | Awaitable[BodyVerdict]:
        """Inspect the whole request body; without `may_judge_answer` no answer comes here."""
        ...

    def judge_response_headers(
        self, headers: Headers, *, has_body: bool, may_stream: bool
    ) -> ResponseHeadersVerdict:
        """Say how the response headers change, and what becomes of the body."""
        ...

    def judge_response_piece(self, body: bytes, *, is_last: bool) -> ResponsePieceJudged:
        """Judge the next piece of a streamed answer."""
        ...

    def judge_response_body(self, body: bytes) -> AnswerVerdict | Awaitable[AnswerVerdict]:
        """Judge a whole answer."""
        ...

    def word_refusal(self, kind: ErrorKind) -> RequestRefused:
        """Word a refusal in the client's dialect; may come before the headers."""
        ...

    def note_fault(self, fault: FaultKind, error: BaseException | None = None) -> None:
        """Count and log a fault; never raises."""
        ...

    def close(self, *, is_cancelled: bool, is_answered: bool) -> None:
        """Report the exchange, once, whatever happened; never raises."""
        ...
