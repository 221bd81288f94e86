"""The limits of a worker: counts that all workers share, and prices."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final, Never

from sidecar.domain.limits import Limit
from sidecar.domain.report import Clocks
from sidecar.limits.limit_check import LimitCheck
from sidecar.limits.limiter import Limiter
from sidecar.limits.local_shares import SharingWorker
from sidecar.limits.serialization import owner_of
from sidecar.limits.shared_counters import SharedCounts
from sidecar.limits.store import Acquire, Adjustment, LimitStore, NotSentError, Reply
from sidecar.settings.process import Settings
from sidecar.storage.pool import Pool
from sidecar.storage.usage_store import PostgresTotals, PostgresUsage
from sidecar.telemetry.key_metrics import LimitMetrics
from sidecar.telemetry.logs import get_logger
from sidecar.telemetry.names import LogEvent
from sidecar.worker.runtime import BackgroundTasks
from sidecar.worker.usage import PriceCache

SHOW_SECONDS: Final = 1.0


class _NoStore:
    """Stands for Valkey if there is none: each worker uses its own share, nothing is corrected."""

    async def take(self, scope: str, acquires: Sequence[Acquire], *, name: str) -> Reply:
        del scope, acquires, name
        raise NotSentError("none")

    async def void(self, scope: str, names: Sequence[str]) -> tuple[tuple[int, ...] | None, ...]:
        del scope
        return (None,) * len(names)

    async def claim(self, scope: str, names: Sequence[str], *, sender: str) -> tuple[bool, ...]:
        del scope, sender
        return (True,) * len(names)

    async def begin(self, scope: str, check: LimitCheck, *, start: int, used: int) -> None:
        del scope, check, start, used

    async def adjust(
        self, scope: str, changes: Sequence[Adjustment], *, sender: str, number: int
    ) -> None:
        del scope, changes, sender, number


class ThresholdReports:
    """Implements `ThresholdListener`: writes a log line and counts."""

    def __init__(self, metrics: LimitMetrics) -> None:
        self._metrics = metrics

    def threshold_passed(self, limit: Limit, threshold: int) -> None:
        """Log the owner of the budget, and no number of it: logs go further than the owner."""
        self._metrics.threshold_passed(limit.level, threshold)
        get_logger().warning(
            LogEvent.BUDGET_THRESHOLD,
            threshold=threshold,
            owner=limit.level.value,
            owner_id=owner_of(limit.id),
            window=limit.window.value,
            limit_id=limit.id,
        )


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """The limiter and the prices, and the background work that keeps them right, once started."""

    limiter: Limiter
    sharing: SharingWorker
    prices: PriceCache
    metrics: LimitMetrics

    def start(self, tasks: BackgroundTasks) -> None:
        """Keep prices, leases and corrections going, and their state shown."""
        tasks.start(self.prices.run(), name="prices")
        tasks.start(self.limiter.run(), name="limits")
        tasks.start(self._show(), name="limits shown")

    async def aclose(self) -> None:
        """Return leases and send adjustments; those that Valkey does not take are lost."""
        await self.limiter.aclose()
        if count := self.limiter.waiting:
            get_logger().warning(LogEvent.ADJUSTMENTS_LOST, count=count)

    async def _show(self) -> Never:
        while True:
            self.metrics.stand(is_local=self.limiter.is_local, waiting=self.limiter.waiting)
            for (level, window), left in self.limiter.budgets.lowest(now=time.time()).items():
                self.metrics.budget_left(level, window, left)
            await asyncio.sleep(SHOW_SECONDS)


async def open_limits(
    settings: Settings, pool: Pool, *, metrics: LimitMetrics, stack: AsyncExitStack
) -> WorkerLimits:
    """Build the limits, to be closed with *stack*. Waits for no server."""
    store: LimitStore = _NoStore()
    if settings.valkey.url is not None:
        # As for keys: a worker without Valkey never loads its client.
        from sidecar.storage.valkey import open_valkey  # noqa: PLC0415
        from sidecar.storage.valkey_limits import ValkeyLimits  # noqa: PLC0415

        client = await stack.enter_async_context(open_valkey(settings.valkey))
        store = ValkeyLimits(client, operation_seconds=settings.valkey.operation_seconds)
    sharing = SharingWorker(
        secrets.token_hex(8), settings.limits.shares or settings.server.workers
    )
    shared = SharedCounts(
        store,
        worker=sharing,
        calls=settings.valkey.pool_size,
        clock=time.monotonic,
    )
    limiter = Limiter(
        shared,
        PostgresTotals(pool, settings.postgres),
        clocks=Clocks(monotonic=time.monotonic, wall=time.time),
        thresholds=ThresholdReports(metrics),
    )
    usage = PostgresUsage(pool, settings.postgres, batch_seconds=settings.usage.batch_seconds)
    limits = WorkerLimits(limiter, sharing, PriceCache(usage.load_prices), metrics)
    stack.push_async_callback(limits.aclose)
    return limits
