"""Looks at Valkey: reachable, a primary, clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from redis.asyncio import RedisCluster

from sidecar.settings.stores import ValkeySettings
from sidecar.storage.checkup import Checked, clock, failed, ok, skipped
from sidecar.storage.valkey import VALKEY_UNAVAILABLE, Client, open_valkey

CONNECTION: Final = "valkey connection"
CLOCK: Final = "valkey clock"
_SECONDS: Final = 3.0
"""Far more than a worker waits: here the question is whether there is an answer at all."""


async def check_valkey(
    settings: ValkeySettings, *, wall: Callable[[], float] = time.time
) -> tuple[Checked, ...]:
    """Look at the server that the settings name; without one there is nothing to look at."""
    if settings.url is None:
        why = "no EGRET_VALKEY__URL is set"
        return skipped(CONNECTION, why), skipped(CLOCK, why)
    patient = settings.model_copy(update={"operation_seconds": _SECONDS})
    try:
        async with asyncio.timeout(3 * _SECONDS), open_valkey(patient) as client:
            return await _check(client, wall=wall)
    except VALKEY_UNAVAILABLE as error:
        # Not what it says: for a URL that cannot be read that may be a password.
        broken = failed(
            CONNECTION,
            f"no answer ({type(error).__name__})",
            mend="check that Valkey runs, user and host in EGRET_VALKEY__URL, and the password",
        )
        return broken, skipped(CLOCK, f"waits for {CONNECTION}")


async def _check(client: Client, *, wall: Callable[[], float]) -> tuple[Checked, ...]:
    server = await _run(client, "INFO", "server")
    replication = await _run(client, "INFO", "replication")
    sent = wall()
    seconds, micros = await _run(client, "TIME")
    clocks = clock(CLOCK, server=seconds + micros / 1e6, sent=sent, received=wall())
    found = f"Valkey {server.get('valkey_version') or server.get('redis_version')}"
    if replication.get("role") != "master":
        mend = "name the primary in EGRET_VALKEY__URL, or use Sentinel"
        return failed(CONNECTION, f"{found}, a replica", mend=mend), clocks
    return ok(CONNECTION, found), clocks


async def _run(client: Client, *command: str) -> Any:
    execute: Callable[..., Awaitable[Any]] = client.execute_command
    if isinstance(client, RedisCluster):
        await client.initialize()
        return await execute(*command, target_nodes=client.get_default_node())
    return await execute(*command)
