"""One HTTP request and its response as a machine: events in, effects out.

The request's own phases are in `request`, the response's in `response`; here is what joins and
what overtakes them: verdicts, refusals, local replies, faults and the end of the stream.

Rules of this room. The machine knows no protobuf, does no I/O and reads no clock. An event a phase
does not expect raises and changes nothing. A request is answered exactly once, and `EndStream`
follows the last answer owed: a stream that ends without an answer would let Envoy go on unjudged
(it fails open, by its API).

The way of a request whose policy needs its body, in the default mode (bodies NONE):

    request_headers → JudgeHeaders → BodyRequired → OverrideMode
    request_body …  → JudgeBody → RequestCleared
                    → ContinueRequestHeaders, StreamRequestBody …, EndStream
"""

from __future__ import annotations

from typing import assert_never

from sidecar.domain.errors import ErrorKind
from sidecar.domain.mutations import Refusal
from sidecar.exchange import effects as do
from sidecar.exchange import events as on
from sidecar.exchange.phase import (
    COLLECTING,
    JUDGING,
    LATE,
    UNANSWERED,
    Phase,
    ProtocolViolationError,
)
from sidecar.exchange.request import Answers, RequestPhases
from sidecar.exchange.request_body import GATING_BODY_MODES
from sidecar.exchange.response import ResponsePhases


class Exchange:
    """One HTTP request and its response, as seen through ext_proc."""

    __slots__ = (
        "_is_answered",
        "_request",
        "_response",
        "_wants_response_headers",
        "phase",
    )

    def __init__(self, *, max_body_bytes: int, wants_response_headers: bool) -> None:
        """Start before the first message of a stream."""
        self.phase = Phase.AWAIT_OPENING
        self._wants_response_headers = wants_response_headers
        self._is_answered = False
        self._response = ResponsePhases(body_mode=on.BodyMode.NONE, max_body_bytes=max_body_bytes)
        self._request = RequestPhases(
            response=self._response,
            max_body_bytes=max_body_bytes,
            wants_response_headers=wants_response_headers,
        )

    @property
    def is_unanswered(self) -> bool:
        """Tell whether the request was neither cleared nor refused, be the stream over or not."""
        return not self._is_answered

    @property
    def comes_in_pieces(self) -> bool:
        """Tell whether the request's body reaches us as the client sends it."""
        return self._request.body.is_streamed

    @property
    def held_bytes(self) -> int:
        """How much of request and response is kept until it is judged."""
        return self._request.body.held_bytes + self._response.held_bytes

    def would_hold(self, event: on.Event) -> int:
        """Tell how many bytes of *event* would be kept until they are judged."""
        match event:
            case on.RequestBodyReceived(body) if self.phase in COLLECTING:
                return len(body)
            case on.ResponseBodyReceived(body) if self._response.is_held:
                return len(body)
            case _:
                return 0

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
        self._request.open(event.request_body_mode)
        self._response.open(event.response_body_mode)
        if event.observability_mode or event.request_body_mode not in GATING_BODY_MODES:
            return self._word_refusal(ErrorKind.UNSUPPORTED_PROCESSING_MODE)
        self.phase = Phase.AWAIT_REQUEST_HEADERS
        return []

    def _on_request(self, event: on.RequestEvent) -> list[do.Effect]:
        match self.phase:
            case Phase.WORDING_REFUSAL:
                return []  # a refusal overtook the rest of the request
            case Phase.RESPONDING:
                if not self._is_answered:
                    return []  # a local reply overtook it
                return self._go_on(self._request.receive(event))
            case Phase.AWAIT_OPENING:
                # No protocol_config: observability mode leaves it out, and so do old Envoys.
                return self._word_refusal(ErrorKind.UNSUPPORTED_PROCESSING_MODE)
            case Phase.JUDGING_ANSWER | Phase.ENDED:
                raise ProtocolViolationError(self.phase, event)
            case _:
                return self._go_on(self._request.receive(event))

    def _go_on(self, answers: Answers) -> list[do.Effect]:
        was_through = self.phase is Phase.RESPONDING
        self.phase = self._request.phase
        if isinstance(answers, ErrorKind):
            return self._word_refusal(answers)
        if self.phase is Phase.RESPONDING and not was_through:
            return [*answers, *self._await_response()]
        return answers

    def _on_judged(
        self, event: on.BodyRequired | on.RequestCleared | on.RequestRefused
    ) -> list[do.Effect]:
        match self.phase, event:
            case (
                (Phase.JUDGING_HEADERS | Phase.JUDGING_BODY),
                (on.BodyRequired() | on.RequestCleared()),
            ):
                return self._judged(event)
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

    def _judged(self, event: on.BodyRequired | on.RequestCleared) -> list[do.Effect]:
        answers = self._request.judged(event)
        if isinstance(event, on.RequestCleared):
            self._is_answered = not isinstance(answers, ErrorKind)
        return self._go_on(answers)

    def _refuse(self, refusal: Refusal) -> list[do.Effect]:
        self._is_answered = True
        self.phase = Phase.ENDED
        self._request.body.drop()
        return [do.Refuse(refusal), do.EndStream()]

    def _word_refusal(self, kind: ErrorKind) -> list[do.Effect]:
        abandon: list[do.Effect] = [do.AbandonJudgement()] if self.phase in JUDGING else []
        self.phase = Phase.WORDING_REFUSAL
        self._request.body.drop()
        return [*abandon, do.WordRefusal(kind)]

    def _await_response(self) -> list[do.Effect]:
        """The request is through: go on for the response, or end."""
        awaits_response = self._wants_response_headers or self._response.has_body_phase
        is_owed = awaits_response and not self._response.is_complete
        if is_owed and not self._request.is_half_closed:
            return []
        self.phase = Phase.ENDED
        return [do.EndStream()]

    def _on_response(self, event: on.ResponseReceived) -> list[do.Effect]:
        match self.phase, event:
            case Phase.RESPONDING, _:
                return self._respond(event)
            case Phase.PASSING_REQUEST, _ if self._request.body.is_streamed:
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
                self._request.overtake()
                return abandon + self._respond(event)

    def _on_response_judged(self, event: on.ResponseVerdict) -> list[do.Effect]:
        match self.phase:
            case Phase.RESPONDING | Phase.JUDGING_ANSWER:
                return self._respond(event)
            case Phase.PASSING_REQUEST if self._request.body.is_streamed:
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
            self._request.half_close()
            return []
        must_abort = self.phase in UNANSWERED or self._response.owes_answer
        self.phase = Phase.ENDED
        self._request.body.drop()
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
