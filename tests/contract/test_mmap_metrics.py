"""Counts written past prometheus-client equal those that the library would have written.

`mmap_metrics` rests on private attributes of the library. If one of these tests fails after an
upgrade, look at the library's values.py and mmap_dict.py, and fix the module or do without it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sidecar.settings.sections import inherited_environment
from sidecar.telemetry.mmap_metrics import counting, observing, rising_and_falling, summing
from sidecar.telemetry.process_metrics import WorkerMetrics

BOTH_WAYS: Final = """
import os, signal
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from sidecar.telemetry.mmap_metrics import (
    counting, observing, observing_each, rising_and_falling, summing,
)

def metrics(prefix):
    return (
        Counter(prefix + "asked", "-", ("how",), registry=registry).labels("so"),
        Histogram(prefix + "seconds", "-", ("how",), buckets=(0.5, 1, 8), registry=registry)
        .labels("so"),
        Gauge(prefix + "waiting", "-", multiprocess_mode="all", registry=registry),
        Counter(prefix + "spent", "-", registry=registry),
        Histogram(prefix + "bytes", "-", buckets=(1, 8), registry=registry),
        Counter(prefix + "answered", "-", registry=registry),
    )

def count_both_ways():
    for amount in (0.0, -1.0, 0.4999, 0.5, 0.50001, 1.0, 3.25, 8.0, 8.1, 1e300):
        counter.inc(), histogram.observe(amount), gauge.inc(), gauge.inc(), gauge.dec()
        spent.inc(abs(amount)), spend(abs(amount))
        bytes_.observe(amount), answered.inc(), observe_each((None, amount))
        bytes_.observe(amount), answered.inc(), observe_and_count(amount)
        add(), observe(amount), rise(), rise(), fall()

registry = CollectorRegistry()
counter, histogram, gauge, spent, bytes_, answered = metrics("library_")
own = metrics("own_")
add, observe, (rise, fall) = counting(own[0]), observing(own[1]), rising_and_falling(own[2])
spend = summing(own[3])
observe_each = observing_each((own[1], own[4]), own[5])
observe_and_count = observing(own[4], own[5])
count_both_ways()
# Each file grows into another map.
for kind, options in ((Counter, {}), (Histogram, {}), (Gauge, {"multiprocess_mode": "all"})):
    large = kind("large_" + kind.__name__, "-", ("name",), registry=registry, **options)
    large.labels("x" * 99_999)
count_both_ways()
os.kill(os.getpid(), signal.SIGKILL)
"""

WITHOUT_END: Final = """
from prometheus_client import CollectorRegistry, Counter
from sidecar.telemetry.mmap_metrics import counting

add = counting(Counter("asked", "-", registry=CollectorRegistry()))
add()
print("begun", flush=True)
while True:
    add()
"""

FULL_DISK: Final = """
import errno, os
from prometheus_client import CollectorRegistry, Counter, Gauge
from sidecar.telemetry.mmap_metrics import counting

def no_room(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

registry = CollectorRegistry()
asked = counting(Counter("asked", "-", ("how",), registry=registry).labels("so"))
asked()
os.posix_fallocate = no_room
large = counting(Counter("large", "-", ("name",), registry=registry).labels("x" * 99_999))
for _ in range(3):
    large(), asked()
other = Counter("other", "-", ("name",), registry=registry).labels("late")
counting(other)(), other.inc()
Gauge("waiting", "-", multiprocess_mode="livesum", registry=registry).set(1)
print("served", other._value.get(), flush=True)
"""


def test_the_library_is_the_one_that_was_looked_at() -> None:
    """The module names places within it."""
    assert version("prometheus-client").startswith("0.26.")


def test_both_ways_of_counting_make_the_same_page(tmp_path: Path) -> None:
    """At every bound, in files that grew, after a SIGKILL."""
    with _worker(BOTH_WAYS, tmp_path) as worker:
        assert worker.stdout is not None
        worker.stdout.read()

    registry = CollectorRegistry()
    registry.register(WorkerMetrics(tmp_path))
    page = generate_latest(registry).decode()
    assert _lines(page, "own_") == _lines(page, "library_")
    assert 'asked_total{how="so"} 20.0' in _lines(page, "own_")
    assert 'seconds_bucket{how="so",le="0.5"} 8.0' in _lines(page, "own_")


def test_a_reader_never_sees_a_count_fall(tmp_path: Path) -> None:
    """A number is stored whole while the file is read: half of one could be anything."""
    with _worker(WITHOUT_END, tmp_path) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        scraped = WorkerMetrics(tmp_path)
        seen = [
            sample.value for _ in range(300) for m in scraped.collect() for sample in m.samples
        ]
    assert seen == sorted(seen)
    assert all(value.is_integer() for value in seen)
    assert seen[0] < seen[-1]


def test_a_full_disk_hides_new_samples_and_ends_no_worker(tmp_path: Path) -> None:
    """Writing to a page of the map for which there is no room would be a SIGBUS."""
    with _worker(FULL_DISK, tmp_path) as worker:
        assert worker.stdout is not None
        output = worker.stdout.read()

    assert worker.returncode == 0
    assert output.count("metrics.no_room") == 2
    assert output.endswith("served 1.0\n")
    shown = [
        (sample.name, sample.value)
        for metric in WorkerMetrics(tmp_path).collect()
        for sample in metric.samples
    ]
    assert shown == [("asked_total", 4.0)]


def test_where_values_stay_in_the_process_the_library_counts() -> None:
    """As in unit tests, which have no directory for files."""
    registry = CollectorRegistry()
    counter = Counter("asked", "-", registry=registry)
    gauge = Gauge("waiting", "-", registry=registry)
    histogram = Histogram("seconds", "-", registry=registry)
    assert counting(counter) == counter.inc
    assert summing(counter) == counter.inc
    assert rising_and_falling(gauge) == (gauge.inc, gauge.dec)
    assert observing(histogram) == histogram.observe


def _lines(page: str, prefix: str) -> list[str]:
    """Return the samples with this prefix, without it, the process and the times of creation."""
    return [
        line.removeprefix(prefix).replace(',pid="', '{pid="').split('{pid="')[0]
        for line in page.splitlines()
        if line.startswith(prefix) and "_created" not in line
    ]


@contextmanager
def _worker(program: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env=inherited_environment() | {"PROMETHEUS_MULTIPROC_DIR": str(directory)},
    ) as worker:
        try:
            yield worker
        finally:
            worker.kill()
