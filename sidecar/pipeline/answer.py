"""The answer's side of a request: its headers, and its body piece by piece or as a whole."""

from __future__ import annotations

import asyncio
import enum
import re
from dataclasses import dataclass, field
from typing import Final, Protocol, assert_never

from sidecar.apis.error_body import stream_error
from sidecar.apis.response_structure import AnswerForm, answer_form
from sidecar.apis.stream_usage import UsageStripper
from sidecar.domain.cooperative import SHORT_BYTES, SLICE_BYTES, Cooperative, pieces_of
from sidecar.domain.errors import ClientError, client_error
from sidecar.domain.finding import Deny
from sidecar.domain.http import NO_CHANGE, HeaderMutation, HeaderName, Headers
from sidecar.domain.policy import StreamMode
from sidecar.domain.report import FaultKind
from sidecar.domain.subject import Route, Unreadable
from sidecar.extproc.phases import BodyMode, Event
from sidecar.extproc.stream import ExtProcStream, LateError
from sidecar.guardrails.runner import GuardrailRunner
from sidecar.pipeline.answer_judgement import AnswerJudgement, AnswerSetting, Released
from sidecar.pipeline.decide import decide_unscanned, is_flagged
from sidecar.pipeline.dependencies import Worker
from sidecar.pipeline.record import AnswerFacts, RequestRecord
from sidecar.pipeline.reply import foreign_headers, metadata_of, own_headers
from sidecar.redaction.held_frames import EVENT_BYTES
from sidecar.settings.serving import Timing

_STATUS: Final = re.compile(r"[0-9]{3}")


class Handling(enum.Enum):
    """The way in which an answer passes."""

    PASS = "pass"  # noqa: S105 - no password
    STREAM = "stream"  # its headers at once, its body as it is judged
    HOLD = "hold"  # nothing of it before all of it is judged


class AnswerPlan(Protocol):
    """The treatment of the answer to one request."""

    is_judged: bool
    """Whether guardrails look at it; else it only loses counts. Known once it has begun."""

    def begin(self, headers: Headers, *, may_stream: bool) -> Handling | ClientError:
        """Choose by the *headers* of an answer that has a body."""
        ...

    def take(self, body: bytes, *, is_last: bool) -> Released:
        """Return the bytes that may leave, once the next piece of a stream is here."""
        ...

    def steps(self, body: bytes, *, is_last: bool) -> Cooperative[tuple[Released]]:
        """Do the same as `take` in slices, for a piece that may take long."""
        ...

    async def judge_whole(self, body: bytes, stream: ExtProcStream) -> Released:
        """Return the body that may leave, of an answer that is here as a whole."""
        ...

    def end(self, error: ClientError) -> Released:
        """Return the end of a stream that is broken off, in the form of its API."""
        ...

    def abandon(self) -> None:
        """Record the findings of an answer that did not come to its end."""
        ...


@dataclass(frozen=True, slots=True)
class RequestLine:
    """The part of a request that the form of its answer depends on."""

    path: str
    route: Route
    headers: Headers = field(default_factory=Headers)


class GuardedAnswer:
    """An answer that guardrails judge. A `ClientError` refuses it as a whole."""

    is_judged = True

    def __init__(self, line: RequestLine, setting: AnswerSetting, record: RequestRecord) -> None:
        self._line = line
        self._setting = setting
        self._record = record
        self._form = AnswerForm.JSON
        self._judgement: AnswerJudgement | None = None
        self._has_left = False

    def begin(self, headers: Headers, *, may_stream: bool) -> Handling | ClientError:
        """Choose whether the answer streams, is held, or passes because it cannot be read."""
        form = answer_form(headers, path=self._line.path)
        if isinstance(form, Unreadable):
            self._record.answer = AnswerFacts(unscanned=(form.reason,))
            decision = decide_unscanned((form.reason,), self._setting.unscanned, subject="answer")
            return decision.error if isinstance(decision, Deny) else Handling.PASS
        self._form = form
        is_success = headers.text(HeaderName.STATUS)[:1] in {"2", ""}
        self._judgement = AnswerJudgement(form, self._setting, is_success=is_success)
        is_buffered = self._setting.policy.streams is StreamMode.BUFFER
        streams = may_stream and form.is_streamed and not is_buffered
        return Handling.STREAM if streams else Handling.HOLD

    def take(self, body: bytes, *, is_last: bool) -> Released:
        """Judge the next piece of a stream; an error ends it in the form of its API."""
        released = self._begun().take(body, is_last=is_last)
        if released.body:
            self._has_left = True
        if is_last or released.error is not None:
            return self._ended(released)
        return released

    def steps(self, body: bytes, *, is_last: bool) -> Cooperative[tuple[Released]]:
        """Do the same as `take` in slices."""
        (released,) = yield from self._begun().steps(body, is_last=is_last)
        if released.body:
            self._has_left = True
        if is_last or released.error is not None:
            released = self._ended(released)
        return (released,)

    def _ended(self, released: Released) -> Released:
        self._note(self._begun())
        if released.error is None:
            return released
        end = stream_error(
            self._form,
            released.error,
            route=self._line.route,
            headers=self._line.headers,
            request_id=self._record.request_id,
            contact=self._setting.contact,
            follows_element=self._has_left,
        )
        return Released(released.body + end, released.error)

    async def judge_whole(self, body: bytes, stream: ExtProcStream) -> Released:
        """Judge a whole answer; waits for remote guardrails and for long work only."""
        judgement = self._begun()
        released = await judgement.judge_whole(body, stream)
        self._note(judgement)
        return released

    def end(self, error: ClientError) -> Released:
        """Return the end of a stream that is broken off, in the form of its API."""
        return self._ended(Released(b"", error))

    def abandon(self) -> None:
        """Record the findings of an answer that did not come to its end."""
        if self._judgement is not None:
            self._note(self._judgement)

    def _begun(self) -> AnswerJudgement:
        if self._judgement is None:
            raise AssertionError("the body of an answer was judged before its headers")
        return self._judgement

    def _note(self, judgement: AnswerJudgement) -> None:
        results = judgement.results()
        self._record.answer = AnswerFacts(
            results,
            judgement.reasons,
            is_redacted=judgement.is_redacted,
            is_flagged=is_flagged(results),
        )


class UncountedAnswer:
    """An answer without guardrails, which loses the counts that its client did not request.

    Nothing of it is ever refused or held back: an event that cannot be read goes on as it is.
    """

    is_judged = False

    def __init__(self, line: RequestLine, runner: GuardrailRunner) -> None:
        self._line = line
        self._runner = runner
        self._stripper = UsageStripper()

    def begin(self, headers: Headers, *, may_stream: bool) -> Handling:
        """Choose by whether there is a stream that states counts."""
        if answer_form(headers, path=self._line.path) is not AnswerForm.SSE:
            return Handling.PASS
        return Handling.STREAM if may_stream else Handling.HOLD

    def take(self, body: bytes, *, is_last: bool) -> Released:
        """Return the part of the stream that may go on."""
        return Released(self._stripper.take(body, is_last=is_last))

    def steps(self, body: bytes, *, is_last: bool) -> Cooperative[tuple[Released]]:
        """Do the same as `take` in slices."""
        shown: list[bytes] = []
        for piece, is_end in pieces_of(body, is_last=is_last):
            shown.append(self._stripper.take(piece, is_last=is_end))
            yield
        return (Released(b"".join(shown)),)

    async def judge_whole(self, body: bytes, stream: ExtProcStream) -> Released:
        """Return a whole stream, as a gateway sends it that buffers answers."""
        steps = self._runner.run_cooperatively(self.steps(body, is_last=True))
        return (await stream.outcome_of(steps))[0]

    def end(self, error: ClientError) -> Released:
        """Return nothing more: no event of this plan's own says so."""
        return Released(b"", error)

    def abandon(self) -> None:
        """Record nothing: nothing is looked for."""


async def carry_answer(
    event: Event,
    plan: AnswerPlan | None,
    stream: ExtProcStream,
    record: RequestRecord,
    worker: Worker,
) -> ClientError | None:
    """Carry the answer to its end, from its first *event* on; return why it is refused, if so."""
    protocol = stream.protocol
    judged = 0  # since other requests had their turn: pieces that came together do not wait
    waiting = 0  # of an event that has not ended
    while event is not Event.ENDED:
        error: ClientError | None = None
        if plan is not None:
            record.work()
        match event:
            case Event.ANSWER_PIECE if plan is not None:  # first, as most events are pieces
                piece, is_last = protocol.piece, protocol.piece_is_last
                size = len(piece)
                judged, waiting = judged + size + EVENT_BYTES, waiting + size
                if judged <= SLICE_BYTES and waiting <= SHORT_BYTES:
                    released = plan.take(piece, is_last=is_last)
                else:
                    released = await _take_in_turns(plan, piece, stream, worker, is_last=is_last)
                    judged = 0
                if released.body:
                    waiting = 0
                if released.error is None:
                    protocol.send_piece(released.body)
                else:
                    record.error, record.is_ended_within = released.error.kind, True
                    metadata = metadata_of(record, now=worker.clocks.monotonic())
                    protocol.send_piece(released.body, ends=True, metadata=metadata)
            case Event.ANSWER_HEADERS:
                error = _take_headers(plan, stream, record, worker)
            case Event.ANSWER_BODY if plan is not None:
                error = await _take_whole(plan, stream, record, worker)
            case Event.ANSWER_PIECE | Event.ANSWER_BODY:
                raise AssertionError("an answer was judged without a plan")
            case Event.NOTHING | Event.REQUEST_HEADERS | Event.REQUEST_BODY:
                raise AssertionError(f"{event.name} is no event of an answer")
            case _:
                assert_never(event)
        if error is not None:
            return error
        record.rest()
        event = await stream.receive()
    return None


async def _take_in_turns(
    plan: AnswerPlan, piece: bytes, stream: ExtProcStream, worker: Worker, *, is_last: bool
) -> Released:
    """Judge a piece in slices, between which other requests get their turn.

    A late judgement ends the answer. Nothing ends one that is not judged: its slices are short.
    """
    bodies: list[bytes] = []
    size = SLICE_BYTES if plan.is_judged else SHORT_BYTES
    for part, is_end in pieces_of(piece, is_last=is_last, size=size):
        await asyncio.sleep(0)
        try:
            if plan.is_judged:
                steps = plan.steps(part, is_last=is_end)
                done = worker.guardrail_runner.run_cooperatively(steps)
                (released,) = await stream.outcome_of(done)
            else:
                released = plan.take(part, is_last=is_end)
        except LateError as late:
            worker.recorder.fault(FaultKind.DEADLINE)
            released = plan.end(client_error(late.kind))
        bodies.append(released.body)
        if released.error is not None:
            return Released(b"".join(bodies), released.error)
    return Released(b"".join(bodies))


def _take_headers(
    plan: AnswerPlan | None, stream: ExtProcStream, record: RequestRecord, worker: Worker
) -> ClientError | None:
    protocol = stream.protocol
    headers = protocol.answer_headers
    handling: Handling | ClientError = Handling.PASS
    if plan is not None or protocol.response_mode is BodyMode.BUFFERED:  # which may be refused
        status = headers.text(HeaderName.STATUS)
        record.answer_status = int(status) if _STATUS.fullmatch(status) else 0
        if plan is not None and protocol.answer_has_body:
            handling = plan.begin(headers, may_stream=protocol.may_stream_answer)
    own = _own_headers(headers, record, worker)
    match handling:
        case Handling.PASS:
            protocol.pass_answer(own)
        case Handling.STREAM:
            protocol.stream_answer(_of_stream(own, headers))
        case Handling.HOLD:
            # An answer is paid for: one that is not judged goes on, also without room to hold it.
            is_judged = plan is None or plan.is_judged
            protocol.hold_answer(None if is_judged else _of_stream(own, headers))
        case ClientError():
            return handling
        case _:
            assert_never(handling)
    return None


async def _take_whole(
    plan: AnswerPlan, stream: ExtProcStream, record: RequestRecord, worker: Worker
) -> ClientError | None:
    protocol = stream.protocol
    body = protocol.body()
    try:
        released = await plan.judge_whole(body, stream)
    except LateError:
        if plan.is_judged:
            raise
        released = Released(body)
    if released.error is not None:
        return released.error
    own = _own_headers(protocol.answer_headers, record, worker)
    metadata = metadata_of(record, now=worker.clocks.monotonic()) if plan.is_judged else b""
    protocol.send_answer(own, None if released.body == body else released.body, metadata)
    return None


def _of_stream(own: HeaderMutation, headers: Headers) -> HeaderMutation:
    """Return *own* without the provider's length, which would cut a stream that grows."""
    if HeaderName.CONTENT_LENGTH not in headers.by_name:
        return own
    return HeaderMutation(own.set_headers, (*own.remove_headers, HeaderName.CONTENT_LENGTH))


def _own_headers(headers: Headers, record: RequestRecord, worker: Worker) -> HeaderMutation:
    if worker.timing is not Timing.MUTATION:
        return NO_CHANGE
    return HeaderMutation(own_headers(record, worker.clocks), foreign_headers(headers))
