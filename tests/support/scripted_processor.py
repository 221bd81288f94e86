"""An external processor that does as a test's script says, however wrong that is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from typing_extensions import override

from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext

Call = grpc.aio.ServicerContext[bytes, bytes]
Script = Callable[["Side"], Awaitable[None]]


@dataclass
class Side:
    """Our side of one stream."""

    call: Call
    received: list[ext.ProcessingRequest] = field(default_factory=list)

    async def read(self) -> ext.ProcessingRequest | None:
        """Return the next message, None once Envoy has half-closed."""
        message: object = await self.call.read()
        if not isinstance(message, bytes):
            return None
        self.received.append(ext.ProcessingRequest.FromString(message))
        return self.received[-1]

    async def write(self, response: ext.ProcessingResponse | bytes) -> None:
        """Send a message, or bytes that are none."""
        raw = response if isinstance(response, bytes) else response.SerializeToString()
        await self.call.write(raw)

    async def abort(self) -> None:
        """End the stream with an error."""
        await self.call.abort(grpc.StatusCode.INTERNAL, "as the script says")


@dataclass
class ScriptedProcessor:
    """Runs `script` for every stream and keeps what each stream brought."""

    socket: Path
    script: Script | None = None
    sides: list[Side] = field(default_factory=list)

    async def process(self, _: object, call: Call) -> None:
        """Serve one stream."""
        side = Side(call)
        self.sides.append(side)
        assert self.script is not None
        await self.script(side)


class _Process(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in stubs only
    def __init__(self, processor: ScriptedProcessor) -> None:
        self._method = grpc.stream_stream_rpc_method_handler(processor.process)

    @override
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        is_ours = handler_call_details.method.endswith("ExternalProcessor/Process")
        return self._method if is_ours else None


@asynccontextmanager
async def scripted_processor(socket: Path) -> AsyncIterator[ScriptedProcessor]:
    """Serve on *socket*, healthy whatever the script does."""
    processor = ScriptedProcessor(socket)
    async with healthy_server(_Process(processor), socket):
        yield processor


@asynccontextmanager
async def healthy_server(
    handler: grpc.GenericRpcHandler,  # type: ignore[type-arg]  # generic in stubs only
    socket: Path,
) -> AsyncIterator[None]:
    """Serve *handler* and gRPC's health on *socket*."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    servicer = health.aio.HealthServicer()  # type: ignore[attr-defined] # not in its stubs
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)
