from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from sidecar.domain.errors import ErrorKind
from sidecar.domain.principal import KeyRecord
from sidecar.keys.cache import Hit, KeyCache, Miss
from sidecar.keys.credentials import ApiKey, authorize
from sidecar.keys.shared_cache import TwoTierKeys
from sidecar.storage.pool import open_pool
from sidecar.storage.postgres_keys import ChangeCallbacks, ChangeListener, PostgresKeyStore
from tests.support.postgres import Database

KEY = ApiKey(key_id="AAAAAAAAAAA1", secret="a" * 43)
NOW = 1_800_000_000.0


@dataclass(frozen=True)
class Worker:
    """The part of a worker that judges keys, on a clock that stands still."""

    cache: KeyCache
    forgot: asyncio.Event

    async def authorize(self) -> KeyRecord | ErrorKind:
        """Say what a request with the key would get."""
        match self.cache.peek(KEY.key_id, now=0.0):
            case Hit(record):
                return authorize(record, KEY, now=NOW)
            case _:
                loaded = await self.cache.load(KEY.key_id, now=lambda: 0.0)
                return authorize(loaded.record, KEY, now=NOW)


@asynccontextmanager
async def worker(database: Database) -> AsyncIterator[Worker]:
    forgot = asyncio.Event()
    async with open_pool(database.settings) as pool:
        cache = KeyCache(TwoTierKeys(PostgresKeyStore(pool, database.settings)))

        def drop(key_id: str) -> None:
            cache.drop(key_id)
            forgot.set()

        def drop_scope(scope: str) -> None:
            cache.drop_owned(scope.partition(":")[2])
            forgot.set()

        callbacks = ChangeCallbacks(
            on_key=drop,
            on_scope=drop_scope,
            on_listening=forgot.set,
            on_lost=lambda: None,
            on_policies=lambda: None,
        )
        listening = asyncio.ensure_future(ChangeListener(database.settings, callbacks).run())
        await forgot.wait()
        forgot.clear()
        yield Worker(cache, forgot)
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
        await cache.aclose()


async def create_key(database: Database) -> None:
    await database.execute("INSERT INTO organizations (id, name) VALUES ('org_1', 'acme')")
    await database.execute(
        "INSERT INTO teams (id, organization_id, name) VALUES ('team_1', 'org_1', 'search')",
    )
    await database.execute(
        "INSERT INTO api_keys (public_id, secret_sha256, team_id, name)"
        " VALUES ($1, $2, 'team_1', 'laptop')",
        KEY.key_id,
        KEY.secret_sha256,
    )


async def test_a_revocation_ends_a_cached_key_in_every_worker_at_once(database: Database) -> None:
    """Within the time to live, so it is the notification that does it."""
    await create_key(database)
    async with worker(database) as one, worker(database) as other:
        before = [await one.authorize(), await other.authorize()]
        await database.execute("UPDATE api_keys SET revoked_at = now()")
        await one.forgot.wait()
        await other.forgot.wait()

        after = [await one.authorize(), await other.authorize()]

    assert [type(verdict) for verdict in before] == [KeyRecord] * 2
    assert after == [ErrorKind.REVOKED_API_KEY] * 2


async def test_a_key_that_was_unknown_works_as_soon_as_it_is_created(database: Database) -> None:
    """The known unknown is dropped by the new key's notification."""
    async with worker(database) as one:
        before = await one.authorize()
        await create_key(database)
        await one.forgot.wait()

        assert (before, type(await one.authorize())) == (
            ErrorKind.INVALID_API_KEY,
            KeyRecord,
        )


async def test_switching_off_an_organization_ends_its_keys(database: Database) -> None:
    """A change above the key ends every key below it."""
    await create_key(database)
    async with worker(database) as one:
        await one.authorize()
        await database.execute("UPDATE organizations SET enabled = false")
        await one.forgot.wait()

        assert one.cache.peek(KEY.key_id, now=0.0) == Miss()
        assert await one.authorize() == ErrorKind.DISABLED_API_KEY
