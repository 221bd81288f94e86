"""How a worker's process is: measured a few times a second, whatever requests there are."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Never

from sidecar.storage.pool import Pool
from sidecar.telemetry.process_metrics import GcPauses, PoolUse, ProcessMetrics

BEAT_SECONDS: Final = 0.25
"""Between two measurements. A stall between them is seen if it is longer than what was left."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """Shows loop lag, tasks, garbage collections and the pool of connections."""

    metrics: ProcessMetrics
    pool: Pool
    pauses: GcPauses

    async def run(self) -> Never:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        self.pauses.start()
        try:
            while True:
                asked_for = loop.time() + BEAT_SECONDS
                await asyncio.sleep(BEAT_SECONDS)
                self.metrics.loop_was_late(max(0.0, loop.time() - asked_for))
                self.metrics.tasks_are(len(asyncio.all_tasks(loop)))
                self.metrics.collected(self.pauses.take())
                self.metrics.pool_is(_use_of(self.pool))
        finally:
            self.pauses.stop()


def _use_of(pool: Pool) -> PoolUse:
    is_open = pool.get_size()
    return PoolUse(busy=is_open - pool.get_idle_size(), open=is_open, limit=pool.get_max_size())
