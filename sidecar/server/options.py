"""The options of the gRPC server, its methods by name, and the handlers behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from typing_extensions import override

from sidecar.extproc.stream import Call, StreamEnd
from sidecar.settings.serving import MAX_SOCKET_PATH_BYTES

PROCESS_METHOD: Final = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
SERVICE_NAME: Final = "envoy.service.ext_proc.v3.ExternalProcessor"

NOT_JUDGED: Final = "egret could not judge this request"
"""The status message of a call that fails; the error itself is in our log alone."""

Serve = Callable[[Call, Mapping[str, str]], Awaitable[StreamEnd]]
"""Serves one ext_proc call; the mapping holds at least `CALL_METADATA` of the gRPC metadata."""

EXPORT_METHOD: Final = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"

ReceiveLog = Callable[[bytes], Awaitable[bytes]]
"""Takes one message of Envoy's access log and returns its answer.

Raises `NotKeptError` if Envoy should send the message to another worker: RESOURCE_EXHAUSTED.
UNAVAILABLE would count against the worker as a gateway failure, and three of those in a row keep
requests away from it that it could judge (Envoy's outlier detection)."""

NOT_KEPT: Final = "the records could not be kept"
"""The status message that makes Envoy send the records to another worker."""


class SocketError(Exception):
    """The socket or port cannot be served; the message names it, the cause and the fix."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of a server that requires client certificates."""

    certificate: Path
    key: Path
    client_ca: Path


@dataclass(frozen=True, slots=True)
class NetworkAddress:
    """A host and port for an Envoy on another machine; `tls` is None inside a mesh."""

    host: str
    port: int
    tls: TlsFiles | None

    @override
    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """A server has one Unix socket, and a network address if one is given."""

    socket_path: Path
    socket_mode: int
    max_message_bytes: int
    drain_delay_seconds: float
    drain_grace_seconds: float
    network: NetworkAddress | None = None


def check_socket_path(path: Path) -> None:
    """Check the length of a socket's path, and make its folder, readable by the owner only.

    Raises:
        SocketError: too long for the system, or the folder cannot be made.
    """
    size = len(str(path.absolute()).encode())
    if size > MAX_SOCKET_PATH_BYTES:
        raise SocketError(
            f"socket path {path} is {size} bytes long and the system takes "
            f"{MAX_SOCKET_PATH_BYTES}: set EGRET_SERVER__SOCKET_DIRECTORY to a shorter folder"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    except OSError as error:
        raise SocketError(
            f"cannot make folder {path.parent} for the socket: {error.strerror}; set"
            " EGRET_SERVER__SOCKET_DIRECTORY to another"
        ) from None


async def is_alive(path: Path) -> bool:
    """Return whether a process accepts connections on *path*; a dead one leaves its file."""
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        return False
    writer.close()
    return True
