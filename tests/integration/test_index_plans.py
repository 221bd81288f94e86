"""Each index earns its keep on up to 1,000,000 keys: its use needs it, and is dear without it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sidecar.admin import audit_log as audit
from sidecar.admin.keys import KeyState, Listing, page_statement
from sidecar.alerts import outbox
from sidecar.alerts.rules import RULES as RULES_OF_ALERTS
from sidecar.domain.alerting import AlertRule
from sidecar.storage import postgres_keys, postgres_policies
from sidecar.storage.migrate import INDEXES
from sidecar.storage.pool import Connection
from tests.support.postgres import Database, PostgresServer
from tests.support.sizes import sized

pytestmark = pytest.mark.million

KEYS = sized(1_000_000, small=200_000)
# Without triggers and foreign keys, and with indexes made in the end, this takes seconds.
FILL = """
SET session_replication_role = replica;
SET maintenance_work_mem = '256MB';
DROP INDEX idx_api_keys_team_id, idx_api_keys_team_id_name, idx_api_keys_policy_name,
    idx_api_keys_replaced_by, idx_api_keys_tags;

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
                      revoked_at, tags)
    SELECT lpad(n::text, 12, '0'), sha256(n::text::bytea), 'team_' || n % 10000 + 1, 'key-' || n,
           CASE WHEN n % 1000 = 0 THEN 'policy-' || n / 1000 % 100 + 1 END,
           CASE WHEN n % 100 = 1 THEN lpad((n + 1)::text, 12, '0') END,
           CASE WHEN n % 10 = 0 THEN now() END,
           CASE WHEN n % 1000 = 0 THEN '{{env=prod}}' ELSE '{{}}' END::text[]
    FROM generate_series(1, {keys}) AS n;

CREATE INDEX idx_api_keys_team_id ON api_keys (team_id, name, public_id);
CREATE INDEX idx_api_keys_tags ON api_keys USING gin (tags) WHERE tags <> '{{}}';
CREATE UNIQUE INDEX idx_api_keys_team_id_name ON api_keys (team_id, name)
    WHERE revoked_at IS NULL AND replaced_by IS NULL;
CREATE INDEX idx_api_keys_policy_name ON api_keys (policy_name) WHERE policy_name IS NOT NULL;
CREATE INDEX idx_api_keys_replaced_by ON api_keys (replaced_by) WHERE replaced_by IS NOT NULL;

INSERT INTO audit_log (at, database_role, action, object_type, object_id, after)
    SELECT now() - n * interval '1 minute', 'egret', 'update', 'api_keys',
           lpad((n % 100000)::text, 12, '0'), '{{"enabled": false}}'
    FROM generate_series(1, 200000) AS n;
INSERT INTO usage (occurred_at, request_id, key_id, team_id, organization_id, operation, provider,
                   status, decision, latency_ms)
    SELECT date_trunc('month', now()) + n * interval '1 second', 'request-' || n,
           lpad((n % 10000)::text, 12, '0'), 'team_' || n % 1000, 'org_' || n % 100, 'chat',
           'openai', 200, 'allow', 8
    FROM generate_series(1, 200000) AS n;
INSERT INTO usage (occurred_at, request_id, key_id, team_id, organization_id, operation, provider,
                   status, decision, latency_ms, guardrails)
    SELECT now() - n * interval '0.4 seconds', 'late-' || n, lpad((n % 10000)::text, 12, '0'),
           'team_' || n % 1000, 'org_' || n % 100, 'chat', 'openai', 200, 'allow', 8,
           CASE WHEN n % 20000 = 0 THEN '{{"dlp": "timeout_open"}}' WHEN n % 5 = 0
                THEN '{{"pii": "redact"}}' ELSE '{{}}' END::jsonb
    FROM generate_series(1, 200000) AS n;
INSERT INTO usage_by_hour
    SELECT date_trunc('hour', now()) - n / 1000 * interval '1 hour',
           lpad((n % 100000)::text, 12, '0'), 'team_' || n % 10000 + 1, 'org_' || n % 10000 + 1,
           'gpt-5', 1, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1
    FROM generate_series(1, 200000) AS n;
INSERT INTO usage_by_day
    SELECT date_trunc('day', now()) - n / 5000 * interval '1 day',
           lpad((n % 100000)::text, 12, '0'), 'team_' || n % 10000 + 1, 'org_' || n % 10000 + 1,
           'gpt-5', 1, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1
    FROM generate_series(1, 200000) AS n;
INSERT INTO alert_routes (name, channel, secret, organization_id)
    SELECT 'route-' || n, 'webhook', 'env:ALERT_ROUTE', 'org_' || n
    FROM generate_series(1, 10000) AS n;
INSERT INTO alerts (id, rule, object, period_began, severity, organization_id, summary, raised_at)
    SELECT 'alert_' || n, 'key_expires', n::text, now(), 'warning', 'org_' || n % 10000 + 1, '',
           now() - n * interval '1 minute'
    FROM generate_series(1, 200000) AS n;
INSERT INTO alert_messages (id, route, alerts, due_at, next_try_at, delivered_at)
    SELECT 'msg_' || n, 'route-' || n % 10000 + 1, ARRAY['alert_' || n],
           now() - n * interval '1 minute', now() - n * interval '1 minute',
           CASE WHEN n % 10000 <> 0 THEN now() END
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
USED = """
SELECT u.model, sum(u.requests)::bigint, sum(u.input_tokens)::bigint,
    sum(u.output_tokens)::bigint, sum(u.cost_usd) FROM usage_by_{unit} AS u
WHERE u.{owner} = $1 AND u.began_at >= $2 AND u.began_at < $2 + {span} GROUP BY u.model
"""
"""As `egret_used` asks it: hours before the first whole day, and days."""
SPANS = (("hour", "interval '23 hours'"), ("day", "interval '32 days'"))
RULES = {"idx_api_keys_team_id_name", "idx_admin_tokens_name"}
"""Indexes that are there to refuse what must not be twice; `test_cli_keys` and `test_sign_in` show
that they do."""
# What a foreign key asks when the row that it points to is deleted (PostgreSQL, ri_triggers.c).
REFERENCE = "SELECT 1 FROM ONLY {table} AS x WHERE {column} = $1 FOR KEY SHARE OF x"

# The body of egret_last_change().
LAST_CHANGE = """
SELECT a.transaction::text::bigint FROM audit_log AS a
WHERE a.object_type IN ('api_keys', 'teams', 'organizations')
ORDER BY a.transaction DESC LIMIT 1
"""

KEY, TEAM, MONTH_AGO = f"{4711:012}", "team_4711", datetime.now(UTC) - timedelta(days=31)
HOUR_AGO = datetime.now(UTC) - timedelta(hours=1)


TEMPLATE = "egret_template"


@dataclass(frozen=True)
class Case:
    """A statement that the index is for, and when it runs."""

    use: str
    index: str
    statement: str
    arguments: tuple[Any, ...] = field(default=())


PLACE = (TEAM, f"key-{KEYS // 2}", KEY)


def page(
    listing: Listing = Listing(),  # noqa: B008 - immutable
    *,
    team_id: str | None = None,
    after: tuple[str, str, str] | None = None,
) -> tuple[str, tuple[Any, ...]]:
    """The statement of a page of keys, and its arguments."""
    statement, arguments = page_statement(listing, team_id=team_id, after=after)
    return statement, tuple(arguments)


CASES = [
    Case("a page of keys", "idx_api_keys_team_id", *page()),
    Case("the next page", "idx_api_keys_team_id", *page(after=PLACE)),
    Case("a page of a team", "idx_api_keys_team_id", *page(team_id=TEAM)),
    Case("a page of a tag", "idx_api_keys_tags", *page(Listing(tag="env=prod"))),
    Case(
        "deleting a team",
        "idx_api_keys_team_id",
        REFERENCE.format(table="api_keys", column="team_id"),
        (TEAM,),
    ),
    Case(
        "policies and who binds them",
        "idx_api_keys_policy_name",
        postgres_policies._LIST_POLICIES,
        (None, None),
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
    Case("latest changes", "idx_audit_log_at", audit._LATEST, (None, None, 50, None, None)),
    Case("the last change of a key", "idx_audit_log_transaction", LAST_CHANGE),
    Case(
        "changes of one thing",
        "idx_audit_log_object_id",
        audit._OF_ONE_OBJECT,
        (KEY, None, None, 50, None, None),
    ),
    Case(
        "versions of deleted policies",
        "idx_audit_log_object_id",
        postgres_policies._DELETED,
        (["policy-7", "policy-8"],),
    ),
    Case(
        "deleting an organization that alert routes might be of",
        "idx_alert_routes_organization_id",
        REFERENCE.format(table="alert_routes", column="organization_id"),
        ("org_77",),
    ),
    Case("latest alerts", "idx_alerts_raised_at", outbox._HISTORY, (HOUR_AGO, None, 10)),
    Case("messages of alerts", "idx_alert_messages_alerts", outbox._HISTORY, (HOUR_AGO, None, 10)),
    Case("messages that are due", "idx_alert_messages_next_try_at", outbox._CLAIM, (10, 60.0, [])),
    Case(
        "requests that a failed guardrail let pass",
        "idx_usage_failed_open",
        RULES_OF_ALERTS[AlertRule.FAIL_OPEN].sql,
    ),
    Case("usage of a key", "idx_usage_key_id_occurred_at", KEY_USAGE, (KEY, MONTH_AGO)),
    Case("usage of a team", "idx_usage_team_id_occurred_at", TEAM_USAGE, (TEAM, MONTH_AGO)),
    *(
        Case(
            f"what counts of a {owner} begin with, by {unit}",
            f"idx_usage_by_{unit}_{owner}",
            USED.format(owner=owner, unit=unit, span=span),
            (subject, datetime.now(UTC) - timedelta(days=5 if unit == "hour" else 31)),
        )
        for unit, span in SPANS
        for owner, subject in (
            ("key_id", "000000000077"),
            ("team_id", "team_77"),
            ("organization_id", "org_77"),
        )
    ),
]


PAGES = [
    pytest.param(page(), id="all"),
    pytest.param(page(after=PLACE), id="further down"),
    pytest.param(page(team_id=TEAM, after=PLACE), id="of a team"),
    pytest.param(page(Listing(organization="org-4711")), id="of an organization"),
    pytest.param(page(Listing(within=(TEAM, "team_1"))), id="within teams"),
    pytest.param(page(Listing(tag="env=prod")), id="with a tag"),
    *(pytest.param(page(Listing(state=state)), id=state.value) for state in KeyState),
]


@pytest.fixture(scope="session")
def million(postgres_server: PostgresServer) -> Iterator[Database]:
    """A database with all keys, of 10,000 teams; to be read only."""

    async def fill() -> Database:
        database = Database(postgres_server, await postgres_server.create(template=TEMPLATE))
        async with postgres_server.connect(database.name) as connection:
            await connection.execute(FILL.format(keys=KEYS))
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
    async with million.connect() as connection:
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
    async with million.connect() as connection:
        root = await plan(connection, Case("miss", "", postgres_keys._LOAD_KEY, (KEY,)))

    assert indexes_of(root) == {"api_keys_pkey", "teams_pkey", "organizations_pkey"}
    assert not [node for node in nodes(root) if node["Node Type"] == "Seq Scan"]


@pytest.mark.parametrize("statement", PAGES)
async def test_a_page_of_keys_is_read_by_an_index(
    million: Database, statement: tuple[str, tuple[Any, ...]]
) -> None:
    """Whatever chooses the keys, and however far down; no table of keys is sorted for it."""
    async with million.connect() as connection:
        root = await plan(connection, Case("page", "", *statement))

    by_table = [node for node in nodes(root) if node.get("Relation Name") == "api_keys"]
    assert {node["Node Type"] for node in by_table} <= {
        *("Index Scan", "Index Only Scan", "Bitmap Heap Scan"),
    }
    assert all(node["Plan Rows"] < 10_000 for node in nodes(root) if node["Node Type"] == "Sort")


def test_every_index_has_a_case() -> None:
    """An index that nothing needs slows every change down."""
    assert {case.index for case in CASES} | RULES == set(INDEXES)
