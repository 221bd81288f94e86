"""The other processor of a chain: an ext_proc server that lets everything pass unchanged."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from typing_extensions import override

from sidecar._generated.envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from sidecar.server.options import PROCESS_METHOD

_DUPLEX: Final = processing_mode_pb2.ProcessingMode.FULL_DUPLEX_STREAMED
_NO_LIMIT: Final = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))

Call = grpc.aio.ServicerContext[bytes, bytes]


@asynccontextmanager
async def passing_processor(socket: Path) -> AsyncIterator[None]:
    """Serve on *socket*, in any body mode."""
    server = grpc.aio.server(options=_NO_LIMIT)
    server.add_generic_rpc_handlers((_Service(),))
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


class _Service(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in stubs only
    @override
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        is_ours = handler_call_details.method == PROCESS_METHOD
        return grpc.stream_stream_rpc_method_handler(_pass) if is_ours else None


async def _pass(_: object, call: Call) -> None:
    """Answer each message of a stream; a body that Envoy streams in full duplex is sent back."""
    modes = ext.ProtocolConfiguration()
    while isinstance(message := await call.read(), bytes):
        request = ext.ProcessingRequest.FromString(message)
        if request.HasField("protocol_config"):
            modes = request.protocol_config
        kind = request.WhichOneof("request")
        if kind is None:
            continue
        response = ext.ProcessingResponse()
        answer = getattr(response, kind)
        answer.SetInParent()
        if kind.endswith("_body") and getattr(modes, f"{kind}_mode") == _DUPLEX:
            body = getattr(request, kind)
            streamed = answer.response.body_mutation.streamed_response
            streamed.body, streamed.end_of_stream = body.body, body.end_of_stream
        await call.write(response.SerializeToString())
