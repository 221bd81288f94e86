from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from sidecar.alerts.outbox import alert_history, raise_test
from sidecar.storage.pool import Connection
from tests.support.alerts import (
    AlertReceiver,
    leak,
    route_text,
    secrets_of,
    service,
    start_replica,
)
from tests.support.installation import apply_text, joined
from tests.support.postgres import Database

EXPIRING = """
INSERT INTO organizations (id, name) VALUES ('org_1', 'acme');
INSERT INTO teams (id, organization_id, name) VALUES ('team_1', 'org_1', 'search');
INSERT INTO api_keys (public_id, secret_sha256, team_id, name, expires_at)
VALUES ('AAAAAAAAAAA1', sha256('secret'), 'team_1', 'ci', now() + interval '13 days');
"""
FACTS = 12
KILLS = 3
REPLICAS = 3
_ALL_DELIVERED = """SELECT (SELECT count(*) FROM alerts) = {}
    AND NOT EXISTS (SELECT FROM alert_messages WHERE delivered_at IS NULL)"""


@pytest.mark.timeout(120)
async def test_three_replicas_that_are_killed_raise_each_alert_once(
    database: Database, tmp_path: Path
) -> None:
    """While the receiver is away, and while it has a message and has not answered yet."""
    receiver = AlertReceiver(seconds=0.3)
    async with receiver.listening():
        pass  # its port is known
    secrets = secrets_of(tmp_path, "ops")
    async with database.connect() as connection:
        await apply_text(connection, route_text(url=receiver.url))
        replicas = [await start_replica(database.dsn, secrets) for _ in range(REPLICAS)]
        try:
            for fact in range(FACTS):
                await leak(connection, f"policy-{fact}")
                await asyncio.sleep(0.1)
            assert await until(
                connection, "SELECT count(*) > 0 FROM alert_messages WHERE error <> ''"
            )
            assert receiver.attempts == 0
            async with receiver.listening():
                for kill, place in zip(
                    range(KILLS), itertools.cycle(range(REPLICAS)), strict=False
                ):
                    receiver.received.clear()
                    await leak(connection, f"late-{kill}")
                    await receiver.received.wait()  # it has a message, and has not answered
                    replicas[place].kill()
                    await replicas[place].wait()
                    replicas[place] = await start_replica(database.dsn, secrets)
                assert await until(connection, _ALL_DELIVERED.format(FACTS + KILLS))
        finally:
            for one in replicas:
                one.kill()
                await one.wait()
        history = await alert_history(connection)

    expected = sorted(
        f"{name} secrets user"
        for name in (
            *(f"policy-{fact}" for fact in range(FACTS)),
            *(f"late-{kill}" for kill in range(KILLS)),
        )
    )
    assert receiver.alerts() == expected
    assert sorted(one.alert.object for one in history) == expected
    assert {one.state for one in history} == {"delivered"}


async def until(connection: Connection, condition: str) -> bool:
    """Return whether *condition* becomes true within half a minute."""
    for _ in range(600):
        if await connection.fetchval(condition):
            return True
        await asyncio.sleep(0.05)
    return False


async def test_a_service_that_is_stopped_stores_the_outcome_of_what_it_sends(
    database: Database, tmp_path: Path
) -> None:
    """A rolling update repeats no message."""
    receiver = AlertReceiver(seconds=0.5)
    alerts = service(database.settings, secrets_of(tmp_path, "ops"))
    async with receiver.listening(), database.connect() as connection:
        await apply_text(connection, route_text(url=receiver.url))
        await leak(connection, "strict")
        running = asyncio.ensure_future(alerts.run())
        await receiver.received.wait()
        alerts.stop()
        async with asyncio.timeout(60):
            await running
        (entry,) = await alert_history(connection)

    assert (entry.state, entry.attempts, receiver.attempts) == ("delivered", 1, 1)


async def test_a_receiver_that_refuses_gets_the_same_message_again(
    database: Database, tmp_path: Path
) -> None:
    """By the same id, until it accepts; the reason of the last failure is in the history."""
    receiver = AlertReceiver(status=503)
    alerts = service(database.settings, secrets_of(tmp_path, "ops"))
    async with receiver.listening(), database.connect() as connection:
        await apply_text(connection, route_text(url=receiver.url))
        await leak(connection, "strict")
        assert await alerts.check(connection) == 1
        assert await alerts.check(connection) == 0
        assert await alerts.deliver(connection) == 1
        assert await alerts.deliver(connection) == 0
        (failed,) = await alert_history(connection)
        await connection.execute("UPDATE alert_messages SET next_try_at = now()")
        receiver.status = 200
        assert await alerts.deliver(connection) == 1
        (delivered,) = await alert_history(connection)

    assert (failed.state, failed.error) == ("retried", "status_503")
    assert (delivered.state, delivered.error, delivered.attempts) == ("delivered", None, 2)
    assert len(receiver.bodies) == 1


async def test_a_webhook_that_redirects_to_metadata_reaches_nothing(
    database: Database, tmp_path: Path
) -> None:
    """The answer of the redirect is a failure, and its address is never connected to."""
    receiver, metadata = AlertReceiver(status=302), AlertReceiver()
    alerts = service(database.settings, secrets_of(tmp_path, "ops"))
    async with (
        receiver.listening(),
        metadata.listening(),
        database.connect() as connection,
    ):
        receiver.headers["location"] = metadata.url
        await apply_text(connection, route_text(url=receiver.url))
        await leak(connection, "strict")
        await alerts.check(connection)
        await alerts.deliver(connection)
        (failed,) = await alert_history(connection)

    assert (failed.state, failed.error) == ("retried", "status_302")
    assert metadata.attempts == 0


async def test_a_rule_that_fails_and_a_secret_that_is_missing_hold_up_nothing_else(
    database: Database, tmp_path: Path
) -> None:
    """Limits that cannot be read stop the rule of budgets; a route without secret waits."""
    receiver = AlertReceiver()
    alerts = service(database.settings, secrets_of(tmp_path, "ops"))
    async with receiver.listening(), database.connect() as connection:
        await apply_text(
            connection,
            joined(
                route_text(url=receiver.url),
                route_text("lost", receiver.url),
                "kind: Organization\nname: acme\n",
            ),
        )
        await connection.execute(
            """UPDATE organizations SET limits = '[{"measure": "cost", "window": "eon"}]'"""
        )
        await leak(connection, "strict")
        assert await alerts.check(connection) == 1
        assert await alerts.deliver(connection) == 2
        history = await alert_history(connection)

    assert [(one.route, one.state, one.error) for one in history] == [
        ("lost", "retried", "secret_missing"),
        ("ops", "delivered", None),
    ]


async def test_a_route_that_cannot_be_read_stops_only_itself_and_is_logged_each_time(
    database: Database, tmp_path: Path
) -> None:
    """As after a rollback from a version that stored a new field; its messages lose no attempt."""
    receiver = AlertReceiver()
    alerts = service(database.settings, secrets_of(tmp_path, "newer", "ops"))
    async with receiver.listening(), database.connect() as connection:
        routes = joined(route_text(url=receiver.url), route_text("newer", receiver.url))
        await apply_text(connection, routes)
        await leak(connection, "strict")
        assert await alerts.check(connection) == 1
        await connection.execute("UPDATE alert_routes SET rules = '{x}' WHERE name = 'newer'")
        assert await alerts.deliver(connection) == 1
        await leak(connection, "lax")
        with capture_logs() as logs:
            assert [await alerts.check(connection) for _ in range(2)] == [1, 0]
        assert await alerts.deliver(connection) == 1
        history = await alert_history(connection)

    assert {(one.route, one.state, one.attempts) for one in history} == {
        ("newer", "waiting", 0),
        ("ops", "delivered", 1),
    }
    unreadable = [one["route"] for one in logs if one["event"] == "alerts.route_unreadable"]
    assert unreadable == ["newer", "newer"]


async def test_a_rule_whose_alerts_were_not_stored_is_checked_again_at_once(
    database: Database, tmp_path: Path
) -> None:
    alerts = service(database.settings, tmp_path)
    async with database.connect() as connection:
        await apply_text(connection, route_text())
        await connection.execute(EXPIRING)
        await connection.execute("ALTER TABLE alerts ADD CONSTRAINT none CHECK (rule = 'none')")
        with pytest.raises(asyncpg.CheckViolationError):
            await alerts.check(connection)
        await connection.execute("ALTER TABLE alerts DROP CONSTRAINT none")

        assert await alerts.check(connection) == 1


async def test_alerts_from_before_the_first_route_are_raised_for_it(
    database: Database, tmp_path: Path
) -> None:
    """If it is still so: an alert is raised once, and without a route nobody would have it."""
    alerts = service(database.settings, tmp_path)
    async with database.connect() as connection:
        await leak(connection, "strict")
        assert await alerts.check(connection) == 0
        await apply_text(connection, route_text())
        assert await alerts.check(connection) == 1
        history = await alert_history(connection)

    assert [(one.route, one.state) for one in history] == [("ops", "waiting")]


async def test_the_service_waits_for_a_database_that_is_away(
    database: Database, tmp_path: Path
) -> None:
    nowhere = database.settings.model_copy(
        update={"dsn": SecretStr("postgresql://nobody@127.0.0.1:1/none")}
    )
    alerts = service(nowhere, tmp_path)
    running = asyncio.ensure_future(alerts.run())
    done, _ = await asyncio.wait([running], timeout=0.5)
    alerts.stop()
    await asyncio.wait([running], timeout=60)

    assert not done
    assert running.done()


async def test_a_test_is_sent_at_once_in_quiet_hours(database: Database, tmp_path: Path) -> None:
    """And by its route alone; an alert of that hour waits."""
    receiver = AlertReceiver()
    alerts = service(database.settings, secrets_of(tmp_path, "ops"))
    async with receiver.listening(), database.connect() as connection:
        quiet = "quiet_hours: 00:00-23:59\ndigest: daily\n"
        await apply_text(connection, route_text(url=receiver.url, more=quiet))
        now = await connection.fetchval("SELECT now()")
        message = await raise_test(connection, "ops", now=now)
        assert await alerts.deliver(connection) == 1

    assert receiver.bodies[message]["type"] == "alert.test"


async def test_a_route_that_is_deleted_while_its_message_is_taken_holds_up_no_other(
    database: Database, tmp_path: Path
) -> None:
    """The messages that were taken with it would wait until their lease is over."""
    receiver = AlertReceiver()
    alerts = service(database.settings, secrets_of(tmp_path, "ops", "gone"))
    async with receiver.listening(), database.connect() as connection:
        routes = joined(route_text(url=receiver.url), route_text("gone", url=receiver.url))
        await apply_text(connection, routes)
        await leak(connection, "strict")
        assert await alerts.check(connection) == 1
        await connection.execute(
            "CREATE FUNCTION drop_route() RETURNS trigger LANGUAGE plpgsql AS $$"
            " BEGIN DELETE FROM alert_routes WHERE name = 'gone'; RETURN NULL; END $$;"
            "CREATE TRIGGER drop_route AFTER UPDATE ON alert_messages"
            " FOR EACH STATEMENT EXECUTE FUNCTION drop_route()"
        )
        await alerts.deliver(connection)
        history = await alert_history(connection)

    assert [(one.route, one.state) for one in history] == [("ops", "delivered")]
