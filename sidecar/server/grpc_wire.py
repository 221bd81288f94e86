"""gRPC over HTTP/2 as bytes: message framing, status trailers, deadlines; no I/O.

The format is that of the gRPC project's "gRPC over HTTP2" (PROTOCOL-HTTP2): each message has a
byte for compression, four bytes of length, and follows in whole or in parts over any number of
DATA frames.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Sequence
from typing import Final

from typing_extensions import override

_PREFIX: Final = struct.Struct(">BL")
"""Whether it is compressed, and its length."""
PREFIX_BYTES: Final = _PREFIX.size
CONTENT_TYPE: Final = b"application/grpc"

_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT_SECONDS: Final = {
    b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9,
}  # fmt: skip


class GrpcStatus(enum.Enum):
    """The status codes we send, by number."""

    OK = 0
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13


class GrpcWireError(Exception):
    """The peer's bytes are not the gRPC that we accept; the call ends with `status`."""

    def __init__(self, status: GrpcStatus, problem: str) -> None:
        super().__init__(problem)
        self.status = status
        self.problem = problem

    @override
    def __str__(self) -> str:
        return f"{self.status.name}: {self.problem}"


class MessageReader:
    """Reassembles messages from pieces of DATA; buffers at most one incomplete message."""

    __slots__ = ("_buffer", "_max_message_bytes")

    def __init__(self, *, max_message_bytes: int) -> None:
        self._buffer = bytearray()
        self._max_message_bytes = max_message_bytes

    @property
    def is_between_messages(self) -> bool:
        """Return whether the peer may end here without cutting a message short."""
        return not self._buffer

    def feed(self, piece: bytes) -> list[bytes]:
        """Take the next bytes; return the messages they complete.

        Raises:
            GrpcWireError: a compressed message, or one that is announced as too long.
        """
        if not self._buffer and len(piece) >= PREFIX_BYTES:
            # One message in one piece, the common case: no copy into the buffer.
            size = len(piece) - PREFIX_BYTES
            if _PREFIX.unpack_from(piece) == (0, size) and size <= self._max_message_bytes:
                return [piece[PREFIX_BYTES:]]
        self._buffer += piece
        buffer, at = self._buffer, 0
        messages: list[bytes] = []
        while len(buffer) - at >= PREFIX_BYTES:
            if buffer[at]:
                # No encoding was negotiated, so the peer must not compress.
                raise GrpcWireError(GrpcStatus.UNIMPLEMENTED, "compressed messages are not taken")
            size = int.from_bytes(buffer[at + 1 : at + PREFIX_BYTES], "big")
            if size > self._max_message_bytes:
                problem = f"a message of {size} bytes; {self._max_message_bytes} are taken"
                raise GrpcWireError(GrpcStatus.RESOURCE_EXHAUSTED, problem)
            end = at + PREFIX_BYTES + size
            if len(buffer) < end:
                break
            messages.append(bytes(memoryview(buffer)[at + PREFIX_BYTES : end]))
            at = end
        del buffer[:at]
        return messages


def frame(messages: Sequence[bytes]) -> bytes:
    """Return *messages*, each with its prefix."""
    return b"".join([_PREFIX.pack(0, len(one)) + one for one in messages])


def status_headers(status: GrpcStatus, problem: str = "") -> list[tuple[bytes, bytes]]:
    """Return the headers that end a call, as trailers or alone; *problem* is for the peer."""
    headers = [(b"grpc-status", str(status.value).encode())]
    if problem:
        # By PROTOCOL-HTTP2 `%`, and all that is not printable ASCII, goes as %XX.
        encoded = b"".join(
            bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte  # noqa: PLR2004 - space, tilde, percent sign
            for byte in problem.encode()
        )
        headers.append((b"grpc-message", encoded))
    return headers


def timeout_seconds(value: bytes) -> float:
    """Read a `grpc-timeout` header.

    Raises:
        GrpcWireError: not one to eight digits and a unit.
    """
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise GrpcWireError(GrpcStatus.INVALID_ARGUMENT, "grpc-timeout is not a duration")
    return int(match[1]) * _UNIT_SECONDS[match[2]]
