from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import asyncpg
import pytest

from sidecar.admin.installation.persistence import load_installation
from sidecar.admin.owners import ChangeRefusedError
from sidecar.alerts.outbox import (
    alert_history,
    alert_routes,
    claim_messages,
    forget_old_alerts,
    mark_delivered,
    mark_failed,
    message_state,
    raise_alerts,
    raise_test,
)
from sidecar.alerts.rules import Alert
from sidecar.domain.alerting import AlertRule, Severity
from sidecar.storage.pool import Connection
from tests.support.alerts import route_text
from tests.support.installation import apply_text, exported, joined, organization
from tests.support.postgres import Database


def alert(number: int = 0, **fields: object) -> Alert:
    """Return an alert on one of several objects."""
    usual = {
        "rule": AlertRule.FAIL_OPEN,
        "severity": Severity.WARNING,
        "object": f"object-{number}",
        "period_began": datetime.fromisoformat("2027-01-31T12:00:00Z"),
        "summary": "It happened",
    }
    return Alert(**(usual | fields))  # type: ignore[arg-type]  # by name


async def raised(connection: Connection, *alerts: Alert) -> int:
    """Raise *alerts* in a transaction."""
    async with connection.transaction():
        routes = await alert_routes(connection)
        now = await connection.fetchval("SELECT now()")
        return await raise_alerts(connection, alerts, routes, now=now)


async def taken(connection: Connection) -> dict[str, list[str]]:
    """Return the objects of all messages, by route."""
    history = await alert_history(connection, limit=1000)
    found: dict[str, list[str]] = {}
    for one in history:
        if one.route is not None:
            found.setdefault(one.route, []).append(one.alert.object)
    return {name: sorted(objects) for name, objects in found.items()}


async def test_replicas_that_raise_the_same_alerts_make_one_row_and_message_of_each(
    database: Database,
) -> None:
    async def replica() -> int:
        async with database.connect() as connection:
            return sum([await raised(connection, *map(alert, range(5))) for _ in range(10)])

    async with database.connect() as connection:
        await apply_text(connection, route_text())
        counts = await asyncio.gather(*(replica() for _ in range(4)))
        again = await raised(
            connection, alert(0, period_began=datetime.fromisoformat("2027-02-01T00:00Z"))
        )
        objects = (await taken(connection))["ops"]

    assert (sum(counts), again) == (5, 1)
    assert objects == sorted(["object-0", *(f"object-{number}" for number in range(5))])


async def test_a_route_takes_alerts_by_organization_severity_and_rule(database: Database) -> None:
    """An organization's route takes none of another, nor of the installation as a whole."""
    async with database.connect() as connection:
        await apply_text(
            connection,
            joined(
                organization("acme"),
                organization("globex"),
                route_text("all", more="severity: info\n"),
                route_text("acme", more="organization: acme\n"),
                route_text("critical", more="severity: critical\n"),
                route_text("budgets", more="rules: [budget_spent]\n"),
            ),
        )
        owners = await connection.fetch("SELECT name, id FROM organizations")
        ids = {row["name"]: row["id"] for row in owners}
        await raised(
            connection,
            alert(1, organization_id=ids["acme"]),
            alert(2, organization_id=ids["globex"], severity=Severity.CRITICAL),
            alert(3, severity=Severity.INFO),
            alert(4, rule=AlertRule.BUDGET_SPENT),
        )
        objects = await taken(connection)
        of_acme = await alert_history(connection, organization="acme")

    assert objects == {
        "all": ["object-1", "object-2", "object-3", "object-4"],
        "acme": ["object-1"],
        "critical": ["object-2"],
        "budgets": ["object-4"],
    }
    assert {one.alert.object for one in of_acme} == {"object-1"}


async def test_a_route_with_a_machines_time_zone_of_a_former_version_stops_no_alert(
    database: Database,
) -> None:
    async with database.connect() as connection:
        await apply_text(connection, route_text())
        await connection.execute(
            "INSERT INTO alert_routes (name, channel, secret, time_zone)"
            " VALUES ('former', 'slack', 'env:ALERT_FORMER', 'localtime')"
        )

        assert await raised(connection, alert()) == 1
        assert await taken(connection) == {"former": ["object-0"], "ops": ["object-0"]}


async def test_a_digest_is_one_message_until_it_is_sent(database: Database) -> None:
    """Alerts of later checks join it; a critical one is a message of its own, at once."""
    async with database.connect() as connection:
        await apply_text(connection, route_text(more="digest: daily\n"))
        for number in range(3):
            await raised(connection, alert(number))
        await raised(connection, alert(9, severity=Severity.CRITICAL))
        (critical,) = await claim_messages(connection, limit=10)
        await mark_delivered(connection, critical)
        await connection.execute("UPDATE alert_messages SET next_try_at = now()")
        digest = [
            one for one in await claim_messages(connection, limit=10) if one.id != critical.id
        ]
        await raised(connection, alert(4))
        late = await claim_messages(connection, limit=10)

    assert [one.object for one in critical.alerts] == ["object-9"]
    assert [[alert.object for alert in one.alerts] for one in digest] == [
        ["object-0", "object-1", "object-2"]
    ]
    assert [[alert.object for alert in one.alerts] for one in late] == [["object-4"]]


async def test_a_message_is_leased_to_one_replica_and_returns_with_its_id(
    database: Database,
) -> None:
    """A replica that was too slow does not undo the outcome of the next one."""
    async with (
        database.connect() as first,
        database.connect() as second,
    ):
        await apply_text(first, route_text())
        await raised(first, alert())
        (slow,) = await claim_messages(first, limit=10, lease_seconds=0)
        (again,) = await claim_messages(second, limit=10, lease_seconds=60)
        assert await claim_messages(first, limit=10) == []
        await mark_failed(first, slow, "timeout", retry_in=timedelta(0))
        assert await claim_messages(first, limit=10) == []
        await mark_delivered(second, again)
        await mark_delivered(first, slow)
        state = await message_state(first, slow.id)

    assert (slow.id, slow.attempts, again.attempts) == (again.id, 1, 2)
    assert state == (True, None)


async def test_a_receiver_that_hangs_holds_up_no_other(database: Database) -> None:
    """However many of its messages are due: a replica takes one of each route."""
    async with database.connect() as connection:
        await apply_text(connection, joined(route_text("slow"), route_text("quick")))
        for number in range(5):
            await raised(connection, alert(number))
        await connection.execute("DELETE FROM alert_messages WHERE route = 'quick'")
        await raised(connection, alert(9))
        first = await claim_messages(connection, limit=8)
        second = await claim_messages(connection, limit=8)

    assert sorted(one.route for one in first) == ["quick", "slow"]
    assert [one.route for one in second] == ["slow"]


async def test_a_message_is_given_up_after_a_day(database: Database) -> None:
    async with database.connect() as connection:
        await apply_text(connection, route_text())
        await raised(connection, alert())
        (message,) = await claim_messages(connection, limit=1, lease_seconds=0)
        assert not await mark_failed(
            connection, message, "status_500", retry_in=timedelta(hours=23)
        )
        await connection.execute("UPDATE alert_messages SET next_try_at = now()")
        (message,) = await claim_messages(connection, limit=1, lease_seconds=0)
        assert await mark_failed(connection, message, "status_500", retry_in=timedelta(hours=25))
        (entry,) = await alert_history(connection)
        assert await claim_messages(connection, limit=1) == []

    assert (entry.state, entry.error) == ("given up", "status_500")


async def test_the_day_of_a_message_begins_with_its_first_attempt(database: Database) -> None:
    """However long it waited: for a route that was disabled, or while nothing sent it."""
    async with database.connect() as connection:
        await apply_text(connection, route_text())
        await raised(connection, alert())
        await connection.execute("UPDATE alert_messages SET due_at = now() - interval '2 days'")
        (message,) = await claim_messages(connection, limit=1, lease_seconds=0)
        assert not await mark_failed(
            connection, message, "status_500", retry_in=timedelta(seconds=5)
        )
        await connection.execute(
            "UPDATE alert_messages"
            " SET first_tried_at = first_tried_at - interval '1 day', next_try_at = now()"
        )
        (message,) = await claim_messages(connection, limit=1, lease_seconds=0)

        assert await mark_failed(connection, message, "status_500", retry_in=timedelta(seconds=5))


async def test_alerts_of_a_disabled_route_wait_until_it_is_enabled(database: Database) -> None:
    async with database.connect() as connection:
        await apply_text(connection, route_text(more="enabled: false\n"))
        await raised(connection, alert())
        assert await claim_messages(connection, limit=1) == []
        await apply_text(connection, route_text())
        (message,) = await claim_messages(connection, limit=1)

    assert [one.object for one in message.alerts] == ["object-0"]


async def test_a_disabled_route_keeps_its_messages_and_a_deleted_one_does_not(
    database: Database,
) -> None:
    """The alerts stay in the history."""
    async with database.connect() as connection:
        await apply_text(connection, route_text())
        await raised(connection, alert())
        await apply_text(connection, route_text(more="enabled: false\n"))
        assert await claim_messages(connection, limit=1) == []
        (kept,) = await alert_history(connection)
        with pytest.raises(ChangeRefusedError, match="alert route ops is disabled"):
            await raise_test(connection, "ops", now=kept.alert.raised_at)
        await apply_text(connection, organization(), prunes=True)
        (left,) = await alert_history(connection)
        with pytest.raises(ChangeRefusedError, match="there is no alert route ops"):
            await raise_test(connection, "ops", now=kept.alert.raised_at)

    assert (kept.state, left.state) == ("waiting", "no route")


async def test_alerts_are_forgotten_after_400_days(database: Database) -> None:
    async with database.connect() as connection:
        await apply_text(connection, route_text())
        await raised(connection, alert(1))
        await connection.execute("UPDATE alerts SET raised_at = now() - interval '401 days'")
        await connection.execute("UPDATE alert_messages SET due_at = now() - interval '401 days'")
        await raised(connection, alert(2))
        await forget_old_alerts(connection)
        history = await alert_history(connection)

    assert [one.alert.object for one in history] == ["object-2"]


async def test_routes_are_exported_as_they_were_applied(database: Database) -> None:
    text = joined(
        organization(),
        route_text("a", more="organization: acme\nquiet_hours: 22:00-07:00\ndigest: daily\n"),
        "kind: AlertRoute\nname: b\nchannel: slack\nsecret: env:ALERT_SLACK\n"
        "rules: [fail_open, key_leaked]\nseverity: critical\ntime_zone: Europe/Berlin\n",
    )
    async with database.connect() as connection:
        await apply_text(connection, text)
        written = exported(await load_installation(connection))
        again = await apply_text(connection, written, prunes=True)
        plan = await apply_text(connection, text.replace("digest: daily", "digest: hourly"))
        routes = await alert_routes(connection)

    assert again.changes == ()
    assert [change.fields[0].field for change in plan.changes] == ["digest"]
    assert [one.name for one in routes] == ["a", "b"]


async def test_the_database_takes_no_secret_in_place_of_its_name(database: Database) -> None:
    async with database.connect() as connection:
        for secret in ("whsec_C2FVsBQIhrscChlQIMV", "env:HOME", "file:../dsn"):
            with pytest.raises(asyncpg.CheckViolationError, match="alert_routes_secret_check"):
                await connection.execute(
                    "INSERT INTO alert_routes (name, channel, secret) VALUES ('a', 'slack', $1)",
                    secret,
                )
