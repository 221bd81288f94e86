"""Where workers have their sockets."""

from __future__ import annotations

from pathlib import Path

from sidecar.settings.serving import ServerSettings


def worker_socket(server: ServerSettings, index: int) -> Path:
    """Return the socket of worker *index*."""
    return server.socket_directory.absolute() / f"worker-{index}.sock"


def worker_sockets(server: ServerSettings) -> tuple[Path, ...]:
    """Return the sockets of all workers."""
    return tuple(worker_socket(server, index) for index in range(server.workers))
