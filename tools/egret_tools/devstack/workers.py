"""The workers as a part of the stack: `egret serve` in a process of its own."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from egret_tools.devstack.processes import Children, Program
from sidecar.cli.health import WorkerState, worker_states
from sidecar.settings.sections import inherited_environment

PART: Final = "Egret workers"
START_SECONDS: Final = 120.0
"""Workers compile policies first: seconds of CPU time, which a busy machine gives slowly."""


def worker_sockets(directory: Path, *, workers: int) -> tuple[Path, ...]:
    """Return where `egret serve` listens: one socket a worker."""
    return tuple(directory / f"worker-{number}.sock" for number in range(workers))


@asynccontextmanager
async def running_workers(
    children: Children,
    *,
    sockets: tuple[Path, ...],
    settings: Mapping[str, str],
    logs: Path,
) -> AsyncIterator[int]:
    """Run the supervisor with its workers and yield its pid, once every worker serves.

    Raises:
        PartError: they do not come up.
    """
    program = Program(
        part=PART,
        command=(sys.executable, "-m", "sidecar", "serve"),
        log=logs / "workers.log",
        environment={**inherited_environment(), **settings},
        # The supervisor ends its workers; killed, it could not.
        orphan_signal=signal.SIGTERM,
        grace_seconds=20,
    )
    async with children.running(
        program, is_ready=lambda: _all_serve(sockets), seconds=START_SECONDS
    ) as supervisor:
        yield supervisor.pid


async def _all_serve(sockets: tuple[Path, ...]) -> bool:
    if not all(socket.exists() for socket in sockets):
        return False
    return set(await worker_states(sockets)) == {WorkerState.SERVING}
