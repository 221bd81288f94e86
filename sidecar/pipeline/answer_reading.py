"""Cuts an answer into events, puts its texts on their windows, and keeps the events in order."""

from __future__ import annotations

from typing import Final

from sidecar.apis.event_patterns import EventPatternCache
from sidecar.apis.frames import Frame, FrameFault, Framer, Opaque, WholeAnswer, plain_text
from sidecar.apis.response_structure import AnswerForm, framer_of
from sidecar.apis.response_text import UnreadableEvent
from sidecar.apis.stream_usage import EventUsageStripper
from sidecar.domain.subject import UnscannedReason
from sidecar.guardrails.streaming.transcript import TooManyTextsError, Transcript
from sidecar.redaction.held_frames import HeldFrames

_REASONS: Final = {
    FrameFault.TOO_LARGE: UnscannedReason.ANSWER_TOO_LARGE,
    FrameFault.BROKEN: UnscannedReason.MALFORMED_ANSWER,
}


class AnswerReading:
    """The texts of an answer so far; `reasons` is why parts of it could not be read."""

    def __init__(self, form: AnswerForm, *, hides_usage: bool = False) -> None:
        self.transcript: Final = Transcript()
        self.held: Final = HeldFrames()
        self.reasons: dict[UnscannedReason, None] = {}
        self._form = form
        self._events = EventPatternCache()
        self._shown = EventUsageStripper() if hides_usage else None
        self._framer = framer_of(form)
        self._is_beyond = False

    def take(self, chunk: bytes, *, is_last: bool) -> None:
        """Read the next bytes; of an answer that is not streamed, all of them."""
        if self._framer is None:
            self._take_whole(chunk)
        elif self._is_beyond:
            self.held.add(Opaque(chunk, None), is_unread=True)
        else:
            self._take_frames(self._framer, chunk, is_last=is_last)
        if is_last:
            self.transcript.let_all_go()

    def _take_frames(self, framer: Framer, chunk: bytes, *, is_last: bool) -> None:
        frames = framer.feed(chunk)
        if is_last:
            frames += framer.finish()
        for frame in frames:
            self._take_frame(frame if self._shown is None else self._shown.shown(frame))
        if framer.fault is not None:
            self._is_beyond = True
            self._take_unread(framer.rest(), _REASONS[framer.fault])

    def _take_whole(self, body: bytes) -> None:
        frame = WholeAnswer(body, body) if self._form is AnswerForm.JSON else plain_text(body)
        if frame is None:
            self._take_unread(body, UnscannedReason.CHARSET)
        else:
            self._take_frame(frame)

    def _take_frame(self, frame: Frame) -> None:
        read = self._events.read(frame.payload, event=frame.event)
        if isinstance(read, UnreadableEvent):
            self._take_unread(frame.raw, read.reason)
            return
        self.reasons.update(dict.fromkeys(read.unscanned))
        try:
            pieces = self.transcript.take(read)
        except TooManyTextsError:
            self._take_unread(frame.raw, UnscannedReason.ANSWER_TOO_LARGE)
            return
        self.held.add(
            frame, pieces, has_logprobs=read.has_logprobs, is_unread=bool(read.unscanned)
        )

    def _take_unread(self, raw: bytes, reason: UnscannedReason) -> None:
        self.reasons[reason] = None
        self.held.add(Opaque(raw, None), is_unread=True)
