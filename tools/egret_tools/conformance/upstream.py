"""The upstream of a run: answers as the case says, and keeps the received bytes.

What cannot be read as a request is kept too: a body that was framed wrongly leaves its rest on a
connection that the next request shares.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import h11

from egret_tools.conformance.wire import RawHeaders

READ_BYTES: Final = 1 << 16
CHAT_ANSWER: Final = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"conformance","choices":'
    b'[{"index":0,"message":{"role":"assistant","content":"Fine."},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}'
)


@dataclass(frozen=True, slots=True)
class Arrived:
    """One request as it arrived; not whole where its connection ended before it did."""

    method: str
    path: str
    headers: RawHeaders
    body: bytes
    is_whole: bool

    def all(self, name: str) -> tuple[bytes, ...]:
        """Return every value of a header."""
        return tuple(value for key, value in self.headers if key == name.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """The answer to further requests. `length` None sends no length."""

    status: int = 200
    headers: RawHeaders = ((b"content-type", b"application/json"),)
    pieces: tuple[bytes, ...] = (CHAT_ANSWER,)
    length: int | None = len(CHAT_ANSWER)
    pause_seconds: float = 0.0
    before_body: bool = False
    hangs_up: bool = False

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self.pieces)


@dataclass
class Record:
    """All that arrived for one case; a late request stays with its own."""

    answering: Answering = field(default_factory=Answering)
    arrived: list[Arrived] = field(default_factory=list)
    unreadable: int = 0


@dataclass
class Upstream:
    """A server on loopback."""

    record: Record = field(default_factory=Record)

    def begin(self, answering: Answering) -> None:
        """Begin another case, which is answered so."""
        self.record = Record(answering)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends."""
        http = h11.Connection(our_role=h11.SERVER, max_incomplete_event_size=1 << 20)
        turn = _Turn(self, http, reader, writer)
        try:
            while await turn.run():
                # Envoy sends the next request when it has the answer to the last.
                turn.record.unreadable += bool(http.trailing_data[0])
                http.start_next_cycle()
        except h11.RemoteProtocolError:
            turn.record.unreadable += 1
        except (OSError, h11.LocalProtocolError):
            pass  # Envoy hung up while it was answered
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@dataclass
class _Turn:
    """The requests on a connection and their answers, one at a time."""

    upstream: Upstream
    http: h11.Connection
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    record: Record = field(init=False)

    def __post_init__(self) -> None:
        """Belong to the case during which the connection was opened, until a request arrives."""
        self.record = self.upstream.record

    async def run(self) -> bool:
        """Return whether the connection goes on."""
        head = await self._next_event()
        if not isinstance(head, h11.Request):
            return False
        record = self.record = self.upstream.record
        answering = record.answering
        if answering.before_body and not answering.hangs_up:
            await self._answer(answering)
        body, is_whole = await self._body()
        record.arrived.append(
            Arrived(
                head.method.decode(), head.target.decode("latin-1"),
                tuple(head.headers), body, is_whole=is_whole,
            )
        )  # fmt: skip
        if answering.hangs_up or not is_whole:
            return False
        if not answering.before_body:
            await self._answer(answering)
        return self.http.our_state is h11.DONE and self.http.their_state is h11.DONE

    async def _body(self) -> tuple[bytes, bool]:
        body = bytearray()
        while True:
            try:
                event = await self._next_event()
            except (h11.RemoteProtocolError, OSError):
                return bytes(body), False  # ended in the middle
            match event:
                case h11.Data():
                    body += event.data
                case h11.EndOfMessage():
                    return bytes(body), True
                case _:
                    return bytes(body), False

    async def _next_event(self) -> object:
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self.http.receive_data(await self.reader.read(READ_BYTES))

    async def _answer(self, answering: Answering) -> None:
        headers = list(answering.headers)
        if answering.length is not None:
            headers.append((b"content-length", str(answering.length).encode()))
        await self._write(h11.Response(status_code=answering.status, headers=headers))
        for number, piece in enumerate(answering.pieces):
            if number and answering.pause_seconds:
                await asyncio.sleep(answering.pause_seconds)
            await self._write(h11.Data(data=piece))
        await self._write(h11.EndOfMessage())

    async def _write(self, event: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        self.writer.write(self.http.send(event) or b"")
        await self.writer.drain()


@asynccontextmanager
async def running_upstream() -> AsyncIterator[tuple[Upstream, int]]:
    """Serve on a free port of loopback; yield the upstream and the port."""
    upstream = Upstream()
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a callback of asyncio's server is one
        connections.add(task)
        try:
            await upstream.serve(reader, writer)
        finally:
            connections.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield upstream, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
