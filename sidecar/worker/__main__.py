"""`python -m sidecar.worker N PARENT`: worker N of process PARENT, as `egret serve` starts it.

Not a command of `egret`: importing the command line takes as long as importing a worker.
"""

from __future__ import annotations

import sys

import uvloop

from sidecar.server.engine import SocketError
from sidecar.settings.process import SettingsError, read_settings
from sidecar.storage.pool import InvalidDsnError
from sidecar.storage.spool_files import SpoolError
from sidecar.telemetry.logs import configure_logs
from sidecar.worker.runtime import CANNOT_START, die_with_parent
from sidecar.worker.worker import run_worker


def main(index: int, parent: int) -> int:
    """Serve until SIGTERM; return the exit code."""
    die_with_parent(parent)
    try:
        settings = read_settings()
        configure_logs(settings.telemetry.log_level)
        uvloop.run(run_worker(settings, index))
    except (SettingsError, SocketError, InvalidDsnError, SpoolError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - the supervisor shows it
        return CANNOT_START
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
