"""Judges one exchange: admit, inspect, plan; in that order, one way.

A step that needs no waiting returns its verdict at once instead of a coroutine. Nothing here can
let a request pass by failing: an exception reaches the conversation, which refuses.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping
from typing import Final, assert_never

from sidecar.apis.response_structure import has_model_text
from sidecar.apis.routes import guess_dialect, recognise
from sidecar.checks.admission import Admission, Admitted, Caller, NotAdmitted, admit
from sidecar.checks.aftermath import give_back, keep_in_mind, note_usage, note_use
from sidecar.checks.answer_checks import AnswerChecks, RequestLine, asking_for_identity
from sidecar.checks.answer_usage import UsageHiding
from sidecar.checks.body_need import BodyNeed, body_need, judges_answer
from sidecar.checks.inspection import Inspected, Inspection, Passed
from sidecar.checks.ledger import Ledger
from sidecar.checks.own_headers import limit_metadata, own_headers
from sidecar.checks.parts import Parts
from sidecar.domain.errors import ClientError, ErrorKind, client_error
from sidecar.domain.finding import Restoration
from sidecar.domain.http import NO_CHANGE, HeaderMutation, HeaderName, Headers
from sidecar.domain.mutations import Metadata, RequestMutations
from sidecar.domain.report import ExchangeOutcome, FaultKind
from sidecar.domain.subject import Dialect, Route, UnknownRoute, Unreadable
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
from sidecar.mutations.headers import naming_model, strip
from sidecar.mutations.limit_headers import foreign_headers
from sidecar.mutations.refusal import refuse
from sidecar.settings.serving import RouteByModel, Timing

HeadersVerdict = BodyRequired | RequestCleared | RequestRefused
BodyVerdict = RequestCleared | RequestRefused
ResponseHeadersVerdict = ResponseCleared | ResponseStreamed | ResponseHeld | RequestRefused
AnswerVerdict = ResponseJudged | RequestRefused

_STATUS: Final = re.compile(r"[0-9]{3}")

STREAM_NAME: Final = "x-egret-stream"
"""Of the gRPC call's metadata: Envoy's own name of the request, which its access log has too.

Not the request id: an Envoy that keeps a client's would let it name, and so end, another request.
"""

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9-]{8,64}")
"""Envoy's own form and room for others; anything else could carry text into logs and headers."""


class ExchangeChecks:
    """The checks of one exchange; the transport's port `Judge`."""

    def __init__(self, parts: Parts, metadata: Mapping[str, str]) -> None:
        """Begin; *metadata* is that of the gRPC call, where Envoy names its own span."""
        self._parts = parts
        self._names_route = parts.route_by_model is RouteByModel.ON
        self._ledger = Ledger(parts.clocks)
        # Not the traceparent among the request headers: that one is still the caller's.
        self._ledger.traceparent = metadata.get("traceparent")
        self._ledger.tracestate = metadata.get("tracestate")
        self._stream = metadata.get(STREAM_NAME, "")
        self._headers = Headers()
        self._strip = NO_CHANGE
        self._dialect = Dialect.OPENAI
        self._route: Route | UnknownRoute = UnknownRoute(Dialect.OPENAI)
        self._inspection: Inspection | None = None
        self._answer: AnswerChecks | UsageHiding | None = None
        # Now, and not when the headers are read: what waits to be read is what a worker that is
        # behind has most of.
        self._is_counted = parts.load.begin()
        self._is_one_too_many = not self._is_counted
        self._foreign: tuple[str, ...] = ()
        parts.recorder.exchange_began()

    def judge_headers(
        self, headers: Headers, *, has_body: bool, source_address: str | None = None
    ) -> HeadersVerdict | Awaitable[HeadersVerdict]:
        """Admit by the request headers and where they come from."""
        self._ledger.work()
        if self._is_one_too_many:
            return self._turn_away(headers)
        self._take_headers(headers)
        route = self._route
        operation = route.operation if isinstance(route, Route) else None
        caller = Caller(headers, source_address, operation)
        admission = admit(caller, parts=self._parts, ledger=self._ledger)
        if isinstance(admission, (Admitted, NotAdmitted)):
            return self._go_on(admission, has_body=has_body)
        return self._go_on_later(admission, has_body=has_body)

    def judge_body(
        self, body: bytes, *, may_judge_answer: bool = True
    ) -> BodyVerdict | Awaitable[BodyVerdict]:
        """Inspect the whole request body; without `may_judge_answer` no answer comes here."""
        self._ledger.work()
        if self._inspection is None or not isinstance(self._route, Route):
            raise AssertionError("a body was judged before its headers")
        inspected = self._inspection.inspect(
            body,
            route=self._route,
            headers=self._headers,
            may_judge_answer=may_judge_answer,
        )
        if isinstance(inspected, (Passed, ClientError)):
            return self._conclude(inspected)
        return self._conclude_later(inspected)

    def judge_response_headers(
        self, headers: Headers, *, has_body: bool, may_stream: bool
    ) -> ResponseHeadersVerdict:
        """Say what becomes of an answer; one that nobody judges goes on with our timing."""
        if self._parts.timing is Timing.MUTATION:
            self._foreign = foreign_headers(headers)
        own = self._own_headers()
        if self._answer is None:
            return ResponseCleared(own)
        self._ledger.answer_status = _status_of(headers)
        self._ledger.work()
        verdict = self._answer.judge_headers(
            headers, own=own, has_body=has_body, may_stream=may_stream
        )
        self._ledger.rest()
        return self._refuse(verdict) if isinstance(verdict, ClientError) else verdict

    def judge_response_piece(self, body: bytes, *, is_last: bool) -> ResponsePieceJudged:
        """Judge the next piece of a streamed answer."""
        if self._answer is None:
            raise AssertionError("a piece of an answer was judged that nobody asked for")
        self._ledger.work()
        verdict = self._answer.judge_piece(body, is_last=is_last)
        self._ledger.rest()
        return verdict

    def judge_response_body(self, body: bytes) -> AnswerVerdict | Awaitable[AnswerVerdict]:
        """Judge a whole answer."""
        if self._answer is None:
            raise AssertionError("an answer was judged that nobody asked for")
        self._ledger.work()
        verdict = self._answer.judge_body(body, own=self._own_headers())
        if isinstance(verdict, (ResponseJudged, ClientError)):
            return self._conclude_answer(verdict)
        return self._conclude_answer_later(verdict)

    def word_refusal(self, kind: ErrorKind) -> RequestRefused:
        """Word a refusal in the client's dialect; may come before the headers."""
        self._name_request()
        return self._refuse(client_error(kind))

    def note_fault(self, fault: FaultKind, error: BaseException | None = None) -> None:
        """Count a fault and log where it came from; its text is not shown."""
        if error is not None:
            self._ledger.error_type = type(error).__name__
        self._parts.recorder.fault(fault, error)

    def close(self, *, is_cancelled: bool, is_answered: bool) -> None:
        """Report the exchange, once."""
        self._make_room()
        self._name_request()
        self._ledger.rest()
        if self._answer is not None and self._ledger.refused is None:
            self._answer.abandon()
        outcome = self._ledger.outcome()
        if not is_answered:
            outcome = ExchangeOutcome.ABORTED if is_cancelled else ExchangeOutcome.FAILED
        self._parts.recorder.exchange_ended()
        note_use(self._ledger, parts=self._parts)
        if is_answered:
            keep_in_mind(self._ledger, stream=self._stream, parts=self._parts)
        elif self._inspection is not None:
            give_back(self._ledger, limits=self._inspection.limits, parts=self._parts)
        self._report(outcome)

    def _report(self, outcome: ExchangeOutcome) -> None:
        self._parts.recorder.record(self._ledger.report(outcome))

    def _turn_away(self, headers: Headers) -> RequestRefused:
        """Refuse before anything is looked up: what it costs, others have to wait."""
        self.note_fault(FaultKind.TOO_MANY_EXCHANGES)
        self._dialect = guess_dialect(headers.text(HeaderName.PATH), headers)
        self._take_request_id(headers)
        return self._refuse(client_error(ErrorKind.OVERLOADED))

    def _take_headers(self, headers: Headers) -> None:
        self._headers = headers
        method, path = headers.text(HeaderName.METHOD), headers.text(HeaderName.PATH)
        self._route = recognise(method, path, headers)
        self._dialect = guess_dialect(path, headers)
        self._take_request_id(headers)
        self._strip = strip(headers)
        self._ledger.method = method
        self._ledger.route = self._route

    def _take_request_id(self, headers: Headers) -> None:
        request_id = headers.text(HeaderName.REQUEST_ID)
        if _REQUEST_ID.fullmatch(request_id):
            self._ledger.request_id = request_id
        self._name_request()

    def _name_request(self) -> None:
        """Make up an id where Envoy has sent none; it takes a system call, so only there."""
        if not self._ledger.request_id:
            self._ledger.request_id = self._parts.new_request_id()

    async def _go_on_later(
        self, admission: Awaitable[Admission], *, has_body: bool
    ) -> HeadersVerdict:
        verdict = self._go_on(await admission, has_body=has_body)
        return await verdict if isinstance(verdict, Awaitable) else verdict

    def _go_on(
        self, admission: Admission, *, has_body: bool
    ) -> HeadersVerdict | Awaitable[HeadersVerdict]:
        match admission:
            case NotAdmitted(kind):
                return self._refuse(client_error(kind))
            case Admitted():
                self._inspection = Inspection(admission, parts=self._parts, ledger=self._ledger)
                return self._require(admission, self._inspection, has_body=has_body)
            case _:
                assert_never(admission)

    def _require(
        self, admitted: Admitted, inspection: Inspection, *, has_body: bool
    ) -> HeadersVerdict | Awaitable[HeadersVerdict]:
        route = self._route if isinstance(self._route, Route) else None
        need = body_need(self._route, admitted, has_body=has_body, names_route=self._names_route)
        match need:
            case BodyNeed.WHOLE:
                self._ledger.rest()
                judges = judges_answer(self._route, admitted)
                return BodyRequired(self._strip, judges_answer=judges)
            case BodyNeed.NONE:
                inspected = inspection.without_body(route)
            case Unreadable(reason):
                inspected = inspection.without_body(route, reasons=(reason,))
            case _:
                assert_never(need)
        if isinstance(inspected, (Passed, ClientError)):
            return self._conclude(inspected)
        return self._conclude_later(inspected)

    async def _conclude_later(self, inspected: Awaitable[Inspected]) -> BodyVerdict:
        return self._conclude(await inspected)

    def _conclude(self, inspected: Inspected) -> BodyVerdict:
        match inspected:
            case ClientError():
                return self._refuse(inspected)
            case Passed(body, restoration, model):
                headers = self._prepare_answer(restoration)
                mutations = RequestMutations(
                    headers=naming_model(headers, model) if self._names_route else headers,
                    body=body,
                    metadata=self._metadata(),
                    # Also where no model is named: a client's own word may have chosen the route.
                    clear_route_cache=self._names_route,
                )
                note_usage(self._ledger, parts=self._parts)
                self._ledger.rest()
                self._make_room()
                return RequestCleared(mutations, judges_answer=self._answer is not None)
            case _:
                assert_never(inspected)

    def _prepare_answer(self, restoration: Restoration) -> HeaderMutation:
        """Get ready for the answer; return the changes of the request's headers."""
        route, inspection = self._route, self._inspection
        if inspection is None or not isinstance(route, Route) or not has_model_text(route):
            return self._strip
        setting = inspection.answer_setting(restoration)
        if setting is None and not inspection.hides_usage:
            return self._strip
        line = RequestLine(self._headers.text(HeaderName.PATH), route)
        if setting is not None:
            self._answer = AnswerChecks(line, setting, ledger=self._ledger)
        else:
            self._answer = UsageHiding(line)
        return asking_for_identity(self._strip)

    def _own_headers(self) -> HeaderMutation:
        if self._parts.timing is not Timing.MUTATION:
            return NO_CHANGE
        return HeaderMutation(
            set_headers=own_headers(self._ledger, self._dialect, now=self._parts.clocks.wall()),
            remove_headers=self._foreign,
        )

    async def _conclude_answer_later(
        self, verdict: Awaitable[ResponseJudged | ClientError]
    ) -> AnswerVerdict:
        return self._conclude_answer(await verdict)

    def _conclude_answer(self, verdict: ResponseJudged | ClientError) -> AnswerVerdict:
        self._ledger.rest()
        return self._refuse(verdict) if isinstance(verdict, ClientError) else verdict

    def _refuse(self, error: ClientError) -> RequestRefused:
        self._ledger.refused = error.kind
        self._make_room()
        self._ledger.rest()  # so that the client and the access log are told the same times
        refusal = refuse(
            error,
            dialect=self._dialect,
            headers=own_headers(self._ledger, self._dialect, now=self._parts.clocks.wall()),
            metadata=self._ledger.metadata(),
        )
        return RequestRefused(refusal)

    def _make_room(self) -> None:
        """Judged, or given up: another request may come in."""
        if self._is_counted:
            self._is_counted = False
            self._parts.load.end()

    def _metadata(self) -> Metadata:
        metadata = self._ledger.metadata()
        if self._parts.timing is Timing.MUTATION:
            return metadata
        now = self._parts.clocks.wall()
        return (*metadata, *limit_metadata(self._ledger, self._dialect, now=now))


def _status_of(headers: Headers) -> int:
    status = headers.text(HeaderName.STATUS)
    return int(status) if _STATUS.fullmatch(status) else 0
