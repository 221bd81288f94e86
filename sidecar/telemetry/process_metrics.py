"""Metrics of the process itself: how late its loop is, how long it collects garbage, its pools."""

from __future__ import annotations

import gc
import time
from collections import deque
from typing import Final, Literal, NamedTuple

from prometheus_client import CollectorRegistry, Gauge, Histogram

from sidecar.telemetry.names import MetricName

LAG_BUCKETS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5,
)  # fmt: skip
PAUSE_BUCKETS: Final = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
)  # fmt: skip

MAX_PAUSES: Final = 8192
"""Collections kept until they are observed; beyond it the oldest are forgotten."""

_GENERATIONS: Final = 3


class PoolUse(NamedTuple):
    """Connections of a pool: in use, open, and the most there may be."""

    busy: int
    open: int
    limit: int


class GcPauses:
    """How long each garbage collection kept the process, until somebody takes the figures.

    A collection may begin within any allocation, also one made while a metric's lock is held, and
    that lock cannot be taken twice (prometheus-client 0.26): so nothing is observed from here.
    """

    def __init__(self) -> None:
        self._began_at = 0.0
        self._pauses: deque[tuple[int, float]] = deque(maxlen=MAX_PAUSES)

    def start(self) -> None:
        """Watch collections from now on."""
        gc.callbacks.append(self._note)

    def stop(self) -> None:
        """Watch no longer."""
        gc.callbacks.remove(self._note)

    def take(self) -> list[tuple[int, float]]:
        """Return generation and seconds of each collection since the last time."""
        return [self._pauses.popleft() for _ in range(len(self._pauses))]

    def _note(self, phase: Literal["start", "stop"], info: dict[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._began_at = now
        else:
            self._pauses.append((info["generation"], now - self._began_at))


class ProcessMetrics:
    """One instance a process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lag = Histogram(
            MetricName.LOOP_LAG_SECONDS,
            "Delay of a timer of the event loop.",
            buckets=LAG_BUCKETS,
            registry=registry,
        )
        self._tasks = Gauge(
            MetricName.EVENT_LOOP_TASKS,
            "Tasks of the event loops of all live workers.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        pauses = Histogram(
            MetricName.GC_PAUSE_SECONDS,
            "Duration of one garbage collection in a worker, by generation.",
            ("generation",),
            buckets=PAUSE_BUCKETS,
            registry=registry,
        )
        self._pauses = [pauses.labels(str(one)) for one in range(_GENERATIONS)]
        self._connections = Gauge(
            MetricName.DATABASE_CONNECTIONS,
            "Connections to PostgreSQL in the pools of all live workers: busy or idle.",
            ("state",),
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._connections_limit = Gauge(
            MetricName.DATABASE_CONNECTIONS_LIMIT,
            "Maximum connections to PostgreSQL in the pools of all live workers.",
            multiprocess_mode="livesum",
            registry=registry,
        )

    def loop_was_late(self, seconds: float) -> None:
        """Count a timer that came *seconds* late."""
        self._lag.observe(seconds)

    def tasks_are(self, count: int) -> None:
        """Show how many tasks the event loop has."""
        self._tasks.set(count)

    def collected(self, pauses: list[tuple[int, float]]) -> None:
        """Count garbage collections by generation and seconds."""
        for generation, seconds in pauses:
            self._pauses[generation].observe(seconds)

    def pool_is(self, use: PoolUse) -> None:
        """Show how full the pool of connections is."""
        self._connections.labels("busy").set(use.busy)
        self._connections.labels("idle").set(use.open - use.busy)
        self._connections_limit.set(use.limit)
