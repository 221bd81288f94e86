"""CPU time and memory of running processes (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
TICK_SECONDS: Final = 1 / os.sysconf("SC_CLK_TCK")
_UTIME_FIELD: Final = 11
"""Of the fields behind the command's name in `stat`; fields 14 and 15 of the manual's count."""


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return user and system time that *pids* have used so far, all their threads together."""
    return (
        sum(
            cpu_ticks((PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace"))
            for pid in pids
        )
        * TICK_SECONDS
    )


def cpu_ticks(stat: str) -> int:
    """Return user and system ticks of one `stat` line; the name in it may hold anything."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[_UTIME_FIELD]) + int(fields[_UTIME_FIELD + 1])


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


def _children(pid: int) -> Iterator[int]:
    for task in (PROC / str(pid) / "task").iterdir():
        for child in (task / "children").read_text(encoding="ascii").split():
            yield int(child)
