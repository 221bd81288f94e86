"""Server-sent events, cut as the HTML standard reads them (section 9.2.6), kept as they came."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from sidecar.dialects.frames import MAX_FRAME_BYTES, Frame, FrameFault

_BOM: Final = b"\xef\xbb\xbf"

_BLANK_LINE: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
"""Atomic, so that one CRLF is not taken for two line ends."""

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")

_LONGEST_BORDER: Final = 4
"""Bytes of CRLF CRLF, of which all but the last may have come before."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent(Frame):
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
        self._buffer += chunk
        frames: list[Frame] = []
        start, search_from = 0, self._scanned
        while (border := _BLANK_LINE.search(self._buffer, search_from)) is not None:
            frames.append(self._event(bytes(self._buffer[start : border.end()])))
            start = search_from = border.end()
        del self._buffer[:start]
        # A carriage return at the end has closed the event; whether a line feed belongs to it
        # is not worth waiting for.
        self._may_skip_lf = bool(frames) and not self._buffer and frames[-1].raw.endswith(b"\r")
        self._scanned = max(len(self._buffer) - _LONGEST_BORDER + 1, search_from - start, 0)
        if len(self._buffer) > self._limit_bytes:
            self.fault = FrameFault.TOO_LARGE
        return frames

    def finish(self) -> list[Frame]:
        """Return an event that was never ended: the standard drops it, some clients do not."""
        rest = b"" if self.fault else self.rest()
        return [self._event(rest)] if rest else []

    def rest(self) -> bytes:
        """Return what no event has yet, and forget it."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._scanned = 0
        return rest

    def _event(self, raw: bytes) -> ServerSentEvent:
        text = raw
        if self._is_first:
            self._is_first = False
            text = raw.removeprefix(_BOM)
        if text.startswith(b"data: ") and text.endswith(b"\n\n") and _is_one_line(text):
            return ServerSentEvent(raw, text[6:-2])
        return _parsed(raw, text)


def _is_one_line(text: bytes) -> bool:
    return text.count(b"\n") == 2 and b"\r" not in text  # noqa: PLR2004 - its own and the blank line's


def _parsed(raw: bytes, text: bytes) -> ServerSentEvent:
    data: list[bytes] = []
    event = ""
    for line in _LINE_END.split(text):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            event = value.decode("utf-8", "replace")
    return ServerSentEvent(raw, b"\n".join(data) if data else None, event)
