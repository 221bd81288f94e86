"""Worker processes that do nothing but count: what a supervisor reads, without all the rest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidecar.settings.sections import inherited_environment

WORKER = """
import dataclasses, os, sys
from prometheus_client import CollectorRegistry
from sidecar.settings.sections import metrics_directory
from sidecar.telemetry.exemplars import ExemplarFile, exemplar_path
from sidecar.telemetry.metrics import Metrics
from sidecar.domain.report import FaultKind
from tests.support.reports import POLICY, redacted_report

exemplars = ExemplarFile(exemplar_path(metrics_directory(), os.getpid()))
metrics = Metrics(CollectorRegistry(), exemplars)
print("ready", flush=True)
for line in sys.stdin:
    match line.strip():
        case "exchange" | "exchange traced":
            metrics.exchange_began()
            metrics.record(redacted_report())
            if "traced" in line:
                metrics.traced(redacted_report(), 0xabc)
        case "policy":
            version = int(next(sys.stdin))
            metrics.policies_loaded((dataclasses.replace(POLICY, version=version),))
    print("done", flush=True)
"""


class MetricWorker:
    """A process that records on demand and can be killed."""

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=inherited_environment() | {"PROMETHEUS_MULTIPROC_DIR": str(directory)},
        )
        self.pid = self._process.pid
        self._answer()

    def tell(self, *lines: str) -> None:
        """Have the worker do something, and wait until it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{line}\n" for line in lines))
        self._process.stdin.flush()
        self._answer()

    def kill(self) -> None:
        """End the worker as SIGKILL ends it: nothing is tidied up."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline()


@contextmanager
def metric_worker(directory: Path) -> Iterator[MetricWorker]:
    """Run one that writes its metrics into *directory*."""
    worker = MetricWorker(directory)
    try:
        yield worker
    finally:
        worker.kill()
