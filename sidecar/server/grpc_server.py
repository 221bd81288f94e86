"""The gRPC server of a worker: ext_proc, the access log and health on our own HTTP/2.

The format is that of the gRPC project's "gRPC over HTTP2" (PROTOCOL-HTTP2).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Final, assert_never

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from sidecar.domain.errors import ErrorKind
from sidecar.extproc.phases import Answer, RefusedError, Room
from sidecar.extproc.stream import CALL_METADATA, StreamEnd, StreamGoneError
from sidecar.server.grpc_wire import (
    CONTENT_TYPE,
    GrpcStatus,
    GrpcWireError,
    MessageReader,
    framed,
    status_headers,
    timeout_seconds,
)
from sidecar.server.hpack import never_indexed
from sidecar.server.http2 import HANDSHAKE_SECONDS, Http2Connection
from sidecar.server.http2_streams import STREAM_WINDOW, Http2Stream, StreamResetError
from sidecar.server.options import (
    EXPORT_METHOD,
    NOT_JUDGED,
    NOT_KEPT,
    PROCESS_METHOD,
    SERVICE_NAME,
    ReceiveLog,
    Serve,
    ServerOptions,
    SocketError,
    check_socket_path,
    is_alive,
)
from sidecar.server.tls import rotating_context
from sidecar.telemetry.logs import get_logger
from sidecar.usage.records import NotKeptError

HEALTH_CHECK_METHOD: Final = "/grpc.health.v1.Health/Check"

_READ: Final = {name.encode(): name for name in CALL_METADATA}
_BACKLOG: Final = 1024
_AWAY_SECONDS: Final = 2.0
"""A peer that has not read by then that it should go away may lose the streams that it begins."""
_CLOSE_SECONDS: Final = 1.0
"""A peer that does not read its last bytes by then loses them."""


_OPENING: Final = never_indexed([(b":status", b"200"), (b"content-type", CONTENT_TYPE)])
_OK_TRAILERS: Final = never_indexed(status_headers(GrpcStatus.OK))


class GrpcCall:
    """One gRPC call as messages in and messages out; `room` counts what it keeps of a long one."""

    __slots__ = (
        "_held_bytes",
        "_is_finished",
        "_messages",
        "_reader",
        "_stream",
        "has_ended",
        "room",
    )

    def __init__(self, stream: Http2Stream, *, max_message_bytes: int) -> None:
        self._stream = stream
        self.room: Room | None = None  # reports of usage are never refused for lack of it
        self._held_bytes = 0
        self._reader = MessageReader(max_message_bytes=max_message_bytes)
        self._messages: deque[bytes | memoryview] = deque()
        self._is_finished = self.has_ended = False

    def take(self) -> bytes | memoryview | None:
        """Return the next message if it has come.

        Raises:
            GrpcWireError: the bytes are not a message that we accept.
            RefusedError: there is no room for the rest of a message.
            StreamGoneError: the peer has reset the stream.
        """
        messages, stream, reader = self._messages, self._stream, self._reader
        try:
            while not messages and (piece := stream.take()) is not None:
                messages.extend(reader.feed(piece))
                if reader.kept_bytes > STREAM_WINDOW or self._held_bytes:
                    self._hold(reader.kept_bytes)
        except StreamResetError as error:
            raise StreamGoneError from error
        if messages:
            return messages.popleft()
        if stream.is_half_closed:
            if not reader.is_between_messages:
                raise GrpcWireError(GrpcStatus.INTERNAL, "the last message is cut short")
            self.has_ended = True
        return None

    def _hold(self, kept_bytes: int) -> None:
        """Count the incomplete message from the size on that may wait unread in any case.

        A BUFFERED body is one message: once whole, it is counted where it is kept.
        """
        more = max(kept_bytes - STREAM_WINDOW, 0) - self._held_bytes
        if self.room is not None:
            if more < 0:
                self.room.release(-more)
            elif not self.room.hold(more):
                raise RefusedError(ErrorKind.OVERLOADED)
        self._held_bytes += more

    def let_go(self) -> None:
        """Stop counting bytes: the call has ended."""
        self._hold(0)

    async def read(self) -> bytes | memoryview | None:
        """Return the next message, or None after the peer's half-close.

        Raises:
            GrpcWireError: the bytes are not a message that we accept.
            RefusedError: there is no room for the rest of a message.
            StreamGoneError: the peer has reset the stream.
        """
        while (message := self.take()) is None and not self.has_ended:
            await self.arrival()
        return message

    def arrival(self) -> asyncio.Future[None]:
        """Return a future of more to take, of the half-close, or of a reset."""
        return self._stream.arrival()

    async def write(
        self, messages: Sequence[Answer], *, ends: bool, trailers: bytes = _OK_TRAILERS
    ) -> None:
        """Send *messages* in one piece; with *ends* the call ends with them, and *trailers*.

        Raises:
            StreamGoneError: the peer has reset the stream.
        """
        opening = b"" if self._stream.has_begun else _OPENING
        try:
            await self._stream.write(opening, framed(messages), trailers if ends else b"")
        except StreamResetError as error:
            raise StreamGoneError from error
        self._is_finished = ends  # a deadline that ended the wait has left the end to `end`

    async def end(self, status: GrpcStatus, problem: str = "") -> None:
        """End the call, unless it has ended."""
        if not self._is_finished:
            await self.write(
                (), ends=True, trailers=never_indexed(status_headers(status, problem))
            )


class GrpcApplication:
    """Answers the calls of one socket: ext_proc, the access log, and health checks."""

    def __init__(
        self,
        serve: Serve,
        receive_log: ReceiveLog | None = None,
        *,
        max_message_bytes: int,
    ) -> None:
        self.is_serving = False
        self._serve = serve
        self._receive_log = receive_log
        self._max_message_bytes = max_message_bytes

    async def answer(self, stream: Http2Stream) -> None:
        """Answer one call; any error ends it with a status other than OK."""
        fields = stream.fields
        path = fields.get(b":path")
        call = GrpcCall(stream, max_message_bytes=self._max_message_bytes)
        try:
            limit = fields.get(b"grpc-timeout")
            if limit is None:
                await self._answer(path, call, fields)
            else:
                async with asyncio.timeout(timeout_seconds(limit)):
                    await self._answer(path, call, fields)
        except StreamGoneError:
            return
        except GrpcWireError as error:
            await call.end(error.status, error.problem)
        except TimeoutError:
            await call.end(GrpcStatus.DEADLINE_EXCEEDED)
        except Exception as error:  # noqa: BLE001 - the last line: Envoy must see an error
            get_logger().error("engine.call_failed", exc_info=error)
            await call.end(GrpcStatus.INTERNAL, NOT_JUDGED)
        finally:
            call.let_go()

    async def _answer(
        self, path: bytes | None, call: GrpcCall, fields: dict[bytes, bytes]
    ) -> None:
        if path == _PROCESS:
            metadata = {
                key: fields[name].decode("latin-1")
                for name, key in _READ.items()
                if name in fields
            }
            end = await self._serve(call, metadata)
            match end:
                case StreamEnd.COMPLETED:
                    await call.end(GrpcStatus.OK)
                case StreamEnd.ABORTED:
                    # OK would make Envoy go on with an unjudged request.
                    await call.end(GrpcStatus.INTERNAL, NOT_JUDGED)
                case StreamEnd.CANCELLED:
                    raise StreamGoneError
                case _:
                    assert_never(end)
        elif path == _EXPORT and self._receive_log is not None:
            try:
                answer = await self._receive_log(bytes(await call.read() or b""))
            except NotKeptError:
                await call.end(GrpcStatus.RESOURCE_EXHAUSTED, NOT_KEPT)
            else:
                await call.write([answer], ends=True)
        elif path == _CHECK_HEALTH:
            try:
                request = health_pb2.HealthCheckRequest.FromString(bytes(await call.read() or b""))
            except DecodeError:
                problem = "not a HealthCheckRequest"
                raise GrpcWireError(GrpcStatus.INVALID_ARGUMENT, problem) from None
            if request.service not in {"", SERVICE_NAME}:
                raise GrpcWireError(GrpcStatus.NOT_FOUND, "no such service")
            statuses = health_pb2.HealthCheckResponse
            status = statuses.SERVING if self.is_serving else statuses.NOT_SERVING
            await call.write([statuses(status=status).SerializeToString()], ends=True)
        else:
            await call.end(GrpcStatus.UNIMPLEMENTED, "no such method")


_PROCESS: Final = PROCESS_METHOD.encode()
_EXPORT: Final = EXPORT_METHOD.encode()
_CHECK_HEALTH: Final = HEALTH_CHECK_METHOD.encode()


class GrpcServer:
    """Serves ext_proc, the access log and health on a Unix socket, and a port if one is given."""

    def __init__(
        self,
        options: ServerOptions,
        serve: Serve,
        receive_log: ReceiveLog | None = None,
    ) -> None:
        self._options = options
        self._application = GrpcApplication(
            serve, receive_log, max_message_bytes=options.max_message_bytes
        )
        self._connections: set[Http2Connection] = set()
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        """Begin to serve, not yet ready.

        Raises:
            SocketError: the socket or the port cannot be bound, or the TLS files do not match.
        """
        path, network = self._options.socket_path, self._options.network
        check_socket_path(path)
        if await is_alive(path):
            # The path would be taken over silently, and starve the process that serves it.
            raise SocketError(f"another process serves {path}: stop it or use another folder")
        context = None
        if network is not None and network.tls is not None:
            context = rotating_context(network.tls)
        loop = asyncio.get_running_loop()

        def connection() -> Http2Connection:
            return Http2Connection(self._application.answer, self._connections)

        try:
            server = await loop.create_unix_server(
                connection, path=str(path.absolute()), backlog=_BACKLOG
            )
            self._servers.append(server)
            path.chmod(self._options.socket_mode)
        except OSError:
            raise SocketError(f"cannot bind {path}: is its folder writable?") from None
        if network is None:
            return
        try:
            server = await loop.create_server(
                connection,
                network.host,
                network.port,
                ssl=context,
                ssl_handshake_timeout=None if context is None else HANDSHAKE_SECONDS,
                backlog=_BACKLOG,
            )
        except OSError:
            self._servers.pop().close()
            raise SocketError(
                f"cannot bind {network}: is it in use, or no address of this machine?"
            ) from None
        self._servers.append(server)

    def set_ready(self, *, is_ready: bool) -> None:
        """Show SERVING or NOT_SERVING, for the whole server and for ext_proc by name."""
        self._application.is_serving = is_ready

    async def drain(self) -> None:
        """Stop in three steps: NOT_SERVING, a pause, then no new streams."""
        self.set_ready(is_ready=False)
        await asyncio.sleep(self._options.drain_delay_seconds)
        # First the name, so that no connection is made that would never be served, and so that
        # the next process may bind the path.
        self._options.socket_path.unlink(missing_ok=True)
        for server in self._servers:
            server.close()
        for connection in self._connections:
            connection.go_away()
        # A stream that the peer begins before it has read that is served too.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_AWAY_SECONDS):
                for connection in tuple(self._connections):
                    await connection.away_read.wait()
        with contextlib.suppress(TimeoutError):  # streams that outlive the grace are cut
            async with asyncio.timeout(self._options.drain_grace_seconds):
                while tasks := [task for one in self._connections for task in one.tasks]:
                    await asyncio.wait(tasks)
        closing = tuple(self._connections)
        for connection in closing:
            connection.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                for connection in closing:
                    await connection.closed.wait()
        for connection in closing:
            connection.abort()
