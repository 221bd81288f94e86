"""The console as a part of the stack: `egret admin` as a process, and its first login."""

from __future__ import annotations

import getpass
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
from pydantic import SecretStr

from egret_tools.devstack.processes import Children, Program
from sidecar.admin.audit_log import set_actor
from sidecar.admin_api.roles import Grant, Role
from sidecar.admin_api.sign_in import begin_link_login
from sidecar.settings.sections import inherited_environment
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import connect

PART: Final = "Console"
START_SECONDS: Final = 60.0
HEALTH_SECONDS: Final = 1.0


@asynccontextmanager
async def running_console(
    children: Children, *, port: int, settings: Mapping[str, str], logs: Path
) -> AsyncIterator[str]:
    """Run the server and yield its address, once it answers.

    Raises:
        PartError: it does not come up.
    """
    url = f"http://127.0.0.1:{port}"
    program = Program(
        part=PART,
        command=(sys.executable, "-m", "sidecar", "admin"),
        log=logs / "console.log",
        environment={**inherited_environment(), **settings, "EGRET_ADMIN__PORT": str(port)},
        orphan_signal=signal.SIGTERM,
    )
    async with children.running(program, is_ready=lambda: _answers(url), seconds=START_SECONDS):
        yield url


async def _answers(url: str) -> bool:
    timeout = aiohttp.ClientTimeout(total=HEALTH_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as client,
            client.get(f"{url}/healthz") as response,
        ):
            return response.ok
    except (aiohttp.ClientError, TimeoutError):
        return False


async def login_link(dsn: str, url: str) -> str:
    """Return an address that signs in once as an administrator, for five minutes."""
    person = getpass.getuser()
    settings = PostgresSettings(dsn=SecretStr(dsn))
    async with connect(settings) as connection, connection.transaction():
        await set_actor(connection, person)
        token = await begin_link_login(connection, person, [Grant(Role.ADMIN)])
    return f"{url}/login/link?token={token}"
