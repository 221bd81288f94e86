"""Both caches on real servers: what a look-up costs, and how a change ends it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from sidecar.domain.errors import ErrorKind
from sidecar.domain.principal import KeyRecord
from sidecar.domain.report import CacheTier
from sidecar.keys.credentials import ApiKey
from sidecar.settings.process import Settings
from sidecar.settings.stores import CacheSettings, Invalidation, ValkeySettings
from sidecar.storage.valkey_keys import publish_key_change
from tests.support.key_worker import KeyWorker, key_settings, key_worker
from tests.support.live_servers import LiveServers, live_servers

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

REVOKED = ErrorKind.REVOKED_API_KEY


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers() -> AsyncIterator[LiveServers]:
    async with live_servers() as servers:
        await servers.add_team()
        yield servers


@pytest_asyncio.fixture(loop_scope="module")
async def key(servers: LiveServers) -> ApiKey:
    return await servers.new_key()


async def revoke(servers: LiveServers, key: ApiKey) -> None:
    await servers.execute(
        "UPDATE api_keys SET revoked_at = now() WHERE public_id = $1", key.key_id
    )


def settings_of(servers: LiveServers, cache: CacheSettings | None = None) -> Settings:
    return key_settings(
        servers.postgres_settings,
        ValkeySettings(url=servers.valkey_url, operation_seconds=5),
        cache,
    )


async def until_shared(servers: LiveServers, key: ApiKey) -> None:
    async with Redis.from_url(servers.valkey_url.get_secret_value()) as client:
        while not await client.exists(f"egret:key:v3:{key.key_id}"):  # noqa: ASYNC110 - Valkey's state
            await asyncio.sleep(0.01)


async def stored(client: Redis, key: ApiKey) -> bytes:
    value = await client.get(f"egret:key:v3:{key.key_id}")
    assert isinstance(value, bytes)
    return value


async def until_written(worker: KeyWorker) -> None:
    while worker.counted("written") == 0:  # noqa: ASYNC110 - another process counts nothing
        await asyncio.sleep(0.01)


async def until_refused(
    worker: KeyWorker, key: ApiKey, *, kind: ErrorKind = ErrorKind.REVOKED_API_KEY
) -> None:
    while (await worker.authorize(key)).verdict != kind:  # noqa: ASYNC110 - a worker's state
        await asyncio.sleep(0.01)


async def test_a_hit_costs_no_statement_and_a_miss_costs_one(
    servers: LiveServers, key: ApiKey
) -> None:
    """By the database's own count; the second worker finds the first one's record."""
    async with key_worker(settings_of(servers)) as one, key_worker(settings_of(servers)) as other:
        before = await servers.key_statements()
        miss = (await one.authorize(key)).tier
        after_miss = await servers.key_statements()
        await until_shared(servers, key)
        hits = [(await one.authorize(key)).tier for _ in range(100)]
        shared = [(await other.authorize(key)).tier for _ in range(2)]
        after_hits = await servers.key_statements()

    assert (miss, hits, shared) == (
        CacheTier.STORE,
        [CacheTier.L1] * 100,
        [CacheTier.L2, CacheTier.L1],
    )
    assert (after_miss - before, after_hits - after_miss) == (1, 0)


async def test_a_thousand_misses_of_one_key_at_once_cost_one_statement(
    servers: LiveServers, key: ApiKey
) -> None:
    """A burst on a cold key is one load, over both tiers."""
    async with key_worker(settings_of(servers)) as worker:
        before = await servers.key_statements()
        judged = await asyncio.gather(*(worker.authorize(key) for _ in range(1000)))
        asked = (worker.counted("miss"), await servers.key_statements() - before)

    assert all(isinstance(each.verdict, KeyRecord) for each in judged)
    assert asked == (1, 1)


async def test_a_worker_costs_the_database_nothing_but_its_misses(
    servers: LiveServers, key: ApiKey
) -> None:
    """All that `pg_stat_statements` has of its login: one a miss, none a hit, one for a thousand.

    Whatever else a worker might run for them would be counted as well.
    """
    role = f"counted_{key.key_id.lower()}"
    await servers.execute(f"CREATE ROLE {role} LOGIN IN ROLE egret_sidecar")
    settings = settings_of(servers).model_copy(update={"postgres": servers.login(role)})
    others = [await servers.new_key() for _ in range(3)]
    async with key_worker(settings) as worker:
        await worker.authorize(others[0])  # connections are set up and statements prepared
        counts = [await servers.statements_of(role)]
        await worker.authorize(key)
        counts.append(await servers.statements_of(role))
        for _ in range(1000):
            await worker.authorize(key)
        counts.append(await servers.statements_of(role))
        await asyncio.gather(*(worker.authorize(others[1]) for _ in range(1000)))
        counts.append(await servers.statements_of(role))

    miss, hits, together = (after - before for before, after in itertools.pairwise(counts))
    assert (miss.total(), hits.total(), together.total()) == (1, 0, 1)
    assert list(miss) == list(together)
    assert "WHERE k.public_id = $1" in next(iter(miss))


async def test_a_revoked_key_ends_in_both_caches_of_every_worker(
    servers: LiveServers, key: ApiKey
) -> None:
    """Nobody restarts anything, and the shared record is gone as well."""
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(key_worker(settings_of(servers))) for _ in range(3)
        ]
        before = [type((await worker.authorize(key)).verdict) for worker in workers]
        await until_shared(servers, key)

        await revoke(servers, key)
        async with asyncio.timeout(60):
            for worker in workers:
                await until_refused(worker, key)

        took = [
            worker.registry.get_sample_value("egret_revocation_seconds_count")
            for worker in workers
        ]
    assert before == [KeyRecord] * 3
    assert took == [1.0] * 3


async def test_a_record_that_is_put_back_after_a_revocation_is_not_believed(
    servers: LiveServers, key: ApiKey
) -> None:
    """Authentic, but from before what this worker has heard of."""
    name = f"egret:key:v3:{key.key_id}"
    async with (
        key_worker(settings_of(servers)) as one,
        Redis.from_url(servers.valkey_url.get_secret_value()) as client,
    ):
        await one.authorize(key)
        await until_shared(servers, key)
        old = await stored(client, key)
        await revoke(servers, key)
        await until_refused(one, key)
        await client.set(name, old)
        one.keys.cache.flush()

        async with key_worker(settings_of(servers)) as late:
            judged = [await one.authorize(key), await late.authorize(key)]

    assert [each.verdict for each in judged] == [REVOKED] * 2


async def test_a_worker_that_starts_takes_what_is_shared_and_newer_than_the_last_change(
    servers: LiveServers, key: ApiKey
) -> None:
    """Without a statement, though it cannot know what it missed: the database told it."""
    async with key_worker(settings_of(servers)) as one:
        await one.authorize(key)
        await until_shared(servers, key)
        before = await servers.key_statements()
        async with key_worker(settings_of(servers)) as late:
            judged = await late.authorize(key)
        asked = await servers.key_statements() - before

    assert (type(judged.verdict), judged.tier, asked) == (KeyRecord, CacheTier.L2, 0)


async def test_a_worker_that_starts_believes_no_record_that_a_change_was_under_way_for(
    servers: LiveServers, key: ApiKey
) -> None:
    """Read after the change had its id and before its commit, with later ids long gone by."""
    async with key_worker(settings_of(servers)) as one:
        async with servers.transaction() as revoking:
            await revoking.execute(
                "UPDATE api_keys SET revoked_at = now() WHERE public_id = $1", key.key_id
            )
            other = await servers.new_key()
            before = await one.authorize(key)
            await until_shared(servers, key)
            async with Redis.from_url(servers.valkey_url.get_secret_value()) as client:
                record = await stored(client, key)
        await until_refused(one, key)
        async with Redis.from_url(servers.valkey_url.get_secret_value()) as client:
            await client.set(f"egret:key:v3:{key.key_id}", record)
        async with key_worker(settings_of(servers)) as late:
            judged = await late.authorize(key)
            others = await late.authorize(other)

    assert (type(before.verdict), judged.verdict) == (KeyRecord, REVOKED)
    assert isinstance(others.verdict, KeyRecord)


def _truncated(value: bytes) -> bytes:
    return value[:-1]


def _altered(value: bytes) -> bytes:
    return value[:-1] + bytes((value[-1] ^ 1,))


def _newer(value: bytes) -> bytes:
    return b"\x04" + value[1:]


@pytest.mark.parametrize(
    ("spoil", "outcome"),
    [
        pytest.param(_truncated, "unauthentic", id="truncated"),
        pytest.param(_altered, "unauthentic", id="altered"),
        pytest.param(lambda _value: b"", "unauthentic", id="empty"),
        pytest.param(lambda _value: b"\x03{}" + b"x" * 20_000, "unauthentic", id="huge"),
        pytest.param(_newer, "newer", id="from a newer version"),
    ],
)
async def test_a_poisoned_record_is_counted_and_loaded_anew(
    servers: LiveServers, key: ApiKey, spoil: object, outcome: str
) -> None:
    """And written over: the next worker finds a good one."""
    assert callable(spoil)
    name = f"egret:key:v3:{key.key_id}"
    async with (
        key_worker(settings_of(servers)) as one,
        key_worker(settings_of(servers)) as other,
        Redis.from_url(servers.valkey_url.get_secret_value()) as client,
    ):
        await one.authorize(key)
        await until_shared(servers, key)
        await client.set(name, spoil(await stored(client, key)))

        judged = await other.authorize(key)
        await until_written(other)
        one.keys.cache.flush()

        assert (type(judged.verdict), judged.tier) == (KeyRecord, CacheTier.STORE)
        assert other.counted(outcome) == 1
        assert (await stored(client, key))[:1] == b"\x03"


async def test_another_keys_record_is_not_believed(servers: LiveServers, key: ApiKey) -> None:
    """Whoever can write to Valkey cannot lend one key the rights of another."""
    other_key = await servers.new_key()
    async with (
        key_worker(settings_of(servers)) as one,
        key_worker(settings_of(servers)) as other,
        Redis.from_url(servers.valkey_url.get_secret_value()) as client,
    ):
        await one.authorize(key)
        await until_shared(servers, key)
        record = await stored(client, key)
        await client.set(f"egret:key:v3:{other_key.key_id}", record)

        judged = await other.authorize(other_key)

    assert (type(judged.verdict), judged.tier) == (KeyRecord, CacheTier.STORE)
    assert other.counted("unauthentic") == 1


async def test_a_published_change_ends_a_key_where_nobody_can_listen(
    servers: LiveServers, key: ApiKey
) -> None:
    """With `pubsub` alone no connection LISTENs; the revoking command publishes."""
    settings = settings_of(servers, CacheSettings(invalidation=Invalidation.PUBSUB))
    async with key_worker(settings) as one, key_worker(settings) as other:
        before = [type((await worker.authorize(key)).verdict) for worker in (one, other)]
        await revoke(servers, key)
        unheard = (await one.authorize(key)).tier

        await publish_key_change(settings, key.key_id)
        async with asyncio.timeout(60):
            for worker in (one, other):
                await until_refused(worker, key)

    assert (before, unheard) == ([KeyRecord] * 2, CacheTier.L1)


async def test_a_team_that_is_switched_off_ends_its_shared_records(servers: LiveServers) -> None:
    """The notification names the team; no record of its keys is believed any more."""
    await servers.execute(
        "INSERT INTO teams (id, organization_id, name) VALUES ('team_2', 'org_1', 'ads')"
    )
    key = await servers.new_key()
    await servers.execute(
        "UPDATE api_keys SET team_id = 'team_2' WHERE public_id = $1", key.key_id
    )
    async with key_worker(settings_of(servers)) as worker:
        before = (await worker.authorize(key)).verdict
        await until_shared(servers, key)
        await servers.execute("UPDATE teams SET enabled = false WHERE id = 'team_2'")
        async with asyncio.timeout(60):
            await until_refused(worker, key, kind=ErrorKind.DISABLED_API_KEY)
        after = (await worker.authorize(key)).verdict

    assert (type(before), after) == (KeyRecord, ErrorKind.DISABLED_API_KEY)
    assert worker.owners == ["team:team_2"]
