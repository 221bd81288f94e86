"""A client of HTTP/2 beside a connection of ours, in memory; the client is the `h2` package."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Sequence

import h2.config
import h2.connection
import h2.events
from typing_extensions import override

from sidecar.server.http2 import PREFACE, Http2Connection
from sidecar.server.http2_streams import MAX_FRAME_BYTES, ErrorCode, Http2Stream

REQUEST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/echo"),
    (":authority", "egret"),
    ("te", "trailers"),
)


def raw(kind: int, flags: int, number: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, number) + payload


HELLO = PREFACE + raw(0x4, 0, 0)
POST = b"\x83\x86\x84\x41\x05egret"
"""POST http://egret/ in HPACK."""
OPENING = b"\x88"
TRAILERS = b"\x00\x0bgrpc-status\x010"


class _Transport(asyncio.Transport):
    """Keeps the bytes that are written, until they are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.writes = 0
        self.is_closed = self.is_aborted = False

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data
        self.writes += 1

    @override
    def get_write_buffer_size(self) -> int:
        return len(self.written)

    @override
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    @override
    def close(self) -> None:
        self.is_closed = True

    @override
    def abort(self) -> None:
        self.is_aborted = True


class Http2Peer:
    """A connection of ours, and a client that has opened it. `events` are what it received."""

    def __init__(self, answer: Callable[[Http2Stream], Awaitable[None]]) -> None:
        self.connections: set[Http2Connection] = set()
        self.connection = Http2Connection(answer, self.connections)
        self.transport = _Transport()
        self.client = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self.events: list[h2.events.Event] = []
        self.connection.connection_made(self.transport)

    def start(self) -> None:
        """Send the client's preface and settings."""
        self.client.initiate_connection()
        self.send()

    def send(self, *, size: int | None = None) -> None:
        """Carry bytes both ways; those of the client in pieces of *size*."""
        sent = self.client.data_to_send()
        for start in range(0, len(sent), size or max(1, len(sent))):
            self.receive(sent[start : start + (size or len(sent))])
        received, self.transport.written = bytes(self.transport.written), bytearray()
        if received:
            self.events += self.client.receive_data(received)

    def receive(self, data: bytes) -> None:
        """Have the connection read *data*; its memory has other bytes afterwards."""
        while data and not self.transport.is_closed:
            memory = self.connection.get_buffer(-1)
            read, data = data[: len(memory)], data[len(memory) :]
            memory[: len(read)] = read
            self.connection.buffer_updated(len(read))
            memory[: len(read)] = b"?" * len(read)

    async def settle(self, rounds: int = 20) -> None:
        """Carry bytes until both sides have nothing left to say."""
        for _ in range(rounds):
            self.send()
            await asyncio.sleep(0)

    def request(self, headers: Sequence[tuple[str, str]] = REQUEST, *, ends: bool = False) -> int:
        """Open a stream and return its number."""
        number = self.client.get_next_available_stream_id()
        self.client.send_headers(number, list(headers), end_stream=ends)
        return number

    def body(self, number: int) -> bytes:
        """Return the body received on a stream, and acknowledge it."""
        return b"".join(
            event.data
            for event in self.events
            if isinstance(event, h2.events.DataReceived) and event.stream_id == number
        )

    def of(self, kind: type[h2.events.Event]) -> list[h2.events.Event]:
        """Return the events of *kind*."""
        return [event for event in self.events if isinstance(event, kind)]


async def read(stream: Http2Stream) -> bytes | memoryview | None:
    """Return the next piece of the body, None behind the last."""
    while (piece := stream.take()) is None and not stream.is_half_closed:
        await stream.arrival()
    return piece


async def echo(stream: Http2Stream) -> None:
    """Send the body back as it comes."""
    opening = OPENING
    while (piece := await read(stream)) is not None:
        await stream.write(opening, [piece], b"")
        opening = b""
    await stream.write(opening, [], TRAILERS)


async def collect(stream: Http2Stream) -> None:
    """Send the body back once all of it is here."""
    pieces: list[bytes | memoryview] = []
    while (piece := await read(stream)) is not None:
        pieces.append(piece)
    await stream.write(OPENING, pieces, TRAILERS)


async def wait(stream: Http2Stream) -> None:
    """Never answer."""
    del stream
    await asyncio.Event().wait()


async def started(answer: object = echo) -> Http2Peer:
    """Return a connection whose settings have been exchanged."""
    peer = Http2Peer(answer)  # type: ignore[arg-type] # one of the functions above
    peer.start()
    await peer.settle()
    return peer


def upload(peer: Http2Peer, number: int, body: bytes) -> None:
    """Send a body that fits into the windows, and end the stream."""
    for start in range(0, len(body), MAX_FRAME_BYTES):
        peer.client.send_data(number, body[start : start + MAX_FRAME_BYTES])
    peer.client.end_stream(number)


def closed_with(peer: Http2Peer) -> ErrorCode | None:
    """Return the code of the GOAWAY that closed the connection."""
    at = bytes(peer.transport.written).rfind(b"\x00\x00\x08\x07\x00\x00\x00\x00\x00")
    if not peer.transport.is_closed or at < 0:
        return None
    return ErrorCode(struct.unpack(">I", peer.transport.written[at + 13 : at + 17])[0])
