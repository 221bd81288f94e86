"""The part of a worker that receives changes and reports to the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from pydantic import SecretStr

from sidecar.settings.stores import ValkeySettings
from sidecar.storage.pool import open_pool
from sidecar.storage.postgres_keys import ChangeCallbacks, ChangeListener
from sidecar.storage.valkey_keys import ValkeyChangeListener
from sidecar.storage.worker_status import WorkerStatus
from tests.support.postgres import Database

SOCKET: Final = "/run/worker-0.sock"


def _nothing(*_: object) -> None:
    """Take no notice."""


@asynccontextmanager
async def reporting_worker(
    database: Database,
    socket: str = SOCKET,
    *,
    listens: bool = True,
    valkey: str | None = None,
) -> AsyncIterator[WorkerStatus]:
    """The part of a worker that reports, with its subscription to changes in either place."""
    async with open_pool(database.settings) as pool, asyncio.TaskGroup() as group:
        status = WorkerStatus(pool, database.settings, host="here", socket=socket)
        tasks = [group.create_task(status.run())]
        if listens or valkey is not None:
            callbacks = ChangeCallbacks(
                on_key=_nothing, on_scope=_nothing, on_listening=_nothing, on_lost=_nothing,
                on_policies=_nothing, on_barrier=status.barrier_received,
            )  # fmt: skip
            listener: ChangeListener | ValkeyChangeListener
            listener = ChangeListener(database.settings, callbacks)
            if valkey is not None:
                listener = ValkeyChangeListener(ValkeySettings(url=SecretStr(valkey)), callbacks)
            tasks.append(group.create_task(listener.run()))
        await status.report()
        yield status
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await status.aclose()
