"""Background tasks and samples of a worker's process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import time
from typing import Never

from prometheus_client import CollectorRegistry

from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import open_pool
from sidecar.telemetry.process_metrics import GcPauses, ProcessMetrics
from sidecar.worker.runtime import BEAT_SECONDS, BackgroundTasks, RuntimeSampler
from tests.support.log_lines import LogLines


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

    async with BackgroundTasks() as tasks, asyncio.timeout(10):
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
