"""CPU time and memory of running processes (clock_gettime(2), proc(5)), and stopping them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
_SCHEDULER_CLOCK: Final = 2
"""The clock of a process in nanoseconds on a CPU; `stat` counts hundredths of a second."""


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return user and system time that *pids* have used so far, all their threads together.

    Raises:
        OSError: one of them has ended.
    """
    return sum(time.clock_gettime(_cpu_clock(pid)) for pid in pids)


def _cpu_clock(pid: int) -> int:
    """Return the number of a process's clock, as clock_getcpuclockid(3) makes it."""
    return (~pid << 3) | _SCHEDULER_CLOCK


def resident_mb(pid: int) -> float:
    """Return the resident memory of *pid* in MiB."""
    status = (PROC / str(pid) / "status").read_text(encoding="ascii", errors="replace")
    return resident_kib(status) / 1024


def resident_kib(status: str) -> int:
    """Return `VmRSS` of a `status` file.

    Raises:
        ValueError: there is none: the process has ended, or is a kernel thread.
    """
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "VmRSS":
            return int(value.split()[0])
    raise ValueError("no VmRSS")


def children_of(pid: int) -> tuple[int, ...]:
    """Return the processes that *pid* has started and that still run."""
    return tuple(sorted(_children(pid)))


def family_of(pid: int) -> tuple[int, ...]:
    """Return *pid* and all processes below it."""
    return (pid, *(one for child in children_of(pid) for one in family_of(child)))


@contextmanager
def paused(pids: Iterable[int]) -> Iterator[None]:
    """Stop *pids* meanwhile (SIGSTOP), then let them go on.

    Raises:
        ProcessLookupError: one of them has ended.
    """
    stopped: list[int] = []
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def _children(pid: int) -> Iterator[int]:
    for task in (PROC / str(pid) / "task").iterdir():
        for child in (task / "children").read_text(encoding="ascii").split():
            yield int(child)
