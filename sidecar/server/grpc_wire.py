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
VIEWED_BYTES: Final = 8_192
"""From here on a message is a view of what was read."""

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
    """Reassembles messages from pieces of DATA.

    `kept_bytes` are those of the one message that is incomplete.
    """

    __slots__ = ("_head", "_max_message_bytes", "_missing", "_pieces", "kept_bytes")

    def __init__(self, *, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._head = b""
        self._missing: int | None = None
        self._pieces: list[bytes | bytearray | memoryview] = []
        self.kept_bytes = 0

    @property
    def is_between_messages(self) -> bool:
        """Return whether the peer may end here without cutting a message short."""
        return self._missing is None and not self._head

    def feed(self, piece: bytes) -> list[bytes | memoryview]:
        """Take the next bytes; return the messages they complete, long ones as views of them.

        Raises:
            GrpcWireError: a compressed message, or one that is announced as too long.
        """
        at, size = 0, len(piece)
        if self._missing is not None and size < self._missing:
            self._missing -= size
            self._keep(piece)
            return []
        if size >= PREFIX_BYTES and self._missing is None and not self._head:
            # One message in one piece, the common case.
            length = size - PREFIX_BYTES
            if _PREFIX.unpack_from(piece) == (0, length) and length <= self._max_message_bytes:
                return [_part(piece, PREFIX_BYTES, size)]
        messages: list[bytes | memoryview] = []
        while at < size:
            missing = self._missing
            if missing is None:
                end = at + PREFIX_BYTES - len(self._head)
                head = self._head + piece[at:end]
                if end > size:
                    self._head = head
                    break
                self._head, at = b"", end
                missing = int.from_bytes(head[1:], "big")
                if head[0]:
                    # No encoding was negotiated, so the peer must not compress.
                    problem = "compressed messages are not taken"
                    raise GrpcWireError(GrpcStatus.UNIMPLEMENTED, problem)
                if missing > self._max_message_bytes:
                    problem = f"a message of {missing} bytes; {self._max_message_bytes} are taken"
                    raise GrpcWireError(GrpcStatus.RESOURCE_EXHAUSTED, problem)
            end = at + missing
            rest = _part(piece, at, min(end, size))
            if end > size:
                self._missing = end - size
                self._keep(rest)
                break
            messages.append(b"".join((*self._pieces, rest)) if self._pieces else rest)
            self._missing, self._pieces, at = None, [], end
            self.kept_bytes = 0
        return messages

    def _keep(self, piece: bytes | memoryview) -> None:
        """Keep a piece of an incomplete message; short ones are gathered."""
        self.kept_bytes += len(piece)
        if len(piece) >= VIEWED_BYTES:
            self._pieces.append(piece)
        elif self._pieces and isinstance(self._pieces[-1], bytearray):
            self._pieces[-1] += piece
        else:
            self._pieces.append(bytearray(piece))


def _part(piece: bytes, start: int, end: int) -> bytes | memoryview:
    """Return the bytes from *start* to *end*; many of them are not copied."""
    return piece[start:end] if end - start < VIEWED_BYTES else memoryview(piece)[start:end]


def framed(messages: Sequence[bytes | tuple[bytes | memoryview, ...]]) -> list[bytes | memoryview]:
    """Return each of *messages*, or its parts, behind its prefix."""
    pieces: list[bytes | memoryview] = []
    for one in messages:
        if isinstance(one, bytes):
            pieces += (_PREFIX.pack(0, len(one)), one)
        else:
            pieces += (_PREFIX.pack(0, sum(map(len, one))), *one)
    return pieces


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
