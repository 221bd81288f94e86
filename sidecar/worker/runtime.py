"""Background tasks, exit codes, memory, enumerations and runtime samples of a worker process."""

from __future__ import annotations

import asyncio
import ctypes
import enum
import os
import signal
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Never, Self

from sidecar.guardrails.message_table import MessageTable
from sidecar.storage.pool import Pool
from sidecar.telemetry.logs import exception_fields, get_logger
from sidecar.telemetry.process_metrics import GcPauses, PoolUse, ProcessMetrics, TableUse


class BackgroundTasks:
    """Cancels its tasks on exit. One that ends by itself is a bug: the worker stops, and restarts.

    Without the listener a revoked key would stay valid, so going on would be worse.
    """

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[Never]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, coroutine: Coroutine[object, object, Never], *, name: str) -> None:
        """Run *coroutine* until exit."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        task.add_done_callback(_stop_worker)
        self._tasks.append(task)


def _stop_worker(ended: asyncio.Task[Never]) -> None:
    if ended.cancelled():
        return
    error = ended.exception()
    fields = {} if error is None else exception_fields(error)
    get_logger().error("worker.task_ended", task=ended.get_name(), **fields)
    os.kill(os.getpid(), signal.SIGTERM)


_PR_SET_PDEATHSIG: Final = 1

CANNOT_START: Final = 2
"""Exit code of a worker whose settings cannot work: starting it again would change nothing."""


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when its *parent* ends, even by SIGKILL.

    Linux only (prctl(2)); elsewhere a child of a killed parent has to be ended by hand. The signal
    is tied to the thread that started the child: always the main one here.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # It may have ended before prctl was called. Process 1 may be the parent in a container.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def speed_up_enums() -> None:
    """Remove a hook of Python 3.11 that makes a member of an enumeration slow to look up.

    For its sake the interpreter calls the metaclass for each look-up, of which a request has
    dozens. No member is found by it, and Python 3.12 is without.
    """
    if "__getattr__" in vars(enum.EnumType):
        delattr(enum.EnumType, "__getattr__")  # typeshed does not have it


_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
MAPPED_BYTES: Final = 4 << 20
KEPT_BYTES: Final = 16 << 20


def keep_freed_memory() -> None:
    """Have the C library keep up to `KEPT_BYTES` of freed memory, for the next long body.

    By default glibc gives the top of its heap back to the kernel after each long body, and the
    next one takes a page fault for every 4 KB of each of its copies: more time than the copies
    take. Blocks of `MAPPED_BYTES` and more are still given back at once. Linux with glibc only
    (mallopt(3)).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


_MADV_COLLAPSE: Final = 25
_HUGE_PAGE_BYTES: Final = 2 << 20


def use_huge_pages() -> None:
    """Have the kernel move the memory of this process into huge pages, as far as it can.

    The objects that a request uses are spread over tens of megabytes, and Envoy uses the CPU in
    between: with pages of 4 KB most accesses begin with one to the page tables, which are nested
    on virtual machines. `MADV_COLLAPSE` of madvise(2), Linux 6.1 and later; elsewhere nothing
    changes.
    """
    if sys.platform != "linux":
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for line in Path("/proc/self/maps").read_text("utf-8", "replace").splitlines():
        span, access, _, _, inode, *name = line.split(maxsplit=5)  # proc_pid_maps(5)
        if access != "rw-p" or inode != "0" or name not in ([], ["[heap]"]):
            continue
        start, end = (int(address, 16) for address in span.split("-"))
        # One by one: a page that cannot be collapsed, as none of it is in use, keeps none back.
        for page in range(-start // _HUGE_PAGE_BYTES * -_HUGE_PAGE_BYTES, end, _HUGE_PAGE_BYTES):
            if page + _HUGE_PAGE_BYTES <= end:
                madvise(page, _HUGE_PAGE_BYTES, _MADV_COLLAPSE)


BEAT_SECONDS: Final = 0.25
"""Between two samples. A stall is measured from the next sample on."""


@dataclass(frozen=True, slots=True)
class RuntimeSampler:
    """Samples event-loop lag, tasks, GC pauses, pool and message table four times a second."""

    metrics: ProcessMetrics
    pool: Pool
    pauses: GcPauses
    table: MessageTable | None = None

    async def run(self) -> Never:
        """Sample until cancelled."""
        loop = asyncio.get_running_loop()
        self.pauses.start()
        try:
            while True:
                asked_for = loop.time() + BEAT_SECONDS
                await asyncio.sleep(BEAT_SECONDS)
                self.metrics.loop_was_late(max(0.0, loop.time() - asked_for))
                self.metrics.tasks_are(len(asyncio.all_tasks(loop)))
                self.metrics.collected(self.pauses.take())
                size = self.pool.get_size()
                busy = size - self.pool.get_idle_size()
                if (table := self.table) is not None:
                    self.metrics.table_is(
                        TableUse(
                            table.hits,
                            table.misses,
                            table.saved_bytes,
                            table.evictions,
                            table.bytes,
                        )
                    )
                self.metrics.pool_is(PoolUse(busy=busy, open=size, limit=self.pool.get_max_size()))
        finally:
            self.pauses.stop()
