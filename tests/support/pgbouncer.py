"""A real pgbouncer in transaction mode before a test's PostgreSQL."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import asyncpg
from egret_tools.devstack.databases import _owner_of_data
from egret_tools.devstack.processes import Children, Program, until_ready

from sidecar.settings.sections import inherited_environment

SERVER_CONNECTIONS: Final = 2
"""Fewer than clients have: statements of one client meet the other's connections."""
_PORT: Final = 5432

_CONFIGURATION: Final = """
[databases]
* = host={server} port={port}

[pgbouncer]
unix_socket_dir = {directory}
unix_socket_mode = 0777
listen_port = {port}
auth_type = trust
auth_file = {directory}/users.txt
pool_mode = transaction
max_prepared_statements = 200
default_pool_size = {server_connections}
max_client_conn = 200
logfile = {directory}/pgbouncer.log
"""


def pgbouncer_program() -> Path:
    """Return where it is.

    Raises:
        FileNotFoundError: it is not installed; says what to install.
    """
    found = shutil.which("pgbouncer", path=f"{os.defpath}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise FileNotFoundError(
            "this test needs pgbouncer: run `make system` as root, or install the Debian package"
            " pgbouncer by hand"
        )
    return Path(found)


@asynccontextmanager
async def pgbouncer(
    server: Path, *, directory: Path, roles: tuple[str, ...]
) -> AsyncIterator[Path]:
    """Run one before the server whose socket is in *server*; yield the folder of its own socket.

    *roles* may log in. It logs in as the same role behind itself.
    """
    program = pgbouncer_program()
    owner = _owner_of_data(directory)
    configuration = _configure(directory, server=server, roles=roles)

    async def answers() -> bool:
        try:
            connection = await asyncpg.connect(through(directory, role=roles[0]), timeout=5)
        except (OSError, asyncpg.PostgresError, TimeoutError):
            return False
        await connection.close()
        return True

    run = Program(
        part="pgbouncer",
        command=(str(program), str(configuration)),
        log=directory.parent / "pgbouncer.out",
        environment=inherited_environment(),
        owner=owner,
    )
    async with Children().running(run) as child:
        await until_ready(child, answers)
        yield directory


def _configure(directory: Path, *, server: Path, roles: tuple[str, ...]) -> Path:
    configuration, users = directory / "pgbouncer.ini", directory / "users.txt"
    configuration.write_text(
        _CONFIGURATION.format(
            server=server,
            directory=directory,
            port=_PORT,
            server_connections=SERVER_CONNECTIONS,
        )
    )
    users.write_text("".join(f'"{role}" ""\n' for role in roles))
    for file in (configuration, users):
        file.chmod(0o644)
    return configuration


def through(directory: Path, *, role: str) -> str:
    """Return the DSN of the database behind the pgbouncer whose socket is in *directory*."""
    return f"postgresql://{role}@/postgres?host={quote(str(directory))}"
