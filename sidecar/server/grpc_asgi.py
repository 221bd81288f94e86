"""Serves ext_proc, access log and health as gRPC over ASGI, for servers of plain HTTP/2."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, assert_never

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from sidecar.extproc.stream import CALL_METADATA, StreamEnd, StreamGoneError
from sidecar.server.engine import (
    EXPORT_METHOD,
    NOT_JUDGED,
    NOT_KEPT,
    PROCESS_METHOD,
    SERVICE_NAME,
    ReceiveLog,
    Serve,
)
from sidecar.server.grpc_wire import (
    CONTENT_TYPE,
    GrpcStatus,
    GrpcWireError,
    MessageReader,
    frame,
    status_headers,
    timeout_seconds,
)
from sidecar.telemetry.logs import get_logger
from sidecar.usage.records import NotKeptError

HEALTH_CHECK_METHOD: Final = "/grpc.health.v1.Health/Check"

GONE_SECONDS: Final = 1.0
"""A call whose peer has left waits this long to be cancelled, which the server does at once. If it
returns instead, h2corn logs it as failed, for up to 71 of 100 aborted streams."""

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_READ: Final = tuple((name.encode(), name) for name in CALL_METADATA)
_OPENING: Final[dict[str, Any]] = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", CONTENT_TYPE)],
    "trailers": True,
}
_NO_MORE_BODY: Final[dict[str, Any]] = {
    "type": "http.response.body",
    "body": b"",
    "more_body": False,
}
_OK_TRAILERS: Final[dict[str, Any]] = {
    "type": "http.response.trailers",
    "headers": status_headers(GrpcStatus.OK),
}


class GrpcCall:
    """One gRPC call as messages in and messages out."""

    __slots__ = (
        "_has_ended",
        "_is_half_closed",
        "_is_open",
        "_messages",
        "_reader",
        "_receive",
        "_send",
    )

    def __init__(self, receive: Receive, send: Send, *, max_message_bytes: int) -> None:
        self._receive = receive
        self._send = send
        self._reader = MessageReader(max_message_bytes=max_message_bytes)
        self._messages: deque[bytes] = deque()
        self._is_half_closed = False
        self._is_open = False
        self._has_ended = False

    async def read(self) -> bytes | None:
        """Return the next message, or None after the peer's half-close.

        Raises:
            GrpcWireError: the bytes are not a message that we accept.
            StreamGoneError: the peer has reset the stream.
        """
        while not self._messages:
            if self._is_half_closed:
                if not self._reader.is_between_messages:
                    raise GrpcWireError(GrpcStatus.INTERNAL, "the last message is cut short")
                return None
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise StreamGoneError
            self._is_half_closed = not event.get("more_body", False)
            self._messages.extend(self._reader.feed(event.get("body", b"")))
        return self._messages.popleft()

    async def write(self, messages: list[bytes], *, ends: bool) -> None:
        """Send *messages* in one piece; with *ends* the call ends with them.

        Body and trailers go back to back: work between them gives Envoy time to close first, and
        work after them may be cancelled.
        """
        self._has_ended = ends
        send = self._send
        try:
            if not self._is_open:
                self._is_open = True
                await send(_OPENING)
            await send(
                {"type": "http.response.body", "body": frame(messages), "more_body": not ends}
            )
            if ends:
                await send(_OK_TRAILERS)
        except OSError as error:  # the exception of ASGI servers for a client that has left
            raise StreamGoneError from error

    async def end(self, status: GrpcStatus, problem: str = "") -> None:
        """End the call, unless it has ended."""
        if self._has_ended:
            return
        self._has_ended = True
        headers = status_headers(status, problem)
        try:
            if not self._is_open:
                self._is_open = True
                await self._send(_OPENING)
            await self._send(_NO_MORE_BODY)
            await self._send({"type": "http.response.trailers", "headers": headers})
        except OSError as error:
            raise StreamGoneError from error


class GrpcApplication:
    """Answers the calls of one socket: ext_proc, the access log, and health checks."""

    def __init__(
        self, serve: Serve, receive_log: ReceiveLog | None = None, *, max_message_bytes: int
    ) -> None:
        self.is_serving = False
        self._serve = serve
        self._receive_log = receive_log
        self._max_message_bytes = max_message_bytes

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one call; any error ends it with a status other than OK."""
        call = GrpcCall(receive, send, max_message_bytes=self._max_message_bytes)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            limit = headers.get(b"grpc-timeout")
            if limit is None:
                await self._answer(scope["path"], call, headers)
                return
            try:
                async with asyncio.timeout(timeout_seconds(limit)):
                    await self._answer(scope["path"], call, headers)
            except GrpcWireError as error:
                await call.end(error.status, error.problem)
            except TimeoutError:
                await call.end(GrpcStatus.DEADLINE_EXCEEDED)
        except StreamGoneError:
            await asyncio.sleep(GONE_SECONDS)

    async def _answer(self, path: str, call: GrpcCall, headers: dict[bytes, bytes]) -> None:
        try:
            if path == PROCESS_METHOD:
                await self._process(call, headers)
            elif path == HEALTH_CHECK_METHOD:
                await self._check_health(call)
            elif path == EXPORT_METHOD and self._receive_log is not None:
                await self._export(call, self._receive_log)
            else:
                await call.end(GrpcStatus.UNIMPLEMENTED, "no such method")
        except StreamGoneError:
            raise
        except GrpcWireError as error:
            await call.end(error.status, error.problem)
        except Exception as error:  # noqa: BLE001 - the last line: Envoy must see an error
            get_logger().error("engine.call_failed", exc_info=error)
            await call.end(GrpcStatus.INTERNAL, NOT_JUDGED)

    async def _process(self, call: GrpcCall, headers: dict[bytes, bytes]) -> None:
        metadata: dict[str, str] = {}
        for name, key in _READ:
            if name in headers:
                metadata[key] = headers[name].decode("latin-1")
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

    async def _export(self, call: GrpcCall, receive_log: ReceiveLog) -> None:
        try:
            answer = await receive_log(await call.read() or b"")
        except NotKeptError:
            await call.end(GrpcStatus.RESOURCE_EXHAUSTED, NOT_KEPT)
        else:
            await call.write([answer], ends=True)

    async def _check_health(self, call: GrpcCall) -> None:
        try:
            request = health_pb2.HealthCheckRequest.FromString(await call.read() or b"")
        except DecodeError:
            raise GrpcWireError(GrpcStatus.INVALID_ARGUMENT, "not a HealthCheckRequest") from None
        if request.service not in {"", SERVICE_NAME}:
            raise GrpcWireError(GrpcStatus.NOT_FOUND, "no such service")
        statuses = health_pb2.HealthCheckResponse
        status = statuses.SERVING if self.is_serving else statuses.NOT_SERVING
        await call.write([statuses(status=status).SerializeToString()], ends=True)
