from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from sidecar.admin import audit_log
from sidecar.admin.audit_log import AuditEntry, AuditFilter, AuditTail, audit_entries, set_actor
from sidecar.admin.usage_reports import drop_usage
from sidecar.storage.pool import connect
from sidecar.storage.usage_store import set_prices
from sidecar.usage.prices import Price
from tests.support.postgres import Database

OWNERS = """
INSERT INTO policies (name, version) VALUES ('strict', 1);
INSERT INTO policy_versions (policy_name, version, document)
    VALUES ('strict', 1, 'authorization: Bearer hunter2');
INSERT INTO organizations (id, name) VALUES ('org_1', 'acme');
INSERT INTO teams (id, organization_id, name) VALUES ('team_1', 'org_1', 'search');
INSERT INTO api_keys (public_id, secret_sha256, team_id, name)
    VALUES ('AAAAAAAAAAA1', sha256('secret'), 'team_1', 'laptop');
"""
Told = tuple[str, str, str | None, dict[str, object] | None, dict[str, object] | None]


async def logged(database: Database, *statements: str) -> list[Told]:
    """What the statements left in the log, in order."""
    async with database.connect() as connection:
        await connection.execute(OWNERS)
        await connection.execute("DELETE FROM audit_log")
        for statement in statements:
            await connection.execute(statement)
        entries = await audit_entries(connection, AuditFilter())
    return [told(entry) for entry in reversed(entries)]


def told(entry: AuditEntry) -> Told:
    before, after = (
        None if side is None else {k: v for k, v in side.items() if v is not None}
        for side in (entry.before, entry.after)
    )
    return (entry.action, entry.object_type, entry.object_id, before, after)


async def test_a_price_has_one_id_in_the_log_whatever_the_time_zone_of_the_database(
    database: Database,
) -> None:
    """Times are texts there: Egret writes them in UTC."""
    async with database.server.connect() as connection:
        await connection.execute(f"ALTER DATABASE {database.name} SET timezone = 'Asia/Kolkata'")
    async with connect(database.settings) as connection:
        start = datetime(2026, 1, 1, tzinfo=UTC)
        one = Price(model="gpt-*", valid_from=start, input=Decimal(1), output=Decimal(2))
        await set_prices(connection, [one])
        (entry,) = await audit_entries(connection, AuditFilter())

    assert entry.object_id == "gpt-* 2026-01-01 00:00:00+00"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        pytest.param(
            "UPDATE api_keys SET enabled = false",
            [("update", "api_keys", "AAAAAAAAAAA1", {"enabled": True}, {"enabled": False})],
            id="a change holds the columns that changed",
        ),
        pytest.param(
            "UPDATE api_keys SET enabled = enabled", [], id="a change that changes nothing"
        ),
        pytest.param(
            "UPDATE api_keys SET secret_sha256 = sha256('other')",
            [
                (
                    "update",
                    "api_keys",
                    "AAAAAAAAAAA1",
                    {"secret_sha256": "(not shown)"},
                    {"secret_sha256": "(not shown)"},
                )
            ],
            id="a new secret is told and not shown",
        ),
        pytest.param(
            "UPDATE policy_versions SET document = 'password: hunter3'",
            [
                (
                    "update",
                    "policy_versions",
                    "strict 1",
                    {"document": "(not shown)"},
                    {"document": "(not shown)"},
                )
            ],
            id="a policy's text may hold credentials",
        ),
        pytest.param(
            "UPDATE organizations SET policy_name = 'strict'",
            [("update", "organizations", "org_1", {}, {"policy_name": "strict"})],
            id="a policy is bound",
        ),
        pytest.param("UPDATE teams SET id = 'team_1' WHERE false", [], id="no row is no change"),
        pytest.param("TRUNCATE api_keys", [("truncate", "api_keys", None, None, None)], id="all"),
        pytest.param(
            "INSERT INTO prices (model, valid_from, input_per_million, output_per_million)"
            " VALUES ('gpt-*', '2026-01-01T00:00:00Z', 1.5, 6)",
            [
                (
                    "insert",
                    "prices",
                    "gpt-* 2026-01-01 00:00:00+00",
                    None,
                    {
                        "model": "gpt-*",
                        "valid_from": "2026-01-01T00:00:00+00:00",
                        "input_per_million": 1.5,
                        "output_per_million": 6.0,
                        "currency": "USD",
                    },
                )
            ],
            id="a price",
        ),
    ],
)
async def test_a_change_by_raw_sql_is_logged(
    database: Database, statement: str, expected: list[Told]
) -> None:
    """Triggers see what no command line does."""
    assert await logged(database, "SET timezone = 'UTC'", statement) == expected


async def test_a_new_key_is_logged_without_its_digest(database: Database) -> None:
    """Every column, the digest masked; and so is one that is deleted."""
    entries = await logged(
        database,
        "INSERT INTO api_keys (public_id, secret_sha256, team_id, name, created_at)"
        " VALUES ('AAAAAAAAAAA2', sha256('secret'), 'team_1', 'other', '2026-01-01T00:00:00Z')",
        "DELETE FROM api_keys WHERE name = 'other'",
    )

    row = {
        "public_id": "AAAAAAAAAAA2",
        "secret_sha256": "(not shown)",
        "team_id": "team_1",
        "name": "other",
        "enabled": True,
        "tags": [],
        "limits": [],
        "priority": "standard",
        "created_at": "2026-01-01T00:00:00+00:00",
    }
    assert entries == [
        ("insert", "api_keys", "AAAAAAAAAAA2", None, row),
        ("delete", "api_keys", "AAAAAAAAAAA2", row, None),
    ]


async def test_a_session_of_a_person_is_logged_when_it_begins_and_ends(
    database: Database,
) -> None:
    """Its uses are not, nor is its secret."""
    entries = await logged(
        database,
        "INSERT INTO admin_sessions (secret_sha256, person, source, grants, expires_at)"
        " VALUES (sha256('s'), 'alice', 'oidc', '[{\"role\": \"admin\"}]', now())",
        "UPDATE admin_sessions SET seen_at = now() + interval '1 min'",
        "DELETE FROM admin_sessions",
    )

    assert [entry[:3] for entry in entries] == [
        ("insert", "admin_sessions", "alice"),
        ("delete", "admin_sessions", "alice"),
    ]
    assert entries[0][4] is not None
    assert entries[0][4]["secret_sha256"] == "(not shown)"
    assert entries[0][4]["grants"] == [{"role": "admin"}]


async def test_a_link_that_logs_in_is_logged_for_its_person_and_without_its_secret(
    database: Database,
) -> None:
    """A login at an identity provider is not, before it has a session."""
    entries = await logged(
        database,
        "INSERT INTO admin_logins (secret_sha256, kind, details, expires_at) VALUES"
        " (sha256('s'), 'link', '{\"person\": \"alice\", \"grants\": \"[]\"}', '2026-01-01Z'),"
        " (sha256('t'), 'oidc', '{\"verifier\": \"v\"}', '2026-01-01Z')",
        "DELETE FROM admin_logins",
    )

    after = {"kind": "link", "grants": [], "expires_at": "2026-01-01T00:00:00+00:00"}
    assert entries == [("insert", "admin_logins", "alice", None, after)]


async def test_a_month_of_usage_that_is_dropped_is_logged(database: Database) -> None:
    """With the login that dropped it, of the role that may."""
    async with database.connect() as connection:
        await connection.execute(
            "CREATE TABLE usage_2020_01 PARTITION OF usage"
            " FOR VALUES FROM ('2020-01-01Z') TO ('2020-02-01Z')"
        )
        async with connection.transaction():
            await connection.execute("SET ROLE egret_admin")
            await set_actor(connection, "alice")
            await drop_usage(connection, keep_months=12, keep_hour_months=25)
        (entry,) = await audit_entries(connection, AuditFilter(object_type="usage"))

    assert (entry.action, entry.object_id) == ("delete", "usage_2020_01")
    assert (entry.database_role, entry.actor) == ("postgres", "alice")


async def test_the_log_says_who_by_login_and_by_their_own_word(database: Database) -> None:
    """SET ROLE does not hide who logged in, and the word does not outlive its transaction."""
    async with database.connect() as connection:
        async with connection.transaction():
            await connection.execute("SET ROLE egret_admin")
            await set_actor(connection, "alice")
            await connection.execute("INSERT INTO organizations (name) VALUES ('acme')")
        await connection.execute("INSERT INTO organizations (name) VALUES ('zoo')")
        entries = await audit_entries(connection, AuditFilter())

    assert [(entry.database_role, entry.actor) for entry in entries] == [
        ("postgres", None),
        ("postgres", "alice"),
    ]


async def test_what_is_rolled_back_is_not_logged(database: Database) -> None:
    """The entry is part of the change's transaction."""
    assert await logged(database, "BEGIN; UPDATE teams SET enabled = false; ROLLBACK") == []


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param(1000, [(1, "insert")] * 1000, id="each row"),
        pytest.param(1001, [(1001, "insert")], id="one entry for all"),
    ],
)
async def test_a_bulk_of_new_keys_is_one_entry(
    database: Database, rows: int, expected: list[tuple[int, str]]
) -> None:
    """It is found by the id of each of them."""
    async with database.connect() as connection:
        await connection.execute(OWNERS)
        await connection.execute("DELETE FROM audit_log")
        await connection.execute(
            "INSERT INTO api_keys (public_id, secret_sha256, team_id, name)"
            " SELECT lpad(number::text, 12, '0'), sha256('secret'), 'team_1', 'key-' || number"
            " FROM generate_series(1, $1::integer) AS number",
            rows,
        )
        entries = await audit_entries(connection, AuditFilter(limit=2000))
        of_one = await audit_entries(connection, AuditFilter(object_id="000000000007"))

    assert [(entry.rows, entry.action) for entry in entries] == expected
    assert [(entry.rows, entry.action) for entry in of_one] == expected[:1]


async def test_entries_are_found_by_thing_table_and_time(database: Database) -> None:
    """The latest first, and no more than asked for."""
    async with database.connect() as connection:
        await connection.execute(OWNERS)
        await connection.execute("UPDATE api_keys SET enabled = false")
        every = await audit_entries(connection, AuditFilter())
        of_key = await audit_entries(connection, AuditFilter(object_id="AAAAAAAAAAA1"))
        of_teams = await audit_entries(connection, AuditFilter(object_type="teams"))
        later = await audit_entries(connection, AuditFilter(since=every[0].at, limit=1))

    assert [entry.object_type for entry in every] == [
        *("api_keys", "api_keys", "teams", "organizations", "policy_versions", "policies"),
    ]
    assert of_key == every[:2]
    assert of_teams == every[2:3]
    assert later == every[:1]


async def test_followed_entries_come_once_and_also_those_that_were_committed_late(
    database: Database,
) -> None:
    """The later of two transactions ends first; its entry has the greater id."""
    rename = "UPDATE teams SET name = '{}' WHERE id = 'team_1'"
    tail = AuditTail(datetime.now(UTC) - timedelta(minutes=1))
    connect = database.server.connect
    async with connect(database.name) as reader, connect(database.name) as slow:
        await reader.execute(OWNERS)
        before = await tail.more(reader)
        async with slow.transaction():
            await slow.execute("UPDATE api_keys SET enabled = false")
            await reader.execute(rename.format("b"))
            first = await tail.more(reader)
        second = await tail.more(reader)
        nothing = await tail.more(reader)

    assert len(before) == 5
    assert [entry.object_type for entry in first] == ["teams"]
    assert [entry.object_type for entry in second] == ["api_keys"]
    assert second[0].id < first[0].id
    assert nothing == ()


async def test_entries_are_followed_from_the_first_look_on_by_the_clock_of_the_database(
    database: Database,
) -> None:
    """A machine's clock that is a minute ahead would leave out the changes of that minute."""
    tail = AuditTail(None)
    async with database.connect() as connection:
        await connection.execute(OWNERS)
        before = await tail.more(connection)
        await connection.execute("UPDATE teams SET name = 'b' WHERE id = 'team_1'")
        after = await tail.more(connection)

    assert before == ()
    assert [(entry.action, entry.object_type) for entry in after] == [("update", "teams")]


async def test_entries_that_were_followed_are_left_out_by_a_join(database: Database) -> None:
    """Also in the plan for any values, which PostgreSQL takes after five looks."""
    async with database.connect() as connection:
        await connection.execute(
            "INSERT INTO audit_log (database_role, action, object_type)"
            " SELECT 'alice', 'insert', 'teams' FROM generate_series(1, 20000);"
            "ANALYZE audit_log; SET plan_cache_mode = force_generic_plan"
        )
        since, seen = datetime.now(UTC) - timedelta(hours=1), list(range(1, 20001))
        plan = await connection.fetch(f"EXPLAIN {audit_log._AFTER}", since, seen)

    assert any("Hash" in row[0] and "Anti Join" in row[0] for row in plan)
