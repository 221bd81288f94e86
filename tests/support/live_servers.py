"""Real servers that a test kills, freezes and starts again."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import asyncpg
import psutil
import pytest
import pytest_asyncio
from egret_tools.devstack.databases import (
    _accepts,
    _answers,
    _initdb_command,
    _owner_of_data,
    _serve_command,
    dsn_of,
)
from egret_tools.devstack.processes import Child, Children, Program, until_ready, valkey_program
from pydantic import SecretStr

from sidecar.keys.credentials import ApiKey, generate
from sidecar.settings.sections import inherited_environment
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.migrate import migrate
from sidecar.storage.pool import Connection


@dataclass
class LiveServer:
    """One program and everything it has started."""

    program: Program
    is_ready: Callable[[], Awaitable[bool]]
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _child: Child | None = None

    @property
    def is_running(self) -> bool:
        """Whether it was not killed."""
        return self._child is not None and not self._child.has_ended

    async def start(self) -> None:
        """Start it, also after it was killed, and wait until it answers."""
        await self._stack.aclose()
        self._child = await self._stack.enter_async_context(Children().running(self.program))
        await until_ready(self._child, self.is_ready)

    async def kill(self) -> None:
        """End it without a farewell."""
        processes = self._processes()
        self._signal(signal.SIGKILL)
        await asyncio.to_thread(psutil.wait_procs, processes[1:], timeout=10)
        assert self._child is not None
        await self._child.ended()

    async def freeze(self) -> None:
        """Let connections be made and nothing be answered: a black hole."""
        self._signal(signal.SIGSTOP)

    async def thaw(self) -> None:
        """Go on."""
        self._signal(signal.SIGCONT)

    async def repair(self) -> None:
        """Bring it back, after it was killed or frozen."""
        await (self.thaw() if self.is_running else self.start())

    async def aclose(self) -> None:
        """Stop it for good."""
        if self.is_running:
            await self.thaw()
        await self._stack.aclose()

    def _processes(self) -> list[psutil.Process]:
        assert self._child is not None
        first = psutil.Process(self._child.pid)
        return [first, *first.children(recursive=True)]

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes():
            process.send_signal(number)


@dataclass(frozen=True)
class LiveServers:
    """A migrated PostgreSQL that counts its statements, and a Valkey."""

    postgres: LiveServer
    postgres_directory: Path
    postgres_settings: PostgresSettings
    valkey: LiveServer
    valkey_url: SecretStr

    async def execute(self, statement: str, *arguments: object) -> None:
        """Run a statement as an administrator."""
        connection = await asyncpg.connect(self.postgres_settings.dsn.get_secret_value())
        try:
            await connection.execute(statement, *arguments)
        finally:
            await connection.close()

    async def add_team(self) -> None:
        """Store the organization `acme` and its team `search`."""
        await self.execute("INSERT INTO organizations (id, name) VALUES ('org_1', 'acme')")
        await self.execute(
            "INSERT INTO teams (id, organization_id, name) VALUES ('team_1', 'org_1', 'search')"
        )

    async def new_key(self) -> ApiKey:
        """Store a key of the team."""
        key = generate(secrets.token_bytes)
        await self.execute(
            "INSERT INTO api_keys (public_id, secret_sha256, team_id, name)"
            " VALUES ($1, $2, 'team_1', 'k-' || lower($1))",
            key.key_id,
            key.secret_sha256,
        )
        return key

    async def fetchval(self, query: str, *arguments: object) -> object:
        """Return one value, as an administrator sees it."""
        connection = await asyncpg.connect(self.postgres_settings.dsn.get_secret_value())
        try:
            return await connection.fetchval(query, *arguments)
        finally:
            await connection.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Give an administrator's transaction, committed in the end."""
        connection = await asyncpg.connect(self.postgres_settings.dsn.get_secret_value())
        try:
            async with connection.transaction():
                yield connection
        finally:
            await connection.close()

    async def statements_of(self, role: str) -> Counter[str]:
        """Return how often the database has run each statement for *role*, whatever it was.

        But for the one by which a listener sees whether its connection is alive.
        """
        connection = await asyncpg.connect(self.postgres_settings.dsn.get_secret_value())
        try:
            rows = await connection.fetch(
                "SELECT query, sum(calls)::bigint AS calls FROM pg_stat_statements AS s"
                " JOIN pg_roles AS r ON r.oid = s.userid"
                " WHERE rolname = $1 AND query <> 'SELECT $1' GROUP BY query",
                role,
            )
        finally:
            await connection.close()
        return Counter({row["query"]: row["calls"] for row in rows})

    def login(self, role: str) -> PostgresSettings:
        """Return settings of a login of its own."""
        dsn = self.postgres_settings.dsn.get_secret_value()
        return self.postgres_settings.model_copy(
            update={"dsn": SecretStr(dsn.replace("//egret@", f"//{role}@"))}
        )

    async def key_statements(self) -> int:
        """Return how many look-ups of keys the database has counted."""
        connection = await asyncpg.connect(self.postgres_settings.dsn.get_secret_value())
        try:
            calls = await connection.fetchval(
                "SELECT sum(calls)::bigint FROM pg_stat_statements"
                " WHERE query LIKE '%FROM api_keys AS k%WHERE k.public_id = $1%'"
            )
        finally:
            await connection.close()
        return int(calls or 0)


def _postgres(directory: Path) -> tuple[LiveServer, Program]:
    owner = _owner_of_data(directory)
    initdb = Program(
        part="PostgreSQL",
        command=_initdb_command(directory / "data"),
        log=directory.parent / "postgres.log",
        environment={**inherited_environment(), "LC_ALL": "C", "TZ": "UTC"},
        owner=owner,
        stop_signal=signal.SIGINT,
        orphan_signal=signal.SIGINT,
    )
    further = (
        "shared_preload_libraries=pg_stat_statements",
        # What was committed must be there after it was killed.
        "synchronous_commit=on",
    )
    command = _serve_command(directory / "data", sockets=directory, further=further)
    return LiveServer(replace(initdb, command=command), lambda: _accepts(directory)), initdb


def valkey_server(directory: Path, *further: str, name: str = "valkey") -> LiveServer:
    """Return a Valkey of a test's own, not started; its socket is `valkey.sock` in *directory*."""
    socket = directory / f"{name}.sock"
    program = Program(
        part="Valkey",
        command=(
            str(valkey_program()),
            *("--port", "0", "--unixsocket", str(socket), "--dir", str(directory)),
            *("--save", "", "--appendonly", "no"),
            *further,
        ),
        log=directory / f"{name}.log",
        environment=inherited_environment(),
    )
    return LiveServer(program, lambda: _answers(socket))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveServer]:
    """A Valkey of one file's tests."""
    server = valkey_server(tmp_path_factory.mktemp("v"))
    await server.start()
    yield server
    await server.aclose()


@asynccontextmanager
async def live_servers() -> AsyncIterator[LiveServers]:
    """Start both servers of a test's own."""
    # Not pytest's directory: its parents are closed to the user that PostgreSQL runs as.
    place = Path(tempfile.mkdtemp(prefix="egret-live-"))
    try:
        async with AsyncExitStack() as stack:
            postgres, initdb = _postgres(place / "postgres")
            async with Children().running(initdb) as child:
                await child.ended()
            valkey = valkey_server(place)
            for server in (postgres, valkey):
                stack.push_async_callback(server.aclose)
                await server.start()
            yield LiveServers(
                postgres,
                place / "postgres",
                await _migrated(place / "postgres"),
                valkey,
                SecretStr(f"unix://{place / 'valkey.sock'}"),
            )
    finally:
        shutil.rmtree(place, ignore_errors=True)


async def _migrated(sockets: Path) -> PostgresSettings:
    settings = PostgresSettings(dsn=SecretStr(dsn_of(sockets, database="postgres")))
    await migrate(settings)
    connection = await asyncpg.connect(settings.dsn.get_secret_value())
    try:
        await connection.execute("CREATE EXTENSION pg_stat_statements")
    finally:
        await connection.close()
    return settings
