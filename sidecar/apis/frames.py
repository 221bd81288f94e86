"""Framers for streamed answers: SSE, JSON arrays. Those of AWS are in `event_stream`."""

from __future__ import annotations

import enum
import re
from typing import Final, Protocol

import msgspec
import orjson
from typing_extensions import override

MAX_FRAME_BYTES: Final = 1024 * 1024
"""A delta is some hundred bytes, the closing event of a long answer some hundred thousand."""


class FrameFault(enum.Enum):
    """Why a stream cannot be cut any further."""

    TOO_LARGE = "too_large"  # a frame does not end within the limit
    BROKEN = "broken"  # the framing itself is invalid


class Frame(msgspec.Struct, frozen=True):
    """One event of a stream. The frames of a stream joined are the stream, byte for byte.

    `payload` is its JSON text, None where it carries nothing (a comment, the end of an array).
    `event` is the event's name where the framing gives one.
    """

    raw: bytes
    payload: bytes | None
    event: str = ""

    def with_payload(self, payload: bytes) -> bytes:
        """Return the frame's bytes with another JSON text in it."""
        raise NotImplementedError


class Framer(Protocol):
    """Cuts a stream into frames, however it was cut into chunks.

    Once it has a `fault` it cuts no more: bytes outside any frame are in `rest`.
    """

    @property
    def fault(self) -> FrameFault | None:
        """The fault of the stream, if it has one."""
        ...

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the frames that *chunk* completes."""
        ...

    def finish(self) -> list[Frame]:
        """Return the last frame at the end of the stream, which has no terminator."""
        ...

    def rest(self) -> bytes:
        """Return the bytes fed that are in no frame yet, and forget them."""
        ...


class Opaque(Frame, frozen=True):
    """Bytes that are passed on unread."""

    @override
    def with_payload(self, payload: bytes) -> bytes:
        return self.raw


class WholeAnswer(Frame, frozen=True):
    """A JSON document that is an answer of its own."""

    @override
    def with_payload(self, payload: bytes) -> bytes:
        return payload


class PlainText(Frame, frozen=True):
    """Text that is no JSON, read as if it were the only string of an object."""

    @override
    def with_payload(self, payload: bytes) -> bytes:
        text: str = orjson.loads(payload)["text"]
        return text.encode()


def plain_text(body: bytes) -> PlainText | None:
    """Return *body* as a frame; None where it is no text at all."""
    try:
        return PlainText(body, orjson.dumps({"text": body.decode()}))
    except UnicodeDecodeError:
        return None


_BOM: Final = b"\xef\xbb\xbf"

_BLANK_LINE: Final = re.compile(rb"(?:\n|\r\n?+){2,}+")
"""Possessive, so that one CRLF is not taken for two line ends. Any more blank lines behind are of
the same event: each by itself takes 3 us."""

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")

_USUAL: Final = re.compile(rb"(?:event: ([^\n]*+)\n)?+data: ([^\n]*+)\n\n")
"""The form of nearly every event. A CR in it ends a line as well: to exclude it here takes four
times as long as to look for it then."""

_OTHER_FIELDS: Final = frozenset({b"", b"id", b"retry"})
"""Of a comment and of numbers. A line of any other is no event: an answer in JSON, for one, or an
error in plain text, whose label says that it is a stream. Clients of streams skip it, others read
it. Beside data it is neither."""

_LONGEST_BORDER: Final = 4
"""Bytes of CRLF CRLF, of which all but the last may have come before."""


class ServerSentEvent(Frame, frozen=True):
    """An event with the line ends it came with."""

    @override
    def with_payload(self, payload: bytes) -> bytes:
        if self.raw == b"data: " + (self.payload or b"") + b"\n\n":
            return b"data: " + payload + b"\n\n"
        name = f"event: {self.event}\n".encode() if self.event else b""
        kept = [
            line + b"\n"
            for line in _LINE_END.split(self.raw)
            if line.startswith((b"id:", b"retry:"))
        ]
        # A line break within JSON text is white space between tokens: it may become a blank.
        return name + b"".join(kept) + b"data: " + _LINE_END.sub(b" ", payload) + b"\n\n"


_BEFORE_DATA: Final = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|[\r\n])data: ?\Z")
_LONGEST_BEFORE_DATA: Final = 9


def with_payload_in_place(frame: Frame, payload: bytes) -> bytes:
    """Return an event's bytes with another JSON text, and all its other lines as they are.

    Data over several lines is one payload and many pieces: its line ends become our own.
    """
    raw, old = frame.raw, frame.payload or b""
    start = raw.find(old)
    # Another line, such as a comment, may repeat the data.
    while start >= 0 and not _BEFORE_DATA.search(raw, max(0, start - _LONGEST_BEFORE_DATA), start):
        start = raw.find(old, start + 1)
    if start < 0:
        return frame.with_payload(payload)
    return raw[:start] + payload + raw[start + len(old) :]


class SseFramer:
    """Cuts a stream of server-sent events."""

    __slots__ = ("_buffer", "_is_first", "_limit_bytes", "_may_skip_lf", "_scanned", "fault")

    def __init__(self, *, limit_bytes: int = MAX_FRAME_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._scanned = 0
        self._is_first = True
        self._may_skip_lf = False
        self.fault: FrameFault | None = None

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the events that *chunk* completes, comments and empty ones included."""
        if not chunk:
            return []
        if self._may_skip_lf:
            self._may_skip_lf = False
            if chunk.startswith(b"\n"):
                # The second half of the line end that closed the event before. It opens no line.
                self._scanned = 1
        text: bytes | bytearray = chunk
        if self._buffer:
            self._buffer += chunk
            text = self._buffer
        frames: list[Frame] = []
        start, search_from, length = 0, self._scanned, len(text)
        while start < length:
            # Text that was searched before is not searched again from its start.
            found = _USUAL.match(text, start) if search_from == start else None
            if found is not None and b"\r" not in found[0]:
                self._is_first = False
                raw, name, payload = found.group(0, 1, 2)
                event = name.decode("utf-8", "replace") if name else ""
                frames.append(ServerSentEvent(raw, payload, event))
                start = search_from = found.end()
            elif (border := _BLANK_LINE.search(text, search_from)) is not None:
                frames.append(self._event(bytes(text[start : border.end()])))
                start = search_from = border.end()
            else:
                break
        left = length - start
        if self._buffer:
            del self._buffer[:start]
        elif left:
            self._buffer += chunk[start:]
        if left:
            self._scanned = max(left - _LONGEST_BORDER + 1, search_from - start, 0)
            if left > self._limit_bytes:
                self.fault = FrameFault.TOO_LARGE
        else:
            self._scanned = 0
            # A carriage return at the end has closed the event; whether a line feed belongs to
            # it is not worth waiting for.
            self._may_skip_lf = chunk.endswith(b"\r")
        return frames

    def finish(self) -> list[Frame]:
        """Return an event that was never ended: the standard drops it, some clients do not."""
        rest = b"" if self.fault else self.rest()
        return [self._event(rest)] if rest else []

    def rest(self) -> bytes:
        """Return the bytes that belong to no event yet, and drop them."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._scanned = 0
        return rest

    def _event(self, raw: bytes) -> Frame:
        text = raw
        if self._is_first:
            self._is_first = False
            text = raw.removeprefix(_BOM)
        data: list[bytes] = []
        event, is_foreign = "", False
        for line in _LINE_END.split(text.rstrip(b"\r\n")):
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                data.append(value)
            elif name == b"event":
                event = value.decode("utf-8", "replace")
            elif name not in _OTHER_FIELDS:
                is_foreign = True
        if is_foreign:
            is_text = not data and not text.lstrip().startswith((b"{", b"["))
            return (plain_text(raw) if is_text else None) or WholeAnswer(raw, text)
        return ServerSentEvent(raw, b"\n".join(data) if data else None, event)


def holds_events(text: bytes) -> bool:
    """Return whether *text* has a line of server-sent events, as a client would read it."""
    return text.removeprefix(_BOM).startswith(b"data:") or any(
        line in text for line in (b"\ndata:", b"\rdata:")
    )


_NO_SPACE: Final = re.compile(rb"[^ \t\r\n]")
_STRUCTURE: Final = re.compile(rb'["{}\[\]]')
_IN_STRING: Final = re.compile(rb'["\\]')


class ArrayElement(Frame, frozen=True):
    """An object of the array, with the bracket, comma and white space in front of it."""

    @override
    def with_payload(self, payload: bytes) -> bytes:
        end = len(self.raw) - len(self.payload or b"")
        return self.raw[:end] + payload


class _Place(enum.Enum):
    """The element or separator that may come next in the array."""

    OPENING = enum.auto()
    FIRST_OR_END = enum.auto()
    COMMA_OR_END = enum.auto()
    ELEMENT = enum.auto()
    AFTER_END = enum.auto()


_ALLOWED: Final = {
    _Place.OPENING: {b"[": _Place.FIRST_OR_END},
    _Place.FIRST_OR_END: {b"]": _Place.AFTER_END},
    _Place.COMMA_OR_END: {b",": _Place.ELEMENT, b"]": _Place.AFTER_END},
    _Place.ELEMENT: {},
    _Place.AFTER_END: {},
}
_BEFORE_ELEMENT: Final = frozenset({_Place.FIRST_OR_END, _Place.ELEMENT})


class JsonArrayFramer:
    """Cuts an array of objects into its elements."""

    __slots__ = (
        "_buffer",
        "_depth",
        "_in_string",
        "_limit_bytes",
        "_place",
        "_position",
        "_start",
        "fault",
    )

    def __init__(self, *, limit_bytes: int = MAX_FRAME_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._position: int = 0
        self._start: int = 0
        self._depth = 0
        self._in_string = False
        self._place = _Place.OPENING
        self.fault: FrameFault | None = None

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the elements that *chunk* completes; the closing bracket is a frame too."""
        self._buffer += chunk
        frames: list[Frame] = []
        while self._position < len(self._buffer) and self.fault is None:
            if self._depth:
                if self._finds_end():
                    frames.append(self._cut(has_payload=True))
            elif self._finds_start():
                frames.append(self._cut(has_payload=False))
        if self.fault is None and len(self._buffer) > self._limit_bytes:
            self.fault = FrameFault.TOO_LARGE
        return frames

    def finish(self) -> list[Frame]:
        """Return white space behind an element, be the array closed or not."""
        if self._depth and self.fault is None:
            self.fault = FrameFault.BROKEN
        rest = b"" if self.fault else self.rest()
        return [ArrayElement(rest, None)] if rest else []

    def rest(self) -> bytes:
        """Return the bytes that belong to no frame yet, and drop them."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._position = self._start = 0
        return rest

    def _finds_start(self) -> bool:
        """Skip separators between elements; return whether the array is closed."""
        found = _NO_SPACE.search(self._buffer, self._position)
        if found is None:
            self._position = len(self._buffer)
            return False
        self._position, byte = found.start(), found.group()
        if byte == b"{" and self._place in _BEFORE_ELEMENT:
            self._start = self._position
            self._depth = 1
            self._position += 1
            return False
        place = _ALLOWED[self._place].get(byte)
        if place is None:
            self.fault = FrameFault.BROKEN
            return False
        self._place = place
        self._position += 1
        return place is _Place.AFTER_END

    def _finds_end(self) -> bool:
        """Continue within an element; return whether it ends."""
        found = (_IN_STRING if self._in_string else _STRUCTURE).search(
            self._buffer, self._position
        )
        if found is None:
            self._position = len(self._buffer)
            return False
        self._position = found.end()
        match found.group():
            case b'"':
                self._in_string = not self._in_string
            case b"\\":
                self._position += 1  # over the escaped character, even if it has not come yet
            case b"{" | b"[":
                self._depth += 1
            case _:
                self._depth -= 1
        return not self._depth

    def _cut(self, *, has_payload: bool) -> Frame:
        raw = bytes(self._buffer[: self._position])
        payload = raw[self._start :] if has_payload else None
        if has_payload:
            self._place = _Place.COMMA_OR_END
        del self._buffer[: self._position]
        self._position = self._start = 0
        return ArrayElement(raw, payload)
