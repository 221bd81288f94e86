"""A gRPC call in memory, whose other side is the test."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sidecar.extproc.phases import Answer, Room
from sidecar.extproc.stream import StreamGoneError


class MemoryStream:
    """A gRPC stream whose other side is the test."""

    def __init__(self, *messages: bytes | None) -> None:
        """Begin with *messages* already there; None is a half-close."""
        self.written: list[bytes] = []
        self.is_gone = False
        self.is_complete = False
        self.has_ended = False
        self.room: Room | None = None
        self._incoming: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self._arrival: asyncio.Future[None] | None = None
        self._grown = asyncio.Condition()
        self.send(*messages)

    @property
    def is_waiting(self) -> bool:
        """Return whether a reader waits for the next message."""
        return self._arrival is not None and not self._arrival.done()

    @property
    def was_waited_for(self) -> bool:
        """Return whether a reader has waited for a message."""
        return self._arrival is not None

    def send(self, *messages: bytes | BaseException | None) -> None:
        """Send as Envoy would; an exception is raised by `take`."""
        for message in messages:
            self._incoming.put_nowait(message)
        if self._arrival is not None and messages and not self._arrival.done():
            self._arrival.set_result(None)

    async def count(self, messages: int) -> None:
        """Wait until so many messages were written."""
        async with self._grown:
            await self._grown.wait_for(lambda: len(self.written) >= messages)

    async def drained(self) -> None:
        """Wait until all that was sent has been read."""
        await self._incoming.join()

    def take(self) -> bytes | None:
        """Return the next message; a half-close stays one."""
        if self.has_ended or self._incoming.empty():
            return None
        message = self._incoming.get_nowait()
        self._incoming.task_done()
        if isinstance(message, BaseException):
            raise message
        self.has_ended = message is None
        return message

    def arrival(self) -> asyncio.Future[None]:
        """Return a future of the next message that is sent."""
        self._arrival = asyncio.get_running_loop().create_future()
        return self._arrival

    async def write(self, messages: Sequence[Answer], *, ends: bool) -> None:
        """Keep messages, or fail as a reset stream does; nothing may follow an end."""
        assert not self.is_complete
        if self.is_gone:
            raise StreamGoneError
        self.is_complete = ends
        async with self._grown:
            for one in messages:
                self.written.append(b"".join(one) if isinstance(one, tuple) else one)
            self._grown.notify_all()
