"""What gRPC's core does for grpc.aio and our own HTTP/2 does for us, seen by a gRPC client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from sidecar.extproc.stream import Call, StreamEnd
from sidecar.server.grpc_server import GrpcServer
from sidecar.server.options import PROCESS_METHOD, Serve, ServerOptions
from tests.support.scripted import next_message

MAX_MESSAGE_BYTES = 3 << 20


async def echo(stream: Call, metadata: Mapping[str, str]) -> StreamEnd:
    """Send every message back; the stream ends with the one that says so."""
    del metadata
    while (message := await next_message(stream)) is not None:
        await stream.write([bytes(message)], ends=message == b"last")
        if message == b"last":
            break
    return StreamEnd.COMPLETED


async def wait_forever(stream: Call, metadata: Mapping[str, str]) -> StreamEnd:
    """Judge for longer than anybody waits."""
    del stream, metadata
    await asyncio.Event().wait()
    return StreamEnd.COMPLETED


@asynccontextmanager
async def channel(
    tmp_path: Path, converse: Serve, *, compression: grpc.Compression | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """Serve *converse* and return a channel to it."""
    options = ServerOptions(
        socket_path=tmp_path / "worker-0.sock",
        socket_mode=0o600,
        max_message_bytes=MAX_MESSAGE_BYTES,
        drain_delay_seconds=0.0,
        drain_grace_seconds=0.1,
    )
    server = GrpcServer(options, converse)
    await server.start()
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    try:
        async with grpc.aio.insecure_channel(
            f"unix:{options.socket_path}", options=unlimited, compression=compression
        ) as opened:
            yield opened
    finally:
        await server.drain()


async def status_of(
    opened: grpc.aio.Channel, *messages: bytes, deadline_seconds: float | None = None
) -> tuple[list[bytes], grpc.StatusCode]:
    """Send *messages*, half-close, and return what came back and how it ended."""
    call = opened.stream_stream(PROCESS_METHOD, bytes, bytes)(
        iter(messages), timeout=deadline_seconds
    )
    read: list[bytes] = []
    try:
        async for message in call:
            read.append(message)  # noqa: PERF401 - kept also where the call fails
    except grpc.aio.AioRpcError as error:
        return read, error.code()
    return read, await call.code()


async def test_messages_of_every_size_come_back_whole(tmp_path: Path) -> None:
    """Frames of HTTP/2 and messages of gRPC have their borders in different places."""
    messages = [bytes([index]) * size for index, size in enumerate((0, 1, 16_384, 3 << 20))]
    async with channel(tmp_path, echo) as opened:
        assert await status_of(opened, *messages, b"last") == (
            [*messages, b"last"],
            grpc.StatusCode.OK,
        )


async def test_a_message_over_the_limit_ends_the_call(tmp_path: Path) -> None:
    """The messages before it are answered; what is too long is never judged in part."""
    answered = asyncio.Event()

    async def messages() -> AsyncIterator[bytes]:
        yield b"first"
        await answered.wait()  # else both may come in one piece, and the call ends at once
        yield bytes(MAX_MESSAGE_BYTES + 1)

    async with channel(tmp_path, echo) as opened:
        call = opened.stream_stream(PROCESS_METHOD, bytes, bytes)(messages())
        assert await call.read() == b"first"
        answered.set()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call.read()
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_compressed_message_ends_the_call(tmp_path: Path) -> None:
    """No encoding was agreed on."""
    async with channel(tmp_path, echo, compression=grpc.Compression.Gzip) as opened:
        assert await status_of(opened, b"a" * 1_000) == ([], grpc.StatusCode.UNIMPLEMENTED)


async def test_the_peers_deadline_ends_the_call(tmp_path: Path) -> None:
    """The server below us passes it as a header and does not enforce it."""
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def judge(stream: Call, metadata: Mapping[str, str]) -> StreamEnd:
        began.set()
        try:
            return await wait_forever(stream, metadata)
        finally:
            cancelled.set()

    async with channel(tmp_path, judge) as opened:
        while not began.is_set():  # a busy machine may reach the deadline before the server
            assert await status_of(opened, b"a", deadline_seconds=0.2) == (
                [],
                grpc.StatusCode.DEADLINE_EXCEEDED,
            )
        async with asyncio.timeout(60):
            await cancelled.wait()


async def test_a_stream_that_outlives_the_drain_is_cut(tmp_path: Path) -> None:
    """A drain that waited for it would never end."""
    async with channel(tmp_path, wait_forever) as opened:
        call = opened.stream_stream(PROCESS_METHOD, bytes, bytes)(None)
        await call.write(b"a")
        await asyncio.sleep(0.1)


async def test_a_thousand_streams_on_one_connection_are_answered(tmp_path: Path) -> None:
    """Envoy keeps one connection a thread, whatever comes."""
    async with channel(tmp_path, echo) as opened:
        ended = await asyncio.gather(*(status_of(opened, b"a") for _ in range(1_000)))
    assert ended == [([b"a"], grpc.StatusCode.OK)] * 1_000
