"""The page of metrics, pushed to an OTLP collector now and then by the supervisor.

Nothing waits for the collector and nothing is kept for it: counts are those since the supervisor
began, so that the next push tells what one that failed would have told.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry

from sidecar.telemetry.logs import get_logger
from sidecar.telemetry.names import LogEvent
from sidecar.telemetry.otlp_metrics import Interval, as_otlp
from sidecar.telemetry.supervisor_metrics import SupervisorMetrics

CLOSE_SECONDS: Final = 3.0
"""How long a supervisor that ends waits for its last push."""


class MetricsPush:
    """One a supervisor."""

    def __init__(
        self,
        registry: CollectorRegistry,
        exporter: MetricExporter,
        *,
        resource: Resource,
        every_seconds: float,
        count: SupervisorMetrics,
    ) -> None:
        self._registry = registry
        self._exporter = exporter
        self._resource = resource
        self._every_seconds = every_seconds
        self._began_ns = time.time_ns()
        self._stopping = threading.Event()
        self._count = count
        # It ends with the process where a collector that stands still keeps it longer.
        self._thread = threading.Thread(target=self._keep_pushing, daemon=True)

    def start(self) -> None:
        """Begin to push."""
        self._thread.start()

    def close(self) -> None:
        """Push once more and stop, for a few seconds at most."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    def _keep_pushing(self) -> None:
        while not self._stopping.wait(self._every_seconds):
            self._push()
        self._push()
        self._exporter.shutdown()

    def _push(self) -> None:
        try:
            is_taken = self._export() is MetricExportResult.SUCCESS
        except Exception as error:  # noqa: BLE001 - a damaged file must be seen, and end no thread
            get_logger().error(LogEvent.PUSH_FAILED, exc_info=error)
            is_taken = False
        self._count.pushed(is_taken=is_taken)

    def _export(self) -> MetricExportResult:
        # A clock that is set back must not make an interval that ends before it began.
        interval = Interval(self._began_ns, max(time.time_ns(), self._began_ns))
        families = self._registry.collect()
        return self._exporter.export(as_otlp(families, resource=self._resource, interval=interval))
