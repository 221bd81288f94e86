from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from structlog.testing import capture_logs

from sidecar.alerts.rules import RULES, alerts_by_rule, budget_alerts
from sidecar.domain.alerting import AlertRule, Severity
from sidecar.storage.pool import Connection, open_pool
from sidecar.storage.worker_status import WorkerStatus
from tests.support.postgres import Database
from tests.support.reporting_worker import SOCKET, reporting_worker

OWNERS = """
INSERT INTO organizations (id, name) VALUES ('org_1', 'acme');
INSERT INTO teams (id, organization_id, name) VALUES ('team_1', 'org_1', 'search');
"""
_KEY = """
INSERT INTO api_keys (public_id, secret_sha256, team_id, name, expires_at, created_at, revoked_at)
VALUES ($1::text, sha256('secret'), 'team_1', lower($1::text), now() + $2::text::interval,
    now() - interval '1 day' * $3, $4)
"""
_FINDINGS = """
INSERT INTO findings_by_hour (began_at, policy, guardrail, type, role, verdict, mode, requests,
    findings)
VALUES (date_trunc('hour', now(), 'UTC') - interval '1 hour' * $1::integer, 'strict', 'pii', $2,
    'user', 'redact', 'enforce', $3, 1)
"""
_TWO_MINUTES_AGO = "UPDATE workers SET seen_at = now() - interval '2 minutes'"
_USAGE = """
INSERT INTO usage (occurred_at, request_id, key_id, team_id, organization_id, status, decision,
    guardrails, latency_ms, cost_usd)
VALUES (now() - $1::text::interval, gen_random_uuid()::text, 'AAAAAAAAAAA1', 'team_1', 'org_1',
    200, 'allow', $2, 1, $3)
RETURNING request_id
"""


async def found(connection: Connection, rule: AlertRule) -> list[tuple[str, str]]:
    """Return object and summary of what a rule finds."""
    alerts = await alerts_by_rule(connection, rule)
    assert all(one.rule is rule for one in alerts)
    return sorted((one.object, one.summary) for one in alerts)


@asynccontextmanager
async def at(database: Database, moment: str) -> AsyncIterator[Connection]:
    """Connect to a database in which `now()` is *moment*."""
    async with database.connect() as connection:
        await connection.execute(
            "CREATE SCHEMA clock; CREATE FUNCTION clock.now() RETURNS timestamptz STABLE"
            f" RETURN timestamptz '{moment}'; SET search_path = clock, public, pg_catalog"
        )
        yield connection


async def add_key(
    connection: Connection,
    key_id: str,
    *,
    expires: str | None = None,
    age: int = 0,
    revoked: datetime | None = None,
) -> None:
    await connection.execute(_KEY, key_id, expires, age, revoked)


async def test_every_rule_runs_on_an_empty_database_and_finds_nothing(database: Database) -> None:
    async with database.connect() as connection:
        for rule in RULES:
            assert await found(connection, rule) == []
        assert await budget_alerts(connection, now=datetime.now(UTC).timestamp()) == []


def test_every_rule_but_budgets_and_the_test_is_in_the_table() -> None:
    assert set(AlertRule) - set(RULES) == {
        AlertRule.BUDGET_THRESHOLD,
        AlertRule.BUDGET_SPENT,
        AlertRule.TEST,
    }


async def test_a_key_is_reported_before_it_expires_and_again_on_the_last_day(
    database: Database,
) -> None:
    """Not one that was revoked, has expired or lasts longer."""
    async with database.connect() as connection:
        await connection.execute(OWNERS)
        await add_key(connection, "AAAAAAAAAAA1", expires="13 days")
        await add_key(connection, "AAAAAAAAAAA2", expires="23 hours")
        await add_key(connection, "AAAAAAAAAAA3", expires="15 days")
        await add_key(connection, "AAAAAAAAAAA4", expires="-1 hour")
        await add_key(connection, "AAAAAAAAAAA5", expires="1 hour", revoked=datetime.now(UTC))
        await add_key(connection, "AAAAAAAAAAA6")
        soon = await found(connection, AlertRule.KEY_EXPIRES)
        tomorrow = await found(connection, AlertRule.KEY_EXPIRES_TOMORROW)

    assert [one[0] for one in soon] == ["AAAAAAAAAAA1", "AAAAAAAAAAA2"]
    assert soon[0][1].startswith("Key acme/search/aaaaaaaaaaa1 (AAAAAAAAAAA1) expires at 2")
    assert [one[0] for one in tomorrow] == ["AAAAAAAAAAA2"]


async def test_keys_that_were_not_used_for_90_days_are_one_alert_a_month(
    database: Database,
) -> None:
    """A young key, and an old one that was used, are in use."""
    async with database.connect() as connection:
        await connection.execute(OWNERS)
        await add_key(connection, "AAAAAAAAAAA1", age=91)
        await add_key(connection, "AAAAAAAAAAA2", age=400)
        await add_key(connection, "AAAAAAAAAAA3", age=89)
        await add_key(connection, "AAAAAAAAAAA4", age=400)
        await connection.execute("INSERT INTO key_activity VALUES ('AAAAAAAAAAA4', now(), 1, 0)")
        (alert,) = await alerts_by_rule(connection, AlertRule.KEYS_UNUSED)

    assert alert.summary == (
        "2 keys of acme were not used for 90 days, such as AAAAAAAAAAA1, AAAAAAAAAAA2"
    )
    assert (alert.organization_id, alert.period_began.day) == ("org_1", 1)


SPIKES: Final[tuple[tuple[dict[int, int], bool], ...]] = (
    ({0: 20, 30: 1}, True),
    ({0: 19, 30: 1}, False),  # too few to matter
    ({0: 100}, False),  # a new guardrail
    ({0: 100, 20: 1}, False),  # not a day old
    ({0: 100, **dict.fromkeys(range(1, 169), 21)}, False),  # under five times the mean
    ({0: 106, **dict.fromkeys(range(1, 169), 21)}, True),
    (dict.fromkeys(range(27), 30), False),  # the second day of a steady guardrail
    ({**dict.fromkeys(range(27), 30), 0: 151}, True),
)
"""Requests with a finding by age in hours, and whether that is a spike."""


async def test_a_spike_is_five_times_the_usual_findings(database: Database) -> None:
    async with at(database, "2027-01-31T10:20Z") as connection:
        for hours, is_spike in SPIKES:
            await connection.execute("TRUNCATE findings_by_hour")
            rows = [(age, "EMAIL", requests) for age, requests in hours.items()]
            await connection.executemany(_FINDINGS, rows)
            alerts = await found(connection, AlertRule.GUARDRAIL_SPIKE)
            assert [one[0] for one in alerts] == ["strict pii EMAIL"] * is_spike, hours


async def test_a_request_with_a_finding_in_several_roles_counts_once_in_a_spike(
    database: Database,
) -> None:
    """Counts are kept by role: at least as many requests have one as the role with the most."""
    by_tool = _FINDINGS.replace("'user'", "'tool'")
    async with at(database, "2027-01-31T10:20Z") as connection:
        await connection.execute(_FINDINGS, 30, "EMAIL", 1)
        for found_in in (_FINDINGS, by_tool):
            await connection.execute(found_in, 0, "EMAIL", 19)
        assert await found(connection, AlertRule.GUARDRAIL_SPIKE) == []
        await connection.execute(by_tool.replace("'redact'", "'flag'"), 0, "EMAIL", 3)
        ((_, summary),) = await found(connection, AlertRule.GUARDRAIL_SPIKE)

    assert "found EMAIL in at least 22 requests of this hour" in summary


async def test_a_spike_at_the_end_of_a_day_is_found_after_midnight(database: Database) -> None:
    """As one alert of that day: its last findings are stored, and seen by a check, by then."""
    async with at(database, "2027-02-01T00:00:30Z") as connection:
        await connection.execute(_FINDINGS, 30, "EMAIL", 1)
        await connection.execute(_FINDINGS, 1, "EMAIL", 20)
        (alert,) = await alerts_by_rule(connection, AlertRule.GUARDRAIL_SPIKE)

    assert alert.period_began == datetime(2027, 1, 31, tzinfo=UTC)


async def test_an_alert_of_the_last_minutes_of_an_hour_is_not_raised_again_in_the_next_hour(
    database: Database,
) -> None:
    """Checks look further back: the period is the hour of the event, not of the check."""
    async with at(database, "2027-02-01T00:04Z") as connection:
        await connection.execute(OWNERS)
        await connection.execute(_USAGE, "5 minutes", '{"dlp": "error_open"}', None)
        await connection.execute(
            "INSERT INTO workers (host, socket, process, version, seen_at, policies,"
            " acknowledged, deaths, died_at)"
            " SELECT 'here', '0', 'p', '1', at, '{}', '{}', 1, at"
            " FROM (SELECT now() - interval '5 minutes') AS five (at)"
        )
        for rule in (AlertRule.FAIL_OPEN, AlertRule.WORKER_DIED, AlertRule.WORKER_SILENT):
            (alert,) = await alerts_by_rule(connection, rule)
            assert alert.period_began == datetime(2027, 1, 31, 23, tzinfo=UTC), rule


async def test_a_key_of_egret_in_a_text_is_critical(database: Database) -> None:
    async with at(database, "2027-01-31T10:20Z") as connection:
        await connection.execute(_FINDINGS, 1, "EGRET_KEY", 2)
        await connection.execute(_FINDINGS, 3, "EGRET_KEY", 2)
        await connection.execute(_FINDINGS, 0, "EMAIL", 2)
        (alert,) = await alerts_by_rule(connection, AlertRule.KEY_LEAKED)

    assert (alert.severity, alert.object) == (Severity.CRITICAL, "strict pii user")


async def test_a_guardrail_that_fails_open_is_reported_for_the_organization(
    database: Database,
) -> None:
    """Not for requests that were refused."""
    async with at(database, "2027-01-31T10:20Z") as connection:
        await connection.execute(OWNERS)
        for age, verdicts in (
            ("1 minute", '{"dlp": "timeout_open"}'),
            ("2 minutes", '{"dlp": "error_open", "pii": "flag"}'),
            ("2 minutes", '{"pii": "error_closed"}'),
        ):
            await connection.execute(_USAGE, age, verdicts, None)
        refused = await connection.fetchval(_USAGE, "1 minute", '{"words": "error_open"}', None)
        await connection.execute(
            "UPDATE usage SET decision = 'deny' WHERE request_id = $1", refused
        )
        alerts = await found(connection, AlertRule.FAIL_OPEN)

    assert alerts == [
        (
            "dlp org_1",
            (
                "Guardrail dlp failed or timed out and let requests of acme pass unchecked:"
                " 2 so far of the hour from 2027-01-31 10:00 UTC"
            ),
        )
    ]


async def test_a_request_that_is_stored_hours_later_is_found_to_have_passed_unchecked(
    database: Database,
) -> None:
    """Its answer was long, or the database was away: an alert of the hour in which it began."""
    async with at(database, "2027-01-31T10:20Z") as connection:
        await connection.execute(OWNERS)
        for age in ("1 minute", "90 minutes", "95 minutes", "22 hours", "25 hours"):
            await connection.execute(_USAGE, age, '{"dlp": "error_open"}', None)
        alerts = await alerts_by_rule(connection, AlertRule.FAIL_OPEN)

    assert sorted((one.period_began.day, one.period_began.hour) for one in alerts) == [
        (30, 12), (31, 8), (31, 10),
    ]  # fmt: skip
    assert sum("2 so far of the hour from 2027-01-31 08:00" in one.summary for one in alerts) == 1


_HOURS_OF_USAGE = """
INSERT INTO usage_by_hour (began_at, key_id, team_id, organization_id, model, requests, refused,
    failed, estimated, unpriced, input_tokens, cached_input_tokens, cache_write_tokens,
    output_tokens, reasoning_tokens, cost_usd)
SELECT date_trunc('hour', now(), 'UTC') - interval '1 hour' * age,
    'k', 't', 'o', 'm', 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
FROM unnest($1::integer[]) AS age
"""


async def test_no_usage_after_a_day_with_usage_each_hour_is_reported(database: Database) -> None:
    """Not if there was some in the last hour, nor if an hour without usage is usual."""
    async with at(database, "2027-01-31T10:20Z") as connection:
        for ages, expected in (
            ([*range(2, 27)], ["usage"]),
            ([*range(1, 27)], []),
            ([*range(2, 10), *range(11, 27)], []),
        ):
            await connection.execute("TRUNCATE usage_by_hour")
            await connection.execute(_HOURS_OF_USAGE, ages)
            alerts = await found(connection, AlertRule.FILTER_UNATTACHED)
            assert [one[0] for one in alerts] == expected


async def test_a_worker_that_was_killed_or_is_silent_is_reported(database: Database) -> None:
    """One that ends by itself deletes its row."""
    async with open_pool(database.settings) as pool:  # reports once, and is never ended
        await WorkerStatus(pool, database.settings, host="here", socket=SOCKET).report()
    async with database.connect() as connection:
        async with reporting_worker(database) as started:
            died = await found(connection, AlertRule.WORKER_DIED)
            await started.report()
            assert await found(connection, AlertRule.WORKER_DIED) == died
            async with connection.transaction():  # no report changes the row before it is read
                await connection.execute(
                    "UPDATE workers SET seen_at = now() - interval '2 minutes'"
                )
                silent = await found(connection, AlertRule.WORKER_SILENT)
        ended = await found(connection, AlertRule.WORKER_DIED)

    assert [summary.partition(";")[2] for _, summary in died] == [" 1 times so far on this host"]
    assert [summary[:10] for _, summary in silent] == ["1 workers "]
    assert ended == []


async def test_a_route_that_does_not_deliver_is_reported_to_the_others(database: Database) -> None:
    """With the reason, an hour after the first attempt; not while a message is not due.

    Nor if it was delivered, or waited long for its first attempt.
    """
    async with database.connect() as connection:
        await connection.execute(OWNERS)
        await connection.execute(
            """
INSERT INTO alert_routes (name, channel, secret, organization_id)
VALUES ('bad', 'slack', 'file:a', 'org_1'), ('good', 'slack', 'file:a', NULL);
INSERT INTO alert_messages
    (route, alerts, due_at, first_tried_at, next_try_at, attempts, delivered_at, error)
VALUES ('bad', '{}', now() - interval '2h', now() - interval '2h', now(), 9, NULL, 'status_503'),
    ('good', '{}', now() - interval '2h', now() - interval '2h', now(), 2, now(), NULL),
    ('good', '{}', now() - interval '2h', now(), now(), 1, NULL, NULL),
    ('good', '{}', now() - interval '2h', now(), now(), 1, NULL, 'status_503'),
    ('good', '{}', now() + interval '2h', NULL, now(), 0, NULL, NULL)
"""
        )
        (alert,) = await alerts_by_rule(connection, AlertRule.ROUTE_FAILS)

    assert (alert.object, alert.organization_id) == ("bad", "org_1")
    assert alert.summary == (
        "Alert route bad has not delivered 1 messages for over an hour (status_503)"
    )


async def test_a_budget_is_reported_when_it_is_nearly_spent_and_when_it_is(
    database: Database,
) -> None:
    """In the period that begins in the budget's time zone."""
    limits = '[{"measure": "cost", "window": "day", "amount": 10000000, "time_zone": "UTC"}]'
    reported: list[list[tuple[AlertRule, Severity]]] = []
    async with at(database, "2027-01-31T10:20Z") as connection:
        await connection.execute(OWNERS)
        await connection.execute("UPDATE teams SET limits = $1", limits)
        for spent in ("7.99", "0.01", "2"):
            await connection.execute(_USAGE, "0 seconds", "{}", spent)
            now = await connection.fetchval("SELECT now()")
            alerts = await budget_alerts(connection, now=now.timestamp())
            assert all(one.period_began.hour == 0 for one in alerts)
            assert all(one.organization_id == "org_1" for one in alerts)
            reported.append([(one.rule, one.severity) for one in alerts])

    assert reported == [
        [],
        [(AlertRule.BUDGET_THRESHOLD, Severity.WARNING)],
        [(AlertRule.BUDGET_SPENT, Severity.CRITICAL)],
    ]


async def test_limits_that_cannot_be_read_hide_no_budget_of_another_owner(
    database: Database,
) -> None:
    """Their owner is logged: no worker lets its keys in."""
    limits = '[{"measure": "cost", "window": "day", "amount": 10000000, "time_zone": "UTC"}]'
    async with at(database, "2027-01-31T10:20Z") as connection:
        await connection.execute(OWNERS)
        await connection.execute("UPDATE teams SET limits = $1", limits)
        await connection.execute(_USAGE, "0 seconds", "{}", "10")
        await connection.execute(
            "UPDATE organizations SET limits = replace($1, '\"day\"', '\"age\"')::jsonb", limits
        )
        now = await connection.fetchval("SELECT now()")
        with capture_logs() as logged:
            alerts = await budget_alerts(connection, now=now.timestamp())

    assert [one.rule for one in alerts] == [AlertRule.BUDGET_SPENT]
    assert [line["event"] for line in logged] == ["alerts.limits_unreadable"]
    assert "organization acme" in logged[0]["reason"]
