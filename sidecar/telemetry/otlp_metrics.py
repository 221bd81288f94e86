"""The page of metrics as OTLP has it: cumulative since one moment, exemplars included.

This module loads the OpenTelemetry SDK; import it only where metrics are pushed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Exemplar as PageExemplar
from prometheus_client.samples import Sample

from sidecar.telemetry.names import NONE, OTLP_ATTRIBUTES, OTLP_NAMES, SERVICE_NAME

_UNITS: Final = {"_seconds": "s", "_bytes": "By", "_ratio": "1"}
_NO_SPAN: Final = 0
"""Which span of the trace it was is not kept; no span has this id."""


class Interval(NamedTuple):
    """Since when everything is counted, and now; nanoseconds since the epoch."""

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
            data = Histogram(
                list(_histograms(family, interval)), AggregationTemporality.CUMULATIVE
            )
        case _:
            return None
    return Metric(name, family.documentation, _unit(family.name), data)


def _unit(name: str) -> str:
    return next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), "")


def _numbers(family: Family, name: str, interval: Interval) -> Iterator[NumberDataPoint]:
    for sample in family.samples:
        if sample.name == name:
            yield NumberDataPoint(_attributes(sample.labels), *interval, sample.value)


@dataclass(slots=True)
class _Buckets:
    """One series of a histogram, as its samples come."""

    counts: dict[float, int] = field(default_factory=dict)
    exemplars: list[Exemplar] = field(default_factory=list)
    sum: float = 0.0

    def take(self, name: str, sample: Sample) -> None:
        if sample.name == f"{name}_bucket":
            self.counts[float(sample.labels["le"])] = int(sample.value)
            if sample.exemplar is not None:
                self.exemplars.append(_exemplar(sample.exemplar))
        elif sample.name == f"{name}_sum":
            self.sum = sample.value

    def point(self, labels: Mapping[str, str], interval: Interval) -> HistogramDataPoint:
        """Return it with counts of each bucket alone, where the page sums them up."""
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
            min=None,  # type: ignore[arg-type] # optional in OTLP, and nobody knows it
            max=None,  # type: ignore[arg-type] # as above
            exemplars=self.exemplars,
        )


def _histograms(family: Family, interval: Interval) -> Iterator[HistogramDataPoint]:
    found: dict[tuple[tuple[str, str], ...], _Buckets] = defaultdict(_Buckets)
    for sample in family.samples:
        labels = tuple((name, value) for name, value in sample.labels.items() if name != "le")
        found[tuple(sorted(labels))].take(family.name, sample)
    for labels, buckets in found.items():
        if buckets.counts:
            yield buckets.point(dict(labels), interval)


def _exemplar(found: PageExemplar) -> Exemplar:
    at = 0.0 if found.timestamp is None else float(found.timestamp)
    trace_id = int(found.labels["trace_id"], 16)
    return Exemplar({}, found.value, int(at * 1e9), _NO_SPAN, trace_id)


def _attributes(labels: Mapping[str, str]) -> dict[str, str]:
    """The conventions leave out what does not apply, where Prometheus has a `none`."""
    return {
        OTLP_ATTRIBUTES.get(name, name): value
        for name, value in labels.items()
        if not (name in OTLP_ATTRIBUTES and value == NONE)
    }
