"""What the bench of keys runs on: both servers, any number of keys, a worker's caches."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from sidecar.app.background import BackgroundTasks
from sidecar.app.keys import WorkerKeys, open_keys
from sidecar.authorization.api_key import KEY_ID_LENGTH, SECRET_LENGTH, ApiKey
from sidecar.embedded.child import Children
from sidecar.embedded.postgres import running_postgres
from sidecar.embedded.run_directory import RunDirectory
from sidecar.embedded.valkey import running_valkey
from sidecar.settings import CacheSettings, PostgresSettings, Settings, ValkeySettings
from sidecar.storage.administration import Rules, create_organization, create_team
from sidecar.storage.key_files import Faults, KeyRow
from sidecar.storage.key_import import ImportOptions, import_keys
from sidecar.storage.migrate import migrate
from sidecar.storage.pool import connect, open_pool
from sidecar.telemetry.key_metrics import KeyMetrics
from sidecar.telemetry.report import CacheTier

OWNER: Final = "bench"
TEAMS: Final = 100
SEED: Final = 20_240_229
LISTENING_SECONDS: Final = 10.0

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_L2_SECRET: Final = SecretStr("known to everybody, for it guards made-up keys only")
_STATEMENT: Final = re.compile(rb"LOG:  (?:execute [^:\n]*|statement): ")
_RELOAD_SECONDS: Final = 0.5
_SHARING_SECONDS: Final = 0.05


class NotListeningError(Exception):
    """The caches did not begin to hear of changes."""


@dataclass(frozen=True, slots=True)
class KeyServers:
    """Where both servers are, and the log in which PostgreSQL tells of statements."""

    dsn: str
    valkey_url: str
    log: Path

    def settings(self, *, max_keys: int | None = None) -> Settings:
        """Return a worker's settings: the defaults, unless more keys are to be held."""
        cache = CacheSettings(l2_secret=_L2_SECRET)
        if max_keys is not None:
            cache = cache.model_copy(update={"max_keys": max_keys})
        return Settings(
            postgres=PostgresSettings(dsn=SecretStr(self.dsn)),
            valkey=ValkeySettings(url=SecretStr(self.valkey_url)),
            cache=cache,
        )

    async def log_statements(self, *, is_on: bool) -> None:
        """Let the server write every statement of every session to its log, or no more."""
        async with connect(self.settings().postgres) as connection:
            await connection.execute(
                f"ALTER SYSTEM SET log_statement = '{'all' if is_on else 'none'}'"
            )
            await connection.execute("SELECT pg_reload_conf()")
        await asyncio.sleep(_RELOAD_SECONDS)

    def statements(self) -> int:
        """Return how many statements the log holds, whoever sent them."""
        return len(_STATEMENT.findall(self.log.read_bytes()))


def log_to_stderr() -> None:
    """Leave standard output to figures, and to answers."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def key_ids(count: int) -> Sequence[str]:
    """Return *count* ids, the same in every run, spread over the index as real ones are."""
    made = random.Random(SEED)  # noqa: S311 - must be the same in every run
    ids = dict.fromkeys(_ids(made, count))
    while len(ids) < count:
        ids |= dict.fromkeys(_ids(made, count - len(ids)))
    return tuple(ids)


def bench_key(key_id: str) -> ApiKey:
    """Return the key of an id: its secret is no secret."""
    return ApiKey(key_id, (key_id * SECRET_LENGTH)[:SECRET_LENGTH])


@asynccontextmanager
async def running_key_servers(run: RunDirectory) -> AsyncGenerator[KeyServers]:
    """Start both servers, with the schema and the owners of keys, and no keys.

    Raises:
        PartError: one does not come up.
    """
    children = Children()
    async with (
        running_postgres(children, directory=run.path / "postgres", logs=run.logs) as dsn,
        running_valkey(children, directory=run.path / "valkey", logs=run.logs) as valkey_url,
    ):
        servers = KeyServers(dsn, valkey_url, run.logs / "postgres.log")
        postgres = servers.settings().postgres
        await migrate(postgres)
        async with connect(postgres) as connection:
            await create_organization(connection, OWNER, rules=Rules())
            for number in range(TEAMS):
                await create_team(connection, f"team-{number}", organization=OWNER, rules=Rules())
        yield servers


async def import_bench_keys(
    servers: KeyServers, ids: Sequence[str], *, on_written: Callable[[int], None]
) -> None:
    """Import a key for each of *ids*, spread over all teams."""
    async with connect(servers.settings().postgres) as connection:
        await import_keys(
            connection,
            _rows(ids),
            faults=Faults(),
            options=ImportOptions(),
            on_written=on_written,
        )
        await connection.execute("ANALYZE api_keys")


@asynccontextmanager
async def bench_caches(settings: Settings) -> AsyncGenerator[WorkerKeys]:
    """Open a worker's caches and yield once they hear of changes.

    Raises:
        NotListeningError: they do not.
    """
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(open_pool(settings.postgres))
        metrics = KeyMetrics(CollectorRegistry())
        keys = await open_keys(settings, pool, metrics=metrics, stack=stack)
        tasks = await stack.enter_async_context(BackgroundTasks())
        keys.start(tasks, on_policies=lambda: None)
        try:
            async with asyncio.timeout(LISTENING_SECONDS):
                while not keys.changes.is_listening:  # noqa: ASYNC110 - tells nobody
                    await asyncio.sleep(0.01)
        except TimeoutError as error:
            raise NotListeningError("changes to keys are not heard of") from error
        yield keys


async def until_shared(keys: WorkerKeys, key_id: str) -> None:
    """Return once what is loaded goes into the shared cache and is believed, shown by *key_id*.

    Raises:
        NotListeningError: it never is.
    """
    for _ in range(int(LISTENING_SECONDS / _SHARING_SECONDS)):
        loaded = await keys.cache.load(key_id, now=time.monotonic)
        if loaded.tier is CacheTier.L2:
            return
        await asyncio.sleep(_SHARING_SECONDS)
        keys.cache.flush()
    raise NotListeningError("the shared cache is not used")


def _ids(made: random.Random, count: int) -> Iterator[str]:
    return ("".join(made.choices(_ALPHABET, k=KEY_ID_LENGTH)) for _ in range(count))


def _rows(ids: Sequence[str]) -> Iterator[KeyRow]:
    for line, key_id in enumerate(ids, start=1):
        digest = bench_key(key_id).secret_sha256
        team = f"{OWNER}/team-{line % TEAMS}"
        bounds = (None,) * 10
        yield (line, key_id, digest, team, f"key-{line}", True, *bounds)
