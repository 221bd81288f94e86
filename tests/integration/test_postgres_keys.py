from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import SecretStr

from sidecar.domain.limits import Level
from sidecar.domain.principal import KeyRecord, PolicyBinding, Principal
from sidecar.keys.ports import KeyStoreUnavailableError, KeyUnreadableError
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import Connection, open_pool
from sidecar.storage.postgres_keys import PostgresKeyStore
from tests.support.postgres import Database

KEY_ID = "AAAAAAAAAAA1"
DIGEST = hashlib.sha256(b"secret").digest()

FULL = """
INSERT INTO policies (name, version) VALUES ('strict', 1), ('house', 1), ('own', 1);
INSERT INTO policy_versions (policy_name, version, document)
    VALUES ('strict', 1, ''), ('house', 1, ''), ('own', 1, '');
INSERT INTO organizations (id, name, enabled, allowed_models, policy_name)
    VALUES ('org_1', 'acme', true, '{gpt-*}', 'house');
INSERT INTO teams (id, organization_id, name, enabled, policy_name)
    VALUES ('team_1', 'org_1', 'search', false, 'strict');
INSERT INTO api_keys (public_id, secret_sha256, team_id, name, not_before, expires_at, revoked_at,
                      policy_name, allowed_operations, allowed_sources, tags)
    VALUES ('AAAAAAAAAAA1', sha256('secret'), 'team_1', 'laptop', '2026-01-01T00:00:00Z',
            '2026-01-01T00:00:01.5Z', '2026-01-01T00:00:02Z', 'own', '{chat}',
            '{192.0.2.0/24,2001:db8::/32}', '{env=prod}');
"""

OWNERS = (("team_1", "org_1"), ("team_2", "org_1"), ("team_1", "org_2"))


async def load(database: Database, key_id: str = KEY_ID) -> KeyRecord | None:
    async with open_pool(database.settings) as pool:
        return await PostgresKeyStore(pool, database.settings).load(key_id)


async def test_a_record_holds_all_that_authorization_needs(database: Database) -> None:
    """Owner, digest, switches and policies of every level, times as seconds since the epoch."""
    await database.execute(FULL)

    assert await load(database) == KeyRecord(
        principal=Principal(
            key_id=KEY_ID,
            team_id="team_1",
            team_name="search",
            organization_id="org_1",
            organization_name="acme",
        ),
        secret_sha256=DIGEST,
        enabled=True,
        team_enabled=False,
        organization_enabled=True,
        not_before=1767225600.0,
        expires_at=1767225601.5,
        revoked_at=1767225602.0,
        allowed_models=("gpt-*",),
        policies=PolicyBinding(key="own", team="strict", organization="house"),
        allowed_operations=("chat",),
        allowed_sources=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")),
    )


@pytest.mark.parametrize(
    ("key", "team", "organization", "expected"),
    [
        pytest.param(None, None, None, None, id="none sets any"),
        pytest.param(None, None, ["o"], ("o",), id="organization"),
        pytest.param(None, ["t"], ["o"], ("t",), id="team before organization"),
        pytest.param(["k", "l"], ["t"], ["o"], ("k", "l"), id="key before all"),
        pytest.param([], ["t"], ["o"], (), id="an empty list is a list"),
    ],
)
async def test_the_nearest_level_that_lists_models_decides(
    database: Database,
    key: list[str] | None,
    team: list[str] | None,
    organization: list[str] | None,
    expected: tuple[str, ...] | None,
) -> None:
    """Models resolve key, then team, then organization."""
    await database.execute(FULL)
    await database.execute("UPDATE api_keys SET allowed_models = $1", key)
    await database.execute("UPDATE teams SET allowed_models = $1", team)
    await database.execute("UPDATE organizations SET allowed_models = $1", organization)

    record = await load(database)

    assert record is not None
    assert record.allowed_models == expected


async def test_an_unknown_key_has_no_record(database: Database) -> None:
    """Not there is an answer, not a failure."""
    assert await load(database) is None


async def test_a_load_costs_one_statement(database: Database) -> None:
    """By the server's own log, a pooled connection runs one statement a load and no other."""
    await database.execute(FULL)
    await database.execute(f"ALTER DATABASE \"{database.name}\" SET log_statement = 'all'")
    settings = database.settings.model_copy(update={"pool_size": 1})

    async with open_pool(settings) as pool:
        store = PostgresKeyStore(pool, settings)
        for _ in range(3):
            await store.load(KEY_ID)
        pid = (await backends(database))[0]

    assert statements_logged(database.server.log_file, pid) == ["FROM api_keys AS k"] * 3


async def backends(database: Database) -> list[int]:
    async with database.server.connect() as connection:
        rows = await connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = $1", database.name
        )
    return [row["pid"] for row in rows]


def statements_logged(log_file: Path, pid: int) -> list[str]:
    """Every statement that backend *pid* ran, the known one cut down to its FROM clause."""
    ran: list[str] = []
    is_ours = False
    for line in log_file.read_text().splitlines():
        if line.startswith("20"):
            is_ours = f"[{pid}]" in line
            is_statement = "LOG:  statement: " in line or "LOG:  execute " in line
            if is_ours and is_statement:
                ran.append(line)
        elif is_ours and ran and line.strip().startswith("FROM api_keys"):
            ran[-1] = line.strip()
    return ran


async def test_a_store_starts_without_its_database_and_recovers(database: Database) -> None:
    """Unreachable at start is «unavailable»; once it is there the same pool answers."""
    await database.execute(FULL)
    async with database.server.connect() as connection:
        await connection.execute(f'ALTER DATABASE "{database.name}" RENAME TO "not_yet"')
        async with open_pool(database.settings) as pool:
            store = PostgresKeyStore(pool, database.settings)
            with pytest.raises(KeyStoreUnavailableError):
                await store.load(KEY_ID)
            await connection.execute(f'ALTER DATABASE "not_yet" RENAME TO "{database.name}"')

            assert await store.load(KEY_ID) is not None


async def test_a_store_survives_the_death_of_its_connections(database: Database) -> None:
    """A server restart ends idle connections; the next load opens another and succeeds."""
    await database.execute(FULL)
    async with open_pool(database.settings) as pool:
        store = PostgresKeyStore(pool, database.settings)
        async with asyncio.TaskGroup() as loads:
            for _ in range(database.settings.pool_size):
                loads.create_task(store.load(KEY_ID))
        await terminate_backends(database)

        assert await store.load(KEY_ID) is not None


async def terminate_backends(database: Database) -> None:
    async with database.server.connect() as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1",
            database.name,
        )


async def test_a_pool_closes_whenever_the_server_ends_its_connection(database: Database) -> None:
    """In one of these turns of the loop the farewell meets a pipe that has just been broken."""
    loop = asyncio.get_running_loop()

    def end(process: int, turns: int) -> None:
        if turns:
            loop.call_soon(end, process, turns - 1)
            return
        os.kill(process, signal.SIGTERM)
        while os.path.exists(f"/proc/{process}"):  # noqa: PTH110
            time.sleep(0.001)

    for turns in range(8):
        async with open_pool(database.settings) as pool:
            async with pool.acquire() as connection:
                process = connection.get_server_pid()
            loop.call_soon(end, process, turns)


@pytest.mark.parametrize(
    "dsn",
    [
        pytest.param("postgresql://egret:hunter2@127.0.0.1:1/egret", id="nobody listens"),
        pytest.param("postgresql://egret:hunter2@/egret?host=/nonexistent", id="no socket"),
    ],
)
async def test_an_unreachable_store_says_so_and_no_more(dsn: str) -> None:
    """The error that leaves storage holds no password and no key id."""
    settings = PostgresSettings(dsn=SecretStr(dsn))
    async with open_pool(settings) as pool:
        with pytest.raises(KeyStoreUnavailableError) as caught:
            await PostgresKeyStore(pool, settings).load(KEY_ID)

    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert KEY_ID not in f"{caught.value!r} {caught.value.__cause__!r}"


async def test_a_query_that_hangs_ends_with_its_budget(database: Database) -> None:
    """A table locked by someone's schema change makes the key unavailable, not the worker."""
    await database.execute(FULL)
    settings = database.settings.model_copy(update={"query_seconds": 0.2})
    async with database.connect() as connection, connection.transaction():
        await connection.execute("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE")
        async with open_pool(settings) as pool:
            with pytest.raises(KeyStoreUnavailableError):
                await PostgresKeyStore(pool, settings).load(KEY_ID)


async def test_a_query_that_the_server_cancels_is_not_sent_again(database: Database) -> None:
    """Its connection is alive, and the next one would wait until `statement_timeout` as well."""
    await database.execute(FULL)
    await database.execute(f"ALTER DATABASE \"{database.name}\" SET statement_timeout = '50ms'")
    cancelled = "canceling statement due to statement timeout"
    before = database.server.log_file.read_text().count(cancelled)
    async with database.connect() as connection, connection.transaction():
        await connection.execute("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE")
        async with open_pool(database.settings) as pool:
            with pytest.raises(KeyStoreUnavailableError):
                await PostgresKeyStore(pool, database.settings).load(KEY_ID)
    assert database.server.log_file.read_text().count(cancelled) - before == 1


async def test_a_pool_that_is_used_up_is_waited_for_no_longer_than_its_budget(
    database: Database,
) -> None:
    """All connections taken: unavailable after the acquire budget."""
    await database.execute(FULL)
    settings = database.settings.model_copy(update={"pool_size": 1, "acquire_seconds": 0.2})
    async with open_pool(settings) as pool, pool.acquire(timeout=20):
        with pytest.raises(KeyStoreUnavailableError):
            await PostgresKeyStore(pool, settings).load(KEY_ID)


async def test_a_key_that_a_newer_release_has_written_is_unreadable(database: Database) -> None:
    """The database has answered: this is no outage."""
    await database.execute(FULL)
    await database.execute("UPDATE api_keys SET limits = '[{}]'")

    with pytest.raises(KeyUnreadableError):
        await load(database)


async def test_a_database_that_was_never_migrated_is_unavailable(empty_database: Database) -> None:
    """No schema is not «no such key»."""
    with pytest.raises(KeyStoreUnavailableError):
        await load(empty_database)


_INSERT_KEYS = """
INSERT INTO api_keys (public_id, secret_sha256, team_id, name)
    SELECT lpad(number::text, 12, '0'), sha256('secret'), 'team_1', 'key-' || number
    FROM generate_series(1, {count}) AS number
"""
NEW_IDS = [("egret_keys", "000000000001"), ("egret_keys", "000000000002")]

NOTIFIED = [
    pytest.param("UPDATE api_keys SET enabled = false", [("egret_keys", KEY_ID)], id="disable"),
    pytest.param("UPDATE api_keys SET revoked_at = now()", [("egret_keys", KEY_ID)], id="revoke"),
    pytest.param("UPDATE api_keys SET expires_at = now()", [("egret_keys", KEY_ID)], id="expire"),
    pytest.param(
        "UPDATE api_keys SET allowed_models = '{a}'", [("egret_keys", KEY_ID)], id="models"
    ),
    pytest.param(
        "UPDATE api_keys SET policy_name = NULL", [("egret_keys", KEY_ID)], id="key's policy"
    ),
    pytest.param(
        "UPDATE api_keys SET public_id = 'AAAAAAAAAAA2'",
        [("egret_keys", KEY_ID), ("egret_keys", "AAAAAAAAAAA2")],
        id="both ids of a changed one",
    ),
    pytest.param("DELETE FROM api_keys", [("egret_keys", KEY_ID)], id="delete"),
    pytest.param("TRUNCATE api_keys", [("egret_keys", "*")], id="truncate"),
    pytest.param("UPDATE api_keys SET enabled = enabled", [], id="a change that changes nothing"),
    pytest.param(
        "INSERT INTO key_activity VALUES ('AAAAAAAAAAA1', now(), 1, 0)", [], id="use is no change"
    ),
    pytest.param(_INSERT_KEYS.format(count=2), NEW_IDS, id="new keys"),
    pytest.param(_INSERT_KEYS.format(count=101), [("egret_keys", "*")], id="many new keys"),
    pytest.param("UPDATE api_keys SET name = 'desktop'", [], id="a name decides nothing"),
    pytest.param("UPDATE teams SET enabled = true", [("egret_keys", "team:team_1")], id="team"),
    pytest.param(
        "UPDATE organizations SET policy_name = 'strict'",
        [("egret_keys", "organization:org_1")],
        id="organization",
    ),
    pytest.param(
        "INSERT INTO teams (id, organization_id, name) VALUES ('team_2', 'org_1', 'ads');"
        "UPDATE teams SET enabled = false",
        [("egret_keys", "*")],
        id="several teams",
    ),
    pytest.param(
        "INSERT INTO policy_versions (policy_name, version, document) VALUES ('strict', 2, '');"
        "UPDATE policies SET version = 2 WHERE name = 'strict'",
        [("egret_policies", "strict")],
        id="policy",
    ),
]


@pytest.mark.parametrize(("change", "expected"), NOTIFIED)
async def test_a_change_is_notified_when_it_is_committed(
    database: Database, change: str, expected: list[tuple[str, str]]
) -> None:
    """Each relevant change tells its scope, once, and not before its transaction ends."""
    await database.execute(FULL)
    heard: list[tuple[str, str]] = []

    def note(_connection: object, _pid: int, channel: str, payload: object) -> None:
        heard.append((channel, str(payload).partition(",")[0]))

    async with (
        database.connect() as listening,
        database.connect() as changing,
    ):
        await listen(listening, note)
        async with changing.transaction():
            await changing.execute(change)
            await listening.execute("SELECT 1")
            early = list(heard)
        await changing.execute("SELECT pg_notify('egret_keys', 'end')")
        while ("egret_keys", "end") not in heard:
            await listening.execute("SELECT 1")
            await asyncio.sleep(0)

    assert (early, heard[:-1]) == ([], expected)


async def listen(connection: Connection, note: Callable[[object, int, str, object], None]) -> None:
    await connection.add_listener("egret_keys", note)
    await connection.add_listener("egret_policies", note)


async def test_limits_of_owners_are_those_of_the_ones_that_are_there(database: Database) -> None:
    """A request may end after its key was deleted, and its team with it."""
    await database.execute(FULL)
    for table, amount in (("teams", 1), ("organizations", 2)):
        limits = f'[{{"measure": "concurrent", "window": "once", "amount": {amount}}}]'
        await database.execute(f"UPDATE {table} SET limits = $1", limits)  # noqa: S608 - of ours
    async with open_pool(database.settings) as pool:
        store = PostgresKeyStore(pool, database.settings)
        found = [await store.owner_limits(*ids) for ids in OWNERS]
        await database.execute("UPDATE teams SET limits = '[{}]'")
        unreadable = await store.owner_limits("team_1", "org_1")
    assert [[(one.level, one.amount) for one in limits] for limits in found] == [
        [(Level.TEAM, 1), (Level.ORGANIZATION, 2)],
        [(Level.ORGANIZATION, 2)],
        [],
    ]
    assert unreadable == ()
