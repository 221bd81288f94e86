from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from pydantic import SecretStr

from sidecar.settings.stores import PostgresSettings
from sidecar.storage.postgres_keys import ChangeCallbacks, ChangeListener
from tests.support.postgres import Database

OWNER_AND_KEY = """
INSERT INTO organizations (id, name) VALUES ('org_1', 'acme');
INSERT INTO teams (id, organization_id, name) VALUES ('team_1', 'org_1', 'search');
INSERT INTO api_keys (public_id, secret_sha256, team_id, name)
    VALUES ('AAAAAAAAAAA1', sha256('secret'), 'team_1', 'laptop')
"""


class Heard:
    """What a listener called back, in order."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[str] = asyncio.Queue()
        self.callbacks = ChangeCallbacks(
            on_key=lambda key_id: self.queue.put_nowait(f"key {key_id}"),
            on_scope=lambda scope: self.queue.put_nowait(f"scope {scope}"),
            on_listening=lambda: self.queue.put_nowait("listening"),
            on_lost=lambda: self.queue.put_nowait("lost"),
            on_policies=lambda: self.queue.put_nowait("policies"),
        )

    async def next(self, count: int) -> list[str]:
        """Wait for the next *count* calls."""
        return [await self.queue.get() for _ in range(count)]


@asynccontextmanager
async def listening(settings: PostgresSettings, heard: Heard) -> AsyncIterator[ChangeListener]:
    listener = ChangeListener(settings, heard.callbacks, heartbeat_seconds=0.05)
    async with running(listener):
        yield listener


@asynccontextmanager
async def running(listener: ChangeListener) -> AsyncIterator[None]:
    task = asyncio.ensure_future(listener.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def terminate_listener(database: Database) -> None:
    await database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'egret'",
    )


async def test_a_listener_that_starts_says_that_anything_may_have_changed(
    database: Database,
) -> None:
    """What was loaded before it listened may be stale already."""
    heard = Heard()
    async with listening(database.settings, heard) as listener:
        assert await heard.next(2) == ["listening", "policies"]
        assert listener.is_listening
    assert not listener.is_listening


@pytest.mark.parametrize(
    ("channel", "payload", "expected"),
    [
        pytest.param("egret_keys", "AAAAAAAAAAA1", "key AAAAAAAAAAA1", id="one key"),
        pytest.param(
            "egret_keys", "AAAAAAAAAAA1,1795577304749208", "key AAAAAAAAAAA1", id="timed"
        ),
        pytest.param(
            "egret_keys", "AAAAAAAAAAA1,-1 ,2", "key AAAAAAAAAAA1", id="a time that is none"
        ),
        pytest.param("egret_keys", "team:team_1", "scope team:team_1", id="a team"),
        pytest.param(
            "egret_keys", "team:team_1,1795577304749208", "scope team:team_1", id="a team, timed"
        ),
        pytest.param("egret_keys", "*", "scope *", id="everything"),
        pytest.param("egret_keys", "", "scope ", id="nothing we know"),
        pytest.param("egret_policies", "strict", "policies", id="a policy"),
    ],
)
async def test_a_notification_reaches_the_callback_of_its_scope(
    database: Database, channel: str, payload: str, expected: str
) -> None:
    """What is not the id of a key is a scope, whether it means something or not."""
    heard = Heard()
    async with listening(database.settings, heard):
        await heard.next(2)
        await database.execute(f"SELECT pg_notify('{channel}', '{payload}')")

        assert await heard.next(1) == [expected]


async def test_a_listener_whose_connection_is_ended_listens_again_and_says_so(
    database: Database,
) -> None:
    """Notifications in between were lost, so everything counts as changed; later ones arrive."""
    heard = Heard()
    async with listening(database.settings, heard):
        await heard.next(2)
        await terminate_listener(database)

        assert await heard.next(3) == ["lost", "listening", "policies"]
        await database.execute("SELECT pg_notify('egret_keys', 'AAAAAAAAAAA1')")
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

            assert await heard.next(2) == ["listening", "policies"]


async def test_a_listener_that_finds_nobody_stays_alive() -> None:
    """A refused connection is retried, not raised."""
    heard = Heard()
    settings = PostgresSettings(dsn=SecretStr("postgresql://egret@127.0.0.1:1/egret"))
    async with listening(settings, heard) as listener:
        await asyncio.sleep(0.25)

        assert (listener.is_listening, heard.queue.empty()) == (False, True)


@pytest.mark.parametrize(
    ("payload", "clock", "expected"),
    [
        pytest.param("AAAAAAAAAAA1,1500000", 1.75, [0.25], id="a key"),
        pytest.param("team:team_1,1500000", 1.75, [0.25], id="a team"),
        pytest.param("*,1500000", 1.25, [0.0], id="by a clock that is ahead of ours"),
        pytest.param("AAAAAAAAAAA1", 1.75, [], id="without a time"),
        pytest.param("AAAAAAAAAAA1,soon", 1.75, [], id="with a time that is none"),
        pytest.param("AAAAAAAAAAA1," + "9" * 5000, 1.75, [], id="with a time past all calendars"),
    ],
)
async def test_how_long_a_change_took_to_be_heard_is_told(
    database: Database, payload: str, clock: float, expected: list[float]
) -> None:
    """After what it changes was dropped, in seconds, and never less than none."""
    heard = Heard()
    told: list[float] = []
    callbacks = dataclasses.replace(heard.callbacks, on_latency=told.append)
    listener = ChangeListener(database.settings, callbacks, wall=lambda: clock)
    async with running(listener):
        await heard.next(2)
        await database.execute(f"SELECT pg_notify('egret_keys', '{payload}')")
        await heard.next(1)

    assert told == expected


async def test_a_revocation_tells_when_it_was_made(database: Database) -> None:
    """The trigger's time is the database's own clock, within the statement."""
    heard = Heard()
    told: list[float] = []
    callbacks = dataclasses.replace(heard.callbacks, on_latency=told.append)
    await database.execute(OWNER_AND_KEY)
    listener = ChangeListener(database.settings, callbacks)
    async with running(listener):
        await heard.next(2)
        before = time.time()
        await database.execute("UPDATE api_keys SET revoked_at = now()")

        assert await heard.next(1) == ["key AAAAAAAAAAA1"]
        await asyncio.sleep(0)
        assert [0 <= seconds <= time.time() - before for seconds in told] == [True]
