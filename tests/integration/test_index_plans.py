"""Each index earns its keep: what it is for uses it on 1,000,000 keys and is dear without it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sidecar.storage import audit, key_administration, postgres_keys, postgres_policies
from sidecar.storage.pool import Connection
from sidecar.storage.schema import INDEXES
from tests.support.postgres import Database, PostgresServer

pytestmark = pytest.mark.million

# Without triggers and foreign keys, and with indexes made in the end, this takes seconds.
FILL = """
SET session_replication_role = replica;
SET maintenance_work_mem = '256MB';
DROP INDEX idx_api_keys_team_id, idx_api_keys_team_id_name, idx_api_keys_policy_name,
    idx_api_keys_replaced_by;

INSERT INTO policies (name, version) SELECT 'policy-' || n, 1 FROM generate_series(1, 100) AS n;
INSERT INTO policy_versions (policy_name, version, document)
    SELECT name, 1, '' FROM policies;
INSERT INTO organizations (id, name, policy_name)
    SELECT 'org_' || n, 'org-' || n, CASE WHEN n % 100 = 0 THEN 'policy-' || n / 100 END
    FROM generate_series(1, 10000) AS n;
INSERT INTO teams (id, organization_id, name, policy_name)
    SELECT 'team_' || n, 'org_' || n % 10000 + 1, 'team-' || n,
           CASE WHEN n % 100 = 0 THEN 'policy-' || n / 100 END
    FROM generate_series(1, 10000) AS n;
INSERT INTO api_keys (public_id, secret_sha256, team_id, name, policy_name, replaced_by,
                      revoked_at)
    SELECT lpad(n::text, 12, '0'), sha256(n::text::bytea), 'team_' || n % 10000 + 1, 'key-' || n,
           CASE WHEN n % 1000 = 0 THEN 'policy-' || n / 1000 % 100 + 1 END,
           CASE WHEN n % 100 = 1 THEN lpad((n + 1)::text, 12, '0') END,
           CASE WHEN n % 10 = 0 THEN now() END
    FROM generate_series(1, 1000000) AS n;

CREATE INDEX idx_api_keys_team_id ON api_keys (team_id);
CREATE UNIQUE INDEX idx_api_keys_team_id_name ON api_keys (team_id, name)
    WHERE revoked_at IS NULL AND replaced_by IS NULL;
CREATE INDEX idx_api_keys_policy_name ON api_keys (policy_name) WHERE policy_name IS NOT NULL;
CREATE INDEX idx_api_keys_replaced_by ON api_keys (replaced_by) WHERE replaced_by IS NOT NULL;

INSERT INTO audit_log (at, database_role, action, object_type, object_id, after)
    SELECT now() - n * interval '1 minute', 'egret', 'update', 'api_keys',
           lpad((n % 100000)::text, 12, '0'), '{"enabled": false}'
    FROM generate_series(1, 200000) AS n;
INSERT INTO usage (occurred_at, request_id, key_id, team_id, organization_id, operation, provider,
                   status, decision, latency_ms)
    SELECT date_trunc('month', now()) + n * interval '1 second', 'request-' || n,
           lpad((n % 10000)::text, 12, '0'), 'team_' || n % 1000, 'org_' || n % 100, 'chat',
           'openai', 200, 'allow', 8
    FROM generate_series(1, 200000) AS n;
ANALYZE;
"""

TEAM_USAGE = """
SELECT sum(cost_usd), sum(input_tokens), sum(output_tokens) FROM usage
WHERE team_id = $1 AND occurred_at >= $2
"""
KEY_USAGE = """
SELECT sum(cost_usd), sum(input_tokens), sum(output_tokens) FROM usage
WHERE key_id = $1 AND occurred_at >= $2
"""
NAME_IN_USE = """
SELECT FROM api_keys
WHERE team_id = $1 AND name = $2 AND revoked_at IS NULL AND replaced_by IS NULL
"""
# What a foreign key asks when the row that it points to is deleted (PostgreSQL, ri_triggers.c).
REFERENCE = "SELECT 1 FROM ONLY {table} AS x WHERE {column} = $1 FOR KEY SHARE OF x"

KEY, TEAM, MONTH_AGO = f"{4711:012}", "team_4711", datetime.now(UTC) - timedelta(days=31)


TEMPLATE = "egret_template"


@dataclass(frozen=True)
class Case:
    """A statement that the index is for, and when it runs."""

    use: str
    index: str
    statement: str
    arguments: tuple[Any, ...] = field(default=())


CASES = [
    Case("keys of a team", "idx_api_keys_team_id", key_administration._KEYS, (TEAM, None)),
    Case(
        "deleting a team",
        "idx_api_keys_team_id",
        REFERENCE.format(table="api_keys", column="team_id"),
        (TEAM,),
    ),
    Case("names in a team", "idx_api_keys_team_id_name", NAME_IN_USE, (TEAM, "key-4710")),
    Case(
        "policies and who binds them", "idx_api_keys_policy_name", postgres_policies._LIST_POLICIES
    ),
    Case(
        "deleting a policy that keys might bind",
        "idx_api_keys_policy_name",
        REFERENCE.format(table="api_keys", column="policy_name"),
        ("policy-7",),
    ),
    Case(
        "deleting a key",
        "idx_api_keys_replaced_by",
        REFERENCE.format(table="api_keys", column="replaced_by"),
        (KEY,),
    ),
    Case(
        "deleting a policy that teams might bind",
        "idx_teams_policy_name",
        REFERENCE.format(table="teams", column="policy_name"),
        ("policy-7",),
    ),
    Case(
        "deleting a policy that organizations might bind",
        "idx_organizations_policy_name",
        REFERENCE.format(table="organizations", column="policy_name"),
        ("policy-7",),
    ),
    Case("latest changes", "idx_audit_log_at", audit._LATEST, (None, None, 50)),
    Case(
        "changes of one thing",
        "idx_audit_log_object_id",
        audit._OF_ONE_OBJECT,
        (KEY, None, None, 50),
    ),
    Case("usage of a key", "idx_usage_key_id_occurred_at", KEY_USAGE, (KEY, MONTH_AGO)),
    Case("usage of a team", "idx_usage_team_id_occurred_at", TEAM_USAGE, (TEAM, MONTH_AGO)),
]


@pytest.fixture(scope="session")
def million(postgres_server: PostgresServer) -> Iterator[Database]:
    """A database with 1,000,000 keys of 10,000 teams; to be read only."""

    async def fill() -> Database:
        database = Database(postgres_server, await postgres_server.create(template=TEMPLATE))
        async with postgres_server.connect(database.name) as connection:
            await connection.execute(FILL)
        return database

    database = asyncio.run(fill())
    yield database
    asyncio.run(postgres_server.drop(database.name))


async def plan(connection: Connection, case: Case) -> dict[str, Any]:
    text = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {case.statement}", *case.arguments)
    found: dict[str, Any] = json.loads(text)[0]["Plan"]
    return found


def nodes(root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield root
    for child in root.get("Plans", ()):
        yield from nodes(child)


def indexes_of(root: dict[str, Any]) -> set[str]:
    return {node["Index Name"] for node in nodes(root) if "Index Name" in node}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.use)
async def test_an_index_is_used_and_dear_to_do_without(million: Database, case: Case) -> None:
    """Without it the same statement costs five times as much at least, by the planner's count."""
    async with million.server.connect(million.name) as connection:
        partitions = await connection.fetch(
            "SELECT relid::regclass::text FROM pg_partition_tree($1::text::regclass)", case.index
        )
        names = {case.index, *(row[0] for row in partitions)}
        with_it = await plan(connection, case)
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(f"DROP INDEX {case.index}")
        without = await plan(connection, case)
        await transaction.rollback()

    assert names & indexes_of(with_it)
    assert with_it["Total Cost"] * 5 < without["Total Cost"]


async def test_a_miss_reads_three_rows_by_their_keys(million: Database) -> None:
    """The statement that a worker waits for scans nothing."""
    async with million.server.connect(million.name) as connection:
        root = await plan(connection, Case("miss", "", postgres_keys._LOAD_KEY, (KEY,)))

    assert indexes_of(root) == {"api_keys_pkey", "teams_pkey", "organizations_pkey"}
    assert not [node for node in nodes(root) if node["Node Type"] == "Seq Scan"]


def test_every_index_has_a_case() -> None:
    """An index that nothing needs slows every change down."""
    assert {case.index for case in CASES} == set(INDEXES)
