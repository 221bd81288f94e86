"""The response half of an exchange: answer what Envoy sends, and know when all is answered."""

from __future__ import annotations

import enum

from sidecar.exchange import effects as do
from sidecar.exchange import events as on
from sidecar.exchange.body import cut


class ResponsePhase(enum.Enum):
    """How far the response has come."""

    AWAIT_HEADERS = enum.auto()
    JUDGING_HEADERS = enum.auto()
    AWAIT_BODY = enum.auto()
    COMPLETE = enum.auto()


class UnexpectedResponseError(Exception):
    """Envoy sent a response event out of order."""

    def __init__(self, phase: ResponsePhase, event: on.ResponseEvent) -> None:
        """Name both sides of the mismatch."""
        super().__init__(f"{type(event).__name__} in response phase {phase.name}")


class ResponsePhases:
    """Tracks the response phases of one exchange."""

    __slots__ = ("_body_mode", "_ends_with_headers", "phase")

    def __init__(self, *, body_mode: on.BodyMode) -> None:
        self.phase = ResponsePhase.AWAIT_HEADERS
        self._body_mode = body_mode
        self._ends_with_headers = False

    @property
    def has_body_phase(self) -> bool:
        """Tell whether Envoy is configured to send response bodies here."""
        return self._body_mode is not on.BodyMode.NONE

    @property
    def is_complete(self) -> bool:
        """Tell whether no further response answer is owed."""
        return self.phase is ResponsePhase.COMPLETE

    @property
    def owes_answer(self) -> bool:
        """Tell whether response headers still wait for their answer."""
        return self.phase is ResponsePhase.JUDGING_HEADERS

    def receive(self, event: on.ResponseEvent) -> list[do.Effect]:
        """Advance by one response event and return the answers.

        Raises:
            UnexpectedResponseError: out of order; nothing has changed.
        """
        match self.phase, event:
            case ResponsePhase.AWAIT_HEADERS, on.ResponseHeadersReceived(headers, end_of_stream):
                self.phase = ResponsePhase.JUDGING_HEADERS
                self._ends_with_headers = end_of_stream or not self.has_body_phase
                return [do.JudgeResponseHeaders(headers)]
            case ResponsePhase.JUDGING_HEADERS, on.ResponseCleared(headers):
                ends = self._ends_with_headers
                self.phase = ResponsePhase.COMPLETE if ends else ResponsePhase.AWAIT_BODY
                return [do.ContinueResponseHeaders(headers)]
            case (
                (ResponsePhase.AWAIT_HEADERS | ResponsePhase.AWAIT_BODY),
                on.ResponseBodyReceived(),
            ):
                return self._pass_body(event)
            case ResponsePhase.AWAIT_BODY, on.ResponseTrailersReceived():
                self.phase = ResponsePhase.COMPLETE
                return [do.ContinueResponseTrailers()]
            case _:
                raise UnexpectedResponseError(self.phase, event)

    def _pass_body(self, event: on.ResponseBodyReceived) -> list[do.Effect]:
        self.phase = ResponsePhase.COMPLETE if event.end_of_stream else ResponsePhase.AWAIT_BODY
        if self._body_mode is not on.BodyMode.FULL_DUPLEX_STREAMED:
            return [do.ContinueResponseBody()]
        return [
            do.StreamResponseBody(piece, end_of_stream=is_last and event.end_of_stream)
            for piece, is_last in cut(event.body)
        ]
