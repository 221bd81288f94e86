"""PostgreSQL and Valkey from wheels, on Unix sockets."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

import asyncpg

from egret_tools.devstack.processes import (
    SAME_USER,
    Children,
    Owner,
    PartError,
    Program,
    postgres_program,
    valkey_program,
)
from sidecar.settings.sections import inherited_environment

POSTGRES: Final = "PostgreSQL"
ROLE: Final = "egret"
DATABASE: Final = "egret"
UNPRIVILEGED_USER: Final = "nobody"

# Nothing waits for a disk: commits survive a killed server, but not a power cut.
SETTINGS: Final = (
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "fsync=off",
    "full_page_writes=off",
    "shared_buffers=64MB",
    "max_connections=200",
    "max_wal_size=256MB",
    "timezone=UTC",
)


@asynccontextmanager
async def running_postgres(
    children: Children, *, directory: Path, logs: Path, settings: tuple[str, ...] = ()
) -> AsyncIterator[str]:
    """Run a server below *directory* and yield the DSN of its database.

    Data of an earlier server in *directory* is served; without any, the database is new and empty.
    *settings* are further ones of the server, each as `name=value`.

    Raises:
        PartError: it cannot be set up or started.
    """
    if not (directory / "data").exists():
        await _create_cluster(children, directory=directory, logs=logs)
    async with serving_postgres(children, directory=directory, logs=logs, settings=settings):
        await _create_database(directory)
        yield dsn_of(directory, database=DATABASE)


@asynccontextmanager
async def serving_postgres(
    children: Children, *, directory: Path, logs: Path, settings: tuple[str, ...] = ()
) -> AsyncIterator[None]:
    """Serve the data of an earlier server below *directory*.

    Raises:
        PartError: it cannot be started.
    """
    command = _serve_command(directory / "data", sockets=directory, further=settings)
    program = _program(directory, logs, command)
    _forget_dead_server(directory / "data")
    async with children.running(program, is_ready=lambda: _accepts(directory)):
        yield


async def _create_cluster(children: Children, *, directory: Path, logs: Path) -> None:
    """Create it under another name first: an initdb that was killed leaves half a cluster."""
    new = directory / "new"
    if new.exists():
        shutil.rmtree(new)
    async with children.running(_program(directory, logs, _initdb_command(new))) as initdb:
        await initdb.ended()
        if not initdb.has_succeeded:
            raise initdb.death()
    new.rename(directory / "data")


def _forget_dead_server(data: Path) -> None:
    """Remove the lock file of a server that was killed, if another program has its process id."""
    lock = data / "postmaster.pid"
    if not lock.exists():
        return
    pid = lock.read_text("ascii", "replace").split("\n", 1)[0]
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return
    if str(data).encode() not in command:
        lock.unlink()


def _program(directory: Path, logs: Path, command: tuple[str, ...]) -> Program:
    return Program(
        part=POSTGRES,
        command=command,
        log=logs / "postgres.log",
        environment={**inherited_environment(), "LC_ALL": "C", "TZ": "UTC"},
        owner=_owner_of_data(directory),
        stop_signal=signal.SIGINT,  # fast shutdown: does not wait for clients
        orphan_signal=signal.SIGINT,
    )


def dsn_of(sockets: Path, *, database: str) -> str:
    """Return the DSN of a database behind the socket in *sockets*."""
    return f"postgresql://{ROLE}@/{database}?host={quote(str(sockets))}"


def _initdb_command(data: Path) -> tuple[str, ...]:
    return (
        str(postgres_program("initdb")),
        *("-D", str(data), "-U", ROLE, "--auth=trust", "--encoding=UTF8"),
        *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
        *("--no-sync", "--no-instructions"),
    )


def _serve_command(data: Path, *, sockets: Path, further: tuple[str, ...] = ()) -> tuple[str, ...]:
    settings = (argument for setting in (*SETTINGS, *further) for argument in ("-c", setting))
    return (str(postgres_program("postgres")), "-D", str(data), "-k", str(sockets), *settings)


def _owner_of_data(directory: Path) -> Owner:
    """Make the directory and say who runs the server: not root, PostgreSQL refuses that."""
    directory.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() != 0:
        return SAME_USER
    try:
        user = pwd.getpwnam(UNPRIVILEGED_USER)
    except KeyError:
        raise PartError(
            POSTGRES,
            f"it refuses to run as root, and there is no user {UNPRIVILEGED_USER!r} to run it as",
            hint="run egret as an ordinary user",
        ) from None
    shutil.chown(directory, user.pw_uid, user.pw_gid)
    is_closed = any(
        not path.stat().st_mode & stat.S_IXOTH
        for path in (*directory.parents, *postgres_program("postgres").parents)
    )
    return Owner(uid=user.pw_uid, gid=user.pw_gid, keeps_passage=is_closed)


async def _accepts(sockets: Path) -> bool:
    try:
        connection = await asyncpg.connect(dsn_of(sockets, database="postgres"), timeout=5)
    except (OSError, asyncpg.PostgresError, TimeoutError):
        return False
    await connection.close()
    return True


async def _create_database(sockets: Path) -> None:
    connection = await asyncpg.connect(dsn_of(sockets, database="postgres"), timeout=5)
    try:
        with suppress(asyncpg.DuplicateDatabaseError):
            await connection.execute(f"CREATE DATABASE {DATABASE}")
    finally:
        await connection.close()


VALKEY: Final = "Valkey"
SOCKET_NAME: Final = "valkey.sock"


@asynccontextmanager
async def running_valkey(children: Children, *, directory: Path, logs: Path) -> AsyncIterator[str]:
    """Run a server and yield its URL.

    Raises:
        PartError: it cannot be started.
    """
    socket = _new_socket(directory)
    program = Program(
        part=VALKEY,
        command=(
            str(valkey_program()),
            *("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
            *("--save", "", "--appendonly", "no", "--dir", str(directory)),
        ),
        log=logs / "valkey.log",
        environment=inherited_environment(),
    )
    async with children.running(program, is_ready=lambda: _answers(socket)):
        yield f"unix://{socket}"


def _new_socket(directory: Path) -> Path:
    directory.mkdir(mode=0o700)
    return directory / SOCKET_NAME


async def _answers(socket: Path) -> bool:
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket))
    except OSError:
        return False
    try:
        writer.write(b"PING\r\n")
        return await reader.readline() == b"+PONG\r\n"
    except OSError:
        return False
    finally:
        writer.close()
