"""Amazon's event stream framing (`application/vnd.amazon.eventstream`), as Bedrock answers.

A message is: total length and headers' length (four bytes each, big-endian), CRC32 of those eight
bytes, headers, payload, CRC32 of all before it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Final

from typing_extensions import override

from sidecar.dialects.frames import MAX_FRAME_BYTES, Frame, FrameFault

_PRELUDE_BYTES: Final = 12
_CRC_BYTES: Final = 4
_MIN_BYTES: Final = _PRELUDE_BYTES + _CRC_BYTES
_STRING: Final = 7
_FIXED_BYTES: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value by its type; 6 and 7 have a length of two bytes in front."""


@dataclass(frozen=True, slots=True)
class EventStreamMessage(Frame):
    """A message with its headers of type string; `event` is `:event-type` or `:exception-type`."""

    headers: dict[str, str] = field(default_factory=dict[str, str])
    header_bytes: bytes = b""

    @override
    def with_payload(self, payload: bytes) -> bytes:
        return _message(self.header_bytes, payload)


class EventStreamFramer:
    """Cuts a stream of messages and checks both sums of each."""

    __slots__ = ("_buffer", "_limit_bytes", "fault")

    def __init__(self, *, limit_bytes: int = MAX_FRAME_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()
        self.fault: FrameFault | None = None

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the messages that *chunk* completes."""
        self._buffer += chunk
        frames: list[Frame] = []
        while self.fault is None and len(self._buffer) >= _PRELUDE_BYTES:
            length, self.fault = self._length()
            if self.fault is not None or len(self._buffer) < length:
                break
            message = _parsed(bytes(self._buffer[:length]))
            if message is None:
                self.fault = FrameFault.BROKEN
                break
            frames.append(message)
            del self._buffer[:length]
        return frames

    def finish(self) -> list[Frame]:
        """Return nothing; a message that is not whole cannot be read."""
        if self._buffer and self.fault is None:
            self.fault = FrameFault.BROKEN
        return []

    def rest(self) -> bytes:
        """Return what no message has yet, and forget it."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def _length(self) -> tuple[int, FrameFault | None]:
        prelude = bytes(self._buffer[:_PRELUDE_BYTES])
        length, headers_length = int.from_bytes(prelude[:4]), int.from_bytes(prelude[4:8])
        if zlib.crc32(prelude[:8]) != int.from_bytes(prelude[8:]):
            return length, FrameFault.BROKEN
        if length < _MIN_BYTES + headers_length:
            return length, FrameFault.BROKEN
        return length, FrameFault.TOO_LARGE if length > self._limit_bytes else None


def string_headers(headers: dict[str, str]) -> bytes:
    """Return the bytes of headers that are all strings."""
    pieces: list[bytes] = []
    for name, value in headers.items():
        raw = value.encode()
        pieces += (
            bytes((len(name),)), name.encode(), bytes((_STRING,)), len(raw).to_bytes(2), raw,
        )  # fmt: skip
    return b"".join(pieces)


def event_stream_message(headers: dict[str, str], payload: bytes) -> bytes:
    """Return the bytes of a new message."""
    return _message(string_headers(headers), payload)


def _message(header_bytes: bytes, payload: bytes) -> bytes:
    length = _MIN_BYTES + len(header_bytes) + len(payload)
    lengths = length.to_bytes(4) + len(header_bytes).to_bytes(4)
    body = lengths + zlib.crc32(lengths).to_bytes(4) + header_bytes + payload
    return body + zlib.crc32(body).to_bytes(4)


def _parsed(raw: bytes) -> EventStreamMessage | None:
    """Read a message; None where it does not add up."""
    if zlib.crc32(raw[:-_CRC_BYTES]) != int.from_bytes(raw[-_CRC_BYTES:]):
        return None
    payload_at = _PRELUDE_BYTES + int.from_bytes(raw[4:8])
    header_bytes = raw[_PRELUDE_BYTES:payload_at]
    headers = _headers(header_bytes)
    if headers is None:
        return None
    event = headers.get(":event-type") or headers.get(":exception-type", "")
    payload = raw[payload_at:-_CRC_BYTES]
    return EventStreamMessage(raw, payload or None, event, headers, header_bytes)


def _headers(raw: bytes) -> dict[str, str] | None:
    headers: dict[str, str] = {}
    position = 0
    try:
        while position < len(raw):
            name_end = position + 1 + raw[position]
            name, kind = raw[position + 1 : name_end].decode(), raw[name_end]
            position = name_end + 1
            if kind in _FIXED_BYTES:
                position += _FIXED_BYTES[kind]
                continue
            end = position + 2 + int.from_bytes(raw[position : position + 2])
            if kind == _STRING:
                headers[name] = raw[position + 2 : end].decode()
            position = end
    except (IndexError, UnicodeDecodeError):
        return None
    return headers if position == len(raw) else None
