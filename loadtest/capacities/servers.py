"""What CPU time an operation of Egret's takes in PostgreSQL and in Valkey, measured here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import psutil
import redis.asyncio
from egret_tools.devstack.run_directory import RunDirectory

from loadtest.figures import per_request_us
from loadtest.keys.stack import (
    KeyServers,
    bench_caches,
    import_bench_keys,
    key_ids,
    running_key_servers,
    until_shared,
)
from loadtest.limits.child import PRINCIPAL, bench_limit, bench_limiter, claims
from sidecar.domain.usage import AnswerEnd, DecisionKind, JudgedRequest, TokenCounts, UsageRecord
from sidecar.storage.pool import open_pool
from sidecar.storage.usage_store import PostgresUsage
from sidecar.usage.prices import PriceList
from sidecar.worker.keys import WorkerKeys

KEYS: Final = 5_000
BATCHES: Final = 40
ROWS: Final = 1_000
"""Of a batch: what a worker of a thousand requests a second brings each second."""
TAKES: Final = 5_000
AT_ONCE: Final = 16
SETTLE_SECONDS: Final = 0.5
"""What was loaded goes into the shared cache beside its answer."""
PLENTY: Final = 10**9


@dataclass(frozen=True, slots=True)
class ServerCosts:
    """Microseconds of the server's CPU."""

    usage_row: float
    key_load: float
    shared_key: float
    limit_call: float


async def server_costs(run: RunDirectory) -> ServerCosts:
    """Start both servers and measure.

    Raises:
        PartError: one does not come up.
    """
    async with running_key_servers(run) as servers:
        ids = key_ids(KEYS)
        await import_bench_keys(servers, ids, on_written=lambda _: None)
        postmaster = run.path / "postgres" / "data" / "postmaster.pid"
        postgres = psutil.Process(int(postmaster.read_text().split()[0]))
        usage_row = await _usage_row(servers, postgres)
        valkey = redis.asyncio.Redis.from_url(servers.valkey_url)
        try:
            key_load, shared_key = await _keys(servers, ids, postgres, valkey)
            limit_call = await _limit_call(servers.valkey_url, valkey)
        finally:
            await valkey.aclose()
    return ServerCosts(usage_row, key_load, shared_key, limit_call)


async def _usage_row(servers: KeyServers, postgres: psutil.Process) -> float:
    settings = servers.settings()
    async with open_pool(settings.postgres) as pool:
        usage = PostgresUsage(pool, settings.postgres, batch_seconds=30)
        await usage.add(_records(0), PriceList())
        before = _seconds(postgres)
        for batch in range(1, BATCHES + 1):
            added = await usage.add(_records(batch), PriceList())
            assert added == ROWS  # noqa: S101 - else it is not rows that were measured
        return per_request_us(_seconds(postgres) - before, BATCHES * ROWS)


async def _keys(
    servers: KeyServers,
    ids: Sequence[str],
    postgres: psutil.Process,
    valkey: redis.asyncio.Redis,
) -> tuple[float, float]:
    """Return what it takes PostgreSQL and Valkey to have a key looked up."""
    async with bench_caches(servers.settings()) as keys:
        await until_shared(keys, ids[0])
        before = _seconds(postgres)
        await _load_all(keys, ids)
        key_load = per_request_us(_seconds(postgres) - before, len(ids))
        await asyncio.sleep(SETTLE_SECONDS)
        keys.cache.flush()
        before = await _valkey_seconds(valkey)
        await _load_all(keys, ids)
        return key_load, per_request_us(await _valkey_seconds(valkey) - before, len(ids))


async def _load_all(keys: WorkerKeys, ids: Sequence[str]) -> None:
    left = iter(ids)

    async def load() -> None:
        for key_id in left:
            await keys.cache.load(key_id, now=time.monotonic)

    await asyncio.gather(*(load() for _ in range(AT_ONCE)))


async def _limit_call(valkey_url: str, valkey: redis.asyncio.Redis) -> float:
    async with bench_limiter(valkey_url.removeprefix("unix://")) as limiter:
        before = await _valkey_seconds(valkey)
        for number in range(TAKES):
            # Of a limit that nobody has asked for yet nothing is held ahead: it takes a call.
            limit = replace(bench_limit(PLENTY, PLENTY), id=f"call_{number}")
            outcome = limiter.take(PRINCIPAL, claims(limit), member="r")
            assert isinstance(outcome, Awaitable)  # noqa: S101 - else it is no call that was measured
            await outcome
        return per_request_us(await _valkey_seconds(valkey) - before, TAKES)


async def _valkey_seconds(valkey: redis.asyncio.Redis) -> float:
    used = await valkey.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def _seconds(server: psutil.Process) -> float:
    """Return CPU time of a server and of all its processes; those that have ended are its own."""
    times = [one.cpu_times() for one in (server, *server.children(recursive=True))]
    own = server.cpu_times()
    return sum(one.user + one.system for one in times) + own.children_user + own.children_system


def _records(batch: int) -> list[UsageRecord]:
    now = datetime.now(UTC)
    return [
        UsageRecord(
            request=JudgedRequest(
                request_id=f"request-{batch}-{number}",
                occurred_at=now,
                key_id="AAAAAAAAAAA1",
                team_id=f"team_{number % 100}",
                organization_id="org_1",
                decision=DecisionKind.ALLOW,
                operation="chat",
                provider="openai",
                model="gpt-4o",
            ),
            status=200,
            end=AnswerEnd.COMPLETED,
            tokens=TokenCounts(input=200, output=100),
            is_estimated=False,
            response_model="gpt-4o-2024-08-06",
            provider_request_id=f"req-{batch}-{number}",
            latency_seconds=0.8,
        )
        for number in range(ROWS)
    ]
