"""The engine on h2corn: HTTP/2 in Rust, gRPC on top of it by us.

It needs an Envoy that is set up for it (docs/envoy.md): h2corn closes a connection, and loses
every stream on it, at the 201st reset within ten seconds, and Envoy ends each ext_proc stream
with a reset unless it is configured to close gracefully.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from h2corn import Config, Server

from sidecar.server.engine import (
    EngineOptions,
    ReceiveLog,
    Serve,
    SocketError,
    check_socket_path,
    is_alive,
)
from sidecar.server.grpc_asgi import GrpcApplication

MAX_CONCURRENT_STREAMS: Final = 65_536
"""The bound of Envoy's circuit breaker; h2corn's default is 256."""
STREAM_WINDOW_BYTES: Final = 1 << 20
CONNECTION_WINDOW_BYTES: Final = 256 << 20
"""A call that is not read may fill its stream's window; with equal windows, h2corn's default, it
would leave none for the others."""


class H2cornEngine:
    """h2corn serving ext_proc, the access log and health on one Unix socket."""

    def __init__(
        self, options: EngineOptions, serve: Serve, receive_log: ReceiveLog | None = None
    ) -> None:
        self._options = options
        self._application = GrpcApplication(
            serve, receive_log, max_message_bytes=options.max_message_bytes
        )
        self._server = Server(self._application, _config(options))
        self._serving: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Begin to serve, not yet ready."""
        path = self._options.socket_path
        check_socket_path(path)
        if await is_alive(path):
            # h2corn would take the path over silently, and starve the process that serves it.
            raise SocketError(f"another process serves {path}: stop it or use another folder")
        self._serving = asyncio.ensure_future(self._server.serve())
        try:
            await self._server.wait_started()
        except (OSError, RuntimeError):
            with contextlib.suppress(OSError, RuntimeError):
                await self._serving
            raise SocketError(f"cannot bind {path}: is its folder writable?") from None

    async def set_ready(self, *, is_ready: bool) -> None:
        """Show SERVING or NOT_SERVING, for the whole server and for ext_proc by name."""
        self._application.is_serving = is_ready

    async def drain(self) -> None:
        """Stop in three steps: NOT_SERVING, a pause, then no new streams."""
        await self.set_ready(is_ready=False)
        await asyncio.sleep(self._options.drain_delay_seconds)
        # A draining h2corn leaves new connections waiting, neither served nor refused: without
        # the socket's name none is made, and the next process may bind the path.
        self._options.socket_path.unlink(missing_ok=True)
        self._server.shutdown()
        if self._serving is not None:
            with contextlib.suppress(RuntimeError):  # streams that outlived the grace were cut
                await self._serving


def _config(options: EngineOptions) -> Config:
    return Config(
        bind=(f"unix:{options.socket_path.absolute()}",),
        uds_permissions=options.socket_mode,
        grpc=True,
        http1=False,
        access_log=False,
        log_format="json",
        lifespan="off",
        date_header=False,
        runtime_threads=1,
        max_concurrent_streams=MAX_CONCURRENT_STREAMS,
        h2_initial_stream_window_size=STREAM_WINDOW_BYTES,
        h2_initial_connection_window_size=CONNECTION_WINDOW_BYTES,
        timeout_keep_alive=0.0,
        timeout_graceful_shutdown=options.drain_grace_seconds,
    )
