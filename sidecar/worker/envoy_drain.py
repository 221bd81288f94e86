"""`python -m sidecar.worker.envoy_drain SOCKET`: has Envoy drain its listeners, on SIGTERM.

Envoy itself ends at once on SIGTERM and drops every answer that is under way. In the same pod this
program gets SIGTERM when Envoy's preStop hook begins to wait: from then on each answer ends its
connection (GOAWAY, `connection: close`), and no listener is closed before Envoy's
`--drain-time-s` is over.
"""

from __future__ import annotations

import http.client
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Final

from typing_extensions import override

from sidecar.telemetry.logs import configure_logs, get_logger

DRAIN: Final = "/drain_listeners?graceful&skip_exit"
ANSWER_SECONDS: Final = 2.0
TRIES: Final = 5
"""Envoy may be starting; a pod can be taken away at any time."""
PAUSE_SECONDS: Final = 0.5


class _AdminConnection(http.client.HTTPConnection):
    """HTTP over the Unix socket of Envoy's admin interface."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self._path = path

    @override
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(ANSWER_SECONDS)
        self.sock.connect(str(self._path))


def drain(admin: Path) -> bool:
    """Have Envoy drain; return whether it accepted."""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        connection = _AdminConnection(admin)
        try:
            connection.request("POST", DRAIN)
            if connection.getresponse().status == http.HTTPStatus.OK:
                return True
        except (OSError, http.client.HTTPException) as error:
            get_logger().warning("envoy.drain_not_begun", error_type=type(error).__name__)
        finally:
            connection.close()
    return False


def main(admin: Path) -> int:
    """Wait for SIGTERM or SIGINT, then drain; return the exit code."""
    configure_logs("info")
    awaited = {signal.SIGTERM, signal.SIGINT}
    # Blocked before the wait: a signal in between would end this process.
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    get_logger().info("envoy.drain_awaits_signal", admin=str(admin))
    signal.sigwait(awaited)
    is_draining = drain(admin)
    get_logger().info("envoy.drain", is_draining=is_draining)
    return 0 if is_draining else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
