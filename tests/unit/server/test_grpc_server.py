from __future__ import annotations

from collections.abc import Mapping

import h2.events

from sidecar.extproc.stream import Call, StreamEnd
from sidecar.server.grpc_server import HEALTH_CHECK_METHOD, GrpcApplication
from sidecar.server.grpc_wire import GrpcStatus, GrpcWireError, framed
from sidecar.server.options import PROCESS_METHOD, Serve
from tests.support.http2_peer import REQUEST, Http2Peer


async def echo(stream: Call, metadata: Mapping[str, str]) -> StreamEnd:
    """Send back what is read until the peer half-closes."""
    del metadata
    while (message := await stream.read()) is not None:
        await stream.write([bytes(message)], ends=False)
    return StreamEnd.COMPLETED


async def talk(
    body: bytes,
    *,
    path: str = PROCESS_METHOD,
    more: tuple[tuple[str, str], ...] = (),
    serve: Serve = echo,
) -> tuple[bytes, dict[str, str]]:
    """Hold one call with the application and return the body and the trailers it sent."""
    peer = Http2Peer(GrpcApplication(serve, max_message_bytes=100).answer)
    peer.start()
    number = peer.request((*(dict(REQUEST) | {":path": path}).items(), *more))
    peer.client.send_data(number, body, end_stream=True)
    await peer.settle()
    (trailers,) = (one for one in peer.events if isinstance(one, h2.events.TrailersReceived))
    return peer.body(number), {str(name): str(value) for name, value in trailers.headers}


async def test_a_call_that_ends_within_a_message_fails() -> None:
    """OK would let Envoy go on with a request of which we have seen a part."""
    assert await talk(b"".join(framed([b"whole"])) + b"\0\0") == (
        b"".join(framed([b"whole"])),
        {"grpc-status": "13", "grpc-message": "the last message is cut short"},
    )


async def test_messages_that_have_come_are_taken_without_a_wait() -> None:
    async def take(stream: Call, metadata: Mapping[str, str]) -> StreamEnd:
        del metadata
        while (message := stream.take()) is not None:
            await stream.write([bytes(message)], ends=False)
        assert await stream.read() is None
        return StreamEnd.COMPLETED

    body = b"".join(framed([b"one", b"two"]))
    assert await talk(body, serve=take) == (body, {"grpc-status": "0"})


async def test_a_deadline_nobody_can_read_fails_the_call() -> None:
    """It must not count as none."""
    _, trailers = await talk(b"".join(framed([b"a"])), more=(("grpc-timeout", "soon"),))
    assert trailers["grpc-status"] == "3"


async def test_a_health_check_that_is_no_message_fails() -> None:
    """Rubbish on the health method is told apart from an unknown service."""
    _, trailers = await talk(b"".join(framed([b"\xff\xff"])), path=HEALTH_CHECK_METHOD)
    assert trailers["grpc-status"] == "3"


async def test_a_long_status_message_is_sent_whole() -> None:
    """Its length takes more than one byte."""
    peer = Http2Peer(GrpcApplication(fail, max_message_bytes=100).answer)
    peer.start()
    peer.request(tuple((dict(REQUEST) | {":path": PROCESS_METHOD}).items()))
    await peer.settle()
    (trailers,) = (one for one in peer.events if isinstance(one, h2.events.TrailersReceived))
    assert ("grpc-message", PROBLEM) in [
        (str(name), str(value)) for name, value in trailers.headers
    ]


PROBLEM = "a problem," * 40


async def fail(stream: Call, metadata: Mapping[str, str]) -> StreamEnd:
    """End the call with a status of its own."""
    del stream, metadata
    raise GrpcWireError(GrpcStatus.INTERNAL, PROBLEM)
