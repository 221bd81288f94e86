"""Where the server under test listens."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from sidecar.settings.serving import MAX_SOCKET_PATH_BYTES


class TargetError(ValueError):
    """Not an address; says why."""


@dataclass(frozen=True, slots=True)
class UnixTarget:
    """A Unix socket."""

    path: Path


@dataclass(frozen=True, slots=True)
class TcpTarget:
    """A host and a port; no TLS."""

    host: str
    port: int


Target = UnixTarget | TcpTarget


def read_target(text: str) -> Target:
    """Read `unix:PATH` or `host:port`.

    Raises:
        TargetError: it is neither.
    """
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:")).absolute()
        if len(str(path).encode()) > MAX_SOCKET_PATH_BYTES:
            raise TargetError(f"a socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes")
        return UnixTarget(path)
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise TargetError(f"{text!r} is neither unix:PATH nor host:port")
    return TcpTarget(host, int(port))


def envoy_address(target: Target) -> tuple[str, dict[str, object]]:
    """Return how Envoy finds it: the type of its cluster, and the address."""
    match target:
        case UnixTarget(path):
            return "STATIC", {"pipe": {"path": str(path)}}
        case TcpTarget(host, port):
            address: dict[str, object] = {"socket_address": {"address": host, "port_value": port}}
            return ("STATIC" if _is_ip(host) else "STRICT_DNS"), address


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
