"""Behind a real pgbouncer in transaction mode, with fewer server connections than clients."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import orjson
import pytest
import pytest_asyncio
from pydantic import SecretStr

from sidecar.domain.errors import ErrorKind
from sidecar.domain.principal import KeyRecord
from sidecar.keys.credentials import ApiKey, generate, parse
from sidecar.settings.process import Settings
from sidecar.settings.stores import CacheSettings, Invalidation, PostgresSettings, ValkeySettings
from sidecar.storage.key_activity import KeyActivity
from sidecar.storage.pool import connect, open_pool
from sidecar.storage.postgres_keys import PostgresKeyStore
from tests.support.command_line import run_command
from tests.support.key_worker import KeyWorker, key_settings, key_worker
from tests.support.live_servers import LiveServers, live_servers
from tests.support.pgbouncer import SERVER_CONNECTIONS, pgbouncer, through

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

TTL_SECONDS = 300.0
OWNER, WORKER, ADMIN = "egret", "bouncer_worker", "bouncer_admin"


@dataclass(frozen=True)
class Bounced:
    """Servers behind a pgbouncer."""

    servers: LiveServers
    directory: Path

    def postgres(self, role: str) -> PostgresSettings:
        """Settings of a login through the pooler."""
        return PostgresSettings(
            dsn=SecretStr(through(self.directory, role=role)), acquire_seconds=20, query_seconds=20
        )

    def worker(self) -> Settings:
        """Settings of a worker that hears of changes through Valkey."""
        return key_settings(
            self.postgres(WORKER),
            ValkeySettings(url=self.servers.valkey_url, operation_seconds=5),
            CacheSettings(invalidation=Invalidation.PUBSUB, ttl_seconds=TTL_SECONDS),
        )

    async def egret(self, *arguments: str, invalidation: str = "pubsub") -> tuple[int, str]:
        """Run a command as an administrator through the pooler: exit code and what it said."""
        environment = {
            "EGRET_POSTGRES__DSN": through(self.directory, role=ADMIN),
            "EGRET_POSTGRES__ACQUIRE_SECONDS": "20",
            "EGRET_VALKEY__URL": self.servers.valkey_url.get_secret_value(),
            "EGRET_CACHE__INVALIDATION": invalidation,
        }
        ran = await asyncio.to_thread(run_command, arguments, environment=environment)
        return ran.code, ran.out


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bounced() -> AsyncIterator[Bounced]:
    async with live_servers() as servers:
        await servers.execute(f"CREATE ROLE {WORKER} LOGIN IN ROLE egret_sidecar")
        await servers.execute(f"CREATE ROLE {ADMIN} LOGIN IN ROLE egret_admin")
        place = Path(tempfile.mkdtemp(prefix="egret-bouncer-"))
        roles = (OWNER, WORKER, ADMIN)
        sockets = servers.postgres_directory
        async with pgbouncer(sockets, directory=place / "run", roles=roles) as directory:
            behind = Bounced(servers, directory)
            for arguments in ("orgs create acme", "teams create search --org acme"):
                assert (await behind.egret(*arguments.split()))[0] == 0
            yield behind
        shutil.rmtree(place)


async def new_keys(bounced: Bounced, count: int) -> list[ApiKey]:
    keys = [generate(secrets.token_bytes) for _ in range(count)]
    for key in keys:
        await bounced.servers.execute(
            "INSERT INTO api_keys (public_id, secret_sha256, team_id, name)"
            " SELECT $1, $2, id, 'k-' || lower($1) FROM teams WHERE name = 'search'",
            key.key_id,
            key.secret_sha256,
        )
    return keys


async def until_subscribed(worker: KeyWorker) -> None:
    while not worker.keys.changes.is_listening:  # noqa: ASYNC110 - a worker's state
        await asyncio.sleep(0.01)


async def test_prepared_statements_of_many_clients_share_few_connections(bounced: Bounced) -> None:
    """Every look-up is answered for its key, whichever server connection it meets."""
    keys = await new_keys(bounced, 20)
    settings = bounced.postgres(WORKER)
    async with open_pool(settings) as pool, open_pool(settings) as other:
        stores = [PostgresKeyStore(each, settings) for each in (pool, other)]
        asked = [(store, key) for _ in range(20) for store in stores for key in keys]
        found = await asyncio.gather(*(store.load(key.key_id) for store, key in asked))
        clients = pool.get_size() + other.get_size()
        backends = await backend_count(bounced)

    told = [None if record is None else record.principal.key_id for record in found]
    assert told == [key.key_id for _, key in asked]
    assert clients > SERVER_CONNECTIONS >= backends > 0


async def backend_count(bounced: Bounced) -> int:
    async with connect(bounced.servers.postgres_settings) as connection:
        count: int = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = $1", WORKER
        )
    return count


async def test_a_role_may_do_as_much_through_the_pooler_as_without(bounced: Bounced) -> None:
    """A worker counts uses and cannot write keys; and no setting of a command stays behind."""
    (key,) = await new_keys(bounced, 1)
    settings = bounced.postgres(WORKER)
    async with open_pool(settings) as pool:
        activity = KeyActivity(pool, settings, most=100)
        activity.note(key.key_id, refused=False, at=time.time())
        await activity.flush()
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pool.execute("UPDATE api_keys SET revoked_at = NULL")

    code, shown = await bounced.egret("keys", "show", key.key_id, "-o", "json")
    revoked, _ = await bounced.egret("--as", "alice", "keys", "revoke", key.key_id)
    async with open_pool(bounced.postgres(ADMIN)) as pool:
        left = [
            await pool.fetchval("SELECT current_setting('egret.actor', true)") for _ in range(10)
        ]
        actor = await pool.fetchval(
            "SELECT actor FROM audit_log WHERE object_id = $1 AND action = 'update'", key.key_id
        )

    assert (code, orjson.loads(shown)["requests"], revoked, actor) == (0, 1, 0, "alice")
    assert not any(left)


async def test_a_revocation_through_the_pooler_is_everywhere_long_before_records_end(
    bounced: Bounced,
) -> None:
    """While four workers are asked for keys all the time; by what the command published."""
    keys = await new_keys(bounced, 40)
    refused_after: list[float] = []
    counted: Counter[str] = Counter()
    async with (
        key_worker(bounced.worker()) as one,
        key_worker(bounced.worker()) as two,
        key_worker(bounced.worker()) as three,
        key_worker(bounced.worker()) as four,
    ):
        workers = (one, two, three, four)
        for worker in workers:
            await until_subscribed(worker)
        done = asyncio.Event()
        load = asyncio.ensure_future(ask_all(workers, keys[10:], counted, done))
        try:
            for key in keys[:10]:
                for worker in workers:
                    assert isinstance((await worker.authorize(key)).verdict, KeyRecord)
                refused_after.append(await seconds_until_refused(bounced, workers, key))
        finally:
            done.set()
            await load

    print(f"revoked after {max(refused_after):.3f} s at most, {dict(counted)}")  # noqa: T201 - pytest -s
    assert min(refused_after) < 1  # the others too, on a machine with nothing else to do
    assert max(refused_after) < TTL_SECONDS / 10
    assert set(counted) == {"KeyRecord"}


async def ask_all(
    workers: tuple[KeyWorker, ...],
    keys: list[ApiKey],
    counted: Counter[str],
    done: asyncio.Event,
) -> None:
    while not done.is_set():
        for worker in workers:
            for key in keys:
                counted[type((await worker.authorize(key)).verdict).__name__] += 1
        await asyncio.sleep(0.005)


async def seconds_until_refused(
    bounced: Bounced, workers: tuple[KeyWorker, ...], key: ApiKey
) -> float:
    """Return how long after the revocation's transaction began the last worker refuses the key."""
    revoked = ErrorKind.REVOKED_API_KEY
    command = asyncio.ensure_future(bounced.egret("keys", "revoke", key.key_id, "-o", "json"))
    async with asyncio.timeout(30):
        for worker in workers:
            while (await worker.authorize(key)).verdict != revoked:  # noqa: ASYNC110 - a worker's state
                await asyncio.sleep(0.005)
    refused_at = time.time()  # one machine, one clock
    code, _ = await command
    assert code == 0
    revoked_at = await bounced.servers.fetchval(
        "SELECT extract(epoch FROM revoked_at)::float8 FROM api_keys WHERE public_id = $1",
        key.key_id,
    )
    assert isinstance(revoked_at, float)
    return refused_at - revoked_at


async def test_the_command_line_works_through_the_pooler(bounced: Bounced, tmp_path: Path) -> None:
    """Temporary tables, locks, COPY and deferred constraints, each within one transaction."""
    code, out = await bounced.egret("keys", "create", "--team", "search", "--name", "first")
    key = parse(out.strip())
    assert key is not None
    file = tmp_path / "keys.jsonl"
    line = {"key_id": "A" * 12, "secret_sha256": "ab" * 32, "team": "zoo/apes", "name": "ape"}
    file.write_bytes(orjson.dumps(line))
    told = [
        await bounced.egret(*arguments)
        for arguments in (
            ("keys", "rotate", key.key_id, "--grace", "1h"),
            ("keys", "import", str(file), "--create-owners"),
            ("keys", "export", str(tmp_path / "all.csv")),
            ("keys", "list", "--limit", "5"),
            ("migrate", "--check"),
        )
    ]

    assert (code, [ran for ran, _ in told]) == (0, [0] * 5)
    assert "ape" in (tmp_path / "all.csv").read_text()


async def test_the_doctor_says_what_a_pooler_keeps_back(bounced: Bounced) -> None:
    """With `listen` revocations would go unheard; with `pubsub` nothing is missing."""
    with_listen = await bounced.egret(
        "doctor", "--for", "admin", "-o", "json", invalidation="listen"
    )
    with_pubsub = await bounced.egret("doctor", "--for", "admin", "-o", "json")

    found = {row["check"]: row for row in orjson.loads(with_listen[1])}
    assert (with_listen[0], with_pubsub[0]) == (1, 0)
    assert [check for check, row in found.items() if row["state"] == "failed"] == [
        "postgres notifications"
    ]
    assert "EGRET_CACHE__INVALIDATION=pubsub" in found["postgres notifications"]["hint"]
