"""The part of a worker that judges keys, wired as in a worker, on real servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from sidecar.domain.errors import ErrorKind
from sidecar.domain.principal import KeyRecord
from sidecar.domain.report import CacheTier
from sidecar.keys.cache import Hit, Miss, NegativeHit
from sidecar.keys.credentials import ApiKey, authorize
from sidecar.settings.process import Settings
from sidecar.settings.stores import CacheSettings, PostgresSettings, ValkeySettings
from sidecar.storage.pool import open_pool
from sidecar.telemetry.key_metrics import KeyMetrics
from sidecar.worker.keys import WorkerKeys, open_keys
from sidecar.worker.runtime import BackgroundTasks

SECRET = SecretStr("a secret of thirty-two characters or more")


@dataclass(frozen=True)
class Judged:
    """What a request with a key gets, and who answered for the key."""

    verdict: KeyRecord | ErrorKind
    tier: CacheTier


@dataclass(frozen=True)
class KeyWorker:
    """One worker; `owners` are those that it was notified of."""

    keys: WorkerKeys
    registry: CollectorRegistry
    owners: list[str] = field(default_factory=list)

    async def authorize(self, key: ApiKey) -> Judged:
        """Judge *key* as a request would have it."""
        match self.keys.cache.peek(key.key_id, now=time.monotonic()):
            case Hit(record, is_stale):
                tier = CacheTier.STALE if is_stale else CacheTier.L1
                return Judged(authorize(record, key, now=time.time()), tier)
            case NegativeHit():
                return Judged(authorize(None, key, now=time.time()), CacheTier.NEGATIVE)
            case Miss():
                loaded = await self.keys.cache.load(key.key_id, now=time.monotonic)
                return Judged(authorize(loaded.record, key, now=time.time()), loaded.tier)

    def counted(self, outcome: str) -> float:
        """Return how many operations on the shared cache came to *outcome*."""
        return (
            self.registry.get_sample_value(
                "egret_shared_cache_operations_total", {"outcome": outcome}
            )
            or 0.0
        )

    @property
    def changes(self) -> int:
        """How many changes it has received."""
        return self.keys.tiers._fences.notes

    async def until_changed(self, *, since: int) -> None:
        """Wait until it has received more changes than *since*."""
        while self.changes <= since:  # noqa: ASYNC110 - tells nobody
            await asyncio.sleep(0.01)

    async def until_written(self) -> None:
        """Wait until no write to the shared cache is under way."""
        while writes := [*self.keys.tiers._writes]:
            await asyncio.wait(writes)

    async def until_fenced(self) -> None:
        """Wait until the shared cache may be believed."""
        fences = self.keys.tiers._fences
        while fences.timeline is None or any(  # noqa: ASYNC110 - tells nobody
            floor is not None and floor.fence is None
            for floor in (fences._under_all, *fences._floors.values())
        ):
            await asyncio.sleep(0.01)


def key_settings(
    postgres: PostgresSettings, valkey: ValkeySettings, cache: CacheSettings | None = None
) -> Settings:
    """Return settings of a worker that shares its keys."""
    cache = cache or CacheSettings()
    return Settings(
        postgres=postgres, valkey=valkey, cache=cache.model_copy(update={"l2_secret": SECRET})
    )


@asynccontextmanager
async def key_worker(settings: Settings, *, is_fenced: bool = True) -> AsyncIterator[KeyWorker]:
    """Run the part until the block ends; with a database that is away it is not fenced."""
    registry = CollectorRegistry()
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(open_pool(settings.postgres))
        keys = await open_keys(settings, pool, metrics=KeyMetrics(registry), stack=stack)
        tasks = await stack.enter_async_context(BackgroundTasks())
        worker = KeyWorker(keys, registry)
        keys.start(tasks, on_policies=lambda: None, on_owner=worker.owners.append)
        if is_fenced:
            await worker.until_fenced()
        yield worker
