from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from pydantic import SecretStr

from sidecar.settings import PostgresSettings
from sidecar.storage.postgres_changes import ChangeCallbacks, ChangeListener
from tests.support.postgres import Database


class Heard:
    """What a listener called back, in order."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[str] = asyncio.Queue()
        self.callbacks = ChangeCallbacks(
            on_key=lambda key_id: self.queue.put_nowait(f"key {key_id}"),
            on_flush=lambda: self.queue.put_nowait("flush"),
            on_policies=lambda: self.queue.put_nowait("policies"),
        )

    async def next(self, count: int) -> list[str]:
        """Wait for the next *count* calls."""
        return [await self.queue.get() for _ in range(count)]


@asynccontextmanager
async def listening(settings: PostgresSettings, heard: Heard) -> AsyncIterator[ChangeListener]:
    listener = ChangeListener(settings, heard.callbacks, heartbeat_seconds=0.05)
    running = asyncio.ensure_future(listener.run())
    try:
        yield listener
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def execute(database: Database, statement: str) -> None:
    async with database.server.connect(database.name) as connection:
        await connection.execute(statement)


async def terminate_listener(database: Database) -> None:
    await execute(
        database,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'egret'",
    )


async def test_a_listener_that_starts_says_that_anything_may_have_changed(
    database: Database,
) -> None:
    """What was loaded before it listened may be stale already."""
    heard = Heard()
    async with listening(database.settings, heard) as listener:
        assert await heard.next(2) == ["flush", "policies"]
        assert listener.is_listening
    assert not listener.is_listening


@pytest.mark.parametrize(
    ("channel", "payload", "expected"),
    [
        pytest.param("egret_keys", "AAAAAAAAAAA1", "key AAAAAAAAAAA1", id="one key"),
        pytest.param("egret_keys", "team:team_1", "flush", id="a team"),
        pytest.param("egret_keys", "*", "flush", id="everything"),
        pytest.param("egret_keys", "", "flush", id="nothing we know"),
        pytest.param("egret_policies", "strict", "policies", id="a policy"),
    ],
)
async def test_a_notification_reaches_the_callback_of_its_scope(
    database: Database, channel: str, payload: str, expected: str
) -> None:
    """What is not the id of a key flushes: better too much than too little."""
    heard = Heard()
    async with listening(database.settings, heard):
        await heard.next(2)
        await execute(database, f"SELECT pg_notify('{channel}', '{payload}')")

        assert await heard.next(1) == [expected]


async def test_a_listener_whose_connection_is_ended_listens_again_and_flushes(
    database: Database,
) -> None:
    """Notifications in between were lost, so everything counts as changed; later ones arrive."""
    heard = Heard()
    async with listening(database.settings, heard):
        await heard.next(2)
        await terminate_listener(database)

        assert await heard.next(2) == ["flush", "policies"]
        await execute(database, "SELECT pg_notify('egret_keys', 'AAAAAAAAAAA1')")
        assert await heard.next(1) == ["key AAAAAAAAAAA1"]


async def test_a_listener_keeps_trying_until_its_database_is_there(database: Database) -> None:
    """It starts before the database and listens once it can."""
    heard = Heard()
    async with database.server.connect() as connection:
        await connection.execute(f'ALTER DATABASE "{database.name}" RENAME TO "listen_later"')
        async with listening(database.settings, heard) as listener:
            await asyncio.sleep(0.05)
            assert not listener.is_listening
            await connection.execute(f'ALTER DATABASE "listen_later" RENAME TO "{database.name}"')

            assert await heard.next(2) == ["flush", "policies"]


async def test_a_listener_that_finds_nobody_stays_alive() -> None:
    """A refused connection is retried, not raised."""
    heard = Heard()
    settings = PostgresSettings(dsn=SecretStr("postgresql://egret@127.0.0.1:1/egret"))
    async with listening(settings, heard) as listener:
        await asyncio.sleep(0.25)

        assert (listener.is_listening, heard.queue.empty()) == (False, True)
