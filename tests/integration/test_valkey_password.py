"""Valkey's password is replaced while workers share their keys there, and the old one revoked."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import RedisError

from sidecar.domain.principal import KeyRecord
from sidecar.domain.report import CacheTier
from sidecar.keys.credentials import ApiKey, generate
from sidecar.settings.process import Settings
from sidecar.settings.stores import ValkeySettings
from sidecar.storage.valkey import open_valkey
from tests.support.key_worker import KeyWorker, key_settings, key_worker
from tests.support.live_servers import valkey_server
from tests.support.postgres import Database

pytestmark = pytest.mark.stack

USER = "egret"


@dataclass(frozen=True)
class Login:
    """A user of Valkey with one password at a time, and the file that workers read it from."""

    socket: Path
    file: Path

    async def alter(self, password: str) -> None:
        """Have the server take this password, and no other."""
        await self._do(
            "ACL", "SETUSER", USER, "on", "resetpass", f">{password}", "~*", "&*", "+@all"
        )

    async def end_connections(self) -> None:
        """End those that were made with whatever password."""
        await self._do("CLIENT", "KILL", "USER", USER)

    async def _do(self, *command: str) -> None:
        async with Redis(unix_socket_path=str(self.socket)) as administrator:
            execute: Any = administrator.execute_command  # has no types (redis 8.1)
            await execute(*command)

    def write(self, password: str) -> None:
        """Replace the file as a kubelet does, in one step."""
        new = self.file.with_suffix(".new")
        new.write_text(f"{password}\n")
        new.replace(self.file)

    @property
    def settings(self) -> ValkeySettings:
        """Settings that name the user in the URL, and the password in the file alone."""
        url = SecretStr(f"unix://{USER}@{self.socket}")
        return ValkeySettings(url=url, password_file=self.file, operation_seconds=5)


@pytest.fixture
async def login() -> AsyncIterator[Login]:
    place = Path(tempfile.mkdtemp(prefix="egret-valkey-"))
    server = valkey_server(place)
    await server.start()
    login = Login(place / "valkey.sock", place / "password")
    await login.alter("first")
    login.write("first")
    yield login
    await server.aclose()
    shutil.rmtree(place)


async def test_a_new_connection_goes_by_what_the_password_file_holds_now(login: Login) -> None:
    """An old one goes on; a password that was revoked opens none."""
    async with open_valkey(login.settings) as old, open_valkey(login.settings) as new:
        assert await old.get("nothing") is None
        await login.alter("second")
        with pytest.raises(RedisError, match="invalid username-password"):
            await new.get("nothing")
        login.write("second")
        assert await new.get("nothing") is None
        assert await old.get("nothing") is None


@pytest.mark.parametrize("content", [None, "", " \n", "\udcff"])
async def test_a_file_that_holds_no_password_is_as_good_as_no_answer(
    login: Login, content: str | None
) -> None:
    """It may be one that comes later, and is taken then."""
    if content is None:
        login.file.unlink()
    else:
        login.file.write_bytes(content.encode(errors="surrogateescape"))
    async with open_valkey(login.settings) as client:
        with pytest.raises(RedisError, match="EGRET_VALKEY__PASSWORD_FILE"):
            await client.get("nothing")
        login.write("first")
        assert await client.get("nothing") is None


async def test_workers_share_keys_again_as_soon_as_the_file_holds_the_new_password(
    login: Login, database: Database
) -> None:
    """The worse order: the password replaced, every connection ended, the file late.

    Until then keys are read from the database, and what the shared cache did not answer is
    counted. A worker that was there before and one that comes later need no restart.
    """
    settings = key_settings(database.settings, login.settings)
    await _execute(database, "INSERT INTO organizations (id, name) VALUES ('org_1', 'acme')")
    await _execute(
        database,
        "INSERT INTO teams (id, organization_id, name) VALUES ('team_1', 'org_1', 'search')",
    )
    async with key_worker(settings) as worker, asyncio.timeout(40):
        await _shared_by(worker, database)
        await login.alter("second")
        await login.end_connections()
        without = await worker.authorize(await _new_key(database))
        assert (type(without.verdict), without.tier) == (KeyRecord, CacheTier.STORE)
        assert worker.counted("unavailable") > 0
        login.write("second")
        assert await _found_by_another(settings, await _shared_by(worker, database))


async def _shared_by(worker: KeyWorker, database: Database) -> ApiKey:
    """Have a worker judge new keys until it has shared one; return that."""
    while True:
        changes, written = worker.changes, worker.counted("written")
        key = await _new_key(database)
        # The notification of a key that comes after its record takes the record away again.
        await worker.until_changed(since=changes)
        assert isinstance((await worker.authorize(key)).verdict, KeyRecord)
        await worker.until_written()
        if worker.counted("written") > written:
            return key


async def _found_by_another(settings: Settings, key: ApiKey) -> bool:
    async with key_worker(settings) as another:
        return (await another.authorize(key)).tier is CacheTier.L2


async def _new_key(database: Database) -> ApiKey:
    key = generate(secrets.token_bytes)
    await _execute(
        database,
        "INSERT INTO api_keys (public_id, secret_sha256, team_id, name)"
        " VALUES ($1, $2, 'team_1', 'k-' || lower($1))",
        key.key_id, key.secret_sha256,
    )  # fmt: skip
    return key


async def _execute(database: Database, statement: str, *arguments: object) -> None:
    await database.execute(statement, *arguments)
