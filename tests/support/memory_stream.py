"""A gRPC call in memory, whose other side is the test."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sidecar.extproc.phases import Answer
from sidecar.extproc.stream import StreamGoneError


class MemoryStream:
    """A gRPC stream whose other side is the test."""

    def __init__(self, *messages: bytes | None) -> None:
        """Begin with *messages* already there; None is a half-close."""
        self.written: list[bytes] = []
        self.is_gone = False
        self.has_ended = False
        self.is_waiting = False
        """Whether a reader waits for the next message."""
        self._is_half_closed = False
        self._incoming: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self._grown = asyncio.Condition()
        self.send(*messages)

    def send(self, *messages: bytes | BaseException | None) -> None:
        """Send as Envoy would; an exception is raised by `read`."""
        for message in messages:
            self._incoming.put_nowait(message)

    async def count(self, messages: int) -> None:
        """Wait until so many messages were written."""
        async with self._grown:
            await self._grown.wait_for(lambda: len(self.written) >= messages)

    async def drained(self) -> None:
        """Wait until all that was sent has been read."""
        await self._incoming.join()

    def take(self) -> bytes | None:
        """Return nothing: all messages are read."""

    async def read(self) -> bytes | None:
        """Return the next message; a half-close stays one."""
        if self._is_half_closed:
            return None
        self.is_waiting = self._incoming.empty()
        try:
            message = await self._incoming.get()
        finally:
            self.is_waiting = False
        self._incoming.task_done()
        if isinstance(message, BaseException):
            raise message
        self._is_half_closed = message is None
        return message

    async def write(self, messages: Sequence[Answer], *, ends: bool) -> None:
        """Keep messages, or fail as a reset stream does; nothing may follow an end."""
        assert not self.has_ended
        if self.is_gone:
            raise StreamGoneError
        self.has_ended = ends
        async with self._grown:
            for one in messages:
                self.written.append(b"".join(one) if isinstance(one, tuple) else one)
            self._grown.notify_all()
