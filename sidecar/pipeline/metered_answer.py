"""Counts the tokens of answers that pass a worker, and the end of the request from both sides.

For deployments whose Envoy sends no access log. The counts are read in the answer, beside its
judgement if there is one, or come from Envoy with its trailers; nothing of an answer is changed,
refused or held back for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from sidecar.apis.answer_usage import AnswerUsage
from sidecar.apis.frames import Framer
from sidecar.apis.response_structure import AnswerForm, answer_form, framer_of
from sidecar.apis.response_text import DONE
from sidecar.domain.cooperative import SHORT_BYTES, Cooperative, pieces_of, run_sync
from sidecar.domain.errors import ClientError
from sidecar.domain.http import HeaderName, Headers
from sidecar.domain.subject import Dialect, Route, UnknownRoute, Unreadable
from sidecar.domain.usage import (
    NO_TOKENS,
    AnswerEnd,
    Estimate,
    ExchangeEnded,
    JudgedRequest,
    TokenCounts,
)
from sidecar.extproc.protocol import ExtProcProtocol
from sidecar.extproc.stream import ExtProcStream, OverloadGuard
from sidecar.guardrails.runner import GuardrailRunner
from sidecar.pipeline.answer import AnswerPlan, Handling, RequestLine
from sidecar.pipeline.answer_judgement import Released
from sidecar.pipeline.dependencies import Worker
from sidecar.pipeline.record import RequestRecord
from sidecar.settings.stores import ReadAnswers, UsageSource
from sidecar.telemetry import sanitize
from sidecar.telemetry.traceparent import sampled_trace_id
from sidecar.usage.records import HTTP_ERRORS

MAX_WHOLE_BYTES: Final = 10 * 1024 * 1024
"""Of a whole answer that is read for its counts, or its model; as in Envoy's AI filter."""

_LAST_EVENTS: Final = frozenset(
    {"message_stop", "response.completed", "response.incomplete", "response.failed"}
)
"""Of streams of Anthropic's messages and of OpenAI's responses; others end with `[DONE]`."""

_LENGTH: Final = re.compile(r"[0-9]{1,10}")
_UNSEEN: Final = frozenset({Estimate.NOT_SENT, Estimate.UNREADABLE, Estimate.NO_SIGNAL})


class MeteredAnswer:
    """An answer whose counts are read as it passes, judged by *inner* if that is given.

    Without `reads_body` its body does not come here: Envoy counts.
    """

    def __init__(
        self,
        line: RequestLine,
        inner: AnswerPlan | None,
        *,
        runner: GuardrailRunner,
        room: OverloadGuard,
        owner: str = "",
        clock: Callable[[], float],
        reads_body: bool = True,
    ) -> None:
        self.is_judged = inner is not None and inner.is_judged
        self.reads_body = reads_body
        self.usage = AnswerUsage()
        self.seen_bytes = 0
        self.is_complete = False
        self.form: AnswerForm | None = None
        self.provider_request_id: str | None = None
        self.first_byte_at: float | None = None
        self.last_byte_at: float | None = None
        self._line = line
        self._inner = inner
        self._runner = runner
        self._room = room
        self._owner = owner
        self._clock = clock
        self._framer: Framer | None = None
        self._pieces: list[bytes] | None = None
        self._kept_bytes = 0

    def begin(self, headers: Headers, *, may_stream: bool) -> Handling | ClientError:
        """Choose as *inner* does; an answer that it lets pass comes here to be counted."""
        handling: Handling | ClientError = Handling.PASS
        if self._inner is not None:
            handling = self._inner.begin(headers, may_stream=may_stream)
        named = headers.text(HeaderName.REQUEST_ID) or headers.text("request-id")
        self.provider_request_id = sanitize.clean_text(named)
        if self._line.route.dialect is Dialect.BEDROCK:
            self.usage.read_headers(headers)
        form = answer_form(headers, path=self._line.path)
        if isinstance(form, Unreadable):
            return handling
        self.form = form
        length = headers.text(HeaderName.CONTENT_LENGTH)
        size = int(length) if _LENGTH.fullmatch(length) else 0
        if not self.reads_body:
            self.seen_bytes = size
            return handling
        self._framer = framer_of(form)
        if self._framer is None:
            self._pieces = []
        if handling is Handling.PASS:
            self._inner, self.is_judged = None, False
            return Handling.STREAM if may_stream else Handling.HOLD
        return handling

    def take(self, body: bytes, *, is_last: bool) -> Released:
        """Read the next piece, and return the bytes that may leave."""
        run_sync(self._read(body, is_last=is_last))
        return Released(body) if self._inner is None else self._inner.take(body, is_last=is_last)

    def steps(self, body: bytes, *, is_last: bool) -> Cooperative[tuple[Released]]:
        """Do the same as `take` in slices."""
        yield from self._read(body, is_last=is_last)
        if self._inner is None:
            return (Released(body),)
        return (yield from self._inner.steps(body, is_last=is_last))

    async def judge_whole(self, body: bytes, stream: ExtProcStream) -> Released:
        """Read a whole answer, and return the body that may leave."""
        await stream.outcome_of(self._runner.run_cooperatively(self._read(body, is_last=True)))
        inner = self._inner
        return Released(body) if inner is None else await inner.judge_whole(body, stream)

    def end(self, error: ClientError) -> Released:
        """Return the end of a stream that is broken off, in the form of its API."""
        return Released(b"", error) if self._inner is None else self._inner.end(error)

    def abandon(self) -> None:
        """Record the findings of an answer that did not come to its end."""
        if self._inner is not None:
            self._inner.abandon()

    def forget(self) -> None:
        """Drop what is kept of a whole answer."""
        self._room.release(self._kept_bytes, self._owner)
        self._kept_bytes, self._pieces = 0, None

    def _read(  # noqa: C901 - a stream, or pieces of a whole answer
        self, body: bytes, *, is_last: bool
    ) -> Cooperative[tuple[()]]:
        self.is_complete = self.is_complete or is_last
        if body:
            self.last_byte_at = now = self._clock()
            if self.first_byte_at is None:
                self.first_byte_at = now
            self.seen_bytes += len(body)
        if self._framer is not None:
            for piece, is_end in pieces_of(body, is_last=is_last):
                frames = self._framer.feed(piece)
                if is_end:
                    frames += self._framer.finish()
                for frame in frames:
                    self.usage.read(frame.payload)
                    if frame.payload == DONE or frame.event in _LAST_EVENTS:
                        self.is_complete = True  # many clients leave here, before the body ends
                if len(body) > SHORT_BYTES:
                    yield
                if self._framer.fault is not None:
                    self._framer = None
                    break
        elif self._pieces is not None:
            # In one piece it is all here, and needs no room to be kept.
            is_whole = is_last and not self._pieces and len(body) <= MAX_WHOLE_BYTES
            pieces = [body] if is_whole else self._kept(body)
            if is_last:
                self.usage.read(b"".join(pieces))
        if is_last:
            self.forget()
        return ()

    def _kept(self, body: bytes) -> list[bytes]:
        """Keep a piece of a whole answer; return all, none if there is no room for them."""
        size, pieces = len(body), self._pieces or []
        is_short = self._kept_bytes + size <= MAX_WHOLE_BYTES
        if not is_short or not self._room.hold_spare(size, self._owner):
            self.forget()  # its tokens are estimated from its bytes
            return []
        self._kept_bytes += size
        pieces.append(body)
        self._pieces = pieces
        return pieces


def reads_answer(
    route: Route | UnknownRoute | None, protocol: ExtProcProtocol, worker: Worker
) -> bool:
    """Return whether an answer that nothing judges comes here for its counts."""
    return (
        worker.usage_source is UsageSource.ANSWERS
        and worker.read_answers is ReadAnswers.ALL
        and isinstance(route, Route)
        and route.operation.spec.uses_tokens
        and protocol.may_judge_answer
    )


def awaits_usage(route: Route | UnknownRoute | None, worker: Worker) -> bool:
    """Return whether Envoy sends the counts of an answer here, with its trailers."""
    return (
        worker.usage_source is UsageSource.AI_PROTOCOL_MANAGER
        and isinstance(route, Route)
        and route.operation.spec.uses_tokens
    )


def metered(
    plan: AnswerPlan | None, record: RequestRecord, protocol: ExtProcProtocol, worker: Worker
) -> AnswerPlan | None:
    """Return *plan* with a look at the counts, or a plan for them alone if there is none."""
    route = record.route
    if not isinstance(route, Route) or not route.operation.spec.uses_tokens:
        return plan
    reads_body = plan is not None or reads_answer(route, protocol, worker)
    if not reads_body and not awaits_usage(route, worker):
        return None
    return MeteredAnswer(
        RequestLine(record.path, route),
        plan,
        runner=worker.guardrail_runner,
        room=worker.guard,
        owner=protocol.owner,
        clock=worker.clocks.monotonic,
        reads_body=reads_body,
    )


def ended_here(
    judged: JudgedRequest,
    record: RequestRecord,
    plan: AnswerPlan | None,
    protocol: ExtProcProtocol,
) -> tuple[ExchangeEnded, Estimate | None]:
    """Return the end of a request as its worker saw it, and why its tokens are estimated."""
    error, status = record.error, record.answer_status or 0
    meter = plan if isinstance(plan, MeteredAnswer) else None
    if meter is not None and meter.usage.tier is not None:
        judged = replace(judged, service_tier=meter.usage.tier or None)
    tokens, estimate = None, None
    end = AnswerEnd.COMPLETED
    if error is not None and record.answer_status is None:
        end, status = AnswerEnd.REFUSED, error.spec.status
    else:
        tokens, estimate = _tokens_of(meter, record, protocol)
        if error is not None:
            end = AnswerEnd.BLOCKED
        elif estimate is Estimate.LEFT_EARLY:
            end = AnswerEnd.CLIENT_ABORTED
    trace_id = sampled_trace_id(record.traceparent)
    # Of a body that was not read here.
    length = protocol.headers.text(HeaderName.CONTENT_LENGTH)
    ended = ExchangeEnded(
        request=judged,
        status=status if error is None or record.is_ended_within else error.spec.status,
        end=end,
        tokens=tokens,
        received_bytes=record.body_bytes or (int(length) if _LENGTH.fullmatch(length) else 0),
        latency_seconds=record.clocks.monotonic() - record.started_at,
        trace_id=None if trace_id is None else int(trace_id, 16),
        answer_status=status if end is AnswerEnd.BLOCKED else None,
    )
    # Without its body the worker sees as little of an answer whose counts Envoy did not find.
    is_unseen = estimate in _UNSEEN or (meter is not None and not meter.reads_body)
    has_bytes = meter is not None and meter.seen_bytes
    if is_unseen and estimate is not None and not has_bytes and judged.reserved is not None:
        ended = replace(ended, assumed_output=judged.reserved.output_tokens)
    if meter is not None:
        first, last = meter.first_byte_at, meter.last_byte_at
        ended = replace(
            ended,
            stated=meter.usage.stated if tokens is None else NO_TOKENS,
            response_model=sanitize.response_model(sanitize.clean_text(meter.usage.model)),
            provider_request_id=meter.provider_request_id,
            sent_bytes=meter.seen_bytes,
            answer_bytes=meter.seen_bytes if end is AnswerEnd.BLOCKED else 0,
            is_event_stream=meter.form in {AnswerForm.SSE, AnswerForm.EVENT_STREAM},
            first_token_seconds=None if first is None else first - record.started_at,
            output_seconds=None if first is None or last is None else last - first,
        )
    return ended, estimate


def _tokens_of(
    meter: MeteredAnswer | None, record: RequestRecord, protocol: ExtProcProtocol
) -> tuple[TokenCounts | None, Estimate | None]:
    """Return the counts that an answer stated, or why there are none."""
    if isinstance(record.route, Route) and not record.route.operation.spec.uses_tokens:
        return NO_TOKENS, None
    if meter is None:
        return None, Estimate.NOT_SENT
    if (record.answer_status or 0) >= HTTP_ERRORS:
        return None, None
    if protocol.usage is not None:
        meter.usage.model = protocol.usage[1]
        return protocol.usage[0], None
    tokens = meter.usage.tokens
    if not meter.reads_body:
        missing = Estimate.NO_COUNTS if protocol.has_trailers else Estimate.NO_SIGNAL
        return tokens, missing if tokens is None else None  # those of Bedrock's headers
    if meter.form is None and record.answer_status is not None:
        return None, Estimate.UNREADABLE
    if not meter.is_complete:
        return None, Estimate.LEFT_EARLY
    return tokens, Estimate.NO_COUNTS if tokens is None else None
