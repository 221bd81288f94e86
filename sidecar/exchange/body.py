"""A bounded body: pieces are kept as they come, joined once, and cut again for sending."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

MAX_CHUNK_BYTES: Final = 62_000
"""Envoy's API recommends streamed pieces of at most 64 KiB; stay under with the framing."""


class BodyBuffer:
    """Pieces of one body up to a limit."""

    __slots__ = ("_limit_bytes", "_pieces", "_size_bytes")

    def __init__(self, *, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._pieces: list[bytes] = []
        self._size_bytes = 0

    def may_take(self, piece: bytes) -> bool:
        """Tell whether *piece* still fits under the limit."""
        return self._size_bytes + len(piece) <= self._limit_bytes

    @property
    def size_bytes(self) -> int:
        """How much is kept."""
        return self._size_bytes

    def take(self, piece: bytes) -> None:
        """Keep *piece*."""
        if piece:
            self._pieces.append(piece)
            self._size_bytes += len(piece)

    def joined(self) -> bytes:
        """Return all pieces as one."""
        if len(self._pieces) > 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0] if self._pieces else b""

    def drop(self) -> None:
        """Let go of the pieces; the memory of a refused body is not held to the stream's end."""
        self._pieces = []
        self._size_bytes = 0


def cut(body: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield the pieces of *body* to send and whether each is the last; one even when empty."""
    size = len(body)
    if size <= MAX_CHUNK_BYTES:
        yield body, True
        return
    for start in range(0, size, MAX_CHUNK_BYTES):
        end = start + MAX_CHUNK_BYTES
        yield body[start:end], end >= size
