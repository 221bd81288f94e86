"""Parts of the bench of keys: both servers, any number of keys, a worker's caches."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
from egret_tools.devstack.databases import ROLE, running_postgres, running_valkey
from egret_tools.devstack.processes import Children
from egret_tools.devstack.run_directory import RunDirectory
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from sidecar.admin.key_files import Faults, KeyRow
from sidecar.admin.key_transfer import ImportOptions, import_keys
from sidecar.admin.owners import Rules, create_organization, create_team
from sidecar.domain.principal import KeyRecord, PolicyBinding, Principal
from sidecar.domain.report import CacheTier
from sidecar.keys.cache import Hit, KeyCache
from sidecar.keys.credentials import KEY_ID_LENGTH, SECRET_LENGTH, ApiKey
from sidecar.keys.ports import LoadedKey
from sidecar.settings.process import Settings
from sidecar.settings.stores import CacheSettings, PostgresSettings, ValkeySettings
from sidecar.storage.migrate import migrate
from sidecar.storage.pool import connect, open_pool
from sidecar.telemetry.key_metrics import KeyMetrics
from sidecar.worker.keys import WorkerKeys, open_keys
from sidecar.worker.runtime import BackgroundTasks

ZIPF_EXPONENT: Final = 1.1
ZIPF_DRAWS: Final = 200_000


@dataclass(frozen=True, slots=True)
class InMemory:
    """A store that answers at once: the hit rate does not depend on how long one takes."""

    async def load(self, key_id: str) -> LoadedKey:
        """Return a key that may do everything."""
        principal = Principal(key_id, "", "", "", "")
        return LoadedKey(
            KeyRecord(
                principal=principal, secret_sha256=bench_key(key_id).secret_sha256,
                enabled=True, team_enabled=True, organization_enabled=True,
                not_before=None, expires_at=None, revoked_at=None,
                allowed_models=None, policies=PolicyBinding(),
            )
        )  # fmt: skip


async def hit_rate(ids: Sequence[str]) -> float:
    """Return the share of hits of a cache that is full, with time standing still."""
    drawn = random.Random(SEED)  # noqa: S311 - must be the same in every run
    weights = itertools.accumulate(rank**-ZIPF_EXPONENT for rank in range(1, len(ids) + 1))
    asked = drawn.choices(ids, cum_weights=list(weights), k=2 * ZIPF_DRAWS)
    cache, hits = KeyCache(InMemory()), 0
    for number, key_id in enumerate(asked):
        if isinstance(cache.peek(key_id, now=0.0), Hit):
            hits += number >= ZIPF_DRAWS
        else:
            await cache.load(key_id, now=lambda: 0.0)
    return hits / ZIPF_DRAWS


OWNER: Final = "bench"
TEAMS: Final = 100
SEED: Final = 20_240_229
LISTENING_SECONDS: Final = 10.0
_PATIENCE: Final = 20.0
"""Of every operation: a machine that does something else as well is slow, not away."""
BUDGETS: Final = dict.fromkeys(
    (
        "EGRET_POSTGRES__ACQUIRE_SECONDS",
        "EGRET_POSTGRES__QUERY_SECONDS",
        "EGRET_VALKEY__OPERATION_SECONDS",
    ),
    str(_PATIENCE),
)
"""The same, for a process of its own."""
_WORKER: Final = "bench_worker"
# Not the one by which a listener finds out every few seconds whether its connection is alive.
_STATEMENTS: Final = """
SELECT COALESCE(sum(calls), 0)::bigint
FROM pg_stat_statements AS s JOIN pg_roles AS r ON r.oid = s.userid
WHERE rolname = $1 AND query <> 'SELECT $1'
"""

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_L2_SECRET: Final = SecretStr("known to everybody, for it guards made-up keys only")
_SHARING_SECONDS: Final = 0.05


class NotListeningError(Exception):
    """The caches did not connect to the notifications of changes."""


@dataclass(frozen=True, slots=True)
class KeyServers:
    """Where both servers are; the first by two logins, the owner's and a worker's."""

    dsn: str
    worker_dsn: str
    valkey_url: str

    def settings(self, *, max_keys: int | None = None) -> Settings:
        """Return a worker's settings: the defaults, unless more keys are to be held."""
        cache = CacheSettings(l2_secret=_L2_SECRET)
        if max_keys is not None:
            cache = cache.model_copy(update={"max_keys": max_keys})
        return Settings(
            postgres=PostgresSettings(
                dsn=SecretStr(self.worker_dsn), acquire_seconds=_PATIENCE, query_seconds=_PATIENCE
            ),
            valkey=ValkeySettings(url=SecretStr(self.valkey_url), operation_seconds=_PATIENCE),
            cache=cache,
        )

    @property
    def owner(self) -> PostgresSettings:
        """Where changes are made, and counts are read."""
        return PostgresSettings(dsn=SecretStr(self.dsn))

    async def statements(self) -> int:
        """Return how many statements of workers the server has counted, whatever they were for."""
        async with connect(self.owner) as connection:
            count: int = await connection.fetchval(_STATEMENTS, _WORKER)
        return count


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
        running_postgres(
            children,
            directory=run.path / "postgres",
            logs=run.logs,
            settings=("shared_preload_libraries=pg_stat_statements",),
        ) as dsn,
        running_valkey(children, directory=run.path / "valkey", logs=run.logs) as valkey_url,
    ):
        worker_dsn = dsn.replace(f"//{ROLE}@", f"//{_WORKER}@")
        servers = KeyServers(dsn, worker_dsn, valkey_url)
        await migrate(servers.owner)
        async with connect(servers.owner) as connection:
            await connection.execute("CREATE EXTENSION pg_stat_statements")
            await connection.execute(f"CREATE ROLE {_WORKER} LOGIN IN ROLE egret_sidecar")
            await create_organization(connection, OWNER, rules=Rules())
            for number in range(TEAMS):
                await create_team(connection, f"team-{number}", organization=OWNER, rules=Rules())
        yield servers


async def import_bench_keys(
    servers: KeyServers, ids: Sequence[str], *, on_written: Callable[[int], None]
) -> None:
    """Import a key for each of *ids*, spread over all teams."""
    async with connect(servers.owner) as connection:
        await import_keys(
            connection,
            bench_rows(ids),
            faults=Faults(),
            options=ImportOptions(),
            on_written=on_written,
        )
        await connection.execute("ANALYZE api_keys")


@asynccontextmanager
async def bench_caches(settings: Settings) -> AsyncGenerator[WorkerKeys]:
    """Open a worker's caches and yield once they receive changes.

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
                while not keys.changes.is_listening:  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.01)
        except TimeoutError as error:
            raise NotListeningError("changes to keys are not received") from error
        yield keys


async def until_shared(keys: WorkerKeys, key_id: str) -> None:
    """Return once loaded keys enter the shared cache and are used from it, shown by *key_id*.

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


def bench_rows(ids: Sequence[str]) -> Iterator[KeyRow]:
    """Yield a row to import for each of *ids*, spread over all teams."""
    for line, key_id in enumerate(ids, start=1):
        digest = bench_key(key_id).secret_sha256
        team = f"{OWNER}/team-{line % TEAMS}"
        bounds = (None,) * 11
        yield (line, key_id, digest, team, f"key-{line}", True, *bounds)
