"""The whole product with pgbouncer in transaction mode between workers and PostgreSQL."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest
import pytest_asyncio
from typer.testing import CliRunner

from sidecar.cli.main import command_tree
from tests.support.live_servers import LiveServers, live_servers
from tests.support.more_workers import more_workers
from tests.support.pgbouncer import pgbouncer, through
from tests.support.stack import Answer, Stack, chat

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

ADMIN, WORKER = "pooled_admin", "pooled_worker"
POLICY = "name: strict\nguardrails:\n  - {name: pii, type: pii, action: redact}\n"
EMAIL = "bob.builder@example.com"


@dataclass(frozen=True)
class Pooled:
    """A stack whose workers, like the command line, see PostgreSQL through the pooler alone."""

    stack: Stack
    servers: LiveServers
    environment: dict[str, str]

    async def egret(self, *arguments: str) -> str:
        """Run a command and return its standard output."""
        ran = await asyncio.to_thread(
            CliRunner().invoke, command_tree(), arguments, env=self.environment
        )
        assert ran.exit_code == 0, ran.stderr
        return ran.stdout

    async def ask(self, key: str) -> Answer:
        """Send a request."""
        return await self.stack.post(chat(f"mail {EMAIL}"), key=key)


@pytest_asyncio.fixture(loop_scope="session")
async def pooled(stack: Stack) -> AsyncIterator[Pooled]:
    place = Path(tempfile.mkdtemp(prefix="egret-pooled-"))
    async with live_servers() as servers:
        for role, group in ((ADMIN, "egret_admin"), (WORKER, "egret_sidecar")):
            await servers.execute(f"CREATE ROLE {role} LOGIN IN ROLE {group}")
        pooler = pgbouncer(
            servers.postgres_directory, directory=place / "run", roles=("egret", ADMIN, WORKER)
        )
        async with pooler as directory:
            settings = _settings(servers, dsn=through(directory, role=WORKER))
            commands = {**settings, "EGRET_POSTGRES__DSN": through(directory, role=ADMIN)}
            async with more_workers(stack, settings=settings) as workers:
                yield Pooled(workers, servers, commands)
    shutil.rmtree(place)


def _settings(servers: LiveServers, *, dsn: str) -> dict[str, str]:
    return {
        "EGRET_POSTGRES__DSN": dsn,
        "EGRET_VALKEY__URL": servers.valkey_url.get_secret_value(),
        "EGRET_CACHE__INVALIDATION": "pubsub",
        "EGRET_CACHE__L2_SECRET": "a secret of thirty-two characters or more",
    }


async def test_keys_and_policies_work_and_end_within_a_second_behind_a_pooler(
    pooled: Pooled, tmp_path: Path
) -> None:
    """By commands alone, which publish what they have changed; workers hear of it in Valkey."""
    await pooled.egret("orgs", "create", "acme")
    await pooled.egret("teams", "create", "search", "--org", "acme")
    create = ("keys", "create", "--team", "search", "-o", "json", "--name")
    one = orjson.loads(await pooled.egret(*create, "one"))
    other = orjson.loads(await pooled.egret(*create, "other"))
    before = [(await pooled.ask(key["key"])).status for key in (one, other) for _ in range(8)]

    (tmp_path / "strict.yaml").write_text(POLICY)
    await pooled.egret("policy", "apply", "--yes", "-f", str(tmp_path / "strict.yaml"))
    await pooled.egret("policy", "bind", "strict", "--key", other["key_id"])
    async with asyncio.timeout(60):
        while not await _is_redacted(pooled, other["key"]):
            pass

    revoking = asyncio.ensure_future(pooled.egret("keys", "revoke", one["key_id"], "-o", "json"))
    refused, refused_at = 0, 0.0
    async with asyncio.timeout(60):
        while refused < 16:
            is_refused = (await pooled.ask(one["key"])).status == 401
            refused_at = refused_at if refused and is_refused else time.time()
            refused = refused + 1 if is_refused else 0
    await revoking
    revoked_at = await pooled.servers.fetchval(
        "SELECT extract(epoch FROM revoked_at)::float8 FROM api_keys WHERE public_id = $1",
        one["key_id"],
    )

    assert isinstance(revoked_at, float)
    print(f"refused {refused_at - revoked_at:.3f} s after it was revoked")  # noqa: T201 - pytest -s
    assert before == [200] * 16
    assert refused_at - revoked_at < 1


async def _is_redacted(pooled: Pooled, key: str) -> bool:
    """Send a request and see what reached the provider; nothing, while the policy is not there."""
    await pooled.stack.forget()
    status = (await pooled.ask(key)).status
    bodies = [received.body for received in await pooled.stack.received()]
    assert (status, len(bodies)) in {(200, 1), (503, 0)}
    return bool(bodies) and b"[EMAIL_1]" in bodies[0]
