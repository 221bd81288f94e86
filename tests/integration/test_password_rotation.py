"""The password of the workers' login is replaced while they work, and then the old one revoked."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from sidecar.domain.principal import KeyRecord
from sidecar.keys.credentials import ApiKey, generate
from sidecar.keys.ports import KeyStoreUnavailableError
from sidecar.settings.process import Settings
from sidecar.settings.stores import CacheSettings, PostgresSettings
from sidecar.storage.pool import DsnFileError, connect, open_pool
from tests.support.command_line import Egret
from tests.support.key_worker import KeyWorker, key_worker
from tests.support.postgres import Database, PostgresServer

LOGIN = "egret_rotated"


@dataclass(frozen=True)
class Login:
    """A login of the workers' role, with a password, and the file that its DSN stands in."""

    database: Database
    file: Path

    def write(self, password: str) -> None:
        """Replace the file as a kubelet does, in one step."""
        sockets = self.database.server.socket_directory
        new = self.file.with_suffix(".new")
        new.write_text(f"postgresql://{LOGIN}:{password}@/{self.database.name}?host={sockets}\n")
        new.replace(self.file)

    async def alter(self, password: str) -> None:
        """Have the server take this password, and no other."""
        await self.execute(f"ALTER ROLE {LOGIN} PASSWORD '{password}'")

    async def end_connections(self) -> None:
        """End those that were made with whatever password, as a failover would."""
        await self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", LOGIN
        )

    async def execute(self, statement: str, *arguments: object) -> None:
        """Run a statement as the superuser."""
        await self.database.execute(statement, *arguments)

    @property
    def settings(self) -> PostgresSettings:
        """Settings that name the file alone."""
        return PostgresSettings(
            dsn_file=self.file, pool_size=2, acquire_seconds=20, query_seconds=20
        )


@pytest.fixture(scope="module")
def asks_for_passwords(postgres_server: PostgresServer) -> None:
    """Have the server ask this login for its password, over its socket too."""

    async def ask(query: str) -> str:
        async with postgres_server.connect() as connection:
            return str(await connection.fetchval(query))

    rules = Path(asyncio.run(ask("SHOW hba_file")))
    rules.write_text(f"local all {LOGIN} scram-sha-256\n{rules.read_text()}")
    asyncio.run(ask("SELECT pg_reload_conf()"))


@pytest.fixture
async def login(
    asks_for_passwords: None,  # noqa: ARG001 - has to be there
    database: Database,
    tmp_path: Path,
) -> AsyncIterator[Login]:
    made = Login(database, tmp_path / "dsn")
    await made.execute(f"CREATE ROLE {LOGIN} LOGIN PASSWORD 'first' IN ROLE egret_sidecar")
    made.write("first")
    yield made
    await made.end_connections()
    await made.execute(f"DROP ROLE {LOGIN}")


async def test_a_new_connection_goes_by_what_the_file_holds_now(login: Login) -> None:
    """An old one goes on; a password that was revoked opens none."""
    async with open_pool(login.settings) as pool, pool.acquire() as held:
        await login.alter("second")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await pool.acquire(timeout=10)
        login.write("second")
        async with pool.acquire() as new:
            assert await new.fetchval("SELECT current_user") == LOGIN
        assert await held.fetchval("SELECT current_user") == LOGIN


async def test_a_command_with_a_wrong_password_names_the_login(login: Login) -> None:
    """PostgreSQL answered; the password is not repeated."""
    sockets = login.database.server.socket_directory
    egret = Egret(f"postgresql://{LOGIN}:hunter2@/{login.database.name}?host={sockets}")

    ran = await asyncio.to_thread(egret, "orgs", "list")

    assert ran.code == 1
    assert ran.err == (
        f'error: PostgreSQL refused the login (password authentication failed for user "{LOGIN}");'
        " correct user or password in EGRET_POSTGRES__DSN, or the file of"
        " EGRET_POSTGRES__DSN_FILE\n"
    )


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "no url",
        "postgresql://u:p#w@host/d",
        "postgresql://u:p[w@host/d",
        "postgresql://u:1?w@host/d",
        "postgresql://u:p@h\u2100/d",
        "postgresql://u:p@host,/d",
        "postgresql://u:p@%00/d",
        "postgresql://u:p@h/d?sslrootcert=%00",
        "postgresql:///d?host=h..h",
        "postgresql:///d?host=h&port=65536",
        "\udcff",
    ],
)
async def test_a_file_that_holds_no_dsn_is_as_good_as_no_answer(
    tmp_path: Path, content: str | None
) -> None:
    """It may be one that comes later; what it holds is said nowhere."""
    file = tmp_path / "dsn"
    if content is not None:
        file.write_bytes(content.encode(errors="surrogateescape"))
    settings = PostgresSettings(dsn_file=file)
    with pytest.raises(DsnFileError) as raised:
        async with connect(settings):
            pass
    async with open_pool(settings) as pool:
        with pytest.raises(DsnFileError):
            await pool.acquire()
    assert "EGRET_POSTGRES__DSN_FILE" in str(raised.value)
    assert not content or content not in str(raised.value)


async def test_a_dsn_that_is_given_itself_goes_before_the_file(
    database: Database, tmp_path: Path
) -> None:
    """So that an administrator in a worker's container can log in as somebody else."""
    settings = database.settings.model_copy(update={"dsn_file": tmp_path / "nowhere"})
    async with connect(settings) as connection:
        assert await connection.fetchval("SELECT current_database()") == database.name


async def _new_keys(login: Login, count: int) -> list[ApiKey]:
    keys = [generate(secrets.token_bytes) for _ in range(count)]
    for key in keys:
        await login.execute(
            "INSERT INTO api_keys (public_id, secret_sha256, team_id, name)"
            " VALUES ($1, $2, 'team_1', 'k-' || lower($1))",
            key.key_id, key.secret_sha256,
        )  # fmt: skip
    return keys


async def _ask(
    worker: KeyWorker, keys: list[ApiKey], counted: Counter[str], done: asyncio.Event
) -> None:
    while not done.is_set():
        for key in keys:
            try:
                judged = await worker.authorize(key)
            except KeyStoreUnavailableError:
                counted["unavailable"] += 1
            else:
                counted["good" if isinstance(judged.verdict, KeyRecord) else "bad"] += 1
        await asyncio.sleep(0.005)


async def test_keys_go_on_while_the_password_is_replaced_and_the_old_one_revoked(
    login: Login,
) -> None:
    """Workers still hear of a revocation after it, on connections made with the new one.

    For a moment the server knows the new password and the file still holds the old: every
    connection is ended then, which is the worst that can come. No key in use fails; one that was
    never seen is answered 503, and is good as soon as the file is there.
    """
    await login.execute("INSERT INTO organizations (id, name) VALUES ('org_1', 'acme')")
    await login.execute(
        "INSERT INTO teams (id, organization_id, name) VALUES ('team_1', 'org_1', 'search')"
    )
    *keys, unseen = await _new_keys(login, 6)
    settings = Settings(
        postgres=login.settings, cache=CacheSettings(ttl_seconds=0.2, negative_ttl_seconds=0.1)
    )
    counted: Counter[str] = Counter()
    done = asyncio.Event()
    async with (
        key_worker(settings, is_fenced=False) as worker,
        asyncio.timeout(40),
        asyncio.TaskGroup() as group,
    ):
        for key in keys:
            assert isinstance((await worker.authorize(key)).verdict, KeyRecord)
        for _ in range(4):
            group.create_task(_ask(worker, keys, counted, done))
        await login.alter("second")
        await login.end_connections()
        with pytest.raises(KeyStoreUnavailableError):
            await worker.authorize(unseen)
        login.write("second")
        while not await _is_good(worker, unseen):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.02)
        await _until_revoked(login, worker, unseen)
        done.set()
    assert (counted["unavailable"], counted["bad"]) == (0, 0)
    assert counted["good"] > 100


async def _is_good(worker: KeyWorker, key: ApiKey) -> bool:
    try:
        return isinstance((await worker.authorize(key)).verdict, KeyRecord)
    except KeyStoreUnavailableError:
        return False


async def _until_revoked(login: Login, worker: KeyWorker, key: ApiKey) -> None:
    """Revoke it and wait until the worker knows."""
    await login.execute("UPDATE api_keys SET revoked_at = now() WHERE public_id = $1", key.key_id)
    while await _is_good(worker, key):  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.02)
