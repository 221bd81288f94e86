"""Alerts are raised and sent by the process of `egret admin`, under the role of the console."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sidecar.alerts.outbox import alert_history
from sidecar.settings.telemetry import AlertSettings
from tests.support.admin_api import admin_settings, running_app
from tests.support.alerts import LOOPBACK, AlertReceiver, leak, route_text, secrets_of
from tests.support.installation import apply_text
from tests.support.postgres import Database


async def test_the_process_of_administration_sends_alerts(
    database: Database, tmp_path: Path
) -> None:
    receiver = AlertReceiver()
    alerts = AlertSettings(
        secrets_directory=secrets_of(tmp_path, "ops"), allowed_networks=(LOOPBACK,)
    )
    settings = admin_settings(database).model_copy(update={"alerts": alerts})
    async with receiver.listening(), database.connect() as connection:
        await apply_text(connection, route_text(url=receiver.url))
        await leak(connection, "strict")
        async with running_app(settings):
            for _ in range(600):
                if any(one.state == "delivered" for one in await alert_history(connection)):
                    break
                await asyncio.sleep(0.05)

    assert receiver.alerts() == ["strict secrets user"]
