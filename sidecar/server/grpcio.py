"""The engine on grpc.aio: the only one with reflection.

Messages stay bytes here: no serializer is registered, so that protobuf is decoded in the codec
only. The options suit Envoy: it pings if keepalive is configured, and sends a BUFFERED body as one
message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from typing_extensions import override

from sidecar._generated.pool import files
from sidecar.extproc.codec import Answer
from sidecar.extproc.stream import StreamEnd, StreamGoneError
from sidecar.server.engine import (
    EXPORT_METHOD,
    LOGS_SERVICE_NAME,
    NOT_JUDGED,
    NOT_KEPT,
    PROCESS_METHOD,
    SERVICE_NAME,
    EngineOptions,
    ReceiveLog,
    Serve,
    SocketError,
    check_socket_path,
    is_alive,
)
from sidecar.server.tls import rotating_credentials
from sidecar.telemetry.logs import get_logger
from sidecar.usage.records import NotKeptError


class _ServicerStream:
    """One call of grpc.aio as the stream needs it."""

    __slots__ = ("_call",)

    def __init__(self, call: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        self._call = call

    def take(self) -> bytes | None:
        return None  # grpc.aio has no way to look

    async def read(self) -> bytes | None:
        message: object = await self._call.read()
        return message if isinstance(message, bytes) else None  # else grpc.aio.EOF

    async def write(self, messages: Sequence[Answer], *, ends: bool) -> None:  # noqa: ARG002 - the call ends when its method returns
        try:
            for message in messages:
                await self._call.write(
                    b"".join(message) if isinstance(message, tuple) else message
                )
        except (grpc.RpcError, asyncio.InvalidStateError, grpc.aio.BaseError) as error:
            raise StreamGoneError from error


class _ProcessMethod(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in stubs only
    """Routes the one ext_proc method to the pipeline."""

    def __init__(self, serve: Serve) -> None:
        self._method = grpc.stream_stream_rpc_method_handler(self._process)
        self._serve = serve

    @override
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._method if handler_call_details.method == PROCESS_METHOD else None

    async def _process(self, _: object, call: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        metadata = {
            key: value if isinstance(value, str) else value.decode("latin-1")
            for key, value in call.invocation_metadata() or ()
        }
        try:
            end = await self._serve(_ServicerStream(call), metadata)
        except Exception as error:  # noqa: BLE001 - the last line: Envoy must see an error
            # grpc.aio would put the text of the error into the status, and Envoy into its log.
            get_logger().error("engine.conversation_failed", exc_info=error)
            end = StreamEnd.ABORTED
        if end is StreamEnd.ABORTED:
            # A plain return would be OK, and Envoy would go on with an unjudged request.
            await call.abort(grpc.StatusCode.INTERNAL, NOT_JUDGED)


class _ExportMethod(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in stubs only
    """Routes the access log to its receiver."""

    def __init__(self, receive_log: ReceiveLog) -> None:
        self._method = grpc.unary_unary_rpc_method_handler(self._export)
        self._receive_log = receive_log

    @override
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._method if handler_call_details.method == EXPORT_METHOD else None

    async def _export(self, message: bytes, call: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        try:
            return await self._receive_log(message)
        except NotKeptError:
            await call.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, NOT_KEPT)
        except Exception as error:  # noqa: BLE001 - its text would go into Envoy's log
            get_logger().error("engine.access_log_failed", exc_info=error)
            await call.abort(grpc.StatusCode.INTERNAL, "the access log could not be taken")


class GrpcioEngine:
    """grpc.aio serving ext_proc, the access log, health and reflection on one Unix socket.

    It serves a network address as well, if one is given.
    """

    def __init__(
        self, options: EngineOptions, serve: Serve, receive_log: ReceiveLog | None = None
    ) -> None:
        self._options = options
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in its stubs
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", options.max_message_bytes),
                ("grpc.max_send_message_length", options.max_message_bytes),
                # Envoy's connection_keepalive pings more often than gRPC's default policy allows,
                # which would end the connection and every stream on it.
                ("grpc.http2.min_ping_interval_without_data_ms", 1000),
                ("grpc.http2.max_ping_strikes", 0),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.so_reuseport", 0),
            ]
        )
        self._server.add_generic_rpc_handlers((_ProcessMethod(serve),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME]
        if receive_log is not None:
            self._server.add_generic_rpc_handlers((_ExportMethod(receive_log),))
            names.append(LOGS_SERVICE_NAME)
        pool = DescriptorPool()  # of the socket's services; the default pool stays untouched
        for file in files():
            pool.Add(file)
        for known in (health_pb2, reflection_pb2):
            file = descriptor_pb2.FileDescriptorProto()
            known.DESCRIPTOR.CopyToProto(file)
            pool.Add(file)
        reflection.enable_server_reflection(names, self._server, pool=pool)

    async def start(self) -> None:
        """Begin to serve, not yet ready."""
        path = self._options.socket_path
        check_socket_path(path)
        if await is_alive(path):
            # gRPC would unlink the path and take it over, and starve the process that serves it.
            raise SocketError(f"another process serves {path}: stop it or use another folder")
        await self.set_ready(is_ready=False)
        try:
            bound = self._server.add_insecure_port(f"unix:{path.absolute()}")
        except RuntimeError:
            bound = 0
        if not bound:
            raise SocketError(f"cannot bind {path}: is its folder writable?")
        path.chmod(self._options.socket_mode)
        self._listen()
        await self._server.start()

    def _listen(self) -> None:
        """Bind the network address as well, if there is one."""
        network = self._options.network
        if network is None:
            return
        try:
            if network.tls is None:
                bound = self._server.add_insecure_port(str(network))
            else:
                credentials = rotating_credentials(network.tls)
                bound = self._server.add_secure_port(str(network), credentials)
        except RuntimeError:
            bound = 0
        if not bound:
            raise SocketError(
                f"cannot bind {network}: is it in use, or no address of this machine?"
            )

    async def set_ready(self, *, is_ready: bool) -> None:
        """Show SERVING or NOT_SERVING, for the whole server and for ext_proc by name."""
        status = (
            health_pb2.HealthCheckResponse.SERVING
            if is_ready
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        await self._health.set("", status)
        await self._health.set(SERVICE_NAME, status)

    async def drain(self) -> None:
        """Stop in three steps: NOT_SERVING, a pause, then no new streams."""
        await self.set_ready(is_ready=False)
        # `stop` closes the listener and removes the socket at once. An Envoy that has not seen
        # NOT_SERVING by then would have its streams refused, and the next process may bind the
        # path while open streams end.
        await asyncio.sleep(self._options.drain_delay_seconds)
        await self._server.stop(self._options.drain_grace_seconds)
