"""OTLP exporters for spans and metrics."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple, assert_never

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

from sidecar.settings.telemetry import OtlpProtocol
from sidecar.telemetry.logs import get_logger
from sidecar.telemetry.names import (
    NONE,
    OTLP_ATTRIBUTES,
    OTLP_NAMES,
    SERVICE_NAME,
    LogEvent,
    SemconvAttribute,
)
from sidecar.telemetry.process_metrics import SupervisorMetrics

EXPORT_SECONDS: Final = 5.0
"""How long one export is tried, retries included."""

TRACES_PATH: Final = "/v1/traces"
METRICS_PATH: Final = "/v1/metrics"


def span_exporter(endpoint: str, protocol: OtlpProtocol) -> SpanExporter:
    """Return an exporter of spans to *endpoint*; over HTTP that is an address without a path."""
    match protocol:
        case OtlpProtocol.GRPC:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
                OTLPSpanExporter as SpansOverGrpc,
            )

            return SpansOverGrpc(endpoint=endpoint, timeout=EXPORT_SECONDS)
        case OtlpProtocol.HTTP:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
                OTLPSpanExporter as SpansOverHttp,
            )

            return SpansOverHttp(endpoint=_url(endpoint, TRACES_PATH), timeout=EXPORT_SECONDS)
        case _:
            assert_never(protocol)


def metric_exporter(endpoint: str, protocol: OtlpProtocol) -> MetricExporter:
    """Return an exporter of metrics to *endpoint*, an address as for spans."""
    match protocol:
        case OtlpProtocol.GRPC:
            from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (  # noqa: PLC0415
                OTLPMetricExporter as MetricsOverGrpc,
            )

            return MetricsOverGrpc(endpoint=endpoint, timeout=EXPORT_SECONDS)
        case OtlpProtocol.HTTP:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import (  # noqa: PLC0415
                OTLPMetricExporter as MetricsOverHttp,
            )

            return MetricsOverHttp(endpoint=_url(endpoint, METRICS_PATH), timeout=EXPORT_SECONDS)
        case _:
            assert_never(protocol)


def resource(*, version: str, instance: str) -> Resource:
    """Return the resource that names this process to a collector."""
    return Resource.create(
        {
            SemconvAttribute.SERVICE_NAME: SERVICE_NAME,
            SemconvAttribute.SERVICE_VERSION: version,
            SemconvAttribute.SERVICE_INSTANCE_ID: instance,
        }
    )


def _url(endpoint: str, path: str) -> str:
    return endpoint.rstrip("/") + path


_UNITS: Final = {"_seconds": "s", "_bytes": "By", "_ratio": "1"}
_NO_SPAN: Final = 0
"""The span of an exemplar is not kept; no span has this id."""


class Interval(NamedTuple):
    """Start of the counts, and now; nanoseconds since the epoch."""

    began_ns: int
    now_ns: int


def as_otlp(families: Iterable[Family], *, resource: Resource, interval: Interval) -> MetricsData:
    """Return all metrics of a page."""
    metrics = [metric for family in families if (metric := _metric(family, interval)) is not None]
    scope = ScopeMetrics(InstrumentationScope(SERVICE_NAME), metrics, schema_url="")
    return MetricsData([ResourceMetrics(resource, [scope], schema_url="")])


def _metric(family: Family, interval: Interval) -> Metric | None:
    name = OTLP_NAMES.get(family.name, family.name)
    data: Sum | Gauge | Histogram
    match family.type:
        case "counter":
            points = list(_numbers(family, f"{family.name}_total", interval))
            data = Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True)
        case "gauge":
            data = Gauge(list(_numbers(family, family.name, interval)))
        case "histogram":
            series: dict[tuple[tuple[str, str], ...], _Buckets] = defaultdict(_Buckets)
            for sample in family.samples:
                labels = [one for one in sample.labels.items() if one[0] != "le"]
                series[tuple(sorted(labels))].take(family.name, sample)
            histograms = [
                buckets.point(dict(labels), interval)
                for labels, buckets in series.items()
                if buckets.counts
            ]
            data = Histogram(histograms, AggregationTemporality.CUMULATIVE)
        case _:
            return None
    unit = next((unit for ending, unit in _UNITS.items() if family.name.endswith(ending)), "")
    return Metric(name, family.documentation, unit, data)


def _numbers(family: Family, name: str, interval: Interval) -> Iterator[NumberDataPoint]:
    for sample in family.samples:
        if sample.name == name:
            yield NumberDataPoint(_attributes(sample.labels), *interval, sample.value)


@dataclass(slots=True)
class _Buckets:
    """Collects the samples of one series of a histogram."""

    counts: dict[float, int] = field(default_factory=dict)
    exemplars: list[Exemplar] = field(default_factory=list)
    sum: float = 0.0

    def take(self, name: str, sample: Sample) -> None:
        if sample.name == f"{name}_bucket":
            self.counts[float(sample.labels["le"])] = int(sample.value)
            if sample.exemplar is not None:
                found = sample.exemplar
                at = 0.0 if found.timestamp is None else float(found.timestamp)
                trace_id = int(found.labels["trace_id"], 16)
                self.exemplars.append(Exemplar({}, found.value, int(at * 1e9), _NO_SPAN, trace_id))
        elif sample.name == f"{name}_sum":
            self.sum = sample.value

    def point(self, labels: Mapping[str, str], interval: Interval) -> HistogramDataPoint:
        """Return it with the count of each bucket alone; the page has cumulative counts."""
        bounds = sorted(self.counts)
        until = [0, *(self.counts[bound] for bound in bounds)]
        each = [after - before for before, after in pairwise(until)]
        return HistogramDataPoint(
            attributes=_attributes(labels),
            start_time_unix_nano=interval.began_ns,
            time_unix_nano=interval.now_ns,
            count=until[-1],
            sum=self.sum,
            bucket_counts=each,
            explicit_bounds=bounds[:-1],
            min=None,  # type: ignore[arg-type] # optional in OTLP, and not known
            max=None,  # type: ignore[arg-type] # as above
            exemplars=self.exemplars,
        )


def _attributes(labels: Mapping[str, str]) -> dict[str, str]:
    """Leave out labels of value `none`: OpenTelemetry has no attribute in their place."""
    return {
        OTLP_ATTRIBUTES.get(name, name): value
        for name, value in labels.items()
        if not (name in OTLP_ATTRIBUTES and value == NONE)
    }


CLOSE_SECONDS: Final = 3.0
"""How long a supervisor that ends waits for its last push."""


class MetricsPush:
    """Pushes all metrics over OTLP at an interval, on a thread of its own. One a supervisor."""

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
        # A daemon: a collector that does not answer must not keep the process alive.
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
        # A clock that is set back must not make an interval that ends before it began.
        interval = Interval(self._began_ns, max(time.time_ns(), self._began_ns))
        try:
            pushed = as_otlp(self._registry.collect(), resource=self._resource, interval=interval)
            is_taken = self._exporter.export(pushed) is MetricExportResult.SUCCESS
        except Exception as error:  # noqa: BLE001 - a damaged file must be seen, and end no thread
            get_logger().error(LogEvent.PUSH_FAILED, exc_info=error)
            is_taken = False
        self._count.pushed(is_taken=is_taken)
