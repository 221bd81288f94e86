"""An ext_proc server that answers each message with an empty response of its own kind.

That lets everything pass that Envoy buffers, and loses a body that Envoy streams in full duplex.
Run: python noop.py SOCKET
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import Any

import grpc
from typing_extensions import override

from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


def process(requests: Iterable[bytes], _: object) -> Iterator[bytes]:
    """Answer one stream."""
    for raw in requests:
        kind = ext.ProcessingRequest.FromString(raw).WhichOneof("request")
        response = ext.ProcessingResponse()
        if kind is not None:
            getattr(response, kind).SetInParent()
        yield response.SerializeToString()


class _Process(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in stubs only
    @override
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Serve the one method that there is."""
        is_ours = handler_call_details.method == METHOD
        return grpc.stream_stream_rpc_method_handler(process) if is_ours else None


def main(socket: str) -> None:
    """Serve until the process is ended."""
    options = [("grpc.max_receive_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(32), options=options)
    server.add_generic_rpc_handlers((_Process(),))
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(sys.argv[1])
