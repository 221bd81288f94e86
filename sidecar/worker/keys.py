"""The keys of a worker: both caches, the database behind them, and notifications of changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final, Never

from sidecar.keys.cache import CacheLimits, KeyCache
from sidecar.keys.ports import SharedKeys
from sidecar.keys.shared_cache import KeyChanges, SharedLimits, TwoTierKeys
from sidecar.settings.process import Settings
from sidecar.storage.pool import Pool
from sidecar.storage.postgres_keys import ChangeCallbacks, ChangeListener, PostgresKeyStore
from sidecar.storage.valkey_keys import SharedRecordCodec
from sidecar.telemetry.key_metrics import KeyMetrics
from sidecar.telemetry.logs import get_logger
from sidecar.worker.runtime import BackgroundTasks

_LISTEN: Final = "listen"
_PUBSUB: Final = "pubsub"
_SIZE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class WorkerKeys:
    """The cache of keys and the background work that keeps it right, once started."""

    cache: KeyCache
    tiers: TwoTierKeys
    changes: KeyChanges
    settings: Settings
    metrics: KeyMetrics

    def start(
        self,
        tasks: BackgroundTasks,
        *,
        on_policies: Callable[[], None],
        on_barrier: Callable[[str], None] = lambda _: None,
        on_owner: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Subscribe to changes of keys and policies, and keep the caches' sizes shown.

        *on_owner* gets each key, team and organization that has changed, as `BudgetWatch.forget`.
        """
        tasks.start(self.tiers.keep_fences(), name="fences")
        tasks.start(self._show_size(), name="cache size")
        if _LISTEN in self.changes.channels:
            listener = ChangeListener(
                self.settings.postgres, self._callbacks(_LISTEN, on_policies, on_barrier, on_owner)
            )
            tasks.start(listener.run(), name="changes")
        if _PUBSUB in self.changes.channels:
            from sidecar.storage.valkey_keys import ValkeyChangeListener  # noqa: PLC0415

            published = ValkeyChangeListener(
                self.settings.valkey, self._callbacks(_PUBSUB, on_policies, on_barrier, on_owner)
            )
            tasks.start(published.run(), name="published changes")

    async def _show_size(self) -> Never:
        while True:
            self.metrics.cache_holds(self.cache.key_count, loads=self.cache.load_count)
            await asyncio.sleep(_SIZE_SECONDS)

    def _callbacks(
        self,
        channel: str,
        on_policies: Callable[[], None],
        on_barrier: Callable[[str], None],
        on_owner: Callable[[str], None],
    ) -> ChangeCallbacks:
        def key_changed(key_id: str) -> None:
            self.changes.key_changed(key_id)
            on_owner(key_id)

        def scope_changed(scope: str) -> None:
            self.changes.scope_changed(scope)
            on_owner(scope)

        def began() -> None:
            self.changes.listening_began(channel)
            self.metrics.key_notifications_connected(is_so=self.changes.is_listening)

        def ended() -> None:
            self.changes.listening_ended(channel)
            self.metrics.key_notifications_connected(is_so=False)

        return ChangeCallbacks(
            on_key=key_changed,
            on_scope=scope_changed,
            on_listening=began,
            on_lost=ended,
            on_policies=on_policies,
            on_barrier=on_barrier,
            on_latency=self.metrics.change_took,
        )


async def open_keys(
    settings: Settings, pool: Pool, *, metrics: KeyMetrics, stack: AsyncExitStack
) -> WorkerKeys:
    """Build the caches, to be closed with *stack*. Waits for no server."""
    limits = settings.cache
    shared: SharedKeys | None = None
    if settings.valkey.url is not None and limits.l2_secret is not None:
        # A worker without Valkey never loads its client: 25 MB a worker (redis 8.1).
        from sidecar.storage.valkey import SharedTimes, open_valkey  # noqa: PLC0415
        from sidecar.storage.valkey_keys import ValkeyKeys  # noqa: PLC0415

        shared = ValkeyKeys(
            await stack.enter_async_context(open_valkey(settings.valkey)),
            SharedRecordCodec(limits.l2_secret.get_secret_value()),
            times=SharedTimes(
                keep_seconds=max(limits.l2_ttl_seconds, limits.max_stale_seconds),
                operation_seconds=settings.valkey.operation_seconds,
            ),
            count=metrics.shared_cache,
        )
    elif settings.valkey.url is not None:
        get_logger().warning("keys.not_shared", missing="EGRET_CACHE__L2_SECRET")
    tiers = TwoTierKeys(
        PostgresKeyStore(pool, settings.postgres),
        shared,
        SharedLimits(
            ttl_seconds=limits.l2_ttl_seconds, max_stale_seconds=limits.max_stale_seconds
        ),
        wall=time.time,
    )
    stack.push_async_callback(tiers.aclose)
    cache = KeyCache(
        tiers,
        CacheLimits(
            max_keys=limits.max_keys,
            ttl_seconds=limits.ttl_seconds,
            negative_ttl_seconds=limits.negative_ttl_seconds,
            max_loads=limits.max_loads,
            max_stale_seconds=limits.max_stale_seconds,
        ),
        on_oversized=metrics.oversized,
    )
    stack.push_async_callback(cache.aclose)
    invalidation = limits.invalidation
    channels = {_LISTEN: invalidation.listens, _PUBSUB: invalidation.subscribes}
    changes = KeyChanges(
        cache, tiers, frozenset(channel for channel, is_used in channels.items() if is_used)
    )
    return WorkerKeys(cache, tiers, changes, settings, metrics)
