"""`python -m sidecar.worker N PARENT READY`: worker N of PARENT, as `egret serve` starts it.

READY is a pipe's descriptor: a byte means that the worker serves, the end that it stopped.

Not a command of `egret`: importing the command line takes as long as importing a worker.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import uvloop

from sidecar.server.options import SocketError
from sidecar.settings.process import SettingsError, read_settings
from sidecar.storage.pool import InvalidDsnError
from sidecar.storage.spool_files import SpoolError
from sidecar.telemetry.logs import configure_logs
from sidecar.worker.runtime import (
    CANNOT_START,
    die_with_parent,
    keep_freed_memory,
    speed_up_enums,
)
from sidecar.worker.worker import run_worker


def main(index: int, parent: int, ready_pipe: int) -> int:
    """Serve until SIGTERM and exit; return the exit code of a worker that cannot start."""
    die_with_parent(parent)
    speed_up_enums()
    keep_freed_memory()
    os.set_inheritable(ready_pipe, False)  # noqa: FBT003 - takes no keywords

    async def serve() -> NoReturn:
        await run_worker(settings, index, ready_pipe=ready_pipe)
        # By returning it would wait for a thread that still compiles, for longer than the grace
        # on a slow machine.
        sys.stdout.flush()
        os._exit(0)

    try:
        settings = read_settings()
        configure_logs(settings.telemetry.log_level)
        uvloop.run(serve())
    except (SettingsError, SocketError, InvalidDsnError, SpoolError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the supervisor shows it
        return CANNOT_START


if __name__ == "__main__":
    sys.exit(main(*(int(argument) for argument in sys.argv[1:4])))
