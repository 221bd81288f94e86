from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from sidecar.extproc.stream import Call, StreamEnd
from sidecar.server.engine import PROCESS_METHOD
from sidecar.server.grpc_asgi import HEALTH_CHECK_METHOD, GrpcApplication
from sidecar.server.grpc_wire import frame


async def echo(stream: Call, metadata: Mapping[str, str]) -> StreamEnd:
    """Send back what is read until the peer half-closes."""
    del metadata
    while (message := await stream.read()) is not None:
        await stream.write([message], ends=False)
    return StreamEnd.COMPLETED


async def talk(
    *events: dict[str, Any],
    path: str = PROCESS_METHOD,
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> list[dict[str, Any]]:
    """Hold one call with the application and return what it sent."""
    application = GrpcApplication(echo, max_message_bytes=100)
    incoming = iter(events)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next(incoming)

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    scope = {"type": "http", "path": path, "headers": list(headers)}
    async with asyncio.timeout(10):
        await application(scope, receive, send)
    return sent


def body(data: bytes, *, more: bool = False) -> dict[str, Any]:
    """Return a piece of a request."""
    return {"type": "http.request", "body": data, "more_body": more}


def trailers(sent: list[dict[str, Any]]) -> dict[bytes, bytes]:
    """Return the status the call ended with."""
    return dict(sent[-1]["headers"])


async def test_a_call_that_ends_within_a_message_fails() -> None:
    """OK would let Envoy go on with a request of which we have seen a part."""
    sent = await talk(body(frame([b"whole"]) + b"\0\0", more=True), body(b""))
    assert sent[1]["body"] == frame([b"whole"])
    assert trailers(sent) == {
        b"grpc-status": b"13",
        b"grpc-message": b"the last message is cut short",
    }


async def test_a_deadline_nobody_can_read_fails_the_call() -> None:
    """It must not count as none."""
    sent = await talk(body(frame([b"a"])), headers=((b"grpc-timeout", b"soon"),))
    assert trailers(sent)[b"grpc-status"] == b"3"


async def test_a_health_check_that_is_no_message_fails() -> None:
    """Rubbish on the health method is told apart from an unknown service."""
    sent = await talk(body(frame([b"\xff\xff"])), path=HEALTH_CHECK_METHOD)
    assert trailers(sent)[b"grpc-status"] == b"3"
