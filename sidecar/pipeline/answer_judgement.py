"""Reads and judges one answer: piece by piece, or as a whole before any of it leaves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec import structs

from sidecar.apis.event_patterns import EventPatternCache
from sidecar.apis.frames import (
    Frame,
    FrameFault,
    Framer,
    Opaque,
    SseFramer,
    WholeAnswer,
    holds_events,
    plain_text,
)
from sidecar.apis.response_structure import AnswerForm, AnswerPiece, AnswerStructure, framer_of
from sidecar.apis.response_text import (
    DONE,
    AnswerEvent,
    UnreadableEvent,
    load_event,
    read_in_slices,
)
from sidecar.apis.stream_usage import EventUsageStripper
from sidecar.domain.cooperative import (
    SHORT_BYTES,
    SLICE_CANDIDATES,
    Cooperative,
    pieces_of,
    run_sync,
)
from sidecar.domain.errors import ClientError, ErrorKind
from sidecar.domain.finding import Deny, Finding, GuardrailResult, Redact, Restoration
from sidecar.domain.policy import Stage, UnscannedAction
from sidecar.domain.subject import Subject, TextPart, UnscannedReason
from sidecar.extproc.stream import ExtProcStream
from sidecar.guardrails.json_schema.check import SchemaGuardrail, check_structure
from sidecar.guardrails.remote.checks import RequestInfo
from sidecar.guardrails.runner import GuardrailRunner
from sidecar.guardrails.streaming.response_policy import AnswerPolicy
from sidecar.guardrails.streaming.scan import NOTHING_FOUND, ScanResult, StreamScan
from sidecar.guardrails.streaming.transcript import TooManyTextsError, Transcript
from sidecar.guardrails.streaming.window import ROLE, Edit, StreamWindow
from sidecar.jsontext.tokens import quoted, whole_units
from sidecar.pipeline.decide import decide, decide_unscanned
from sidecar.redaction.held_frames import HeldFrames
from sidecar.redaction.redact import Placeholders

MAX_HELD_FRAME_BYTES: Final = 4 * 1024 * 1024
"""Events behind one that waits wait with it; no provider sends so much about so little text."""

MAX_EVENTS_BYTES: Final = 64 * 1024 * 1024
"""Memory of the events of a whole answer: ten megabytes of empty comments would take
seven times that. An answer of 16 MB and more may take four times its own size."""

SLICE_EVENTS: Final = 64
"""Short events read between two interruptions: a millisecond or less."""

TOO_LONG: Final = ClientError(
    ErrorKind.CONTENT_BLOCKED,
    "The answer was ended: something in it is longer than what can be judged of a stream.",
)

OVERFULL: Final = ClientError(
    ErrorKind.CONTENT_BLOCKED,
    "The answer was ended: it repeats values of the request more often than can be restored. "
    "Ask for a shorter answer.",
)


class Released(msgspec.Struct, frozen=True):
    """Bytes that may leave now; `error` ends the answer behind them."""

    body: bytes
    error: ClientError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSetting:
    """The policy and tools that judge an answer, and the values its request leaves to it.

    `contact` is the operator's line in the error that ends a stream.
    """

    policy: AnswerPolicy
    unscanned: UnscannedAction
    restoration: Restoration
    placeholders: Placeholders
    guardrail_runner: GuardrailRunner
    about: RequestInfo
    clock: Callable[[], float]
    hides_usage: bool = False
    contact: str = ""


class AnswerJudgement:
    """The judgement of one answer."""

    def __init__(
        self, form: AnswerForm, setting: AnswerSetting, *, is_success: bool = True
    ) -> None:
        """Begin; the body of a provider's error is judged as text, not by its structure."""
        self._setting = setting
        self._form = form
        self._structured = setting.policy.structured if is_success else ()
        self._reading = AnswerReading(
            form, model=setting.about.model, hides_usage=setting.hides_usage
        )
        self._lets_unread_pass = setting.unscanned is not UnscannedAction.BLOCK
        self._scan = StreamScan(
            setting.policy,
            clock=setting.clock,
            restoration=setting.restoration,
            is_streamed=form.is_streamed,
        )
        self._guardrails = {one.name: one for one in setting.policy.guardrails}
        self._remote: tuple[GuardrailResult, ...] = ()
        self._structure: tuple[GuardrailResult, ...] = ()
        self.is_redacted = False

    @property
    def reasons(self) -> tuple[UnscannedReason, ...]:
        """Why parts of the answer could not be read."""
        return tuple(self._reading.reasons)

    def results(self) -> tuple[GuardrailResult, ...]:
        """Return the result of each guardrail so far, in the policy's order."""
        every = (*self._scan.results(), *self._remote, *self._structure)
        by_name = {one.guardrail.name: one for one in every}
        return tuple(by_name[name] for name in self._guardrails if name in by_name)

    def take(self, chunk: bytes, *, is_last: bool) -> Released:
        """Judge the next bytes, which are few, and return those that may leave."""
        reading = self._reading
        reading.take_short(chunk, is_last=is_last)
        error = self._unread_by_now() if reading.reasons else None
        due = reading.transcript.due()
        if due and (found := self._scan.judge(due)) is not NOTHING_FOUND:
            error = run_sync(self._replace(found)) or error
        body = reading.held.release(unread=self._lets_unread_pass)
        if error is None and reading.held.size_bytes > MAX_HELD_FRAME_BYTES:
            error = TOO_LONG
        if error is not None:
            reading.held.drop()
        return Released(body, error)

    def steps(self, chunk: bytes, *, is_last: bool) -> Cooperative[tuple[Released]]:
        """Do the same as `take` in slices."""
        reading = self._reading
        yield from reading.take(chunk, is_last=is_last)
        error = self._unread_by_now() if reading.reasons else None
        (refusal,) = yield from self._judge(reading.transcript.due())
        error = refusal or error
        (body,) = yield from reading.held.release_in_turns(unread=self._lets_unread_pass)
        if error is None and reading.held.size_bytes > MAX_HELD_FRAME_BYTES:
            error = TOO_LONG
        if error is not None:
            reading.held.drop()
        return (Released(body, error),)

    async def judge_whole(self, body: bytes, stream: ExtProcStream) -> Released:
        """Judge all of an answer; waits for remote guardrails, and for long work.

        Nothing leaves of an answer that is refused.
        """
        guardrail_runner, policy = self._setting.guardrail_runner, self._setting.policy
        run = guardrail_runner.run_cooperatively
        (error,) = await stream.outcome_of(run(self._read_whole(body)))
        if error is not None:
            self._reading.held.drop()
            return Released(b"", error)
        due = self._reading.transcript.due()
        asked = [(window, window.buffer) for window in due]
        (refusal,) = await stream.outcome_of(run(self._judge(due)))
        error = refusal or self._unread()
        if error is None and policy.asking.remote:
            parts = tuple([TextPart(text, (), ROLE) for _, text in asked])
            subject = Subject(model=self._setting.about.model, streamed=False, parts=parts)
            asking = guardrail_runner.inspect(policy.asking, subject, about=self._setting.about)
            error = self._weigh_remote(await stream.outcome_of(asking), asked)
        if error is not None:
            self._reading.held.drop()
            return Released(b"", error)
        leaving = run(self._reading.held.release_in_turns(unread=True))
        released = Released(*await stream.outcome_of(leaving))
        if not self._structured:
            return released
        steps = judge_structure(
            released.body, self._form, self._structured, clock=self._setting.clock
        )
        self._structure = await stream.outcome_of(run(steps))
        error = _error_of(self._structure)
        return released if error is None else Released(b"", error)

    def _read_whole(self, body: bytes) -> Cooperative[tuple[ClientError | None]]:
        """Read all of an answer in slices; return why it is refused."""
        held, most_bytes = self._reading.held, max(MAX_EVENTS_BYTES, 4 * len(body))
        for _ in self._reading.take(body, is_last=True):
            if held.size_bytes > most_bytes:
                break
            yield
        return (TOO_LONG if held.size_bytes > most_bytes else None,)

    def _judge(self, due: Sequence[StreamWindow]) -> Cooperative[tuple[ClientError | None]]:
        """Scan *due*, and replace findings in slices; return why the answer is refused."""
        (found,) = yield from self._scan.steps(due)
        return ((yield from self._replace(found)),)

    def _replace(self, found: ScanResult) -> Cooperative[ClientError | None]:
        """Replace what was found; return why the answer is refused."""
        for count, one in enumerate(found.redact, start=1):
            self._redact(one.window, one.finding, one.value, one.depth)
            if not count % SLICE_CANDIDATES:
                yield
        if found.is_too_long or found.is_overfull:
            return TOO_LONG if found.is_too_long else OVERFULL
        return None if found.refused_by is None else _error_of((found.refused_by,))

    def _weigh_remote(
        self, results: tuple[GuardrailResult, ...], asked: list[tuple[StreamWindow, bytes]]
    ) -> ClientError | None:
        self._remote = tuple(one._replace(stage=Stage.OUTPUT) for one in results)
        decision = decide(results, subject="answer")
        if isinstance(decision, Deny):
            return decision.error
        by_part: defaultdict[int, list[Finding]] = defaultdict(list)
        for finding in decision.findings if isinstance(decision, Redact) else ():
            by_part[finding.part].append(finding)
        originals = self._setting.restoration.originals
        for part, found in by_part.items():
            window, text = asked[part]
            restored = sorted(
                one for one in window.edits if text[one.start : one.end] in originals
            )
            here = window.drop_edits(restored, sorted(found, key=attrgetter("start")))
            spans = [(finding.start, finding.end) for finding in here]
            depths = window.depths_of_numbers(spans, whole=text)
            for finding in here:
                depth, (start, end) = depths.get(finding.start), (finding.start, finding.end)
                if window.is_document:
                    start, end = whole_units(text, start, end)
                whole = structs.replace(finding, start=start, end=end)
                self._redact(window, whole, text[start:end], depth)
        return None

    def _redact(
        self, window: StreamWindow, finding: Finding, value: bytes, depth: int | None
    ) -> None:
        """Replace a finding; a number without quotes by a string, as many strings deep."""
        guardrail = self._guardrails[finding.guardrail]
        text = self._setting.placeholders.of(value, type_=finding.type, style=guardrail.redaction)
        if depth is not None:
            text = quoted(text)
            for _ in range(depth):
                text = quoted(text)[1:-1]
        window.add_edit(Edit(finding.start, finding.end, text, is_bare=depth is not None))
        self.is_redacted = True

    def _unread_by_now(self) -> ClientError | None:
        error = self._unread()
        if error is not None:
            self._reading.transcript.let_all_go()  # no event follows an unreadable one
        return error

    def _unread(self) -> ClientError | None:
        decision = decide_unscanned(
            self._reading.reasons, self._setting.unscanned, subject="answer"
        )
        return decision.error if isinstance(decision, Deny) else None


def _error_of(results: tuple[GuardrailResult, ...]) -> ClientError | None:
    decision = decide(results, subject="answer")
    return decision.error if isinstance(decision, Deny) else None


_REASONS: Final = {
    FrameFault.TOO_LARGE: UnscannedReason.ANSWER_TOO_LARGE,
    FrameFault.BROKEN: UnscannedReason.MALFORMED_ANSWER,
}


class _Unread(Opaque, frozen=True):
    """Bytes of a stream that cannot be cut into events."""


class AnswerReading:
    """The texts of an answer so far; `reasons` is why parts of it could not be read."""

    def __init__(
        self, form: AnswerForm, *, model: str | None = None, hides_usage: bool = False
    ) -> None:
        self.transcript: Final = Transcript()
        self.held: Final = HeldFrames()
        self.reasons: dict[UnscannedReason, None] = {}
        self._form = form
        self._events = EventPatternCache(model)
        self._shown = EventUsageStripper() if hides_usage else None
        self._framer = framer_of(form)
        self._is_beyond = False

    def take_short(self, chunk: bytes, *, is_last: bool) -> None:
        """Read the next bytes of a stream, which are few and end no long event."""
        if self._framer is None:
            raise AssertionError("an answer that is not streamed is read as a whole")
        for frame in self._cut(self._framer, chunk, is_end=is_last):
            self._take_frame(frame)
        if is_last:
            self.transcript.let_all_go()

    def take(self, chunk: bytes, *, is_last: bool) -> Cooperative[None]:
        """Read the next bytes in slices; of an answer that is not streamed, all of them."""
        if self._form is AnswerForm.TEXT and holds_events(chunk):
            # Some clients read a stream of events whatever its label says, others its text.
            self.reasons[UnscannedReason.UNKNOWN_SHAPE] = None
            self._framer = SseFramer()
        if self._framer is None:
            yield from self._take_whole(chunk)
        else:
            for piece, is_end in pieces_of(chunk, is_last=is_last):
                frames = self._cut(self._framer, piece, is_end=is_end)
                for count, frame in enumerate(frames, start=1):
                    if frame.payload is not None and len(frame.raw) > SHORT_BYTES:
                        yield from self._take_long(frame)
                    else:
                        self._take_frame(frame)
                    if not count % SLICE_EVENTS:
                        yield
                yield
        if is_last:
            self.transcript.let_all_go()

    def _cut(self, framer: Framer, chunk: bytes, *, is_end: bool) -> list[Frame]:
        """Return the events that *chunk* completes."""
        if self._is_beyond:
            return [_Unread(chunk, None)]
        frames = framer.feed(chunk)
        if is_end:
            frames += framer.finish()
        if self._shown is not None:
            frames = [self._shown.shown(frame) for frame in frames]
        if framer.fault is not None:
            self._is_beyond = True
            self.reasons[_REASONS[framer.fault]] = None
            frames.append(_Unread(framer.rest(), None))
        return frames

    def _take_whole(self, body: bytes) -> Cooperative[None]:
        frame = WholeAnswer(body, body) if self._form is AnswerForm.JSON else plain_text(body)
        if frame is None:
            self._take_unread(body, UnscannedReason.CHARSET)
        else:
            yield from self._take_long(frame)

    def _take_long(self, frame: Frame) -> Cooperative[None]:
        read = yield from read_in_slices(frame.payload, event=frame.event)
        yield from self._keep(frame, read)

    def _take_frame(self, frame: Frame) -> None:
        if frame.payload is None:  # a provider may send a million comments
            self.held.add(frame, is_unread=isinstance(frame, _Unread))
            return
        read = self._events.read(frame.payload, event=frame.event)
        if isinstance(read, AnswerEvent) and not read.unscanned:
            pieces = self.transcript.extend(read)
            if pieces is not None:
                self.held.add(frame, pieces, has_logprobs=read.has_logprobs)
                return
        run_sync(self._keep(frame, read))

    def _keep(self, frame: Frame, read: AnswerEvent | UnreadableEvent) -> Cooperative[None]:
        if isinstance(read, UnreadableEvent):
            self._take_unread(frame.raw, read.reason)
            return
        if read.unscanned:
            self.reasons.update(dict.fromkeys(read.unscanned))
        try:
            pieces = yield from self.transcript.take(read)
        except TooManyTextsError:
            self._take_unread(frame.raw, UnscannedReason.ANSWER_TOO_LARGE)
            return
        is_unread = bool(read.unscanned)
        self.held.add(frame, pieces, has_logprobs=read.has_logprobs, is_unread=is_unread)

    def _take_unread(self, raw: bytes, reason: UnscannedReason) -> None:
        self.reasons[reason] = None
        self.held.add(Opaque(raw, None), is_unread=True)


def judge_structure(
    body: bytes,
    form: AnswerForm,
    structured: Iterable[SchemaGuardrail],
    *,
    clock: Callable[[], float],
) -> Cooperative[tuple[GuardrailResult, ...]]:
    """Return one result a guardrail."""
    read = yield from _read(body, form)
    return (yield from check_structure(structured, read, clock=clock))


def _read(body: bytes, form: AnswerForm) -> Cooperative[Sequence[AnswerPiece] | None]:
    structure = AnswerStructure()
    framer = framer_of(form)
    if framer is not None:
        for start in range(0, len(body), SHORT_BYTES):
            for count, frame in enumerate(framer.feed(body[start : start + SHORT_BYTES]), start=1):
                _take(structure, frame.payload)
                if not count % SLICE_EVENTS:
                    yield
            yield
        for frame in framer.finish():
            _take(structure, frame.payload)
    elif form is AnswerForm.JSON:
        _take(structure, body)
        yield
    if not structure.is_known or structure.is_overfull:
        return None
    return structure.pieces()


def _take(structure: AnswerStructure, payload: bytes | None) -> None:
    if payload is None or payload.strip() in {b"", DONE}:
        return
    try:
        document: Any = load_event(payload)
    except (ValueError, RecursionError):
        return  # an answer without JSON is unscanned, and the policy decides on it
    structure.take(document)
