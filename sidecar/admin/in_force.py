"""Publishes changes to workers, and finds out which of them have received one."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from sidecar.settings.process import Settings
from sidecar.storage.migrate import BARRIERS_CHANNEL
from sidecar.storage.pool import Connection, Pool, borrow
from sidecar.storage.worker_status import ReportedWorker, reported_workers

POLL_SECONDS: Final = 0.05
RESEND_SECONDS: Final = 1.0
"""A worker that connects anew receives the next token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Barrier:
    """A token that workers acknowledge once they have every change from before it.

    A worker also has to serve `policies`, by version.
    """

    token: str = field(default_factory=lambda: secrets.token_hex(8))
    policies: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InForce:
    """All workers that reported lately, and those of them that are behind a barrier."""

    workers: Sequence[ReportedWorker]
    behind: Sequence[ReportedWorker]

    @property
    def late(self) -> int:
        """Number of live workers that are behind; the others may be dead."""
        return sum(one.is_live for one in self.behind)


async def in_force(connection: Connection, barrier: Barrier) -> InForce | None:
    """Return the workers that are past *barrier*; None before the table of workers was made."""
    try:
        workers = await reported_workers(connection, policies=barrier.policies)
    except asyncpg.UndefinedTableError:
        return None
    return InForce(
        workers, [one for one in workers if not one.has(barrier.token, barrier.policies)]
    )


class ChangeNotPublishedError(Exception):
    """Valkey did not take the change; workers see it when they read anew, within their TTL."""


async def publish_change(
    settings: Settings, *, keys: Iterable[str], policies: Iterable[str]
) -> None:
    """Publish a committed change to workers that subscribe in Valkey, if the settings say so.

    `keys` are ids of keys, `team:<id>`, `organization:<id>` or `*`; `policies` are names.

    Raises:
        ChangeNotPublishedError: Valkey did not take it.
    """
    if not settings.cache.invalidation.subscribes:
        return
    # Here, since most commands need not wait for the import of a Valkey client.
    from sidecar.storage.valkey_keys import (  # noqa: PLC0415
        ValkeyNotPublishedError,
        publish_key_change,
        publish_policy_change,
    )

    try:
        await publish_key_change(settings, *keys)
        await publish_policy_change(settings, *policies)
    except ValkeyNotPublishedError as error:
        raise ChangeNotPublishedError(str(error)) from error


async def notify_barrier(connection: Connection, barrier: Barrier) -> None:
    """Send the token to workers that listen; within a transaction, at its end."""
    await connection.execute("SELECT pg_notify($1, $2)", BARRIERS_CHANNEL, barrier.token)


async def send_barrier(connection: Connection, settings: Settings, barrier: Barrier) -> None:
    """Send the token to every worker, by the channels that the settings name."""
    await notify_barrier(connection, barrier)
    if settings.cache.invalidation.subscribes:
        from sidecar.storage.valkey_keys import (  # noqa: PLC0415 - most workers listen
            ValkeyNotPublishedError,
            publish_barrier,
        )

        with suppress(ValkeyNotPublishedError):  # sent again soon
            await publish_barrier(settings, barrier.token)


async def wait_in_force(
    pool: Pool, settings: Settings, barrier: Barrier, *, seconds: float
) -> InForce | None:
    """Wait until no live worker is behind *barrier*, or *seconds* are over."""
    ends_at = time.monotonic() + seconds
    send_at = time.monotonic()
    while True:
        async with borrow(pool, settings.postgres) as connection:
            if time.monotonic() >= send_at:
                await send_barrier(connection, settings, barrier)
                send_at = time.monotonic() + RESEND_SECONDS
            state = await in_force(connection, barrier)
        if state is None or not state.late or time.monotonic() >= ends_at:
            return state
        await asyncio.sleep(POLL_SECONDS)
