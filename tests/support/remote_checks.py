"""The remote checks of a worker as `app` builds them, and questions for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry

from sidecar.domain.finding import Finding
from sidecar.domain.guardrail_settings import RemoteEndpoint, RemoteSettings
from sidecar.domain.policy import Action, Guardrail, Stage
from sidecar.guardrails.remote.checks import RemoteAnswer, RemoteChecks, RemoteRequest, RequestInfo
from sidecar.settings.serving import ExchangeSettings
from sidecar.telemetry.metrics import Metrics
from sidecar.worker.worker import open_remote_checks
from tests.support.guardrails import subject_of
from tests.support.webhook_server import WebhookServer, webhook_server

ABOUT = RequestInfo(request_id="r1", key_id="k1", model="gpt-5")


@asynccontextmanager
async def remote_checks() -> AsyncIterator[RemoteChecks]:
    """Every type, with the care around it."""
    metrics = Metrics(CollectorRegistry())
    async with AsyncExitStack() as stack:
        yield await open_remote_checks(ExchangeSettings(), metrics=metrics.remote, stack=stack)


def asking(settings: RemoteSettings, *texts: str, action: Action = Action.BLOCK) -> RemoteRequest:
    """Return what a guardrail with these settings is asked about a request that says *texts*."""
    guardrail = Guardrail("dlp", settings, action=action)
    return RemoteRequest(guardrail, subject_of(*texts), ABOUT, stage=Stage.INPUT)


async def answer_to(
    settings_of: Callable[[RemoteEndpoint], RemoteSettings],
    server_says: Any,
    *texts: str,
    action: Action,
) -> tuple[RemoteAnswer, WebhookServer]:
    """Ask a server that says so over HTTP; return the answer and the server."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response(server_says)

    async with webhook_server(answer) as server, remote_checks() as checks:
        settings = settings_of(RemoteEndpoint(server.url))
        return await checks.check(asking(settings, *texts, action=action)), server


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Read the clock."""
        return self.now


async def answers_as_the_readme_says(settings: RemoteSettings) -> None:
    """Ask an example's server twice, over one connection."""
    async with remote_checks() as checks:
        said = await checks.check(
            asking(settings, "é", "é Project Bluebird!", action=Action.REDACT)
        )
        assert said == RemoteAnswer("redact", (Finding("dlp", "PROJECT_NAME", 1, 3, 19),))
        assert await checks.check(asking(settings, "hello")) == RemoteAnswer("pass")
