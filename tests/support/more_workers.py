"""Further workers and an Envoy of their own beside a stack: to be killed, or set up otherwise."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from egret_tools.devstack.processes import Children, free_port
from egret_tools.devstack.workers import running_workers, worker_sockets

from tests.support.second_gateway import Adapt, judged_by, second_gateway
from tests.support.stack import Stack

LOOPBACK: Final = "127.0.0.1"


@asynccontextmanager
async def more_workers(
    stack: Stack, *changes: Adapt, workers: int = 2, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Stack]:
    """Run a supervisor with so many workers, and an Envoy that asks them and is changed so.

    What is yielded is the stack as a client of this Envoy sees it; it has no access log.
    """
    with tempfile.TemporaryDirectory(prefix="egret-mw-") as place:
        directory = Path(place)
        sockets = worker_sockets(directory, workers=workers)
        metrics_port = free_port()
        environment = {
            "TMPDIR": place,
            "EGRET_SERVER__WORKERS": str(workers),
            "EGRET_SERVER__SOCKET_DIRECTORY": place,
            "EGRET_POSTGRES__DSN": stack.facts.postgres_dsn,
            "EGRET_TELEMETRY__METRICS_PORT": str(metrics_port),
            **(settings or {}),
        }
        running = running_workers(
            Children(), sockets=sockets, settings=environment, logs=directory
        )
        async with (
            running as supervisor,
            second_gateway(stack, judged_by(*sockets), *changes) as gateway,
        ):
            facts = replace(
                stack.facts,
                url=gateway.url,
                https_url=gateway.https_url,
                admin_url=gateway.admin_url,
                metrics_url=f"http://{LOOPBACK}:{metrics_port}/metrics",
                workers_pid=supervisor,
                logs=directory,
            )
            yield replace(stack, facts=facts, workers=workers)


def processes_of(supervisor: int) -> list[int]:
    """Return the pids of a supervisor's workers."""
    return [
        int(pid)
        for task in Path(f"/proc/{supervisor}/task").iterdir()
        for pid in (task / "children").read_text().split()
    ]
