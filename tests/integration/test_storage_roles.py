from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from sidecar.admin.keys import find_key
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.key_activity import KeyActivity
from sidecar.storage.migrate import GRANTS, migrate
from sidecar.storage.pool import Connection, open_pool
from sidecar.storage.postgres_keys import PostgresKeyStore
from sidecar.storage.postgres_policies import PostgresPolicyStore
from sidecar.storage.worker_status import WorkerStatus, reported_workers
from tests.support.alerts import AlertReceiver, leak, route_text, secrets_of, service
from tests.support.command_line import Egret
from tests.support.installation import apply_text
from tests.support.postgres import Database, logged_in

OWNERS = """
INSERT INTO organizations (id, name) VALUES ('org_1', 'acme');
INSERT INTO teams (id, organization_id, name) VALUES ('team_1', 'org_1', 'search');
INSERT INTO api_keys (public_id, secret_sha256, team_id, name)
    VALUES ('AAAAAAAAAAA1', sha256('secret'), 'team_1', 'laptop');
"""
USAGE = """
INSERT INTO usage (occurred_at, request_id, key_id, team_id, organization_id, operation, provider,
                   status, decision, latency_ms)
VALUES (now(), 'request-1', 'AAAAAAAAAAA1', 'team_1', 'org_1', 'chat', 'openai', 200, 'allow', 8)
ON CONFLICT (occurred_at, request_id) DO NOTHING
"""


@asynccontextmanager
async def connected(settings: PostgresSettings) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(settings.dsn.get_secret_value())
    try:
        yield connection
    finally:
        await connection.close()


async def test_a_workers_role_can_do_all_that_a_worker_does(database: Database) -> None:
    """Read keys and policies, listen, report, count uses, write usage, prepare its months."""
    await database.execute(OWNERS)
    async with logged_in(database, "egret_sidecar") as settings:
        async with open_pool(settings) as pool:
            uses = KeyActivity(pool, settings, most=100)
            uses.note("AAAAAAAAAAA1", refused=False, at=datetime.now(UTC).timestamp())
            await uses.flush()
            uses.note("AAAAAAAAAAA1", refused=True, at=datetime.now(UTC).timestamp())
            await uses.flush()
            assert await PostgresKeyStore(pool, settings).load("AAAAAAAAAAA1") is not None
            assert (await PostgresKeyStore(pool, settings).fence()).transaction > 0
            assert await PostgresPolicyStore(pool, settings).load_policies() == ()
            await WorkerStatus(pool, settings, host="here", socket="/run/worker-0.sock").report()
        async with connected(settings) as connection:
            await connection.execute("LISTEN egret_keys")
            await connection.execute(USAGE)
            assert await connection.fetchval("SELECT egret_prepare_usage(12)") == 0
            assert await connection.fetchval("SELECT egret_prepare_usage(14)") == 2

    async with database.connect() as connection:
        key = await find_key(connection, "AAAAAAAAAAA1")
        assert (key.requests, key.refused) == (2, 1)
        assert [one.host for one in await reported_workers(connection)] == ["here"]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO organizations (name) VALUES ('mine')",
        "UPDATE organizations SET enabled = true",
        "UPDATE teams SET enabled = true",
        (
            "INSERT INTO api_keys (public_id, secret_sha256, team_id, name)"
            " VALUES ('AAAAAAAAAAA2', sha256('secret'), 'team_1', 'mine')"
        ),
        "UPDATE api_keys SET revoked_at = NULL",
        "DELETE FROM api_keys",
        "TRUNCATE api_keys",
        "UPDATE policies SET version = 1",
        "INSERT INTO policy_versions VALUES ('strict', 2, '', now())",
        "INSERT INTO prices (model, input_per_million, output_per_million) VALUES ('*', 0, 0)",
        "INSERT INTO audit_log (database_role, action, object_type) VALUES ('', 'insert', '')",
        "DELETE FROM audit_log",
        "SELECT * FROM audit_log",
        "UPDATE usage SET cost_usd = 0",
        "DELETE FROM usage",
        "DELETE FROM key_activity",
        "SELECT cost_usd FROM usage",
        "CREATE TABLE mine ()",
        "SELECT egret_set_up_roles()",
        "SELECT egret_grant()",
        "SET ROLE egret_admin",
    ],
)
async def test_a_workers_role_can_do_no_more(database: Database, statement: str) -> None:
    """Who takes over a worker cannot let himself in, nor cover his traces."""
    await database.execute(OWNERS)
    async with logged_in(database, "egret_sidecar") as settings, connected(settings) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO audit_log (database_role, action, object_type) VALUES ('', 'insert', '')",
        "UPDATE audit_log SET actor = 'somebody else'",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
        "TRUNCATE api_keys",
        "ALTER TABLE api_keys DISABLE TRIGGER ALL",
        "SET session_replication_role = replica",
        "DELETE FROM usage",
    ],
)
async def test_an_administrators_role_cannot_touch_the_log(
    database: Database, statement: str
) -> None:
    """Neither write, nor change, nor empty it, nor keep a change out of it."""
    await database.execute(OWNERS)
    async with logged_in(database, "egret_admin") as settings, connected(settings) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


async def test_an_administrators_role_is_enough_for_the_command_line(
    database: Database, tmp_path: Path
) -> None:
    """Every kind of command, imports included."""
    await database.execute(OWNERS)
    (tmp_path / "policy.yaml").write_text("name: strict\n")
    file = tmp_path / "keys.jsonl"
    async with logged_in(database, "egret_admin") as settings:
        egret = Egret(settings.dsn.get_secret_value())
        ran = [
            (await asyncio.to_thread(egret, *command.split())).code
            for command in (
                "orgs create zoo",
                "teams create ads --org zoo",
                "teams disable zoo/ads",
                f"policy apply --yes -f {tmp_path}/policy.yaml",
                "policy bind strict --org zoo",
                "keys create --team ads --name laptop",
                "keys rotate AAAAAAAAAAA1",
                "keys revoke AAAAAAAAAAA1",
                "keys show AAAAAAAAAAA1",
                f"keys export {file}",
                f"keys import {file} --existing skip --create-owners",
                "audit list",
                "doctor --for admin",
            )
        ]

    assert ran == [0] * 13


async def test_what_an_administrator_does_is_logged_under_their_login(database: Database) -> None:
    """Whatever the table."""
    await database.execute(OWNERS)
    async with logged_in(database, "egret_admin") as settings, connected(settings) as connection:
        await connection.execute(
            "INSERT INTO organizations (name) VALUES ('zoo');"
            "UPDATE api_keys SET enabled = false;"
            "DELETE FROM api_keys"
        )
        logins = await connection.fetch("SELECT database_role FROM audit_log ORDER BY id")

    assert [row[0] for row in logins[-3:]] == [f"login_{database.name}"] * 3


async def test_the_command_line_says_what_its_role_may_not_do(database: Database) -> None:
    """In one line, and how to log in instead."""
    async with logged_in(database, "egret_sidecar") as settings:
        egret = Egret(settings.dsn.get_secret_value())
        ran = await asyncio.to_thread(egret, "orgs", "create", "acme")

    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        "error: the database's role may not do this (permission denied for table organizations); "
        "log in as a member of egret_admin; see `egret doctor --for admin`\n"
    )


async def test_a_migrating_role_that_may_not_create_roles_says_so(
    empty_database: Database,
) -> None:
    """Where the roles exist it need not; where they do not, the rest is migrated all the same."""
    login = f"owner_{empty_database.name}"
    name = empty_database.name
    async with empty_database.server.connect() as connection:
        await connection.execute(f"CREATE ROLE {login} LOGIN")
        await connection.execute(f'ALTER DATABASE "{name}" OWNER TO {login}')
        dsn = empty_database.dsn.replace("//postgres@", f"//{login}@")
        settings = empty_database.settings.model_copy(update={"dsn": SecretStr(dsn)})
        said: list[str] = []

        await migrate(settings, on_warning=said.append)
        async with connected(settings) as owner:
            granted = await owner.fetchval(
                "SELECT has_table_privilege('egret_sidecar', 'api_keys', 'SELECT')"
            )
            await connection.execute("ALTER ROLE egret_sidecar RENAME TO egret_away")
            try:
                owner.add_log_listener(lambda _, message: said.append(str(message)))
                missing = await owner.fetchval("SELECT egret_set_up_roles()")
            finally:
                await connection.execute("ALTER ROLE egret_away RENAME TO egret_sidecar")

    assert (granted, missing) == (True, ["egret_sidecar"])
    assert len(said) == 1
    assert f"roles egret_sidecar are missing and {login} may not create them" in said[0]


@pytest.mark.parametrize("group", ["egret_admin", "egret_console"])
async def test_the_roles_of_administration_raise_and_deliver_alerts(
    database: Database, group: str, tmp_path: Path
) -> None:
    """By the command of its own, or within `egret admin`."""
    await database.execute(OWNERS)
    receiver = AlertReceiver()
    async with logged_in(database, group) as settings, receiver.listening():
        async with database.connect() as connection:
            await apply_text(connection, route_text(url=receiver.url))
            await leak(connection, "strict")
        alerts = service(settings, secrets_of(tmp_path, "ops"))
        async with connected(settings) as connection:
            assert await alerts.check(connection) == 1
            assert await alerts.deliver(connection) == 1

    assert receiver.alerts() == ["strict secrets user"]


@pytest.mark.parametrize("role", GRANTS)
async def test_the_table_of_grants_has_each_privilege_of_a_role(
    database: Database, role: str
) -> None:
    """`egret doctor` compares a login with it: one that is left out would not be missed."""
    async with database.connect() as connection:
        rows = await connection.fetch(
            "SELECT table_name, privilege_type FROM information_schema.role_table_grants"
            " WHERE grantee = $1 AND table_schema = current_schema()",
            role,
        )

    assert {tuple(row) for row in rows} == set(GRANTS[role])


async def test_a_workers_role_reads_no_alert(database: Database) -> None:
    async with logged_in(database, "egret_sidecar") as settings, connected(settings) as connection:
        for table in ("alert_routes", "alerts", "alert_messages"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"SELECT FROM {table}")
