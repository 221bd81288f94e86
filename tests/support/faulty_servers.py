"""Guardrail servers that misbehave, each in a way of its own; real ones, on loopback."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from aiohttp import web

from sidecar._generated.egret.guardrail.v1 import guardrail_pb2 as guardrail
from tests.support.grpc_guardrail import Call, grpc_server
from tests.support.web_app import served

LARGE_BYTES: Final = 10 * 1024 * 1024
METADATA_URL: Final = "http://169.254.169.254/latest/meta-data/"
_JSON: Final = {"content-type": "application/json"}
_BOMB: Final = gzip.compress(bytes(LARGE_BYTES))
_LARGE_MESSAGE: Final = guardrail.CheckResponse(
    verdict=guardrail.VERDICT_PASS, message="x" * LARGE_BYTES
).SerializeToString()


@dataclass
class FaultyServers:
    """Where they are. The first part of an HTTP path, or the metadata `fault`, names the fault."""

    http: str = ""
    grpc: str = ""
    closed: str = ""
    """An address where nobody listens."""
    deaf: str = ""
    """An address that takes no connection and refuses none."""
    asked: Counter[str] = field(default_factory=Counter)
    """By path, how often HTTP was asked."""


@asynccontextmanager
async def faulty_servers() -> AsyncIterator[FaultyServers]:
    """Serve until the block ends."""
    servers = FaultyServers()
    async with AsyncExitStack() as stack:
        servers.http = await stack.enter_async_context(_http(servers))
        # Compressed or not, ten megabytes are ten megabytes: `bomb` and `large` differ in that.
        known = await stack.enter_async_context(
            grpc_server(_grpc_answer, compression=grpc.Compression.Gzip)
        )
        servers.grpc = known.address
        closed = stack.enter_context(socket.socket())  # bound, and never listening
        closed.bind(("127.0.0.1", 0))
        servers.closed = f"127.0.0.1:{closed.getsockname()[1]}"
        servers.deaf = await stack.enter_async_context(_deaf())
        yield servers


@asynccontextmanager
async def _http(servers: FaultyServers) -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.StreamResponse:
        servers.asked[request.path] += 1
        return await _http_answer(request, servers.asked[request.path])

    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_post("/{fault}/{rest:.*}", answer)
    async with served(application, handler_cancellation=True, shutdown_timeout=0.1) as port:
        yield f"http://127.0.0.1:{port}"


async def _http_answer(request: web.Request, count: int) -> web.StreamResponse:
    fault = request.match_info["fault"]
    match fault:
        case "slow":
            await asyncio.sleep(60)
            return web.json_response({"verdict": "pass"})
        case "trickle":
            return await _trickle(request)
        case "flapping" if count % 2:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        case _:
            return web.Response(**_RESPONSES[fault])


_RESPONSES: Final[dict[str, dict[str, Any]]] = {
    "rubbish": {"body": b'\x00{"verdict": "pass"', "headers": _JSON},
    "large": {"body": b" " * LARGE_BYTES, "headers": _JSON},
    "empty": {"body": b"", "headers": _JSON},
    "redirect": {"status": 302, "headers": {"location": METADATA_URL}},
    "flapping": {"body": b'{"verdict": "block"}', "headers": _JSON},
    "broken": {"status": 500},
    "wrong_type": {"text": '{"verdict": "pass"}', "content_type": "text/html"},
    "bomb": {"body": _BOMB, "headers": {**_JSON, "content-encoding": "gzip"}},
}


async def _trickle(request: web.Request) -> web.StreamResponse:
    """Send an answer that would be good, one byte at a time, for a minute."""
    response = web.StreamResponse(headers=_JSON)
    await response.prepare(request)
    for _ in range(1_200):
        await response.write(b" ")
        await asyncio.sleep(0.05)
    await response.write(b'{"verdict": "pass"}')
    return response


async def _grpc_answer(_: guardrail.CheckRequest, call: Call) -> guardrail.CheckResponse | bytes:
    match dict(call.invocation_metadata() or ())["fault"]:
        case "slow":
            await asyncio.sleep(60)
            return guardrail.CheckResponse(verdict=guardrail.VERDICT_PASS)
        case "rubbish":
            return b"<html>\xff"
        case "large":
            call.disable_next_message_compression()
            return _LARGE_MESSAGE
        case "bomb":
            return _LARGE_MESSAGE
        case "broken":
            await call.abort(grpc.StatusCode.INTERNAL, "no")
            raise AssertionError
        case _:
            return b""


@asynccontextmanager
async def _deaf() -> AsyncIterator[str]:
    """Listen, accept nobody, and fill the queue: further SYNs are dropped, as by a firewall."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.settimeout(0)
            one.connect_ex(address)
        await asyncio.sleep(0.05)
        try:
            yield f"127.0.0.1:{address[1]}"
        finally:
            for one in waiting:
                one.close()
