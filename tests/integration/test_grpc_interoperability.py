"""The cases that gRPC's implementations play with one another, by a client of gRPC's own.

Their list is gRPC's `doc/interop-test-descriptions.md`. The services are those of a worker:
ext_proc streams, health is unary.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from sidecar.extproc.stream import Call, StreamEnd
from sidecar.server.grpc_server import HEALTH_CHECK_METHOD
from sidecar.server.grpc_wire import GrpcStatus, GrpcWireError
from sidecar.server.options import EXPORT_METHOD, PROCESS_METHOD, SERVICE_NAME
from tests.integration.test_grpc_server_wire import channel, echo, status_of, wait_forever
from tests.support.scripted import next_message

SIZES = (27_182, 8, 1_828, 45_904)
"""Of the messages that the cases of streams send."""
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"


async def counted(stream: Call, metadata: Mapping[str, str]) -> StreamEnd:
    """Answer a stream of messages with their bytes, once it has ended."""
    del metadata
    size = 0
    while (message := await next_message(stream)) is not None:
        size += len(message)
    await stream.write([str(size).encode()], ends=True)
    return StreamEnd.COMPLETED


async def many(stream: Call, metadata: Mapping[str, str]) -> StreamEnd:
    """Answer one message with one for each size."""
    del metadata
    await next_message(stream)
    for size in SIZES:
        await stream.write([bytes(size)], ends=False)
    return StreamEnd.COMPLETED


async def failing(stream: Call, metadata: Mapping[str, str]) -> StreamEnd:
    """End with a status, and with the words of the message."""
    del metadata
    message = await next_message(stream)
    raise GrpcWireError(GrpcStatus.INVALID_ARGUMENT, bytes(message or b"").decode())


async def read_all(call: grpc.aio.StreamStreamCall[bytes, bytes]) -> list[int]:
    """Return the sizes of the answers."""
    return [len(message) async for message in call]


async def test_empty_unary(tmp_path: Path) -> None:
    """A message of no bytes, to health."""
    async with channel(tmp_path, echo) as opened:
        answer = await opened.unary_unary(HEALTH_CHECK_METHOD, bytes, bytes)(b"")
    assert health_pb2.HealthCheckResponse.FromString(answer).status in {1, 2}


async def test_large_unary(tmp_path: Path) -> None:
    """As many bytes as the case has."""
    async with channel(tmp_path, counted) as opened:
        call = opened.stream_unary(PROCESS_METHOD, bytes, bytes)
        assert await call(iter([bytes(271_828)])) == b"271828"


async def test_client_streaming(tmp_path: Path) -> None:
    """One answer to all messages."""
    async with channel(tmp_path, counted) as opened:
        call = opened.stream_unary(PROCESS_METHOD, bytes, bytes)
        assert await call(bytes(size) for size in SIZES) == str(sum(SIZES)).encode()


async def test_server_streaming(tmp_path: Path) -> None:
    """All answers to one message, in their order."""
    async with channel(tmp_path, many) as opened:
        call = opened.stream_stream(PROCESS_METHOD, bytes, bytes)(iter([b"go"]))
        assert await read_all(call) == list(SIZES)
        assert await call.code() is grpc.StatusCode.OK


async def test_ping_pong(tmp_path: Path) -> None:
    """Each message is answered before the next is sent."""
    async with channel(tmp_path, echo) as opened:
        call = opened.stream_stream(PROCESS_METHOD, bytes, bytes)(None)
        for size in SIZES:
            await call.write(bytes(size))
            assert await call.read() == bytes(size)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF  # type: ignore[attr-defined] # not in the stubs
        assert await call.code() is grpc.StatusCode.OK


async def test_empty_stream(tmp_path: Path) -> None:
    """A stream of no messages ends with none, and well."""
    async with channel(tmp_path, echo) as opened:
        assert await status_of(opened) == ([], grpc.StatusCode.OK)


@pytest.mark.parametrize("words", ["test status message", SPECIAL], ids=["plain", "special"])
async def test_status_code_and_message(tmp_path: Path, words: str) -> None:
    """Whatever characters the message has."""
    async with channel(tmp_path, failing) as opened:
        call = opened.stream_stream(PROCESS_METHOD, bytes, bytes)(iter([words.encode()]))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await read_all(call)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details() == words


@pytest.mark.parametrize(
    "method", [f"/{SERVICE_NAME}/Nothing", "/no.such.Service/Process", EXPORT_METHOD]
)
async def test_unimplemented_methods_and_services(tmp_path: Path, method: str) -> None:
    """One of no such name, and the access log where nobody takes it."""
    async with channel(tmp_path, echo) as opened:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await opened.unary_unary(method, bytes, bytes)(b"")
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_cancel_after_begin(tmp_path: Path) -> None:
    """Before a message; the next call on the connection is answered."""
    async with channel(tmp_path, echo) as opened:
        call = opened.stream_stream(PROCESS_METHOD, bytes, bytes)(None)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.read()
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert await status_of(opened, b"next") == ([b"next"], grpc.StatusCode.OK)


async def test_cancel_after_first_response(tmp_path: Path) -> None:
    """In the middle of a conversation, which ends on both sides."""
    ended = asyncio.Event()

    async def converse(stream: Call, metadata: Mapping[str, str]) -> StreamEnd:
        try:
            return await echo(stream, metadata)
        finally:
            ended.set()

    async with channel(tmp_path, converse) as opened:
        call = opened.stream_stream(PROCESS_METHOD, bytes, bytes)(None)
        await call.write(bytes(SIZES[0]))
        assert await call.read() == bytes(SIZES[0])
        call.cancel()
        assert await call.code() is grpc.StatusCode.CANCELLED
        async with asyncio.timeout(30):
            await ended.wait()


async def test_timeout_on_sleeping_server(tmp_path: Path) -> None:
    """A millisecond, of a server that never answers."""
    async with channel(tmp_path, wait_forever) as opened:
        assert await status_of(opened, bytes(SIZES[0]), deadline_seconds=0.001) == (
            [],
            grpc.StatusCode.DEADLINE_EXCEEDED,
        )


async def test_custom_metadata(tmp_path: Path) -> None:
    """The fields that a stream is told of arrive as they were sent; others do no harm."""
    told: list[Mapping[str, str]] = []

    async def converse(stream: Call, metadata: Mapping[str, str]) -> StreamEnd:
        told.append(metadata)
        return await echo(stream, metadata)

    async def messages() -> AsyncIterator[bytes]:
        yield b"one"

    sent = (("traceparent", "00-ab"), ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab"))
    async with channel(tmp_path, converse) as opened:
        call = opened.stream_stream(PROCESS_METHOD, bytes, bytes)(messages(), metadata=sent)
        assert await read_all(call) == [3]
    assert [dict(one) for one in told] == [{"traceparent": "00-ab"}]
