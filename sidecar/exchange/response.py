"""The response half of an exchange: answer what Envoy sends, and know when all is answered.

Where nobody judges the answer, or Envoy was not asked to send its body, pieces go on as they come.
A judged answer is either streamed (its headers go on at once, its body as it is judged) or held
(nothing goes on before all of it is judged, so that it can still be refused).
"""

from __future__ import annotations

import enum
from typing import assert_never

from sidecar.domain.mutations import Metadata
from sidecar.exchange import effects as do
from sidecar.exchange import events as on
from sidecar.exchange.body import BodyBuffer, cut
from sidecar.exchange.content_length import with_content_length, with_new_content_length

HOLDING_BODY_MODES = frozenset({on.BodyMode.BUFFERED, on.BodyMode.FULL_DUPLEX_STREAMED})
"""STREAMED lets the headers go before any body: a refusal would come too late to be one."""


class ResponsePhase(enum.Enum):
    """How far the response has come."""

    AWAIT_HEADERS = enum.auto()
    JUDGING_HEADERS = enum.auto()
    AWAIT_BODY = enum.auto()
    AWAIT_PIECE = enum.auto()
    JUDGING_PIECE = enum.auto()
    AWAIT_WHOLE = enum.auto()
    JUDGING_WHOLE = enum.auto()
    COMPLETE = enum.auto()


_HELD = frozenset(
    {ResponsePhase.JUDGING_HEADERS, ResponsePhase.AWAIT_WHOLE, ResponsePhase.JUDGING_WHOLE}
)
_OWING = _HELD | {ResponsePhase.AWAIT_PIECE, ResponsePhase.JUDGING_PIECE}


class UnexpectedResponseError(Exception):
    """Envoy sent a response event out of order."""

    def __init__(self, phase: ResponsePhase, event: on.ResponseEvent) -> None:
        """Name both sides of the mismatch."""
        super().__init__(f"{type(event).__name__} in response phase {phase.name}")


class ResponsePhases:
    """Tracks the response phases of one exchange."""

    __slots__ = (
        "_body",
        "_body_mode",
        "_ends_with_headers",
        "_is_body_complete",
        "_is_judged",
        "_trailers_seen",
        "is_overfull",
        "phase",
    )

    def __init__(self, *, body_mode: on.BodyMode, max_body_bytes: int) -> None:
        self.phase = ResponsePhase.AWAIT_HEADERS
        self._body_mode = body_mode
        self._body = BodyBuffer(limit_bytes=max_body_bytes)
        self._is_judged = False
        self._ends_with_headers = False
        self._is_body_complete = False
        self._trailers_seen = False
        self.is_overfull = False

    @property
    def has_body_phase(self) -> bool:
        """Tell whether Envoy sends response bodies here."""
        return self._body_mode is not on.BodyMode.NONE

    @property
    def can_hold(self) -> bool:
        """Tell whether the configured mode lets an answer be refused after all of it was seen."""
        return self._body_mode in HOLDING_BODY_MODES

    @property
    def is_complete(self) -> bool:
        """Tell whether no further response answer is owed."""
        return self.phase is ResponsePhase.COMPLETE

    @property
    def is_held(self) -> bool:
        """Tell whether nothing of a judged response has gone on yet: it can still be refused."""
        return self._is_judged and self.phase in _HELD

    @property
    def held_bytes(self) -> int:
        """How much of a held body is kept."""
        return self._body.size_bytes

    @property
    def is_judging_whole(self) -> bool:
        """Tell whether a verdict on a whole answer is waited for."""
        return self.phase is ResponsePhase.JUDGING_WHOLE

    @property
    def owes_answer(self) -> bool:
        """Tell whether something that Envoy waits for has no answer yet."""
        return self.phase in _OWING

    def open(self, body_mode: on.BodyMode) -> None:
        """Envoy will send the body like this: it is configured to, or was asked to."""
        self._body_mode = body_mode

    def judge_answer(self) -> None:
        """The request is cleared, and its answer is to be judged."""
        self._is_judged = True

    def receive(self, event: on.ResponseEvent) -> list[do.Effect]:
        """Advance by one response event and return the answers.

        Raises:
            UnexpectedResponseError: out of order; nothing has changed.
        """
        match event:
            case on.ResponseHeadersReceived():
                return self._on_headers(event)
            case on.ResponseBodyReceived():
                return self._on_body(event)
            case on.ResponseTrailersReceived():
                return self._on_trailers(event)
            case on.ResponseCleared() | on.ResponseStreamed() | on.ResponseHeld():
                return self._on_headers_judged(event)
            case on.ResponsePieceJudged():
                return self._on_piece_judged(event)
            case on.ResponseJudged():
                return self._on_whole_judged(event)
            case _:
                assert_never(event)

    def _on_headers(self, event: on.ResponseHeadersReceived) -> list[do.Effect]:
        self._expect(ResponsePhase.AWAIT_HEADERS, event)
        self.phase = ResponsePhase.JUDGING_HEADERS
        self._ends_with_headers = event.end_of_stream or not self.has_body_phase
        return [
            do.JudgeResponseHeaders(
                event.headers,
                has_body=not event.end_of_stream,
                may_stream=self._body_mode is on.BodyMode.FULL_DUPLEX_STREAMED,
            )
        ]

    def _on_headers_judged(
        self, event: on.ResponseCleared | on.ResponseStreamed | on.ResponseHeld
    ) -> list[do.Effect]:
        self._expect(ResponsePhase.JUDGING_HEADERS, event)
        match event:
            case on.ResponseCleared(headers):
                ends = self._ends_with_headers
                self.phase = ResponsePhase.COMPLETE if ends else ResponsePhase.AWAIT_BODY
                return [do.ContinueResponseHeaders(headers)]
            case on.ResponseStreamed(headers):
                self.phase = ResponsePhase.AWAIT_PIECE
                return [do.ContinueResponseHeaders(headers)]
            case on.ResponseHeld():
                self.phase = ResponsePhase.AWAIT_WHOLE
                # BUFFERED sends the body once the headers have their answer, and holds both.
                is_buffered = self._body_mode is on.BodyMode.BUFFERED
                return [do.ContinueResponseHeaders()] if is_buffered else []
            case _:
                assert_never(event)

    def _on_body(self, event: on.ResponseBodyReceived) -> list[do.Effect]:
        match self.phase:
            case ResponsePhase.AWAIT_BODY:
                return self._pass_body(event)
            case ResponsePhase.AWAIT_HEADERS if not self._is_judged:
                return self._pass_body(event)
            case ResponsePhase.AWAIT_PIECE:
                self.phase = ResponsePhase.JUDGING_PIECE
                self._is_body_complete = event.end_of_stream
                return [do.JudgeResponsePiece(event.body, is_last=event.end_of_stream)]
            case ResponsePhase.AWAIT_WHOLE:
                return self._hold(event)
            case _:
                raise UnexpectedResponseError(self.phase, event)

    def _hold(self, event: on.ResponseBodyReceived) -> list[do.Effect]:
        if not self._body.may_take(event.body):
            self.is_overfull = True
            return []
        self._body.take(event.body)
        self._is_body_complete = event.end_of_stream
        # A BUFFERED body is one message, whatever its end_of_stream: trailers may follow it.
        if event.end_of_stream or self._body_mode is on.BodyMode.BUFFERED:
            self.phase = ResponsePhase.JUDGING_WHOLE
            return [do.JudgeResponseBody(self._body.joined())]
        return []

    def _on_trailers(self, event: on.ResponseTrailersReceived) -> list[do.Effect]:
        match self.phase:
            case ResponsePhase.AWAIT_BODY:
                self.phase = ResponsePhase.COMPLETE
                return [do.ContinueResponseTrailers()]
            case ResponsePhase.AWAIT_PIECE:
                self.phase = ResponsePhase.JUDGING_PIECE
                self._trailers_seen = True
                return [do.JudgeResponsePiece(b"", is_last=True)]
            case ResponsePhase.AWAIT_WHOLE:
                self.phase = ResponsePhase.JUDGING_WHOLE
                self._trailers_seen = True
                return [do.JudgeResponseBody(self._body.joined())]
            case _:
                raise UnexpectedResponseError(self.phase, event)

    def _on_piece_judged(self, event: on.ResponsePieceJudged) -> list[do.Effect]:
        self._expect(ResponsePhase.JUDGING_PIECE, event)
        is_last = self._is_body_complete or self._trailers_seen
        self.phase = ResponsePhase.COMPLETE if is_last or event.ends else ResponsePhase.AWAIT_PIECE
        ends = event.ends or self._is_body_complete
        sent = _streamed(event.body, ends=ends, metadata=event.metadata)
        if self._trailers_seen and not event.ends:
            sent.append(do.ContinueResponseTrailers())
        return sent

    def _on_whole_judged(self, event: on.ResponseJudged) -> list[do.Effect]:
        self._expect(ResponsePhase.JUDGING_WHOLE, event)
        whole = self._body.joined() if event.body is None else event.body
        self._body.drop()
        if self._body_mode is on.BodyMode.BUFFERED:
            ends = self._is_body_complete
            self.phase = ResponsePhase.COMPLETE if ends else ResponsePhase.AWAIT_BODY
            headers = with_content_length(event.headers, event.body)
            return [do.ContinueResponseBody(headers, event.body, event.metadata)]
        self.phase = ResponsePhase.COMPLETE
        headers = with_new_content_length(event.headers, event.body)
        trailers: list[do.Effect] = [do.ContinueResponseTrailers()] if self._trailers_seen else []
        return [
            do.ContinueResponseHeaders(headers, event.metadata),
            *_streamed(whole, ends=not self._trailers_seen),
            *trailers,
        ]

    def _pass_body(self, event: on.ResponseBodyReceived) -> list[do.Effect]:
        self.phase = ResponsePhase.COMPLETE if event.end_of_stream else ResponsePhase.AWAIT_BODY
        if self._body_mode is not on.BodyMode.FULL_DUPLEX_STREAMED:
            return [do.ContinueResponseBody()]
        return _streamed(event.body, ends=event.end_of_stream, may_be_empty=True)

    def _expect(self, phase: ResponsePhase, event: on.ResponseEvent) -> None:
        if self.phase is not phase:
            raise UnexpectedResponseError(self.phase, event)


def _streamed(
    body: bytes, *, ends: bool, metadata: Metadata = (), may_be_empty: bool = False
) -> list[do.Effect]:
    if not body and not ends and not may_be_empty:
        return []
    return [
        do.StreamResponseBody(piece, is_last and ends, metadata if is_last else ())
        for piece, is_last in cut(body)
    ]
