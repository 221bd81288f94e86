"""A real gRPC server that answers `egret.guardrail.v1` as a test wants, and keeps what it got."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from sidecar._generated.egret.guardrail.v1 import guardrail_pb2 as guardrail

Call = grpc.aio.ServicerContext[bytes, bytes]
Answer = Callable[[guardrail.CheckRequest, Call], Awaitable[guardrail.CheckResponse | bytes]]


@dataclass
class GrpcServer:
    """Where it listens and what it was sent."""

    address: str = ""
    requests: list[guardrail.CheckRequest] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    peers: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The address as policies write it."""
        return f"grpc://{self.address}"

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.address.rpartition(":")[2])


@asynccontextmanager
async def grpc_server(
    answer: Answer,
    *,
    credentials: grpc.ServerCredentials | None = None,
    compression: grpc.Compression | None = None,
) -> AsyncIterator[GrpcServer]:
    """Serve on a free port of the loopback interface; bytes are sent as they are."""
    known = GrpcServer()

    async def check(body: bytes, call: Call) -> bytes:
        request = guardrail.CheckRequest.FromString(body)
        known.requests.append(request)
        known.metadata.append(dict(call.invocation_metadata() or ()))
        known.peers.append(call.peer())
        said = await answer(request, call)
        return said if isinstance(said, bytes) else said.SerializeToString()

    handler = grpc.method_handlers_generic_handler(
        "egret.guardrail.v1.GuardrailService",
        {"Check": grpc.unary_unary_rpc_method_handler(check)},
    )
    server = grpc.aio.server(
        options=(("grpc.max_send_message_length", -1),), compression=compression
    )
    server.add_generic_rpc_handlers((handler,))
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    known.address = f"127.0.0.1:{port}"
    await server.start()
    try:
        yield known
    finally:
        await server.stop(0)


def saying(response: guardrail.CheckResponse | bytes) -> Answer:
    """Return an answer that is always the same."""

    async def answer(_: guardrail.CheckRequest, __: Call) -> guardrail.CheckResponse | bytes:
        return response

    return answer
