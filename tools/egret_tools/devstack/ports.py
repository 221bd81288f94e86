"""Ports that were asked for are checked before a part that would word it worse."""

from __future__ import annotations

import errno
import socket

from egret_tools.devstack.child import PartError


def check_port(part: str, port: int, *, address: str = "127.0.0.1") -> None:
    """Check that *port* can be listened on; 0 means any.

    Envoy sets SO_REUSEPORT, so two of them would share a port and neither would complain.

    Raises:
        PartError: the port is taken, or may not be had.
    """
    with socket.socket() as probe:
        # Connections of an earlier run in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                hint = "stop what listens there, or leave the port out to get a free one"
                raise PartError(part, f"port {port} is in use", hint=hint) from error
            hint = "choose a port above 1023"
            raise PartError(part, f"port {port}: {error.strerror}", hint=hint) from error


def free_port() -> int:
    """Return a port nothing listens on now; for parts that cannot tell which one they got."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
