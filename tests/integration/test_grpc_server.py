"""The gRPC server on a real Unix socket, with a judge of our own behind it."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import grpc.aio
import hpack
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from sidecar.extproc.stream import Budgets, Call, StreamEnd
from sidecar.server.grpc_server import HEALTH_CHECK_METHOD, GrpcServer
from sidecar.server.http2 import AWAY_PING, PREFACE
from sidecar.server.options import (
    EXPORT_METHOD,
    PROCESS_METHOD,
    SERVICE_NAME,
    ServerOptions,
    SocketError,
)
from sidecar.settings.serving import MAX_SOCKET_PATH_BYTES
from sidecar.usage.records import NotKeptError
from tests.support import envoy_messages as envoy
from tests.support import events as on
from tests.support import replies as do
from tests.support.conversation import (
    METADATA,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    STRIPPED,
    cleared,
)
from tests.support.http2_peer import raw
from tests.support.replies import encoded as encode
from tests.support.scripted import Endless, HeadersAnswer, ScriptedHandler, at_once, scripted

MEGABYTE = 1 << 20
BUDGETS = Budgets(authorize_seconds=30, body_seconds=30, body_idle_seconds=30, inspect_seconds=30)

HEADERS = envoy.opening(envoy.request_headers(*REQUEST_HEADERS.fields)).SerializeToString()
BUFFERED_HEADERS = envoy.opening(
    envoy.request_headers(*REQUEST_HEADERS.fields), request=envoy.BUFFERED
).SerializeToString()
DUPLEX_HEADERS = envoy.opening(
    envoy.request_headers(*REQUEST_HEADERS.fields), request=envoy.DUPLEX, response=envoy.DUPLEX
).SerializeToString()
ANSWER_HEADERS = envoy.response_headers(*RESPONSE_HEADERS.fields, ends=True).SerializeToString()
LAST_PIECE = envoy.request_body(b"ab", ends=True).SerializeToString()

OVERRIDE = encode(do.OverrideMode(response_headers=False))
FORWARD = encode(do.ContinueRequestHeaders(headers=STRIPPED, metadata=METADATA))
WHOLE_BODY = encode(do.StreamRequestBody(b"ab", end_of_stream=True))

NEEDS_BODY = at_once(on.BodyRequired())


@dataclass
class Judged:
    """Serves conversations with fake judges and keeps what came of them."""

    headers: HeadersAnswer = NEEDS_BODY
    judges: list[ScriptedHandler] = field(default_factory=list)
    metadata: list[Mapping[str, str]] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def converse(self, stream: Call, metadata: Mapping[str, str]) -> StreamEnd:
        """Hold one conversation."""
        judge = ScriptedHandler(headers=self.headers, body=at_once(cleared()))
        self.judges.append(judge)
        self.metadata.append(metadata)
        serve = scripted(judge, BUDGETS, max_body_bytes=32 * MEGABYTE)
        try:
            return await serve(stream, metadata)
        finally:
            self.closed.set()


def options(path: Path) -> ServerOptions:
    """Return options for a socket that drains without a pause."""
    return ServerOptions(
        socket_path=path,
        socket_mode=0o660,
        max_message_bytes=64 * MEGABYTE,
        drain_delay_seconds=0.0,
        drain_grace_seconds=10.0,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sockets" / "worker-0.sock"


@asynccontextmanager
async def serving(path: Path, judged: Judged) -> AsyncIterator[tuple[GrpcServer, Client]]:
    """Serve on *path*, ready, with a client on it."""
    server = GrpcServer(options(path), judged.converse)
    await server.start()
    server.set_ready(is_ready=True)
    try:
        async with client(path) as channel:
            yield server, channel
    finally:
        await server.drain()


@asynccontextmanager
async def client(path: Path) -> AsyncIterator[Client]:
    """Connect to *path* with room for long answers."""
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(f"unix:{path}", options=unlimited) as channel:
        yield Client(channel)


class Client:
    """What Envoy is to the server: streams of bytes, health checks."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    def open(self, **metadata: str) -> grpc.aio.StreamStreamCall[bytes, bytes]:
        """Open an ext_proc stream."""
        method = self.channel.stream_stream(PROCESS_METHOD, bytes, bytes)
        return method(None, metadata=tuple(metadata.items()))

    async def export(self, message: bytes) -> tuple[grpc.StatusCode, bytes]:
        """Send a message of the access log; return the status, and the answer or its details."""
        call = self.channel.unary_unary(EXPORT_METHOD, bytes, bytes)
        try:
            return grpc.StatusCode.OK, await call(message, timeout=60)
        except grpc.aio.AioRpcError as error:
            return error.code(), (error.details() or "").encode()

    async def health(self, service: str) -> str:
        """Return the health status of *service* by its name."""
        stub = health_pb2_grpc.HealthStub(self.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def answers(call: grpc.aio.StreamStreamCall[bytes, bytes]) -> list[bytes]:
    """Return all that is left to read."""
    messages: list[bytes] = []
    while isinstance(message := await call.read(), bytes):
        messages.append(message)
    return messages


async def closing(path: Path) -> None:
    """Wait until the server takes no new streams."""
    while await asyncio.to_thread(path.exists):  # noqa: ASYNC110 - a file's end is no event
        await asyncio.sleep(0.01)


def mode(path: Path) -> int:
    """Return the permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_conversation_over_a_real_channel(path: Path) -> None:
    """Bytes in, bytes out, an end with OK, and the gRPC metadata for the judge."""
    judged = Judged()
    async with serving(path, judged) as (_, envoy_client):
        call = envoy_client.open(traceparent="00-abc-def-01")
        await call.write(HEADERS)
        assert await call.read() == OVERRIDE
        await call.write(LAST_PIECE)
        assert await answers(call) == [FORWARD, WHOLE_BODY]
        assert await call.code() is grpc.StatusCode.OK
    assert judged.metadata[0]["traceparent"] == "00-abc-def-01"
    assert judged.judges[0].asked == [(REQUEST_HEADERS, True), b"ab"]


async def test_a_long_buffered_body_is_one_message(path: Path) -> None:
    """Grpcio's own limit is 4 MiB; Envoy would give a 500 for a longer body."""
    body = bytes(20 * MEGABYTE)
    judged = Judged()
    async with serving(path, judged) as (_, envoy_client):
        call = envoy_client.open()
        await call.write(BUFFERED_HEADERS)
        assert await call.read() == encode(do.ContinueRequestHeaders())
        await call.write(envoy.request_body(body, ends=True).SerializeToString())
        assert await answers(call) == [
            encode(do.ContinueRequestBody(headers=STRIPPED, metadata=METADATA))
        ]
    assert judged.judges[0].asked[1] == body


@pytest.mark.parametrize(
    ("late", "status"),
    [(b"", grpc.StatusCode.OK), (b"c", grpc.StatusCode.INTERNAL)],
    ids=["empty", "bytes"],
)
async def test_an_end_that_envoy_repeats_is_ignored_unless_it_has_bytes(
    path: Path, *, late: bytes, status: grpc.StatusCode
) -> None:
    """The messages of Envoy 1.35 to 1.39 for a body of more than 1 MB."""
    piece = bytes(60_000)
    async with serving(path, Judged()) as (_, envoy_client):
        call = envoy_client.open()
        await call.write(DUPLEX_HEADERS)
        for _ in range(20):
            await call.write(envoy.request_body(piece).SerializeToString())
        await call.write(LAST_PIECE)
        assert await call.read() == FORWARD
        sent = b""
        while len(sent) < 20 * len(piece) + 2:
            message = await call.read()
            assert isinstance(message, bytes)
            answer = ext.ProcessingResponse.FromString(message)
            sent += answer.request_body.response.body_mutation.streamed_response.body
        await call.write(envoy.request_body(late, ends=True).SerializeToString())
        with suppress(grpc.aio.AioRpcError):
            await call.write(ANSWER_HEADERS)
            await answers(call)
        assert await call.code() is status


async def test_a_stream_that_ends_without_an_answer_never_ends_with_ok(path: Path) -> None:
    """Envoy goes on with the request when a stream ends with OK."""
    async with serving(path, Judged()) as (_, envoy_client):
        call = envoy_client.open()
        await call.write(HEADERS)
        await call.read()
        await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError):
            await answers(call)
        assert await call.code() is grpc.StatusCode.INTERNAL


async def test_an_error_outside_the_conversation_is_not_told_to_the_peer(path: Path) -> None:
    """grpc.aio would send the text of the exception, and the peer would log it."""

    async def broken(stream: Call, metadata: Mapping[str, str]) -> StreamEnd:
        del stream, metadata
        raise RuntimeError("secret text")

    server = GrpcServer(options(path), broken)
    await server.start()
    async with client(path) as envoy_client:
        call = envoy_client.open()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await answers(call)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == "egret could not judge this request"
    await server.drain()


async def test_a_client_that_leaves_cancels_its_check(path: Path) -> None:
    """Nothing goes on running for a request that nobody waits for."""
    check = Endless()
    judged = Judged(headers=check)
    async with serving(path, judged) as (_, envoy_client):
        call = envoy_client.open()
        await call.write(HEADERS)
        await check.began.wait()
        call.cancel()
        await check.cancelled.wait()
        await judged.closed.wait()
    assert judged.judges[0].closed == [(StreamEnd.CANCELLED, False)]
    assert judged.judges[0].faults == []


async def test_another_method_is_not_implemented(path: Path) -> None:
    """The socket serves what it is for and nothing else."""
    async with serving(path, Judged()) as (_, envoy_client):
        call = envoy_client.channel.unary_unary("/other.Service/Method", bytes, bytes)(b"")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# Health.


@pytest.mark.parametrize("service", ["", SERVICE_NAME], ids=["server", "ext_proc"])
async def test_health_follows_readiness(path: Path, service: str) -> None:
    """NOT_SERVING from the start, so that no traffic comes before the policies are there."""
    server = GrpcServer(options(path), Judged().converse)
    await server.start()
    async with client(path) as envoy_client:
        shown = [await envoy_client.health(service)]
        for is_ready in (True, False):
            server.set_ready(is_ready=is_ready)
            shown.append(await envoy_client.health(service))
    await server.drain()
    assert shown == ["NOT_SERVING", "SERVING", "NOT_SERVING"]


async def test_health_of_an_unknown_service_is_not_found(path: Path) -> None:
    """A misspelt name in Envoy's health check shows."""
    async with serving(path, Judged()) as (_, envoy_client):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await envoy_client.health("egret")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_client_that_watches_health_goes_on_without(path: Path) -> None:
    """Envoy and Kubernetes call `Check`; gRPC's own client takes UNIMPLEMENTED for healthy."""
    server = GrpcServer(options(path), Judged().converse, received_log)
    await server.start()
    watching = {"healthCheckConfig": {"serviceName": ""}, "loadBalancingPolicy": "round_robin"}
    chosen = [("grpc.service_config", json.dumps(watching))]
    async with grpc.aio.insecure_channel(f"unix:{path}", options=chosen) as channel:
        assert await Client(channel).export(b"log") == (grpc.StatusCode.OK, b"taken log")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(
                aiter(health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()))
            )
    await server.drain()
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# The socket.


async def test_the_socket_is_for_its_owner_and_group(path: Path) -> None:
    """Whoever may write to it may have requests judged; the mode is a setting."""
    async with serving(path, Judged()):
        assert mode(path) == 0o660
        assert mode(path.parent) & 0o007 == 0


async def test_a_socket_path_that_is_too_long_is_explained(tmp_path: Path) -> None:
    """The system's own error would be `bind failed`; this one names the fix."""
    long = tmp_path / ("x" * MAX_SOCKET_PATH_BYTES)
    server = GrpcServer(options(long), Judged().converse)
    with pytest.raises(SocketError, match=r"EGRET_SERVER__SOCKET_DIRECTORY"):
        await server.start()
    assert not long.exists()


async def test_a_socket_that_is_served_is_not_taken_over(path: Path) -> None:
    """GRPC would remove the other's socket and starve it."""
    async with serving(path, Judged()) as (_, envoy_client):
        with pytest.raises(SocketError, match="another process serves"):
            await GrpcServer(options(path), Judged().converse).start()
        assert await envoy_client.health("") == "SERVING"


async def test_a_socket_that_a_dead_process_left_is_replaced(path: Path) -> None:
    """A worker that was killed cannot remove its file."""
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(path, Judged()) as (_, envoy_client):
        assert await envoy_client.health("") == "SERVING"


async def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "sockets").write_text("")
    server = GrpcServer(options(tmp_path / "sockets" / "worker-0.sock"), Judged().converse)
    with pytest.raises(SocketError, match="cannot make folder"):
        await server.start()


async def test_a_path_that_cannot_be_bound_is_explained(tmp_path: Path) -> None:
    """A folder stands where the socket should be."""
    server = GrpcServer(options(tmp_path), Judged().converse)
    with pytest.raises(SocketError, match="cannot bind"):
        await server.start()


# Draining.


async def test_a_drain_lets_an_open_stream_finish_and_then_closes(path: Path) -> None:
    """A deployment costs no request an error, and the socket's file is gone."""
    server = GrpcServer(options(path), Judged().converse)
    await server.start()
    server.set_ready(is_ready=True)
    async with client(path) as envoy_client:
        call = envoy_client.open()
        await call.write(HEADERS)
        assert await call.read() == OVERRIDE
        draining = asyncio.get_running_loop().create_task(server.drain())
        await closing(path)
        assert not draining.done()
        await call.write(LAST_PIECE)
        assert await answers(call) == [FORWARD, WHOLE_BODY]
        assert await call.code() is grpc.StatusCode.OK
        await draining


async def test_a_drain_shows_not_serving_before_the_socket_closes(path: Path) -> None:
    """Envoy stops choosing this worker while it still takes streams."""
    server = GrpcServer(replace(options(path), drain_delay_seconds=0.5), Judged().converse)
    await server.start()
    server.set_ready(is_ready=True)
    async with client(path) as envoy_client:
        draining = asyncio.get_running_loop().create_task(server.drain())
        await asyncio.sleep(0)
        assert await envoy_client.health(SERVICE_NAME) == "NOT_SERVING"
        call = envoy_client.open()
        await call.write(HEADERS)
        assert await call.read() == OVERRIDE
        await call.write(LAST_PIECE)
        assert await answers(call) == [FORWARD, WHOLE_BODY]
        await draining


async def test_the_next_process_may_bind_the_path_while_the_last_one_drains(path: Path) -> None:
    """The socket of the successor must not be removed by whoever goes."""
    first = GrpcServer(options(path), Judged().converse)
    await first.start()
    async with client(path) as old_client:
        call = old_client.open()
        await call.write(HEADERS)
        await call.read()
        draining = asyncio.get_running_loop().create_task(first.drain())
        await closing(path)
        async with serving(path, Judged()):
            await call.write(LAST_PIECE)
            await answers(call)
            await draining
            async with client(path) as new_client:
                assert await new_client.health("") == "SERVING"


async def received_log(message: bytes) -> bytes:
    """Take a log whose message says what becomes of it."""
    if message == b"full":
        raise NotKeptError
    if message == b"broken":
        raise ValueError("SECRET")
    return b"taken " + message


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"log", grpc.StatusCode.OK),
        (b"full", grpc.StatusCode.RESOURCE_EXHAUSTED),
        (b"broken", grpc.StatusCode.INTERNAL),
    ],
)
async def test_the_access_log_is_answered_or_refused_in_our_own_words(
    path: Path, message: bytes, code: grpc.StatusCode
) -> None:
    """One status sends Envoy to another worker; what raised stays out of Envoy's log."""
    server = GrpcServer(options(path), Judged().converse, received_log)
    await server.start()
    try:
        async with client(path) as channel:
            found, said = await channel.export(message)
    finally:
        await server.drain()

    assert found is code
    assert said == b"taken log" if code is grpc.StatusCode.OK else b"SECRET" not in said


async def test_without_a_receiver_there_is_no_access_log(path: Path) -> None:
    """Nobody is led to believe that it is kept."""
    async with serving(path, Judged()) as (_, channel):
        assert (await channel.export(b"log"))[0] is grpc.StatusCode.UNIMPLEMENTED


async def test_a_stream_that_begins_before_its_peer_has_read_the_end_is_served(path: Path) -> None:
    """Envoy may be late to read it, and sends requests meanwhile."""
    server = GrpcServer(options(path), Judged().converse)
    await server.start()
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(PREFACE + raw(0x4, 0, 0))
    received = bytearray()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.drain())
        while AWAY_PING not in received:
            received += await reader.read(1 << 16)
        fields = [(":method", "POST"), (":scheme", "http"), (":path", HEALTH_CHECK_METHOD)]
        block = hpack.Encoder().encode(fields)
        writer.write(raw(0x1, 0x4, 1, block) + raw(0x0, 0x1, 1, bytes(5)))
        while b"grpc-status" not in received:
            piece = await reader.read(1 << 16)
            assert piece, "the connection was closed"
            received += piece
        writer.write(raw(0x6, 0x1, 0, AWAY_PING))
    writer.close()
