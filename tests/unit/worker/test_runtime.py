"""Background tasks and samples of a worker's process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import platform
import signal
import subprocess
import sys
import time
from typing import Final, Never

import pytest
from prometheus_client import CollectorRegistry

from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import open_pool
from sidecar.telemetry.process_metrics import GcPauses, ProcessMetrics
from sidecar.worker.runtime import BEAT_SECONDS, BackgroundTasks, RuntimeSampler
from tests.support.log_lines import LogLines

ENUMS: Final = """
import enum, sidecar.worker.worker
from sidecar.worker.runtime import speed_up_enums

def subclasses(of):
    for one in of.__subclasses__():
        yield one
        yield from subclasses(one)

for _ in range(2):
    speed_up_enums()
assert "__getattr__" not in vars(enum.EnumType)
enums = [one for one in subclasses(enum.Enum) if one.__members__]
for one in enums:
    for name, member in one.__members__.items():
        assert getattr(one, name) is member and one[name] is member, (one, name)
assert not hasattr(enums[0], "NO_SUCH_MEMBER")
print(len(enums))
"""


def test_every_member_is_found_without_the_hook_that_makes_it_slow() -> None:
    """Of all enumerations that a worker loads, the standard library's among them."""
    done = subprocess.run(
        [sys.executable, "-c", ENUMS], capture_output=True, text=True, check=True
    )

    assert int(done.stdout) > 50


HUGE: Final = """
import platform
from pathlib import Path
from sidecar.worker.runtime import use_huge_pages

numbers = [str(number) for number in range(200_000)]
before = numbers[:], "".join(numbers)
use_huge_pages()
assert (numbers, "".join(numbers)) == before
release = tuple(map(int, platform.release().split("-")[0].split(".")[:2]))
if release >= (6, 1) and Path("/sys/kernel/mm/transparent_hugepage").exists():
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
    print(next(line.split()[1] for line in rollup if line.startswith("AnonHugePages")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has them")
def test_memory_that_moves_into_huge_pages_keeps_its_content() -> None:
    """The kernel of the machine may be older than the call: then nothing moves."""
    done = subprocess.run([sys.executable, "-c", HUGE], capture_output=True, text=True, check=True)

    assert int(done.stdout or 2048) >= 2048


async def test_a_loop_that_is_held_up_is_seen_to_be_late() -> None:
    """A stall is a lag; the watch on garbage ends with the task."""
    registry = CollectorRegistry()
    before = list(gc.callbacks)
    settings = PostgresSettings()
    async with open_pool(settings) as pool:
        sampler = RuntimeSampler(ProcessMetrics(registry), pool, GcPauses())
        task = asyncio.ensure_future(sampler.run())
        await asyncio.sleep(0)
        time.sleep(BEAT_SECONDS + 0.15)  # noqa: ASYNC251 - this is the stall
        while not registry.get_sample_value("egret_database_connections_limit"):  # noqa: ASYNC110 - a metric tells nobody
            await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    lag = registry.get_sample_value("egret_event_loop_lag_seconds_sum")

    assert lag is not None
    assert lag > 0.1
    assert gc.callbacks == before
    tasks = registry.get_sample_value("egret_event_loop_tasks")
    assert tasks is not None
    assert tasks >= 2  # the watch itself and this test
    limit = registry.get_sample_value("egret_database_connections_limit")
    assert limit == settings.pool_size


async def test_a_background_task_that_ends_stops_the_worker(log_lines: LogLines) -> None:
    """Without the listener a revoked key would stay valid: better to start anew."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)

    async def fail() -> Never:
        raise ValueError("a secret")

    async with BackgroundTasks() as tasks, asyncio.timeout(60):
        tasks.start(fail(), name="changes")
        await stopped.wait()
    asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
    [line] = log_lines.read()

    assert (line["event"], line["task"], line["error_type"]) == (
        "worker.task_ended",
        "changes",
        "ValueError",
    )
    assert "a secret" not in log_lines.text()


async def test_background_tasks_end_with_their_block() -> None:
    """Cancelled and awaited; that stops no worker."""
    ended = asyncio.Event()

    async def run() -> Never:
        try:
            await asyncio.Future()
            raise AssertionError
        finally:
            ended.set()

    async with BackgroundTasks() as tasks:
        tasks.start(run(), name="forever")
        await asyncio.sleep(0)

    assert ended.is_set()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is of glibc")
def test_memory_of_a_long_body_is_kept_for_the_next() -> None:
    """Or each page of each copy would take a page fault, 73 for each of these blocks."""
    program = """
import resource
from sidecar.worker.runtime import keep_freed_memory
keep_freed_memory()
for count in range(101):
    if count == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    copies = [bytes(300_000) for _ in range(4)]
    del copies
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(run.stdout) < 100 * 4 * 73 / 10
