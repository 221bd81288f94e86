from __future__ import annotations

import asyncio
from collections.abc import Mapping

import h2.events
import h2.settings

from sidecar.extproc.phases import RefusedError
from sidecar.extproc.stream import Call, OverloadGuard, StreamEnd
from sidecar.server.grpc_server import HEALTH_CHECK_METHOD, GrpcApplication
from sidecar.server.grpc_wire import GrpcStatus, GrpcWireError, framed
from sidecar.server.http2_streams import STREAM_WINDOW
from sidecar.server.options import PROCESS_METHOD, Serve
from tests.support.http2_peer import REQUEST, Http2Peer, upload
from tests.support.scripted import next_message


async def echo(stream: Call, metadata: Mapping[str, str]) -> StreamEnd:
    """Send back what is read until the peer half-closes."""
    del metadata
    while (message := await next_message(stream)) is not None:
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
        assert await next_message(stream) is None
        return StreamEnd.COMPLETED

    body = b"".join(framed([b"one", b"two"]))
    assert await talk(body, serve=take) == (body, {"grpc-status": "0"})


async def test_the_beginning_of_a_long_message_takes_room() -> None:
    """A thousand clients that begin bodies of 10 MB would else take 10 GB of a worker."""
    guard = OverloadGuard(max_exchanges=1, max_held_bytes=STREAM_WINDOW)
    seen: list[int] = []

    async def read(stream: Call, metadata: Mapping[str, str]) -> StreamEnd:
        del metadata
        stream.room = guard
        while True:
            try:
                message = await next_message(stream)
            except RefusedError:
                return StreamEnd.ABORTED
            seen.append(len(message or b""))

    application = GrpcApplication(read, max_message_bytes=8 * STREAM_WINDOW)
    peer = Http2Peer(application.answer)
    peer.start()
    number = peer.request(tuple((dict(REQUEST) | {":path": PROCESS_METHOD}).items()))
    size = 2 * STREAM_WINDOW + STREAM_WINDOW // 2
    held: list[int] = []
    for message in (bytes(STREAM_WINDOW), bytes(STREAM_WINDOW + 1), bytes(size)):
        data = b"".join(framed([message]))
        for start in range(0, len(data), 16_384):
            peer.client.send_data(number, data[start : start + 16_384])
            await peer.settle(3)
            held.append(guard.held_bytes)
            if peer.of(h2.events.TrailersReceived):
                break
    assert seen == [STREAM_WINDOW, STREAM_WINDOW + 1]
    assert max(held) in range(STREAM_WINDOW - 20_000, STREAM_WINDOW + 1)
    (trailers,) = peer.of(h2.events.TrailersReceived)
    assert isinstance(trailers, h2.events.TrailersReceived)
    assert ("grpc-status", "13") in [(str(name), str(value)) for name, value in trailers.headers]
    assert guard.held_bytes == 0


async def test_a_deadline_nobody_can_read_fails_the_call() -> None:
    """It must not count as none."""
    _, trailers = await talk(b"".join(framed([b"a"])), more=(("grpc-timeout", "soon"),))
    assert trailers["grpc-status"] == "3"


async def test_a_deadline_while_the_first_bytes_wait_ends_the_call_with_its_headers() -> None:
    """The peer's window blocks the answer: trailers alone would be no response at all."""
    peer = Http2Peer(GrpcApplication(fail, max_message_bytes=100).answer)
    peer.start()
    peer.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    await peer.settle()
    headers = dict(REQUEST) | {":path": HEALTH_CHECK_METHOD, "grpc-timeout": "100m"}
    upload(peer, peer.request(tuple(headers.items())), b"".join(framed([b""])))
    await peer.settle()
    await asyncio.sleep(0.2)
    await peer.settle()

    (opening,) = peer.of(h2.events.ResponseReceived)
    (trailers,) = peer.of(h2.events.TrailersReceived)
    assert (":status", "200") in opening.headers  # type: ignore[attr-defined]
    assert ("grpc-status", "4") in trailers.headers  # type: ignore[attr-defined]


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
