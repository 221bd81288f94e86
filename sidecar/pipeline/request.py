"""Judges one HTTP request, step by step, from its first message to its records.

    headers → admit → (body) → read → limits → guardrails → decide → answer → finish

Steps are functions over plain values. The facts that they find are kept in the `RequestRecord`.
A step that refuses returns a `ClientError`; an exception ends in a refusal, or in a stream that
is aborted: a plain return would let Envoy go on with a request that was not judged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sidecar.apis.routes import guess_dialect, recognise
from sidecar.domain.errors import (
    ClientError,
    ErrorKind,
    UnreadableMessageError,
    client_error,
)
from sidecar.domain.http import HeaderName, Headers, Refusal
from sidecar.domain.report import ExchangeOutcome, FaultKind
from sidecar.domain.subject import Route, UnknownRoute
from sidecar.domain.usage import DecisionKind
from sidecar.extproc.phases import Event, Phase, ProtocolViolationError, RefusedError
from sidecar.extproc.protocol import ExtProcProtocol
from sidecar.extproc.stream import (
    STREAM_NAME,
    TRACEPARENT,
    TRACESTATE,
    Call,
    ExtProcStream,
    LateError,
    OvertakenError,
    StreamEnd,
)
from sidecar.limits.settlement import adjustments_of, unreported
from sidecar.pipeline.admission import (
    Caller,
    admit,
    judges_answer,
    naming_model,
    rename_path,
    requires_body,
    strip,
    unscannable,
)
from sidecar.pipeline.aliased_answer import AliasedAnswer
from sidecar.pipeline.answer import (
    AnswerPlan,
    GuardedAnswer,
    RequestLine,
    UncountedAnswer,
    carry_answer,
)
from sidecar.pipeline.answer_judgement import AnswerSetting
from sidecar.pipeline.content import (
    RequestAllowed,
    hash_key_of,
    judge_body,
    judge_without_body,
    subject_of,
)
from sidecar.pipeline.dependencies import Worker
from sidecar.pipeline.explain import EXPLAINED, explain
from sidecar.pipeline.metered_answer import (
    MeteredAnswer,
    awaits_usage,
    ended_here,
    metered,
    reads_answer,
)
from sidecar.pipeline.record import NO_ALLOWANCE, RequestRecord
from sidecar.pipeline.reply import limit_metadata, metadata_of, own_headers, refusal_of
from sidecar.redaction.redact import Placeholders, own_number
from sidecar.settings.serving import RouteByModel, Timing
from sidecar.settings.stores import UsageSource
from sidecar.telemetry import sanitize

IDENTITY: Final = ((HeaderName.ACCEPT_ENCODING, b"identity"),)
"""Sent to the provider if answers are judged: a compressed answer cannot be read."""

_NO_KEY: Final = ((HeaderName.X_GOOG_API_KEY, b"removed"),)
"""Where Envoy chooses the route again, in part by this header: only its value is removed."""

TOO_LONG_TO_HOLD: Final = ClientError(
    ErrorKind.UNSCANNED_CONTENT,
    "The answer is longer than this gateway can check as a whole, and nothing of it was let "
    "through. Ask for a shorter answer, or for a stream.",
)
"""The only content that the protocol refuses: an answer that is held, beyond `max_body_bytes`."""

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9-]{8,64}")
"""Envoy's own form and room for others; anything else could carry text into logs and headers."""

_FAULTS: Final = {
    ErrorKind.OVERLOADED: FaultKind.TOO_MANY_BYTES,
    ErrorKind.UNSUPPORTED_PROCESSING_MODE: FaultKind.UNSUPPORTED_MODE,
}
"""Refusals of the protocol that are faults of the surroundings."""


async def serve(call: Call, metadata: Mapping[str, str], worker: Worker) -> StreamEnd:
    """Judge one HTTP request; return how its stream must end.

    *metadata* is that of the gRPC call: Envoy states its own span there. The traceparent among the
    request's headers is still the caller's.
    """
    clocks = worker.clocks
    record = RequestRecord(
        clocks=clocks,
        started_at=clocks.monotonic(),
        wall_ns=int(clocks.wall() * 1e9),
        traceparent=metadata.get(TRACEPARENT),
        tracestate=metadata.get(TRACESTATE),
        stream_name=metadata.get(STREAM_NAME, ""),
        # Now, and not when the headers are read: a worker that is behind has most of its requests
        # waiting to be read.
        is_counted=worker.guard.begin(),
        usage_source=None if worker.own_ends is None else worker.usage_source._value_,
    )
    worker.recorder.exchange_began()
    protocol = ExtProcProtocol(
        max_body_bytes=worker.max_body_bytes,
        wants_answer_headers=worker.timing is Timing.MUTATION,
        room=worker.guard,
    )
    stream = ExtProcStream(call, protocol, worker.budgets)
    return await stream.run(RequestHandler(record, worker))


class RequestHandler:
    """Judges one request and its answer."""

    def __init__(self, record: RequestRecord, worker: Worker) -> None:
        self._record = record
        self._worker = worker
        self._plan: AnswerPlan | None = None

    async def judge(self, stream: ExtProcStream) -> Refusal | None:
        """Carry request and answer to their ends; return the refusal that is owed, if any."""
        record, worker = self._record, self._worker
        try:
            judged = await judge_request(stream, record, worker)
            if isinstance(judged, ClientError):
                if judged.kind in EXPLAINED:
                    judged = explain(judged, record, stream.protocol)
                return self._refused(judged)
            self._plan = judged
            event = await stream.receive()
        except OvertakenError as overtaken:
            event = overtaken.event
        if event is Event.ENDED:
            return None
        error = await carry_answer(event, self._plan, stream, record, worker)
        return None if error is None else self._refused(error)

    def note(self, error: Exception) -> ErrorKind:
        """Count and log *error*; return the kind of the refusal."""
        fault, kind = fault_of(error)
        if isinstance(error, RefusedError):
            if fault is not None:
                self._worker.recorder.fault(fault)
        else:
            self._record.error_type = type(error).__name__
            self._worker.recorder.fault(fault or FaultKind.EXCEPTION, error)
        return kind

    def refusal(self, kind: ErrorKind) -> Refusal:
        """Return the refusal of *kind* in the client's dialect; may come before the headers."""
        if kind is ErrorKind.UNSCANNED_CONTENT:
            return self._refused(TOO_LONG_TO_HOLD)
        return self._refused(client_error(kind))

    def finish(self, protocol: ExtProcProtocol, end: StreamEnd) -> None:
        """Report the request, once, however its stream ended."""
        record, worker = self._record, self._worker
        if self._plan is not None:
            if record.error is None:
                self._plan.abandon()
            if isinstance(self._plan, MeteredAnswer):
                self._plan.forget()
        make_room(record, worker)
        # An id is made only if Envoy has sent none: that takes a system call.
        record.request_id = record.request_id or worker.new_request_id()
        outcome = record.outcome_now()
        if not protocol.is_answered:
            # Completed without an answer: a local reply of Envoy overtook the judgement.
            is_gone = end is not StreamEnd.ABORTED
            outcome = ExchangeOutcome.ABORTED if is_gone else ExchangeOutcome.FAILED
        worker.recorder.exchange_ended()
        now = worker.clocks.wall()
        if record.principal is not None:
            is_refused = record.error is not None
            worker.key_activity.note(record.principal.key_id, refused=is_refused, at=now)
        judged = record.judged
        if not protocol.is_answered or worker.usage_source is UsageSource.OFF:
            # Nothing reports the end of a request without an answer, or any end without usage.
            model = sanitize.model_name(record.model)
            judged = record.judged_request(record.outcome_now(), model)
            is_passed = record.error is None or record.answer_status is not None
            is_used = protocol.is_answered and is_passed
            ended = None if judged is None else unreported(judged, is_used=is_used)
            if judged is not None and record.key is not None and ended is not None:
                changes = adjustments_of(record.key.limits, ended, now=now)
                worker.limiter.settle(judged.organization_id, changes)
        elif judged is not None and worker.own_ends is not None:
            worker.own_ends.add(*ended_here(judged, record, self._plan, protocol))
        elif (
            judged is not None
            and record.stream_name
            and (judged.reserved is not None or judged.decision is not DecisionKind.DENY)
        ):
            # Envoy may not receive this verdict, whose request holds a reservation.
            worker.verdicts.add(record.stream_name, judged)
        if protocol.modes is not None:
            record.processing_modes = (
                protocol.request_mode._value_,
                protocol.response_mode._value_,
            )
        record.complete(outcome)
        if record.findings and record.policy is not None and record.principal is not None:
            policy, at = record.policy.name, record.wall_ns / 1e9
            worker.findings.note(policy, record.findings, of=record.principal, at=at)
        worker.recorder.record(record)

    def _refused(self, error: ClientError) -> Refusal:
        record, worker = self._record, self._worker
        record.error = error.kind
        record.request_id = record.request_id or worker.new_request_id()
        make_room(record, worker)
        record.rest()  # so that the client and the access log receive the same times
        return refusal_of(
            error,
            dialect=record.dialect,
            headers=own_headers(record, worker.clocks),
            metadata=metadata_of(record, now=worker.clocks.monotonic()),
            request_id=record.request_id,
            contact=worker.contact,
        )


def fault_of(error: Exception) -> tuple[FaultKind | None, ErrorKind]:
    """Return the fault that *error* counts as, if it is one, and the kind of its refusal."""
    match error:
        case LateError():
            return FaultKind.DEADLINE, error.kind
        case RefusedError():
            return _FAULTS.get(error.kind), error.kind
        case ProtocolViolationError():
            return FaultKind.PROTOCOL_VIOLATION, ErrorKind.INTERNAL_ERROR
        case UnreadableMessageError():
            return FaultKind.UNREADABLE_MESSAGE, ErrorKind.INTERNAL_ERROR
        case _:
            return FaultKind.EXCEPTION, ErrorKind.INTERNAL_ERROR


async def judge_request(
    stream: ExtProcStream, record: RequestRecord, worker: Worker
) -> AnswerPlan | ClientError | None:
    """Judge the request and let it go on; return how its answer is treated, or the refusal."""
    protocol = stream.protocol
    await stream.receive(Event.REQUEST_HEADERS)
    headers = protocol.headers
    record.work()
    if (overloaded := _begin(headers, record, worker)) is not None:
        return overloaded
    record.method = method = headers.text(HeaderName.METHOD)
    record.route = recognise(method, record.path, headers)
    caller = await admit(headers, stream, record, worker)
    if isinstance(caller, ErrorKind):
        return client_error(caller)
    _, policy = caller
    renamed = rename_path(record, policy) if policy.aliases else ()
    if isinstance(renamed, ErrorKind):
        return client_error(renamed)
    route, removed = record.route, strip(headers)
    allowed = await _judge_content(route, removed, caller, stream, record, worker)
    if isinstance(allowed, ClientError):
        return allowed
    plan = _plan_answer(allowed, route, record, protocol, worker)
    plan = plan if worker.own_ends is None else metered(plan, record, protocol, worker)
    awaits_trailers = isinstance(plan, MeteredAnswer) and not plan.reads_body
    added = renamed if plan is None else (*renamed, *IDENTITY)
    names_route = worker.route_by_model is RouteByModel.ON
    # Also if no model is named: a header of the client's may have chosen the route. And if the
    # policy chooses the provider, by the metadata of this answer.
    clears_route = names_route or policy.provider is not None
    added += _NO_KEY if clears_route and HeaderName.X_GOOG_API_KEY in headers.by_name else ()
    if names_route and not allowed.is_model_replaced:
        named, reason = record.model, unscannable(route, has_body=protocol.has_body)
        if record.subject is None and reason is None and isinstance(route, Route):
            named = route.model
        added += naming_model(named)
    metadata = metadata_of(record, now=worker.clocks.monotonic())
    if record.allowance is not NO_ALLOWANCE:
        metadata += limit_metadata(
            record,
            worker.clocks,
            has_headers=worker.timing is not Timing.MUTATION,
            has_limits=worker.limits_in_metadata,
        )
    protocol.forward(
        removed=removed,
        added=added,
        body=allowed.body,
        metadata=metadata,
        clear_route_cache=clears_route,
        judges_answer=plan is not None and not awaits_trailers,
        awaits_usage=awaits_trailers,
    )
    if record.judged is not None and isinstance(route, Route) and route.has_body:
        # Before the request goes on: it is accounted for even if this worker dies now.
        worker.usage.note(record.judged)
    record.rest()
    make_room(record, worker)
    return plan


async def _judge_content(
    route: Route | UnknownRoute,
    removed: tuple[str, ...],
    caller: Caller,
    stream: ExtProcStream,
    record: RequestRecord,
    worker: Worker,
) -> RequestAllowed | ClientError:
    """Judge by the body if the verdict needs it, else by the headers alone.

    The headers *removed* are removed before the body comes.
    """
    protocol, (key, policy) = stream.protocol, caller
    if not isinstance(route, Route) or not requires_body(
        route,
        policy,
        names_route=worker.route_by_model is RouteByModel.ON,
        allowed_models=key.allowed_models,
        limits=key.limits,
    ):
        reason = unscannable(route, has_body=protocol.has_body)
        return await judge_without_body(reason, caller, stream, record, worker)
    record.rest()
    needs_answer, may_await_usage = judges_answer(route, policy), False
    if worker.own_ends is not None:
        needs_answer = needs_answer or reads_answer(route, protocol, worker)
        may_await_usage = awaits_usage(route, worker)
    protocol.require_body(removed, judges_answer=needs_answer, awaits_usage=may_await_usage)
    if protocol.phase is Phase.AWAIT_BODY:
        await stream.receive(Event.REQUEST_BODY)
    body = protocol.body()
    record.work()
    return await judge_body(body, route, caller, stream, record, worker)


def _begin(headers: Headers, record: RequestRecord, worker: Worker) -> ClientError | None:
    """Read the id, path and dialect of the request; refuse it if too many are under judgement."""
    record.path = path = headers.text(HeaderName.PATH)
    record.dialect = guess_dialect(path, headers)
    request_id = headers.text(HeaderName.REQUEST_ID)
    if _REQUEST_ID.fullmatch(request_id):
        record.request_id = request_id
    else:
        record.request_id = worker.new_request_id()
    if record.is_counted:
        return None
    # Before any look-up: all other requests would wait for its cost.
    worker.recorder.fault(FaultKind.TOO_MANY_EXCHANGES)
    return client_error(ErrorKind.OVERLOADED)


def _plan_answer(
    allowed: RequestAllowed,
    route: Route | UnknownRoute,
    record: RequestRecord,
    protocol: ExtProcProtocol,
    worker: Worker,
) -> AnswerPlan | None:
    """Return how the answer is treated; None if it passes without Egret.

    On an unknown route it always passes: `unscanned` has let the request through, and Egret knows
    no place of a model's text in the answer. Placeholders that the model reads are not given to
    other values in the answer; those of turns that are not read may have any small number.
    """
    policy = record.policy
    if policy is None or not isinstance(route, Route) or not route.operation.spec.has_model_text:
        return None
    restoration = allowed.restoration
    plan: AnswerPlan | None = None
    if policy.answers.guardrails or restoration.originals:
        placeholders = allowed.placeholders or Placeholders(
            hash_key=hash_key_of(record, worker), after=own_number(record.request_id)
        )
        setting = AnswerSetting(
            policy=policy.answers,
            unscanned=policy.unscanned,
            restoration=restoration,
            placeholders=placeholders,
            guardrail_runner=worker.guardrail_runner,
            about=subject_of(record),
            clock=worker.clocks.monotonic,
            hides_usage=allowed.hides_usage,
            contact=worker.contact,
        )
        line = RequestLine(record.path, route, protocol.headers)
        plan = GuardedAnswer(line, setting, record)
    elif allowed.hides_usage:
        plan = UncountedAnswer(RequestLine(record.path, route), worker.guardrail_runner)
    if record.alias is not None and policy.restores_aliases and protocol.may_judge_answer:
        line = RequestLine(record.path, route)
        plan = AliasedAnswer(line, plan, alias=record.alias, runner=worker.guardrail_runner)
    return plan


def make_room(record: RequestRecord, worker: Worker) -> None:
    """Stop counting this request as under judgement: it is judged, or given up."""
    if record.is_counted:
        record.is_counted = False
        worker.guard.end(record.owner)
