"""A real HTTP server that answers guardrail webhooks as a test wants, and keeps what it got."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.web_app import served

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class WebhookServer:
    """Where it listens, what it was sent, and when each request came and went."""

    url: str = ""
    bodies: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    intervals: list[tuple[float, float]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@asynccontextmanager
async def webhook_server(answer: Answer) -> AsyncIterator[WebhookServer]:
    """Serve on a free port of the loopback interface."""
    server = WebhookServer()

    async def take(request: web.Request) -> web.StreamResponse:
        began = time.monotonic()
        server.paths.append(request.path)
        server.headers.append(dict(request.headers))
        if request.method == "POST":
            server.bodies.append(await request.json())
        try:
            return await answer(request)
        finally:
            server.intervals.append((began, time.monotonic()))

    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_route("*", "/{path:.*}", take)
    async with served(application, handler_cancellation=True, shutdown_timeout=0.1) as port:
        server.url = f"http://127.0.0.1:{port}/check"
        yield server
