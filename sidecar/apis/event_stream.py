"""The framing of AWS: messages with headers and check sums, and events of models in them.

Format: `application/vnd.amazon.eventstream` of Smithy, and `PayloadPart` of Bedrock's runtime API.
"""

from __future__ import annotations

import binascii
import re
import zlib
from typing import Final

import msgspec
from typing_extensions import override

from sidecar.apis.frames import MAX_FRAME_BYTES, Frame, FrameFault

_PRELUDE_BYTES: Final = 12
_CRC_BYTES: Final = 4
_MIN_BYTES: Final = _PRELUDE_BYTES + _CRC_BYTES
_STRING: Final = 7
_FIXED_BYTES: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value by its type; 6 and 7 have a length of two bytes in front."""


class EventStreamMessage(Frame, frozen=True):
    """A message with its headers of type string; `event` is `:event-type` or `:exception-type`."""

    headers: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    header_bytes: bytes = b""

    @override
    def with_payload(self, payload: bytes) -> bytes:
        return _message(self.header_bytes, payload)


_INVOKED: Final = re.compile(
    rb'\s*\{\s*(?:"p"\s*:\s*"\w*"\s*,\s*)?"bytes"\s*:\s*"([0-9A-Za-z+/]+={0,2})"'
    rb'\s*(?:,\s*"p"\s*:\s*"\w*"\s*)?\}\s*'
)
"""The payload of a `chunk`: base64, and letters that hide its length (`PayloadPart` of Bedrock's
API). One with any other member, or one twice, could be read in another way by the client."""


class InvokedEvent(EventStreamMessage, frozen=True):
    """An event of a model's own within a `chunk` of Bedrock's InvokeModelWithResponseStream.

    `payload` is that event's JSON text, `around` what stands before and behind it in base64. It
    has a `type` of its own, so `event` is empty.
    """

    around: tuple[bytes, bytes] = (b"", b"")

    @classmethod
    def within(cls, message: EventStreamMessage) -> EventStreamMessage:
        """Return the model's event in *message*, or *message* itself if it holds none."""
        payload = message.payload or b""
        found = _INVOKED.fullmatch(payload)
        if found is None:
            return message
        try:
            inner = binascii.a2b_base64(found[1], strict_mode=True)
        except binascii.Error:
            return message
        around = payload[: found.start(1)], payload[found.end(1) :]
        return cls(message.raw, inner, "", message.headers, message.header_bytes, around)

    @override
    def with_payload(self, payload: bytes) -> bytes:
        encoded = binascii.b2a_base64(payload, newline=False)
        return _message(self.header_bytes, encoded.join(self.around))


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
            raw = bytes(self._buffer[:length])
            payload_at = _PRELUDE_BYTES + int.from_bytes(raw[4:8])
            header_bytes, payload = raw[_PRELUDE_BYTES:payload_at], raw[payload_at:-_CRC_BYTES]
            is_whole = zlib.crc32(raw[:-_CRC_BYTES]) == int.from_bytes(raw[-_CRC_BYTES:])
            headers = _headers(header_bytes) if is_whole else None
            if headers is None:
                self.fault = FrameFault.BROKEN
                break
            event = headers.get(":event-type") or headers.get(":exception-type", "")
            message = EventStreamMessage(raw, payload or None, event, headers, header_bytes)
            frames.append(InvokedEvent.within(message) if event == "chunk" else message)
            del self._buffer[:length]
        return frames

    def finish(self) -> list[Frame]:
        """Return nothing; a message that is not whole cannot be read."""
        if self._buffer and self.fault is None:
            self.fault = FrameFault.BROKEN
        return []

    def rest(self) -> bytes:
        """Return the bytes that belong to no message yet, and drop them."""
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
