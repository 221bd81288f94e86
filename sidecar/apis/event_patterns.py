"""Caches the shape of repeated stream events, so that each is not parsed again."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Final

from sidecar.apis.response_text import (
    AnswerEvent,
    AnswerText,
    UnreadableEvent,
    read_answer,
)
from sidecar.jsontext.tokens import decode, string_tokens

MIN_ALIKE: Final = 3
"""Events in a row that bring one text each, before one is made a pattern: a form that no stream
had before takes as long as parsing fifteen."""

MAX_PATTERNS: Final = 4
"""Of one stream: where events keep changing in other ways, patterns are only a cost."""

MAX_LEARNED: Final = 6
"""Patterns that streams of one model leave to the next: of its first event, of a text, of an
argument, each with and without counts."""

MAX_MODELS: Final = 64
"""A pattern takes some ten kilobytes."""

_TEXT: Final = rb'((?:[^"\\\x00-\x1f]++|\\["\\/bfnrt])++)'
"""A string with no other escapes than short ones. An empty one would be no text."""

MAX_FORM_BYTES: Final = 4_096
"""Around the text: to compile more takes longer than to parse many events."""

_WORD: Final = rb'[A-Za-z0-9_.:-]*+"'
_NUMBER: Final = rb"(?:0|[1-9][0-9]{0,17})"
_CHANGING: Final = re.compile(
    rb'(?P<word>"(?:id|responseId|obfuscation|p)"\s*+:\s*+")'
    + _WORD
    + rb'|(?P<number>"(?:created|sequence_number|(?:prompt|candidates|thoughts|total)TokenCount)"'
    + rb"\s*+:\s*+)"
    + _NUMBER
    + rb"(?=[\s,}])"
)
"""Other parts that change and carry no text: from event to event, or from stream to stream, whose
forms are then compiled once. Where all of an object is text, its names are, so that it has more
than one text."""


@dataclass(frozen=True, slots=True)
class _Pattern:
    """The form of events that differ from each other only in their text, if they have any."""

    form: re.Pattern[bytes]
    event: str
    text: AnswerText | None

    def read(self, payload: bytes, *, event: str) -> AnswerEvent | None:
        """Return the text of an event of this form; None if it has another form."""
        if event != self.event or (found := self.form.fullmatch(payload)) is None:
            return None
        text = self.text
        if text is None:
            return _SILENT
        content = found[1]
        if b"\\" in content:
            content = decode(content)
        if not content.isascii():
            try:
                content.decode()
            except UnicodeDecodeError:
                return None
        return AnswerEvent(
            (AnswerText(content, text.location, text.channel, text.lane, text.is_json),)
        )


_SILENT: Final = AnswerEvent()


@dataclass(slots=True)
class _Learned:
    """The patterns of a model's streams, the latest first; `start` is of the last first event."""

    model: str = ""
    patterns: deque[_Pattern] = field(default_factory=lambda: deque(maxlen=MAX_LEARNED))
    start: bytes = b""


_learned_of: Final = lru_cache(maxsize=MAX_MODELS)(_Learned)


class EventPatternCache:
    """Reads one stream event by event, with the same results as `read_answer`.

    Streams of one *model* share patterns: each holds for any event, whatever stream it is of.
    """

    def __init__(self, model: str | None = None) -> None:
        self._pattern: _Pattern | None = None
        self._learned = _Learned() if model is None else _learned_of(model)
        self._alike = 0
        self._patterns = 0
        self._has_begun = False
        self._silent: tuple[bytes, str, AnswerEvent] | None = None

    def read(self, payload: bytes | None, *, event: str) -> AnswerEvent | UnreadableEvent:
        """Read the next event."""
        if payload is not None:
            known = None if self._pattern is None else self._pattern.read(payload, event=event)
            if known is not None:
                return known
            silent = self._silent  # the last event without text: pings and empty deltas repeat it
            if silent is not None and payload == silent[0] and event == silent[1]:
                return silent[2]
            for pattern in self._learned.patterns:
                known = pattern.read(payload, event=event)
                if known is not None:
                    self._has_begun = True
                    self._pattern = pattern if known.texts else self._pattern
                    return known
        read = read_answer(payload, event=event)
        if payload is None or not isinstance(read, AnswerEvent):
            return read
        text = read.texts[0] if len(read.texts) == 1 else None
        does_more = read.ended or read.ends_all or read.unscanned or read.has_logprobs
        if self._has_begun and not (read.texts or does_more):
            self._silent = payload, event, read
        if not (self._has_begun or read.texts or does_more) and len(payload) <= MAX_FORM_BYTES:
            # The first event has no text. If the last stream's had the same form, it is learned.
            start = _loosened(payload)
            if start == self._learned.start:
                pattern = _Pattern(re.compile(start), event, None)
                self._learned.patterns.appendleft(pattern)
            self._learned.start = start
        self._has_begun = True
        if (
            does_more
            or text is None
            or text.location < 0
            or text.channel is None
            or read.may_hold_payload  # which depends on the value
        ):
            self._alike = 0
        else:
            self._alike += 1
            is_short = len(payload) - len(text.content) <= MAX_FORM_BYTES
            if self._alike >= MIN_ALIKE and self._patterns < MAX_PATTERNS and is_short:
                self._alike = 0
                self._patterns += 1
                self._pattern = _Pattern(_form_of(payload, text), event, text)
                self._learned.patterns.appendleft(self._pattern)
        return read


def _form_of(payload: bytes, text: AnswerText) -> re.Pattern[bytes]:
    token = next(islice(string_tokens(payload), text.location, None))
    before, behind = payload[: token.start], payload[token.end :]
    return re.compile(_loosened(before) + _TEXT + _loosened(behind))


def _loosened(literal: bytes) -> bytes:
    pieces: list[bytes] = []
    position = 0
    for found in _CHANGING.finditer(literal):
        word = found["word"]
        pieces += (
            re.escape(literal[position : found.start()] + (word or found["number"])),
            _WORD if word else _NUMBER,
        )
        position = found.end()
    return b"".join((*pieces, re.escape(literal[position:])))
