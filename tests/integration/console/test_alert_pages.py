from __future__ import annotations

from datetime import UTC, datetime

from fastapi import FastAPI

from sidecar.alerts.outbox import alert_routes, raise_alerts
from sidecar.alerts.rules import Alert
from sidecar.domain.alerting import AlertRule, Severity
from tests.support.console import HOSTILE, Visitor


async def _set_up(console: FastAPI) -> None:
    async with console.state.pool.acquire() as connection, connection.transaction():
        await connection.execute(
            "INSERT INTO alert_routes (name, channel, url, secret)"
            " VALUES ('on-call', 'webhook', 'https://alerts.example.com', 'env:ALERT_ON_CALL')"
        )
        now = datetime.now(UTC)
        alert = Alert(AlertRule.KEY_EXPIRES, Severity.WARNING, "key", now, f"Of {HOSTILE}")
        await raise_alerts(connection, [alert], await alert_routes(connection), now=now)


async def test_alerts_are_shown_as_text_with_their_routes(console: FastAPI) -> None:
    await _set_up(console)
    visitor = await Visitor.of(console, "viewer")

    page = await visitor.get("/alerts")

    assert "Of &lt;img src=x" in page
    assert "on-call" in page
    assert "Send a test" not in page
    assert "No alert." in await visitor.get("/alerts?organization=globex")
    await visitor.send("/alerts/on-call/test", {}, status=403)


async def test_a_test_of_a_route_is_queued_and_listed(console: FastAPI) -> None:
    await _set_up(console)
    visitor = await Visitor.of(console, "admin")
    await visitor.get("/alerts")

    page = await visitor.send("/alerts/on-call/test", {})

    assert "Test of route on-call" in page
    await visitor.send("/alerts/nowhere/test", {}, status=409)
