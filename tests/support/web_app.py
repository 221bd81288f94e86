"""Serves an application of aiohttp on a free port of this machine."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


@asynccontextmanager
async def served(
    application: web.Application, *, tls: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[int]:
    """Serve until the block ends; yield the port. The *options* are those of the runner."""
    runner = web.AppRunner(application, **options)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
