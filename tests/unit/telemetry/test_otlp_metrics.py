"""The page of metrics in OTLP's terms."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics.export import AggregationTemporality, Gauge, Histogram, Sum
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, Counter, Info
from prometheus_client import Gauge as PageGauge
from prometheus_client import Histogram as PageHistogram

from sidecar.settings.telemetry import OtlpProtocol
from sidecar.telemetry.names import MetricName
from sidecar.telemetry.otlp import Interval, MetricsPush, as_otlp, metric_exporter
from sidecar.telemetry.process_metrics import SupervisorMetrics
from tests.support.otlp import refusing_collector

SINCE = Interval(100, 200)


def _pushed(registry: CollectorRegistry) -> dict[str, Any]:
    """Return every metric by name."""
    data = as_otlp(registry.collect(), resource=Resource.get_empty(), interval=SINCE)
    ((scope,),) = (resource.scope_metrics for resource in data.resource_metrics)
    return {metric.name: metric for metric in scope.metrics}


def test_a_counter_is_a_cumulative_sum_that_only_grows(registry: CollectorRegistry) -> None:
    """One point a series, since the supervisor began."""
    counter = Counter("egret_things", "Things.", ("kind",), registry=registry)
    counter.labels("a").inc(2)
    counter.labels("none").inc()
    metric = _pushed(registry)["egret_things"]

    assert (type(metric.data), metric.data.is_monotonic) == (Sum, True)
    assert metric.data.aggregation_temporality is AggregationTemporality.CUMULATIVE
    assert [
        (point.attributes, point.value, point.start_time_unix_nano, point.time_unix_nano)
        for point in metric.data.data_points
    ] == [({"kind": "a"}, 2, 100, 200), ({"kind": "none"}, 1, 100, 200)]


def test_a_gauge_is_what_it_is_now(registry: CollectorRegistry) -> None:
    """With the unit that its name tells; what is no number of ours is left out."""
    PageGauge("egret_waiting_bytes", "Waiting.", registry=registry).set(7)
    Info("egret_thing", "An info, which Egret has none of.", registry=registry)
    pushed = _pushed(registry)
    metric = pushed["egret_waiting_bytes"]

    assert list(pushed) == ["egret_waiting_bytes"]
    assert (type(metric.data), metric.unit, metric.description) == (Gauge, "By", "Waiting.")
    assert [point.value for point in metric.data.data_points] == [7]


def test_a_histogram_counts_each_bucket_alone(registry: CollectorRegistry) -> None:
    """Where the page sums them up; a metric of the conventions has their names."""
    seconds = PageHistogram(
        MetricName.REQUEST_DURATION,
        "Seconds.",
        ("gen_ai_request_model", "error_type"),
        buckets=(1, 2),
        registry=registry,
    )
    for value in (0.5, 1.5, 1.6, 9):
        seconds.labels("gpt-4o", "none").observe(value)
    seconds.labels("gpt-4o", "500").observe(1)
    metric = _pushed(registry)["gen_ai.server.request.duration"]

    assert (type(metric.data), metric.unit) == (Histogram, "s")
    assert {
        point.attributes.get("error.type"): (
            point.attributes["gen_ai.request.model"],
            point.count,
            point.sum,
            point.explicit_bounds,
            point.bucket_counts,
        )
        for point in metric.data.data_points
    } == {
        None: ("gpt-4o", 4, 12.6, [1, 2], [1, 2, 1]),
        "500": ("gpt-4o", 1, 1, [1, 2], [1, 0, 0]),
    }


def test_a_collector_that_refuses_is_counted_and_the_supervisor_goes_on() -> None:
    """Whatever it answers: the next push tells the same and more."""
    registry = CollectorRegistry()
    with refusing_collector(OtlpProtocol.HTTP) as endpoint:
        push = MetricsPush(
            registry,
            metric_exporter(endpoint, OtlpProtocol.HTTP),
            resource=Resource.get_empty(),
            every_seconds=600,
            count=SupervisorMetrics(registry, wanted=1),
        )
        push.start()
        push.close()

    assert {
        outcome: registry.get_sample_value("egret_metric_pushes_total", {"outcome": outcome})
        for outcome in ("taken", "failed")
    } == {"taken": 0, "failed": 1}
