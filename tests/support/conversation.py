"""Talk to an exchange without any transport: tell it events, read what it wants done.

The short names build the events and values that most tests need; a test states only what it is
about. `str(talk)` is the transcript, event by event, for the reader of a failing test.
"""

from __future__ import annotations

from typing import Final

from typing_extensions import override

from sidecar._generated.envoy.extensions.filters.http.ext_proc.v3 import (
    processing_mode_pb2 as modes,
)
from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from sidecar.domain.http import HeaderMutation, Headers, Refusal
from sidecar.extproc.phases import (
    LATE,
    BodyMode,
    Event,
    Phase,
    ProtocolViolationError,
    RefusedError,
)
from sidecar.extproc.protocol import ExtProcProtocol
from sidecar.extproc.stream import OverloadGuard
from tests.support import envoy_messages as envoy
from tests.support import events as on
from tests.support import replies as do

REQUEST_HEADERS: Final = Headers(((":method", b"POST"), (":path", b"/v1/chat/completions")))
RESPONSE_HEADERS: Final = Headers(((":status", b"200"),))
STRIPPED: Final = HeaderMutation(remove_headers=("authorization",))
TIMED: Final = HeaderMutation(set_headers=(("x-response-time", b"1.000ms"),))
METADATA: Final = (("egret_us", 12.0), ("verdict", "allowed"))
REFUSAL: Final = Refusal(
    status=403,
    headers=(("content-type", b"application/json"),),
    body=b'{"error":{}}',
    details="egret_content_blocked",
)
MAX_BODY_BYTES: Final = 100


def opened(
    request: BodyMode = BodyMode.NONE, response: BodyMode = BodyMode.NONE
) -> on.ExchangeOpened:
    """Return the opening of a stream with these body modes in Envoy's configuration."""
    return on.ExchangeOpened(request_body_mode=request, response_body_mode=response)


def headers(*, ends: bool = False) -> on.RequestHeadersReceived:
    """Return request headers; `ends` means that no body follows."""
    return on.RequestHeadersReceived(REQUEST_HEADERS, end_of_stream=ends)


def body(piece: bytes, *, ends: bool = False) -> on.RequestBodyReceived:
    """Return a piece of the request body."""
    return on.RequestBodyReceived(piece, end_of_stream=ends)


def trailers() -> on.RequestTrailersReceived:
    """Return request trailers."""
    return on.RequestTrailersReceived()


def response_headers(*, ends: bool = False) -> on.ResponseHeadersReceived:
    """Return response headers; `ends` means that no body follows."""
    return on.ResponseHeadersReceived(RESPONSE_HEADERS, end_of_stream=ends)


def response_body(piece: bytes, *, ends: bool = False) -> on.ResponseBodyReceived:
    """Return a piece of the response body."""
    return on.ResponseBodyReceived(piece, end_of_stream=ends)


def cleared(new_body: bytes | None = None) -> on.RequestCleared:
    """Return a verdict that lets the request go on, with another body where one is given."""
    return on.RequestCleared(
        on.RequestMutations(headers=STRIPPED, body=new_body, metadata=METADATA)
    )


def refused() -> on.RequestRefused:
    """Return a verdict that refuses, or the wording of a refusal."""
    return on.RequestRefused(REFUSAL)


def roomy() -> OverloadGuard:
    """Return the guard of a worker with room for everything."""
    return OverloadGuard(max_exchanges=1024, max_held_bytes=1 << 28)


def forward(
    protocol: ExtProcProtocol, mutations: on.RequestMutations, *, judges_answer: bool = False
) -> None:
    """Let the request go on, changed like this."""
    protocol.forward(
        removed=mutations.headers.remove_headers,
        added=mutations.headers.set_headers,
        body=mutations.body,
        metadata=do.fields_of(mutations.metadata),
        clear_route_cache=mutations.clear_route_cache,
        judges_answer=judges_answer,
    )


class Talk:
    """One protocol and its transcript. Messages go in and out as bytes."""

    def __init__(
        self,
        *before: on.Event,
        max_body_bytes: int = MAX_BODY_BYTES,
        wants_response_headers: bool = False,
        guard: OverloadGuard | None = None,
    ) -> None:
        """Start a protocol and play what happened *before* the test begins."""
        self.protocol = ExtProcProtocol(
            max_body_bytes=max_body_bytes,
            wants_answer_headers=wants_response_headers,
            room=guard or roomy(),
        )
        self.lines: list[tuple[on.Event, list[do.Effect]]] = []
        self._opening: on.ExchangeOpened | None = None
        self.tell(*before)

    @property
    def phase(self) -> Phase:
        """How far the protocol has come."""
        return self.protocol.phase

    def tell(self, *events: on.Event) -> list[do.Effect]:
        """Play *events* and return all that comes of them, in order."""
        wanted: list[do.Effect] = []
        for event in events:
            effects = self._effects_of(event)
            self.lines.append((event, effects))
            wanted += effects
        return wanted

    @property
    def effects(self) -> list[do.Effect]:
        """Everything that came of the events so far."""
        return [effect for _, effects in self.lines for effect in effects]

    def _effects_of(self, event: on.Event) -> list[do.Effect]:
        if isinstance(event, on.ExchangeOpened) and self._opening is None:
            self._opening = event  # its modes come with the first message
            return []
        if isinstance(event, on.ExchangeOpened) and self.protocol.modes is None:
            raise ProtocolViolationError(self.phase, "protocol_config")  # said twice at once
        had_ended = self.protocol.phase is Phase.ENDED
        asked: list[do.Effect] = []
        try:
            asked += self._play(event)
        except RefusedError as refused:
            asked.append(do.OweRefusal(refused.kind))
        sent: list[do.Effect] = [
            do.decoded(b"".join(one) if isinstance(one, tuple) else one)
            for one in self.protocol.outgoing
        ]
        self.protocol.outgoing.clear()
        if self.protocol.phase is Phase.ENDED and not had_ended:
            sent.append(do.AbortStream() if self.protocol.is_aborted else do.EndStream())
        return sent + asked

    def _play(self, event: on.Event) -> list[do.Effect]:  # noqa: C901, PLR0912 - an event a line
        protocol = self.protocol
        match event:
            case on.StreamClosed():
                protocol.half_close()
            case on.DeadlinePassed():
                kind = LATE.get(protocol.phase)
                if kind is not None and protocol.may_refuse:
                    return [do.OweRefusal(kind)]
                if kind is not None:
                    protocol.abort()
            case on.Faulted(kind):
                if protocol.may_refuse:
                    return [do.OweRefusal(kind)]
                if protocol.phase is not Phase.ENDED:
                    protocol.abort()
            case on.BodyRequired(headers, judges_answer):
                protocol.require_body(headers.remove_headers, judges_answer=judges_answer)
                if protocol.phase is Phase.JUDGING_BODY:
                    return [self._asked(Event.REQUEST_BODY)]
            case on.RequestCleared(mutations, judges_answer):
                forward(protocol, mutations, judges_answer=judges_answer)
            case on.RequestRefused(refusal):
                protocol.refuse(refusal)
            case on.ResponseCleared(headers):
                protocol.pass_answer(headers)
            case on.ResponseStreamed(headers):
                protocol.stream_answer(headers)
            case on.ResponseHeld(unheld):
                protocol.hold_answer(unheld)
            case on.ResponsePieceJudged(body, ends, metadata):
                protocol.send_piece(body, ends=ends, metadata=do.fields_of(metadata))
            case on.ResponseJudged(headers, body, metadata):
                protocol.send_answer(headers, body, do.fields_of(metadata))
            case _:
                asked = protocol.receive(self._message(event))
                if asked is not Event.NOTHING:
                    return [self._asked(asked)]
        return []

    def _asked(self, asked: Event) -> do.Effect:
        protocol = self.protocol
        match asked:
            case Event.REQUEST_HEADERS:
                source = protocol.source_address
                return do.JudgeHeaders(protocol.headers, protocol.has_body, source)
            case Event.REQUEST_BODY:
                return do.JudgeBody(protocol.body(), protocol.may_judge_answer)
            case Event.ANSWER_HEADERS:
                return do.JudgeResponseHeaders(
                    protocol.answer_headers,
                    has_body=protocol.answer_has_body,
                    may_stream=protocol.may_stream_answer,
                )
            case Event.ANSWER_PIECE:
                return do.JudgeResponsePiece(protocol.piece, is_last=protocol.piece_is_last)
            case Event.ANSWER_BODY:
                return do.JudgeResponseBody(protocol.body())
            case _:
                raise AssertionError(asked)

    def _message(self, event: on.Event) -> bytes:
        """Return the message of *event*; the first also states the modes of the opening."""
        message = message_of(event)
        opening = self._opening
        if opening is not None and (
            self.protocol.modes is None or isinstance(event, on.ExchangeOpened)
        ):
            with_modes(message, opening)
        return message.SerializeToString()

    @override
    def __str__(self) -> str:
        return "\n".join(
            line
            for event, effects in self.lines
            for line in (f"> {event}", *(f"< {effect}" for effect in effects))
        )


def message_of(event: on.Event) -> ext.ProcessingRequest:
    """Return the message that Envoy sends for *event*."""
    match event:
        case on.RequestHeadersReceived(headers, ends, source):
            message = envoy.request_headers(*headers.fields, ends=ends)
            if source is not None:
                attributes = message.attributes["envoy.filters.http.ext_proc"].fields
                attributes["source.address"].string_value = f"{source}:4711"
            return message
        case on.RequestBodyReceived(piece, ends):
            return envoy.request_body(piece, ends=ends)
        case on.RequestTrailersReceived():
            return ext.ProcessingRequest(request_trailers=ext.HttpTrailers())
        case on.ResponseHeadersReceived(headers, ends):
            return envoy.response_headers(*headers.fields, ends=ends)
        case on.ResponseBodyReceived(piece, ends):
            return ext.ProcessingRequest(
                response_body=ext.HttpBody(body=piece, end_of_stream=ends)
            )
        case on.ResponseTrailersReceived():
            return ext.ProcessingRequest(response_trailers=ext.HttpTrailers())
        case on.ExchangeOpened():  # a second one: with whatever message
            return envoy.request_headers(*REQUEST_HEADERS.fields)
        case _:
            raise AssertionError(event)


def with_modes(message: ext.ProcessingRequest, opening: on.ExchangeOpened) -> None:
    """State the modes of *opening* in the first message of a stream."""
    number = modes.ProcessingMode.BodySendMode.Value
    envoy.opening(
        message,
        request=number(opening.request_body_mode.value),
        response=number(opening.response_body_mode.value),
    )
    message.observability_mode = opening.observability_mode
