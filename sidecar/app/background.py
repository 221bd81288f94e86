"""Tasks that run beside the requests for the life of a worker."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from types import TracebackType
from typing import Never, Self

from sidecar.telemetry.exceptions import exception_fields
from sidecar.telemetry.logs import get_logger


class BackgroundTasks:
    """Cancels its tasks on exit. One that ends by itself is a bug: the worker stops, and restarts.

    Without the listener a revoked key would live on unnoticed, so going on would be worse.
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
        task.add_done_callback(_check)
        self._tasks.append(task)


def _check(task: asyncio.Task[Never]) -> None:
    if task.cancelled():
        return
    error = task.exception()
    fields = {} if error is None else exception_fields(error)
    get_logger().error("worker.task_ended", task=task.get_name(), **fields)
    os.kill(os.getpid(), signal.SIGTERM)
