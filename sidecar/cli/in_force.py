"""Waits until every live worker has received a change."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Annotated, Final

import asyncpg
import typer

from sidecar.cli.connection import on_settings
from sidecar.cli.terminal import FAILED, Output, Row, console, counted, note, print_rows
from sidecar.settings.process import Settings
from sidecar.storage.migrate import BARRIERS_CHANNEL
from sidecar.storage.pool import Connection, connect
from sidecar.storage.worker_status import ReportedWorker, reported_workers

NoWaitOption = Annotated[
    bool, typer.Option("--no-wait", help="Return once it is stored: workers follow in seconds.")
]

WAIT_SECONDS: Final = 120.0
POLL_SECONDS: Final = 0.05
RESEND_SECONDS: Final = 1.0
"""A worker that connects anew receives the next token."""
SAID_AFTER_SECONDS: Final = 3.0

_COLUMNS: Final = ("host", "socket", "last_report", "serves")
_NO_POLICIES: Final[Mapping[str, int]] = MappingProxyType({})


def wait_for_workers(*, no_wait: bool, policies: Mapping[str, int] = _NO_POLICIES) -> str:
    """Wait until every live worker has all changes made so far and serves *policies*, by version.

    Return words for the message about the change. Exits with 1 and a table of the other workers
    if some do not follow in time, or have not reported for a while.
    """
    if no_wait:
        return "is stored; workers follow within seconds"
    workers, behind = on_settings(lambda settings: _wait(settings, policies))
    if workers is None:
        return "is stored; run `egret migrate`, so that workers report it"
    if not workers:
        return "is stored; no worker is running"
    if not behind:
        return f"is in force in {counted(len(workers), 'worker')}"
    rows = [_row(one, policies) for one in behind]
    print_rows(rows, columns=_COLUMNS, output=Output.TABLE, stderr=True)
    note(
        f"error: the change is stored, but {len(behind)} of {counted(len(workers), 'worker')}"
        " did not confirm it; see their log, or end them if they are cut off from the database"
    )
    raise typer.Exit(FAILED)


async def _wait(
    settings: Settings, policies: Mapping[str, int]
) -> tuple[Sequence[ReportedWorker] | None, Sequence[ReportedWorker]]:
    """Return all workers, and those of them that are behind; None without a table of them."""
    token, began_at = secrets.token_hex(8), time.monotonic()
    send_at, is_said = began_at, False
    async with connect(settings.postgres) as connection:
        with console(stderr=True).status("Waiting for the workers …") as status:
            while True:
                try:
                    workers = await reported_workers(connection)
                except asyncpg.UndefinedTableError:
                    return None, ()
                behind = [one for one in workers if not one.has(token, policies)]
                late = sum(one.is_live for one in behind)
                waited = time.monotonic() - began_at
                if not late or waited > WAIT_SECONDS:
                    return workers, behind
                words = f"Waiting for {late} of {counted(len(workers), 'worker')} …"
                status.update(words)
                if waited > SAID_AFTER_SECONDS and not (
                    is_said or console(stderr=True).is_terminal
                ):
                    note(words)
                    is_said = True
                if time.monotonic() >= send_at:
                    await _send(connection, settings, token)
                    send_at = time.monotonic() + RESEND_SECONDS
                await asyncio.sleep(POLL_SECONDS)


async def _send(connection: Connection, settings: Settings, token: str) -> None:
    await connection.execute("SELECT pg_notify($1, $2)", BARRIERS_CHANNEL, token)
    if settings.cache.invalidation.subscribes:
        from sidecar.storage.valkey_keys import (  # noqa: PLC0415 - most workers listen
            ValkeyNotPublishedError,
            publish_barrier,
        )

        with suppress(ValkeyNotPublishedError):  # sent again soon
            await publish_barrier(settings, token)


def _row(worker: ReportedWorker, policies: Mapping[str, int]) -> Row:
    serves = [f"{name} {worker.policies.get(name, 'not loaded')}" for name in policies]
    return {
        "host": worker.host,
        "socket": worker.socket,
        "last_report": f"{worker.silent_seconds:.0f} s ago",
        "serves": serves or "-",
    }
