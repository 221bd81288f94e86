"""A running `egret admin`, and commands that use it in place of the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn

from sidecar.admin_api.application import create_app
from tests.support.admin_api import admin_settings, token_client
from tests.support.command_line import Egret, Ran
from tests.support.postgres import Database

NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"
ByServer = Callable[..., "asyncio.Future[Ran]"]


@asynccontextmanager
async def admin_server(database: Database) -> AsyncIterator[tuple[str, str]]:
    """The address of a running server, and an administrator's token."""
    app = create_app(admin_settings(database))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", access_log=False)
    server = uvicorn.Server(config)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        client = await token_client(app, "admin")
        token = client.headers["authorization"].removeprefix("Bearer ")
        yield f"http://127.0.0.1:{port}", token
        server.should_exit = True


@pytest.fixture
async def by_server(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ByServer]:
    """Run a command by a server that is there, with an administrator's token."""
    async with admin_server(database) as (url, token):
        monkeypatch.setenv("EGRET_SERVER_TOKEN", token)

        def command(*words: str, stdin: str | None = None) -> asyncio.Future[Ran]:
            arguments = ("--server", url, *words)
            return asyncio.ensure_future(
                asyncio.to_thread(Egret(NO_DATABASE), *arguments, stdin=stdin)
            )

        yield command
