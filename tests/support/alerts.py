"""Routes and facts of alerts, a receiver of webhooks, and replicas as processes of their own.

    python -m tests.support.alerts DSN SECRETS_DIRECTORY

runs one replica that checks every 0.2 s and leases messages for a second, until it is killed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import sys
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook

from sidecar.admin.installation.objects import AlertRouteDocument
from sidecar.alerts.service import AlertService
from sidecar.settings.stores import PostgresSettings
from sidecar.settings.telemetry import AlertSettings
from sidecar.storage.pool import Connection

SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
LOOPBACK = ipaddress.ip_network("127.0.0.0/8")


def route_text(name: str = "ops", url: str = "https://alerts.example", more: str = "") -> str:
    """Return the document of a webhook's route; *more* are further lines."""
    return (
        f"kind: AlertRoute\nname: {name}\nchannel: webhook\nurl: {url}\nsecret: file:{name}\n"
        + more
    )


def route(**fields: Any) -> AlertRouteDocument:
    """Return a webhook's route with other *fields*."""
    usual = {
        "name": "ops",
        "channel": "webhook",
        "url": "https://alerts.example",
        "secret": "file:ops",
    }
    return AlertRouteDocument.model_validate(usual | fields)


def secrets_of(directory: Path, *names: str) -> Path:
    """Write the secret of each route into *directory*, and return it."""
    for name in names:
        (directory / name).write_text(SECRET, encoding="utf-8")
    return directory


async def leak(connection: Connection, policy: str) -> None:
    """Store that a guardrail of *policy* found a key of Egret: one alert, critical."""
    await connection.execute(
        "INSERT INTO findings_by_hour (began_at, policy, guardrail, type, role, verdict, mode,"
        " requests, findings)"
        " VALUES (date_trunc('hour', now(), 'UTC'), $1, 'secrets', 'EGRET_KEY', 'user', 'block',"
        " 'enforce', 1, 1) ON CONFLICT DO NOTHING",
        policy,
    )


@dataclass
class AlertReceiver:
    """A receiver that checks signatures and keeps each body by its id."""

    status: int = 204
    seconds: float = 0.0
    bodies: dict[str, Any] = field(default_factory=dict)
    attempts: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    received: asyncio.Event = field(default_factory=asyncio.Event)
    _held: socket.socket = field(default_factory=socket.socket)
    """Never listens, but keeps the port for times without a listener."""

    def __post_init__(self) -> None:
        weakref.finalize(self, self._held.close)
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._held.bind(("127.0.0.1", 0))

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._held.getsockname()[1]}/alerts"

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Accept connections, at the same port each time."""

        async def take(request: web.Request) -> web.Response:
            self.attempts += 1
            self.received.set()
            body = await request.text()
            headers = {name.lower(): value for name, value in request.headers.items()}
            payload = Webhook(SECRET).verify(body, headers)
            await asyncio.sleep(self.seconds)
            if self.status < 300:
                self.bodies[headers["webhook-id"]] = payload
            return web.Response(status=self.status, headers=self.headers)

        application = web.Application()
        application.router.add_post("/alerts", take)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        host, port = self._held.getsockname()
        await web.TCPSite(runner, host, port, reuse_port=True).start()
        try:
            yield
        finally:
            await runner.cleanup()

    def alerts(self) -> list[str]:
        """Return the objects of all alerts received, one for each message that has it."""
        return sorted(
            one["object"] for body in self.bodies.values() for one in body["data"]["alerts"]
        )


def service(
    postgres: PostgresSettings, secrets: Path, *, lease_seconds: float = 60.0
) -> AlertService:
    """Return a quick service that may send to loopback."""
    settings = AlertSettings(
        secrets_directory=secrets,
        allowed_networks=(LOOPBACK,),
        check_seconds=1.0,
    ).model_copy(update={"check_seconds": 0.2})
    return AlertService(postgres, settings, deliver_seconds=0.05, lease_seconds=lease_seconds)


async def start_replica(dsn: str, secrets: Path) -> asyncio.subprocess.Process:
    """Start a replica."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.alerts", dsn, str(secrets)
    )


if __name__ == "__main__":
    postgres = PostgresSettings(dsn=SecretStr(sys.argv[1]), acquire_seconds=20, query_seconds=20)
    asyncio.run(service(postgres, Path(sys.argv[2]), lease_seconds=1.0).run())
