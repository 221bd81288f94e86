"""One HTTP request and its response as a machine: events in, effects out.

Rules of this file. All transitions stand in `receive` and the methods it names; the machine knows
no protobuf, does no I/O and reads no clock. An event a phase does not expect raises and changes
nothing. A request is answered exactly once, and `EndStream` follows the last answer owed: a stream
that ends without an answer would let Envoy go on unjudged (it fails open, by its API).

The way of a request whose policy needs its body, in the default mode (bodies NONE):

    request_headers → JudgeHeaders → BodyRequired → OverrideMode
    request_body …  → JudgeBody → RequestCleared
                    → ContinueRequestHeaders, StreamRequestBody …, EndStream
"""

from __future__ import annotations

from typing import assert_never

from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import HeaderMutation
from sidecar.domain.mutations import Refusal
from sidecar.exchange import effects as do
from sidecar.exchange import events as on
from sidecar.exchange.content_length import with_content_length, with_new_content_length
from sidecar.exchange.phase import (
    COLLECTING,
    JUDGING,
    LATE,
    UNANSWERED,
    Phase,
    ProtocolViolationError,
)
from sidecar.exchange.request_body import GATING_BODY_MODES, RequestBody
from sidecar.exchange.response import ResponsePhases


class Exchange:
    """One HTTP request and its response, as seen through ext_proc."""

    __slots__ = (
        "_body",
        "_is_answered",
        "_is_half_closed",
        "_is_overridden",
        "_max_body_bytes",
        "_response",
        "_wants_response_headers",
        "phase",
    )

    def __init__(self, *, max_body_bytes: int, wants_response_headers: bool) -> None:
        """Start before the first message of a stream."""
        self.phase = Phase.AWAIT_OPENING
        self._wants_response_headers = wants_response_headers
        self._max_body_bytes = max_body_bytes
        self._body = RequestBody(max_body_bytes=max_body_bytes)
        self._is_answered = False
        self._is_half_closed = False
        self._is_overridden = False
        self._response = self._response_in(on.BodyMode.NONE)

    @property
    def is_unanswered(self) -> bool:
        """Tell whether the request was neither cleared nor refused, be the stream over or not."""
        return not self._is_answered

    @property
    def comes_in_pieces(self) -> bool:
        """Tell whether the request's body reaches us as the client sends it."""
        return self._body.is_streamed

    @property
    def held_bytes(self) -> int:
        """How much of request and response is kept until it is judged."""
        return self._body.held_bytes + self._response.held_bytes

    def would_hold(self, event: on.Event) -> int:
        """Tell how many bytes of *event* would be kept until they are judged."""
        match event:
            case on.RequestBodyReceived(body) if self.phase in COLLECTING:
                return len(body)
            case on.ResponseBodyReceived(body) if self._response.is_held:
                return len(body)
            case _:
                return 0

    def _response_in(self, body_mode: on.BodyMode) -> ResponsePhases:
        return ResponsePhases(body_mode=body_mode, max_body_bytes=self._max_body_bytes)

    def receive(self, event: on.Event) -> list[do.Effect]:
        """Advance by one event and return what must be done, in order.

        Raises:
            ProtocolViolationError: the phase does not expect the event; nothing has changed.
        """
        if isinstance(event, on.RequestEvent):
            return self._on_request(event)
        if isinstance(event, on.ResponseReceived):
            return self._on_response(event)
        if isinstance(event, on.ResponseVerdict):
            return self._on_response_judged(event)
        match event:
            case on.ExchangeOpened():
                return self._on_opened(event)
            case on.BodyRequired() | on.RequestCleared() | on.RequestRefused():
                return self._on_judged(event)
            case on.StreamClosed() | on.Faulted() | on.DeadlinePassed():
                return self._on_interrupted(event)
            case _:
                assert_never(event)

    def _on_opened(self, event: on.ExchangeOpened) -> list[do.Effect]:
        if self.phase is not Phase.AWAIT_OPENING:
            raise ProtocolViolationError(self.phase, event)
        self._body.mode = event.request_body_mode
        self._response = self._response_in(event.response_body_mode)
        if event.observability_mode or event.request_body_mode not in GATING_BODY_MODES:
            return self._word_refusal(ErrorKind.UNSUPPORTED_PROCESSING_MODE)
        self.phase = Phase.AWAIT_REQUEST_HEADERS
        return []

    def _on_request(self, event: on.RequestEvent) -> list[do.Effect]:
        match self.phase, event:
            case Phase.AWAIT_REQUEST_HEADERS, on.RequestHeadersReceived(
                headers, end_of_stream, source
            ):
                self.phase = Phase.JUDGING_HEADERS
                self._body.begin(is_expected=not end_of_stream)
                return [do.JudgeHeaders(headers, self._body.is_expected, source)]
            case ((Phase.JUDGING_HEADERS | Phase.AWAIT_REQUEST_BODY), on.RequestBodyReceived()):
                return self._collect(event)
            case (
                (Phase.JUDGING_HEADERS | Phase.AWAIT_REQUEST_BODY),
                on.RequestTrailersReceived(),
            ):
                return self._complete_by_trailers(event)
            case ((Phase.PASSING_REQUEST | Phase.RESPONDING), _) if self._is_answered:
                return self._pass_on(event)
            case ((Phase.WORDING_REFUSAL | Phase.RESPONDING), _):
                return []  # a refusal or a local reply overtook the rest of the request
            case Phase.AWAIT_OPENING, _:
                # No protocol_config: observability mode leaves it out, and so do old Envoys.
                return self._word_refusal(ErrorKind.UNSUPPORTED_PROCESSING_MODE)
            case _:
                raise ProtocolViolationError(self.phase, event)

    def _collect(self, event: on.RequestBodyReceived) -> list[do.Effect]:
        self._expect_more_body(event)
        if not self._body.take(event):
            return self._word_refusal(ErrorKind.BODY_TOO_LARGE)
        if self._body.is_complete and self.phase is Phase.AWAIT_REQUEST_BODY:
            return self._judge_body()
        return []

    def _judge_body(self) -> list[do.Effect]:
        self.phase = Phase.JUDGING_BODY
        return [do.JudgeBody(self._body.joined(), self._may_judge_answer)]

    def _complete_by_trailers(self, event: on.RequestTrailersReceived) -> list[do.Effect]:
        self._expect_more_body(event)
        if self._body.is_streamed:
            # Envoy 1.40 sends a body that was streamed back to it twice when trailers follow it
            # and the route may retry: the provider would read what nobody has judged.
            return self._word_refusal(ErrorKind.REQUEST_TRAILERS)
        self._body.end_by_trailers()
        return self._judge_body() if self.phase is Phase.AWAIT_REQUEST_BODY else []

    def _expect_more_body(self, event: on.RequestEvent) -> None:
        # Only FULL_DUPLEX_STREAMED sends a body while the headers wait for their answer.
        is_early = self.phase is Phase.JUDGING_HEADERS and not self._body.is_streamed
        if self._body.is_complete or is_early:
            raise ProtocolViolationError(self.phase, event)

    def _on_judged(
        self, event: on.BodyRequired | on.RequestCleared | on.RequestRefused
    ) -> list[do.Effect]:
        match self.phase, event:
            case Phase.JUDGING_HEADERS, on.BodyRequired(headers, judges_answer):
                return self._require_body(headers, judges_answer=judges_answer)
            case Phase.JUDGING_HEADERS, on.RequestCleared():
                return self._clear_on_headers(event)
            case Phase.JUDGING_BODY, on.RequestCleared():
                return self._clear_with_body(event)
            case (
                (
                    Phase.JUDGING_HEADERS
                    | Phase.JUDGING_BODY
                    | Phase.JUDGING_ANSWER
                    | Phase.WORDING_REFUSAL
                ),
                on.RequestRefused(refusal),
            ):
                return self._refuse(refusal)
            case Phase.RESPONDING, on.RequestRefused(refusal) if self._response.is_held:
                return self._refuse(refusal)
            case _:
                raise ProtocolViolationError(self.phase, event)

    def _require_body(self, headers: HeaderMutation, *, judges_answer: bool) -> list[do.Effect]:
        self.phase = Phase.AWAIT_REQUEST_BODY
        if judges_answer and not self._may_judge_answer:
            return self._word_refusal(ErrorKind.UNSUPPORTED_PROCESSING_MODE)
        if self._body.is_complete:
            return self._judge_body()
        if self._is_half_closed:
            return self._word_refusal(ErrorKind.INVALID_BODY)  # the rest can no longer come
        if self._body.mode is on.BodyMode.NONE:
            return self._override_mode(judges_answer=judges_answer)
        # FULL_DUPLEX_STREAMED: the body comes without an answer.
        return [do.ContinueRequestHeaders(headers)] if self._body.is_buffered else []

    @property
    def _may_judge_answer(self) -> bool:
        """Tell whether the answer comes, or we make it come, in a mode that can refuse it."""
        return (
            self._body.mode is on.BodyMode.NONE or self._is_overridden or self._response.can_hold
        )

    def _override_mode(self, *, judges_answer: bool) -> list[do.Effect]:
        # From here on Envoy holds the headers and streams the body (Envoy >= 1.40).
        self._body.mode = on.BodyMode.FULL_DUPLEX_STREAMED
        self._is_overridden = True
        if judges_answer:
            self._response = self._response_in(on.BodyMode.FULL_DUPLEX_STREAMED)
        return [
            do.OverrideMode(
                response_headers=self._wants_response_headers or judges_answer,
                response_body=judges_answer,
            )
        ]

    def _headers_answer(
        self, headers: HeaderMutation, cleared: on.RequestCleared
    ) -> do.ContinueRequestHeaders:
        """Answer the headers; where no body phase has asked for the response, ask now.

        That an answer is to pass here may depend on what the body said: then ask once more.
        """
        asks_again = (
            cleared.judges_answer and self._is_overridden and not self._response.has_body_phase
        )
        asks = self._body.mode is on.BodyMode.NONE or asks_again
        if cleared.judges_answer:
            if asks:
                self._response = self._response_in(on.BodyMode.FULL_DUPLEX_STREAMED)
            self._response.judge_answer()
        return do.ContinueRequestHeaders(
            headers=headers,
            metadata=cleared.mutations.metadata,
            response_headers=asks and (self._wants_response_headers or cleared.judges_answer),
            response_body=asks and cleared.judges_answer,
            request_body=asks_again,
        )

    def _clear_on_headers(self, cleared: on.RequestCleared) -> list[do.Effect]:
        if cleared.judges_answer and not self._may_judge_answer:
            return self._word_refusal(ErrorKind.UNSUPPORTED_PROCESSING_MODE)
        self._is_answered = True
        answer = self._headers_answer(cleared.mutations.headers, cleared)
        if not self._body.is_expected or self._body.mode is on.BodyMode.NONE:
            return [answer, *self._finish_request()]
        self.phase = Phase.PASSING_REQUEST
        passed = self._body.sent_on(self._body.joined())
        may_follow = not self._body.is_complete and not self._is_half_closed
        return [answer, *passed, *([] if may_follow else self._finish_request())]

    def _pass_on(self, event: on.RequestEvent) -> list[do.Effect]:
        match self.phase, event:
            case Phase.PASSING_REQUEST, on.RequestBodyReceived():
                return self._pass_body(event)
            case Phase.PASSING_REQUEST, on.RequestTrailersReceived():
                return [do.ContinueRequestTrailers(), *self._finish_request()]
            case Phase.RESPONDING, on.RequestTrailersReceived():
                return [do.ContinueRequestTrailers()]
            case _:
                raise ProtocolViolationError(self.phase, event)

    def _pass_body(self, event: on.RequestBodyReceived) -> list[do.Effect]:
        answers = self._body.passed_on(event)
        return [*answers, *self._finish_request()] if event.end_of_stream else answers

    def _clear_with_body(self, cleared: on.RequestCleared) -> list[do.Effect]:
        self._is_answered = True
        mutations = cleared.mutations
        if self._body.is_expected and self._body.is_buffered:
            return self._clear_buffered(cleared)
        headers = with_new_content_length(mutations.headers, mutations.body)
        answer = self._headers_answer(headers, cleared)
        body = self._body.joined() if mutations.body is None else mutations.body
        sent = self._body.sent_on(body) if self._body.is_expected else []
        return [answer, *sent, *self._finish_request()]

    def _clear_buffered(self, cleared: on.RequestCleared) -> list[do.Effect]:
        mutations = cleared.mutations
        if cleared.judges_answer:
            self._response.judge_answer()
        answer = do.ContinueRequestBody(
            headers=with_content_length(mutations.headers, mutations.body),
            body=mutations.body,
            metadata=mutations.metadata,
        )
        if self._body.trailers_seen and not self._is_half_closed:
            self.phase = Phase.PASSING_REQUEST
            return [answer]
        return [answer, *self._finish_request()]

    def _refuse(self, refusal: Refusal) -> list[do.Effect]:
        self._is_answered = True
        self.phase = Phase.ENDED
        self._body.drop()
        return [do.Refuse(refusal), do.EndStream()]

    def _word_refusal(self, kind: ErrorKind) -> list[do.Effect]:
        abandon: list[do.Effect] = [do.AbandonJudgement()] if self.phase in JUDGING else []
        self.phase = Phase.WORDING_REFUSAL
        self._body.drop()
        return [*abandon, do.WordRefusal(kind)]

    def _finish_request(self) -> list[do.Effect]:
        self._body.drop()
        awaits_response = self._wants_response_headers or self._response.has_body_phase
        if awaits_response and not self._response.is_complete and not self._is_half_closed:
            self.phase = Phase.RESPONDING
            return []
        self.phase = Phase.ENDED
        return [do.EndStream()]

    def _on_response(self, event: on.ResponseReceived) -> list[do.Effect]:
        match self.phase, event:
            case Phase.RESPONDING, _:
                return self._respond(event)
            case Phase.PASSING_REQUEST, _ if self._body.is_streamed:
                # An upstream may answer before it has read the whole request: both go on.
                return self._response.receive(event)
            case ((Phase.ENDED | Phase.JUDGING_ANSWER), _):
                raise ProtocolViolationError(self.phase, event)
            case ((Phase.AWAIT_OPENING | Phase.AWAIT_REQUEST_HEADERS), _):
                # Nothing was judged: either request_header_mode is SKIP, or Envoy refused the
                # request before it had headers. We cannot tell, so the answer is not let through.
                return self._word_refusal(ErrorKind.UNSUPPORTED_PROCESSING_MODE)
            case Phase.WORDING_REFUSAL, _:
                return []
            case _:
                if not isinstance(event, on.ResponseHeadersReceived):
                    raise ProtocolViolationError(self.phase, event)
                # A local reply (413, timeout, no upstream) overtook the judgement. Envoy answers
                # the client itself and the request goes nowhere, so nothing is left to judge.
                abandon: list[do.Effect] = [do.AbandonJudgement()] if self.phase in JUDGING else []
                self.phase = Phase.RESPONDING
                self._body.drop()
                return abandon + self._respond(event)

    def _on_response_judged(self, event: on.ResponseVerdict) -> list[do.Effect]:
        match self.phase:
            case Phase.RESPONDING | Phase.JUDGING_ANSWER:
                return self._respond(event)
            case Phase.PASSING_REQUEST if self._body.is_streamed:
                return self._response.receive(event)
            case _:
                raise ProtocolViolationError(self.phase, event)

    def _respond(self, event: on.ResponseEvent) -> list[do.Effect]:
        answers = self._response.receive(event)
        self.phase = Phase.JUDGING_ANSWER if self._response.is_judging_whole else Phase.RESPONDING
        if self._response.is_overfull:
            return self._word_refusal(ErrorKind.UNSCANNED_CONTENT)
        if self._response.is_complete:
            self.phase = Phase.ENDED
            answers.append(do.EndStream())
        return answers

    def _on_interrupted(
        self, event: on.StreamClosed | on.Faulted | on.DeadlinePassed
    ) -> list[do.Effect]:
        match event:
            case on.StreamClosed():
                return self._on_closed()
            case on.Faulted(kind):
                return self._on_fault(kind)
            case on.DeadlinePassed():
                late = LATE.get(self.phase)
                return [] if late is None else self._word_refusal(late)
            case _:
                assert_never(event)

    def _on_closed(self) -> list[do.Effect]:
        if self.phase is Phase.ENDED:
            return []
        if self.phase in JUDGING or self.phase is Phase.WORDING_REFUSAL:
            # Whoever half-closes may still wait for the verdict; Envoy resets when it does not.
            self._is_half_closed = True
            return []
        must_abort = self.phase in UNANSWERED or self._response.owes_answer
        self.phase = Phase.ENDED
        self._body.drop()
        return [do.AbortStream() if must_abort else do.EndStream()]

    @property
    def _may_still_refuse(self) -> bool:
        if self.phase is Phase.WORDING_REFUSAL:
            return False
        return self.phase in UNANSWERED or self._response.is_held

    def _on_fault(self, kind: ErrorKind) -> list[do.Effect]:
        if self.phase is Phase.ENDED:
            return []
        if self._may_still_refuse:
            return self._word_refusal(kind)
        self.phase = Phase.ENDED
        return [do.AbortStream()]
