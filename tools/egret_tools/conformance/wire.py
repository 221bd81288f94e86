"""Requests and answers on a client's connection, for each version of HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

RawHeaders = tuple[tuple[bytes, bytes], ...]


class BrokenOffError(Exception):
    """The connection ended before the answer did, or its bytes are not HTTP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One request as it is sent, piece by piece. `length` None sends no length."""

    method: str
    path: str
    headers: RawHeaders
    pieces: tuple[bytes, ...]
    length: int | None
    pause_seconds: float = 0.0
    trailers: RawHeaders = ()
    leaves_after_pieces: int | None = None

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self.pieces)

    @property
    def ends_with_headers(self) -> bool:
        """Whether nothing follows the headers."""
        return not self.pieces and not self.trailers

    async def paced(self) -> AsyncIterator[bytes]:
        """Yield the pieces that are sent, with the pauses between them."""
        for number, piece in enumerate(self.pieces[: self.leaves_after_pieces]):
            if number and self.pause_seconds:
                await asyncio.sleep(self.pause_seconds)
            yield piece


@dataclass(frozen=True, slots=True)
class Received:
    """The answer to the client; empty for one that hung up itself."""

    status: int
    headers: RawHeaders = ()
    body: bytes = b""
    is_whole: bool = True


class Connection(Protocol):
    """One connection to Envoy; requests go one after another."""

    async def exchange(self, request: Outgoing) -> Received:
        """Send a request and return the answer."""
        ...

    async def close(self) -> None:
        """Hang up."""
        ...


HUNG_UP = Received(status=0)
"""Of a client that left before it was answered."""
