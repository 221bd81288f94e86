"""Servers that die or fall silent under load, and what becomes of keys meanwhile and after."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from sidecar.domain.errors import ErrorKind
from sidecar.domain.principal import KeyRecord
from sidecar.domain.report import CacheTier
from sidecar.keys.credentials import ApiKey, generate
from sidecar.keys.ports import KeyStoreUnavailableError
from sidecar.settings.process import Settings
from sidecar.settings.stores import CacheSettings, ValkeySettings
from tests.support.key_worker import KeyWorker, key_settings, key_worker
from tests.support.live_servers import LiveServer, LiveServers, live_servers

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

LOAD_SECONDS = 2.0
"""Several times the time to live, so that every key goes stale."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers() -> AsyncIterator[LiveServers]:
    async with live_servers() as servers:
        await servers.add_team()
        yield servers


@pytest_asyncio.fixture(loop_scope="module")
async def keys(servers: LiveServers) -> list[ApiKey]:
    return [await servers.new_key() for _ in range(20)]


def settings_of(servers: LiveServers, *, database_seconds: float = 0.5) -> Settings:
    return key_settings(
        servers.postgres_settings.model_copy(
            update={"acquire_seconds": database_seconds, "query_seconds": database_seconds}
        ),
        ValkeySettings(url=servers.valkey_url),
        CacheSettings(ttl_seconds=0.3, l2_ttl_seconds=1, negative_ttl_seconds=0.1),
    )


async def load(worker: KeyWorker, keys: list[ApiKey]) -> Counter[str]:
    """Ask for all keys from ten callers for a while; count verdicts, tiers and errors."""
    counted: Counter[str] = Counter()
    end = time.monotonic() + LOAD_SECONDS

    async def ask() -> None:
        while time.monotonic() < end:
            for key in keys:
                try:
                    judged = await worker.authorize(key)
                except KeyStoreUnavailableError:
                    counted["error"] += 1
                else:
                    counted[type(judged.verdict).__name__] += 1
                    counted[judged.tier.value] += 1
            await asyncio.sleep(0.005)

    await asyncio.gather(*(ask() for _ in range(10)))
    return counted


async def until_confirmed(worker: KeyWorker, keys: list[ApiKey]) -> None:
    """Wait until no key is stale any more."""
    while any([(await worker.authorize(key)).tier is CacheTier.STALE for key in keys]):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "break_down",
    [pytest.param(LiveServer.kill, id="killed"), pytest.param(LiveServer.freeze, id="frozen")],
)
@pytest.mark.parametrize(
    "names",
    [("postgres",), ("valkey",), ("postgres", "valkey")],
    ids=["postgres", "valkey", "both"],
)
async def test_keys_in_use_go_on_through_an_outage_and_recover_by_themselves(
    servers: LiveServers,
    keys: list[ApiKey],
    names: tuple[str, ...],
    break_down: Callable[[LiveServer], Awaitable[None]],
) -> None:
    """No error for a key in use, an answer for every other, and a revocation works after it."""
    down: list[LiveServer] = [getattr(servers, name) for name in names]
    # A database that is only busy must not count as one that is away.
    settings = settings_of(servers, database_seconds=0.5 if "postgres" in names else 30.0)
    async with key_worker(settings) as worker:
        for key in keys:
            await worker.authorize(key)
        for server in down:
            await break_down(server)
        try:
            counted, unknown = await asyncio.gather(load(worker, keys), ask_unknown(worker))
        finally:
            for server in down:
                await server.repair()
        repaired_at = time.monotonic()
        async with asyncio.timeout(60):
            await until_confirmed(worker, keys)
            recovered_at = time.monotonic()
            await servers.execute(
                "UPDATE api_keys SET revoked_at = now() WHERE public_id = $1", keys[0].key_id
            )
            await until_revoked(worker, keys[0])
        rest = [(await worker.authorize(key)).verdict for key in keys[1:]]

    print(f"recovered after {recovered_at - repaired_at:.3f} s; {dict(counted)}")  # noqa: T201 - pytest -s
    assert (counted["error"], counted["ErrorKind"]) == (0, 0)
    assert (counted["stale"] > 0) is ("postgres" in names)
    assert unknown == ({"unavailable"} if "postgres" in names else {"invalid_api_key"})
    assert all(isinstance(verdict, KeyRecord) for verdict in rest)


async def ask_unknown(worker: KeyWorker) -> set[str]:
    """Ask for keys that nobody has, and return what their holders are told."""
    told: set[str] = set()
    async with asyncio.timeout(60):
        for _ in range(4):
            try:
                judged = await worker.authorize(generate(secrets.token_bytes))
            except KeyStoreUnavailableError:
                told.add("unavailable")
            else:
                assert isinstance(judged.verdict, ErrorKind)
                told.add(judged.verdict.value)
    return told


async def until_revoked(worker: KeyWorker, key: ApiKey) -> None:
    revoked = ErrorKind.REVOKED_API_KEY
    while (await worker.authorize(key)).verdict != revoked:  # noqa: ASYNC110 - a worker's state
        await asyncio.sleep(0.01)


async def test_a_worker_that_starts_in_an_outage_lives_on_what_others_shared(
    servers: LiveServers, keys: list[ApiKey]
) -> None:
    """It has no record of its own, and the database does not answer."""
    async with key_worker(settings_of(servers)) as one:
        for key in keys:
            await one.authorize(key)
        while one.counted("written") < len(keys):  # noqa: ASYNC110 - a worker's state
            await asyncio.sleep(0.01)
    # Valkey is well: on a slow machine it has time to answer.
    patient = ValkeySettings(url=servers.valkey_url, operation_seconds=10.0)
    settings = settings_of(servers).model_copy(update={"valkey": patient})
    await servers.postgres.kill()
    try:
        async with key_worker(settings, is_fenced=False) as late:
            judged = [await late.authorize(key) for key in keys]
    finally:
        await servers.postgres.start()

    assert [(type(each.verdict), each.tier) for each in judged] == [
        (KeyRecord, CacheTier.STALE)
    ] * len(keys)
