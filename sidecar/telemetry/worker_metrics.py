"""The metric files that workers write, read as one.

Counters of workers that are gone live on in files named `*_gone.db`, into which they are folded:
a total never falls over a restart, and a worker that restarts all day leaves no pile of files.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Protocol, cast

from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from typing_extensions import override

from sidecar.telemetry.exemplars import Key, exemplar_path, read_exemplars

_FOLDED_TYPES: Final = ("counter", "histogram")


class _MetricFile(Protocol):
    """What we use of prometheus-client's file of samples, which has no types of its own (0.26)."""

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
        """Forget a former supervisor's workers. Call before the first worker starts."""
        with self._lock:
            for pattern in ("*.db", "exemplars_*"):
                for file in self._directory.glob(pattern):
                    file.unlink(missing_ok=True)

    def worker_gone(self, pid: int) -> None:
        """Keep what a dead worker counted and forget what it was holding. May be called twice."""
        with self._lock:
            _remove_live_gauges(pid, str(self._directory))
            exemplar_path(self._directory, pid).unlink(missing_ok=True)
            for kind in _FOLDED_TYPES:
                self._fold(self._directory / f"{kind}_{pid}.db", kind)

    @override
    def collect(self) -> Iterable[Metric]:
        """Return every metric, summed over workers as its type asks."""
        with self._lock:
            # A worker creates its file before it gives it a size.
            files = [str(f) for f in self._directory.glob("*.db") if f.stat().st_size > 0]
            exemplars = read_exemplars(self._directory)
            return [_with_exemplars(metric, exemplars) for metric in _merge(files)]

    def _fold(self, gone: Path, kind: str) -> None:
        if not gone.exists():
            return
        if gone.stat().st_size > 0:
            past = _open(str(self._directory / f"{kind}_gone.db"))
            for key, value, _, _ in _read(str(gone)):
                before, _ = past.read_value(key)
                past.write_value(key, before + value, 0.0)
            past.close()
        gone.unlink()


def _with_exemplars(metric: Metric, exemplars: Mapping[Key, Exemplar]) -> Metric:
    if exemplars and metric.type == "histogram":
        metric.samples = [
            sample._replace(
                exemplar=exemplars.get((sample.name, frozenset(sample.labels.items())))
            )
            for sample in metric.samples
        ]
    return metric
