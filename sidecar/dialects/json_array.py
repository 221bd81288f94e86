"""A JSON array that is sent element by element, as Gemini streams without `alt=sse`."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from sidecar.dialects.frames import MAX_FRAME_BYTES, Frame, FrameFault

_SPACE: Final = b" \t\r\n"
_STRUCTURE: Final = re.compile(rb'["{}\[\]]')
_IN_STRING: Final = re.compile(rb'["\\]')


@dataclass(frozen=True, slots=True)
class ArrayElement(Frame):
    """An object of the array, with the bracket, comma and white space in front of it."""

    @override
    def with_payload(self, payload: bytes) -> bytes:
        end = len(self.raw) - len(self.payload or b"")
        return self.raw[:end] + payload


class _Place(enum.Enum):
    """What may come next at the level of the array."""

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
        """Return what no frame has yet, and forget it."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._position = self._start = 0
        return rest

    def _finds_start(self) -> bool:
        """Go over what may stand between elements; tell whether the array is closed."""
        byte = bytes(self._buffer[self._position : self._position + 1])
        if byte in _SPACE:
            self._position += 1
            return False
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
        """Go on within an element; tell whether it ends."""
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
