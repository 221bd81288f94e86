"""Waits until every live worker has received a change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Final

import typer

from sidecar.admin.in_force import (
    POLL_SECONDS,
    RESEND_SECONDS,
    Barrier,
    InForce,
    in_force,
    send_barrier,
)
from sidecar.cli.admin_server import words_in_force
from sidecar.cli.arguments import SERVER
from sidecar.cli.connection import on_settings
from sidecar.cli.terminal import FAILED, Output, Row, console, counted, note, print_rows
from sidecar.settings.process import Settings
from sidecar.storage.pool import connect
from sidecar.storage.worker_status import ReportedWorker

NoWaitOption = Annotated[
    bool, typer.Option("--no-wait", help="Return once it is stored: workers follow in seconds.")
]

WAIT_SECONDS: Final = 120.0
SAID_AFTER_SECONDS: Final = 3.0

_COLUMNS: Final = ("host", "socket", "last_report", "serves")
_NO_POLICIES: Final[Mapping[str, int]] = MappingProxyType({})


def wait_for_workers(*, no_wait: bool, policies: Mapping[str, int] = _NO_POLICIES) -> str:
    """Wait until every live worker has all changes made so far and serves *policies*, by version.

    Return words for the message about the change. Exits with 1 and a table of the other workers
    if some do not follow in time, or have not reported for a while.
    """
    if SERVER.get() is not None:
        return words_in_force(no_wait=no_wait)
    if no_wait:
        return "is stored; workers follow within seconds"
    barrier = Barrier(policies=policies)
    state = on_settings(lambda settings: _wait(settings, barrier))
    if state is None:
        return "is stored; run `egret migrate`, so that workers report it"
    if not state.workers:
        return "is stored; no worker is running"
    if not state.behind:
        return f"is in force in {counted(len(state.workers), 'worker')}"
    rows = [_row(one, policies) for one in state.behind]
    print_rows(rows, columns=_COLUMNS, output=Output.TABLE, stderr=True)
    note(
        f"error: the change is stored, but {len(state.behind)} of"
        f" {counted(len(state.workers), 'worker')}"
        " did not confirm it; see their log, or end them if they are cut off from the database"
    )
    raise typer.Exit(FAILED)


async def _wait(settings: Settings, barrier: Barrier) -> InForce | None:
    """Return all workers, and those of them that are behind; None without a table of them."""
    began_at = time.monotonic()
    send_at, is_said = began_at, False
    async with connect(settings.postgres) as connection:
        with console(stderr=True).status("Waiting for the workers …") as status:
            while True:
                state = await in_force(connection, barrier)
                waited = time.monotonic() - began_at
                if state is None or not state.late or waited > WAIT_SECONDS:
                    return state
                words = f"Waiting for {state.late} of {counted(len(state.workers), 'worker')} …"
                status.update(words)
                if waited > SAID_AFTER_SECONDS and not (
                    is_said or console(stderr=True).is_terminal
                ):
                    note(words)
                    is_said = True
                if time.monotonic() >= send_at:
                    await send_barrier(connection, settings, barrier)
                    send_at = time.monotonic() + RESEND_SECONDS
                await asyncio.sleep(POLL_SECONDS)


def _row(worker: ReportedWorker, policies: Mapping[str, int]) -> Row:
    serves = [f"{name} {worker.policies.get(name, 'not loaded')}" for name in policies]
    return {
        "host": worker.host,
        "socket": worker.socket,
        "last_report": f"{worker.silent_seconds:.0f} s ago",
        "serves": serves or "-",
    }
