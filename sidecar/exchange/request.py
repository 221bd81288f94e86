"""The request half of an exchange: collect what is judged, and word how a cleared request goes on.

Its phases are those of the exchange as long as nothing overtakes the request: a refusal, a local
reply and the end of the stream are the machine's.
"""

from __future__ import annotations

from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import HeaderMutation
from sidecar.exchange import effects as do
from sidecar.exchange import events as on
from sidecar.exchange.content_length import with_content_length, with_new_content_length
from sidecar.exchange.phase import COLLECTING, Phase, ProtocolViolationError
from sidecar.exchange.request_body import RequestBody
from sidecar.exchange.response import ResponsePhases

Answers = list[do.Effect] | ErrorKind
"""What is to be done, or why the request cannot go on."""


class RequestPhases:
    """Tracks the request phases of one exchange; RESPONDING is a request that is through.

    The response's mode depends on what is asked for with the request, and so does whether it can
    be judged: *response* is the same exchange's.
    """

    __slots__ = (
        "_is_half_closed",
        "_is_overridden",
        "_response",
        "_wants_response_headers",
        "body",
        "phase",
    )

    def __init__(
        self, *, response: ResponsePhases, max_body_bytes: int, wants_response_headers: bool
    ) -> None:
        self.phase = Phase.AWAIT_REQUEST_HEADERS
        self._response = response
        self._wants_response_headers = wants_response_headers
        self.body = RequestBody(max_body_bytes=max_body_bytes)
        self._is_half_closed = False
        self._is_overridden = False

    @property
    def is_half_closed(self) -> bool:
        """Tell whether Envoy sends nothing more."""
        return self._is_half_closed

    def open(self, body_mode: on.BodyMode) -> None:
        """Envoy's configuration sends request bodies like this."""
        self.body.mode = body_mode

    def half_close(self) -> None:
        """Envoy sends nothing more, and may still wait for the verdict."""
        self._is_half_closed = True

    def overtake(self) -> None:
        """Envoy has answered the client itself: the request goes nowhere."""
        self.phase = Phase.RESPONDING
        self.body.drop()

    def receive(self, event: on.RequestEvent) -> Answers:
        """Advance by one event from Envoy.

        Raises:
            ProtocolViolationError: the phase does not expect the event; nothing has changed.
        """
        match self.phase, event:
            case Phase.AWAIT_REQUEST_HEADERS, on.RequestHeadersReceived(
                headers, end_of_stream, source
            ):
                self.phase = Phase.JUDGING_HEADERS
                self.body.begin(is_expected=not end_of_stream)
                return [do.JudgeHeaders(headers, self.body.is_expected, source)]
            case phase, on.RequestBodyReceived() if phase in COLLECTING:
                return self._collect(event)
            case phase, on.RequestTrailersReceived() if phase in COLLECTING:
                return self._complete_by_trailers(event)
            case Phase.PASSING_REQUEST, on.RequestBodyReceived():
                passed = self.body.passed_on(event)
                return self._through(passed) if event.end_of_stream else passed
            case Phase.PASSING_REQUEST, on.RequestTrailersReceived():
                return self._through([do.ContinueRequestTrailers()])
            case Phase.RESPONDING, on.RequestTrailersReceived():
                return [do.ContinueRequestTrailers()]
            case _:
                raise ProtocolViolationError(self.phase, event)

    def judged(self, event: on.BodyRequired | on.RequestCleared) -> Answers:
        """Advance by a verdict that does not refuse.

        Raises:
            ProtocolViolationError: the phase does not expect the event; nothing has changed.
        """
        match self.phase, event:
            case Phase.JUDGING_HEADERS, on.BodyRequired(headers, judges_answer):
                return self._require_body(headers, judges_answer=judges_answer)
            case Phase.JUDGING_HEADERS, on.RequestCleared():
                return self._clear_on_headers(event)
            case Phase.JUDGING_BODY, on.RequestCleared():
                return self._clear_with_body(event)
            case _:
                raise ProtocolViolationError(self.phase, event)

    def _collect(self, event: on.RequestBodyReceived) -> Answers:
        self._expect_more_body(event)
        if not self.body.take(event):
            return ErrorKind.BODY_TOO_LARGE
        if self.body.is_complete and self.phase is Phase.AWAIT_REQUEST_BODY:
            return self._judge_body()
        return []

    def _judge_body(self) -> Answers:
        self.phase = Phase.JUDGING_BODY
        return [do.JudgeBody(self.body.joined(), self._may_judge_answer)]

    def _complete_by_trailers(self, event: on.RequestTrailersReceived) -> Answers:
        self._expect_more_body(event)
        if self.body.is_streamed:
            # Envoy 1.40 sends a body that was streamed back to it twice when trailers follow it
            # and the route may retry: the provider would read what nobody has judged.
            return ErrorKind.REQUEST_TRAILERS
        self.body.end_by_trailers()
        return self._judge_body() if self.phase is Phase.AWAIT_REQUEST_BODY else []

    def _expect_more_body(self, event: on.RequestEvent) -> None:
        # Only FULL_DUPLEX_STREAMED sends a body while the headers wait for their answer.
        is_early = self.phase is Phase.JUDGING_HEADERS and not self.body.is_streamed
        if self.body.is_complete or is_early:
            raise ProtocolViolationError(self.phase, event)

    def _require_body(self, headers: HeaderMutation, *, judges_answer: bool) -> Answers:
        self.phase = Phase.AWAIT_REQUEST_BODY
        if judges_answer and not self._may_judge_answer:
            return ErrorKind.UNSUPPORTED_PROCESSING_MODE
        if self.body.is_complete:
            return self._judge_body()
        if self._is_half_closed:
            return ErrorKind.INVALID_BODY  # the rest can no longer come
        if self.body.mode is on.BodyMode.NONE:
            return self._override_mode(judges_answer=judges_answer)
        # FULL_DUPLEX_STREAMED: the body comes without an answer.
        return [do.ContinueRequestHeaders(headers)] if self.body.is_buffered else []

    @property
    def _may_judge_answer(self) -> bool:
        """Tell whether the answer comes, or we make it come, in a mode that can refuse it."""
        return self.body.mode is on.BodyMode.NONE or self._is_overridden or self._response.can_hold

    def _override_mode(self, *, judges_answer: bool) -> Answers:
        # From here on Envoy holds the headers and streams the body (Envoy >= 1.40).
        self.body.mode = on.BodyMode.FULL_DUPLEX_STREAMED
        self._is_overridden = True
        if judges_answer:
            self._response.open(on.BodyMode.FULL_DUPLEX_STREAMED)
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
        asks = self.body.mode is on.BodyMode.NONE or asks_again
        if cleared.judges_answer:
            if asks:
                self._response.open(on.BodyMode.FULL_DUPLEX_STREAMED)
            self._response.judge_answer()
        return do.ContinueRequestHeaders(
            headers=headers,
            metadata=cleared.mutations.metadata,
            response_headers=asks and (self._wants_response_headers or cleared.judges_answer),
            response_body=asks and cleared.judges_answer,
            request_body=asks_again,
            clear_route_cache=cleared.mutations.clear_route_cache,
        )

    def _clear_on_headers(self, cleared: on.RequestCleared) -> Answers:
        if cleared.judges_answer and not self._may_judge_answer:
            return ErrorKind.UNSUPPORTED_PROCESSING_MODE
        answer = self._headers_answer(cleared.mutations.headers, cleared)
        if not self.body.is_expected or self.body.mode is on.BodyMode.NONE:
            return self._through([answer])
        passed = [answer, *self.body.sent_on(self.body.joined())]
        if self.body.is_complete or self._is_half_closed:
            return self._through(passed)
        self.phase = Phase.PASSING_REQUEST
        return passed

    def _clear_with_body(self, cleared: on.RequestCleared) -> Answers:
        mutations = cleared.mutations
        if self.body.is_expected and self.body.is_buffered:
            return self._clear_buffered(cleared)
        headers = with_new_content_length(mutations.headers, mutations.body)
        answer = self._headers_answer(headers, cleared)
        body = self.body.joined() if mutations.body is None else mutations.body
        sent = self.body.sent_on(body) if self.body.is_expected else []
        return self._through([answer, *sent])

    def _clear_buffered(self, cleared: on.RequestCleared) -> Answers:
        mutations = cleared.mutations
        if cleared.judges_answer:
            self._response.judge_answer()
        answer = do.ContinueRequestBody(
            headers=with_content_length(mutations.headers, mutations.body),
            body=mutations.body,
            metadata=mutations.metadata,
            clear_route_cache=mutations.clear_route_cache,
        )
        if self.body.trailers_seen and not self._is_half_closed:
            self.phase = Phase.PASSING_REQUEST
            return [answer]
        return self._through([answer])

    def _through(self, answers: list[do.Effect]) -> list[do.Effect]:
        self.body.drop()
        self.phase = Phase.RESPONDING
        return answers
