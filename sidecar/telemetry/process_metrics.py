"""Metrics of a worker's process and of the supervisor, and the page of all workers together.

A worker writes its samples to files (`PROMETHEUS_MULTIPROC_DIR`); the supervisor reads and sums
them at each scrape, so that a scrape costs no worker any time.
"""

from __future__ import annotations

import gc
import math
import os
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, Protocol, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector
from typing_extensions import override

from sidecar.telemetry.exemplars import exemplar_path, read_exemplars
from sidecar.telemetry.key_metrics import SharedOutcome
from sidecar.telemetry.logs import get_logger, type_name
from sidecar.telemetry.names import LogEvent, MetricName

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


class TableUse(NamedTuple):
    """Counts of the table of known messages since the worker's start, and its present bytes.

    Fragments of bodies that were known or new, bytes of those that were known, entries dropped.
    """

    hits: int = 0
    misses: int = 0
    saved_bytes: int = 0
    evictions: int = 0
    bytes: int = 0


class GcPauses:
    """Durations of garbage collections, kept until `take`.

    A collection may begin within any allocation, also one made while a metric's lock is held, and
    that lock cannot be taken twice (prometheus-client 0.26): nothing is observed in the callback.
    """

    def __init__(self) -> None:
        self._began_at = 0.0
        self._pauses: deque[tuple[int, float]] = deque(maxlen=MAX_PAUSES)

    def start(self) -> None:
        """Watch collections from now on."""
        gc.callbacks.append(self._note)

    def stop(self) -> None:
        """Stop watching."""
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
        histogram = partial(Histogram, registry=registry)
        sum_gauge = partial(Gauge, multiprocess_mode="livesum", registry=registry)
        counter = partial(Counter, registry=registry)
        self._lag = histogram(
            MetricName.LOOP_LAG_SECONDS, "Delay of a timer of the event loop.", buckets=LAG_BUCKETS
        )
        self._tasks = sum_gauge(
            MetricName.EVENT_LOOP_TASKS, "Tasks of the event loops of all live workers."
        )
        pauses = histogram(
            MetricName.GC_PAUSE_SECONDS,
            "Duration of one garbage collection in a worker, by generation.",
            ("generation",),
            buckets=PAUSE_BUCKETS,
        )
        self._pauses = [pauses.labels(str(one)) for one in range(_GENERATIONS)]
        self._connections = sum_gauge(
            MetricName.DATABASE_CONNECTIONS,
            "Connections to PostgreSQL in the pools of all live workers: busy or idle.",
            ("state",),
        )
        self._connections_limit = sum_gauge(
            MetricName.DATABASE_CONNECTIONS_LIMIT,
            "Maximum connections to PostgreSQL in the pools of all live workers.",
        )

        messages = counter(
            MetricName.KNOWN_MESSAGES,
            "Messages of long bodies, short neighbours as one, that were judged before or not.",
            ("outcome",),
        )
        self._table_counters = (
            messages.labels("hit"),
            messages.labels("miss"),
            counter(
                MetricName.KNOWN_MESSAGE_BYTES,
                "Bytes of bodies that were neither read nor searched: they were judged before.",
            ),
            counter(
                MetricName.KNOWN_MESSAGE_EVICTIONS,
                "Entries dropped from the table of known messages to make room.",
            ),
        )
        self._table_bytes = sum_gauge(
            MetricName.MESSAGE_TABLE_BYTES,
            "Memory of the tables of known messages of all live workers, roughly.",
        )
        self._table = TableUse()
        """The highest values so far: a counter of prometheus-client refuses a negative amount."""
        shared = counter(
            MetricName.SHARED_MESSAGES,
            "Look-ups and records of conversations that workers share, by outcome.",
            ("outcome",),
        )
        self._shared = {outcome: shared.labels(outcome.value) for outcome in SharedOutcome}

    def table_is(self, use: TableUse) -> None:
        """Show the use of the table of known messages; a count that has fallen adds nothing."""
        highest = TableUse(*map(max, use, self._table))
        for counter, now, before in zip(self._table_counters, highest, self._table, strict=False):
            counter.inc(now - before)
        self._table_bytes.set(use.bytes)
        self._table = highest

    def shared_messages(self, outcome: SharedOutcome) -> None:
        """Count an operation on the conversations that workers share."""
        self._shared[outcome].inc()

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


_FOLDED_TYPES: Final = ("counter", "histogram")


class _MetricFile(Protocol):
    """The used part of prometheus-client's file of samples, which is untyped (0.26)."""

    def read_value(self, key: str) -> tuple[float, float]: ...
    def write_value(self, key: str, value: float, timestamp: float) -> None: ...
    def close(self) -> None: ...


_open: Final = cast("Callable[[str], _MetricFile]", MmapedDict)
_read: Final = cast(
    "Callable[[str], Iterable[tuple[str, float, float, int]]]",
    MmapedDict.read_all_values_from_file,
)
_merge: Final = cast("Callable[[list[str]], Iterable[Metric]]", MultiProcessCollector.merge)
_remove_live_gauges: Final = cast("Callable[[int, str], None]", mark_process_dead)


class WorkerMetrics(Collector):
    """The metric files of all workers, present and past, under one directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        # A fold moves counts from one file to another: a scrape must see them once.
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Remove the files of former workers. Call before the first worker starts."""
        with self._lock:
            for pattern in ("*.db", "exemplars_*"):
                for file in self._directory.glob(pattern):
                    file.unlink(missing_ok=True)

    def worker_gone(self, pid: int) -> None:
        """Keep the counts of a dead worker and remove its live gauges. May be called twice."""
        with self._lock:
            _remove_live_gauges(pid, str(self._directory))
            exemplar_path(self._directory, pid).unlink(missing_ok=True)
            for kind in _FOLDED_TYPES:
                gone = self._directory / f"{kind}_{pid}.db"
                if not gone.exists():
                    continue
                try:
                    self._fold(gone, into=self._directory / f"{kind}_gone.db")
                except OSError as error:  # the file stays, and is counted as that of a live worker
                    get_logger().error(
                        LogEvent.METRICS_NO_ROOM, file=str(gone), reason=error.strerror
                    )
                    continue
                except (RuntimeError, ValueError, struct.error) as error:
                    # Of prometheus-client (0.26): each scrape would fail while the file is there.
                    get_logger().error(
                        LogEvent.METRICS_DAMAGED, file=str(gone), error_type=type_name(error)
                    )
                gone.unlink()

    def _fold(self, gone: Path, *, into: Path) -> None:
        """Add the counts of *gone* to those in *into*, all or none.

        Raises:
            OSError: the disk has no room.
            RuntimeError, ValueError, struct.error: *gone* is damaged.
        """
        files = [file for file in (into, gone) if file.exists() and file.stat().st_size > 0]
        if not files:
            return
        # A file begins with the number of bytes that samples take, in native order.
        used = sum([int.from_bytes(one.read_bytes()[:4], sys.byteorder) for one in files])
        new = into.with_suffix(".new")
        try:
            with new.open("wb") as file:  # reserved, as `mmap_metrics` says
                os.posix_fallocate(file.fileno(), 0, used)
            with closing(_open(str(new))) as sums:
                for key, value, _, _ in chain.from_iterable(_read(str(file)) for file in files):
                    before, _ = sums.read_value(key)
                    sums.write_value(key, before + value, 0.0)
            new.replace(into)
        finally:
            new.unlink(missing_ok=True)

    @override
    def collect(self) -> Iterable[Metric]:
        """Return every metric, summed over workers as its type asks."""
        with self._lock:
            # A worker creates its file before it gives it a size.
            files = [str(f) for f in self._directory.glob("*.db") if f.stat().st_size > 0]
            exemplars = read_exemplars(self._directory)
            metrics = list(_merge(files))
        for metric in metrics if exemplars else ():
            if metric.type == "histogram":
                metric.samples = [
                    sample._replace(
                        exemplar=exemplars.get((sample.name, frozenset(sample.labels.items())))
                    )
                    for sample in metric.samples
                ]
        return metrics


def expiry_of(file: Path) -> float:
    """Return when the first certificate of a PEM file expires, in seconds since 1970, or NaN."""
    from cryptography import x509  # noqa: PLC0415 - without TLS it is never loaded

    try:
        found = x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError):
        return math.nan
    return min(one.not_valid_after_utc.timestamp() for one in found)


class SupervisorMetrics:
    """Kept in the supervisor's memory, not in files: they go with it."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        wanted: int,
        certificates: Mapping[str, Path] = MappingProxyType({}),
    ) -> None:
        counter = partial(Counter, registry=registry)
        Gauge(MetricName.WORKERS_WANTED, "Configured number of workers.", registry=registry).set(
            wanted
        )
        self._running = Gauge(
            MetricName.WORKERS_RUNNING, "Workers that are ready and serve.", registry=registry
        )
        self._deaths = counter(
            MetricName.WORKER_DEATHS, "Workers that ended unexpectedly and were restarted."
        )

        expires = Gauge(
            MetricName.CERTIFICATE_EXPIRES,
            "Expiry of the first certificate to expire in a file of the gRPC server.",
            ("certificate",),
            registry=registry,
        )
        for name, file in certificates.items():
            expires.labels(name).set_function(partial(expiry_of, file))

        self._pushes = counter(
            MetricName.METRIC_PUSHES, "Pushes of all metrics over OTLP, by outcome.", ("outcome",)
        )
        for outcome in ("taken", "failed"):  # a rate needs the zero before the first
            self._pushes.labels(outcome)

    def pushed(self, *, is_taken: bool) -> None:
        """Count a push. Called from a thread of its own."""
        self._pushes.labels("taken" if is_taken else "failed").inc()

    def running(self, workers: int) -> None:
        """Show how many workers serve."""
        self._running.set(workers)

    def worker_died(self) -> None:
        """Count a worker that ended by itself."""
        self._deaths.inc()
