"""Spans and metrics on their way to a collector that others wrote, over either protocol."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import statistics
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from sidecar.settings.telemetry import OtlpProtocol
from sidecar.telemetry.otlp import (
    EXPORT_SECONDS,
    MetricsPush,
    metric_exporter,
    resource,
    span_exporter,
)
from sidecar.telemetry.process_metrics import SupervisorMetrics, WorkerMetrics
from sidecar.telemetry.tail_sampling import QUEUE_SPANS, SpanMetrics, TailSampler
from sidecar.telemetry.traceparent import parse_trace_parent
from sidecar.telemetry.tracing import Tracing
from tests.support.metric_workers import metric_worker
from tests.support.reports import PARENT_ID, redacted_report
from tests.support.rotel import Rotel, running_rotel

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

SPANS_OF_ONE = 6
BATCH_SPANS = 512
"""What the SDK exports at a time; one batch is out of the queue while it is tried."""
MIB = 1 << 20
PATIENCE_SECONDS = 40


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rotel(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rotel]:
    async with running_rotel(tmp_path_factory.mktemp("rotel")) as running:
        yield running


class _Sender:
    """Records exchanges, each a trace of its own."""

    def __init__(self, rotel: Rotel, protocol: OtlpProtocol) -> None:
        self._registry = CollectorRegistry()
        endpoint = rotel.grpc_endpoint if protocol is OtlpProtocol.GRPC else rotel.http_endpoint
        self.tracing = Tracing(
            span_exporter(endpoint, protocol),
            version="1.2.3",
            instance="worker-0",
            count=SpanMetrics(self._registry),
            sampler=TailSampler(slow_seconds=0.25, per_second=10),
        )

    def record(self, trace: int) -> None:
        parent = f"00-{trace:032x}-{PARENT_ID}-01"
        self.tracing.record_spans(redacted_report(), parse_trace_parent(parent, None))

    def counted(self) -> dict[str, int]:
        states = ("recorded", "exported", "failed", "dropped")
        return {
            state: int(self._registry.get_sample_value("egret_spans_total", {"state": state}) or 0)
            for state in states
        }


@contextmanager
def _frozen(rotel: Rotel) -> Iterator[None]:
    """Stop the collector where it is: it takes connections and answers nothing."""
    os.kill(rotel.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(rotel.pid, signal.SIGCONT)


@contextmanager
def _memory() -> Iterator[Callable[[], int]]:
    """Watch allocations; the function tells how many bytes of them are in use."""
    tracemalloc.start()
    try:

        def used() -> int:
            gc.collect()  # errors of failed exports hold their spans in cycles
            return tracemalloc.get_traced_memory()[0]

        yield used
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("protocol", OtlpProtocol)
async def test_spans_arrive_as_they_were_recorded(rotel: Rotel, protocol: OtlpProtocol) -> None:
    """Parents, times, attributes and events, whichever way they travel."""
    sender = _Sender(rotel, protocol)
    trace = 0x1000 + list(OtlpProtocol).index(protocol)
    sender.record(trace)
    await asyncio.to_thread(sender.tracing.shutdown, 20)
    spans = {
        span["name"]: span
        for span in await rotel.trace(
            lambda span: span["trace_id"] == f"{trace:032x}", {"egret.exchange"}
        )
    }
    root = spans["egret.exchange"]

    assert len(spans) == SPANS_OF_ONE
    assert (root["service"], root["kind"], root["parent_span_id"]) == (
        "egret",
        "SERVER",
        PARENT_ID,
    )
    assert {span["parent_span_id"] for span in spans.values() if span is not root} == {
        root["span_id"]
    }
    assert root["end_ns"] - root["start_ns"] == pytest.approx(10_000_000, abs=1000)
    assert root["attributes"]["egret.key.id"] == "k1a2b3c4d5e6"
    assert root["attributes"]["egret.overhead_seconds"] == 0.004
    assert [event["name"] for event in spans["guardrail tone"]["events"]] == [
        "guardrail.retry",
        "guardrail.hedge",
    ]
    assert sender.counted() == {"recorded": 6, "exported": 6, "failed": 0, "dropped": 0}


@pytest.mark.parametrize("protocol", OtlpProtocol)
async def test_a_collector_that_stands_still_costs_a_full_queue_and_the_oldest_spans(
    rotel: Rotel, protocol: OtlpProtocol, caplog: pytest.LogCaptureFixture
) -> None:
    """No call waits for it, memory stops growing at the bound, every span is accounted for."""
    # A record of a failed export that pytest keeps would keep the spans of that export as well.
    caplog.set_level(logging.CRITICAL, logger="opentelemetry")
    sender = _Sender(rotel, protocol)
    first = 0x2000 + 0x10000 * list(OtlpProtocol).index(protocol)
    fills = (QUEUE_SPANS + BATCH_SPANS) // SPANS_OF_ONE + 1
    seconds = []
    with _frozen(rotel), _memory() as memory:
        for at in range(first, first + fills):
            sender.record(at)
        full = memory()
        for at in range(first + fills, first + 2 * fills):
            before = time.monotonic()
            sender.record(at)
            seconds.append(time.monotonic() - before)
        grown = memory() - full
        last, is_full = first + 2 * fills - 1, False
        # A batch taken in the middle of an exchange blurs the count until the queue is full again.
        while not is_full:
            last, dropped = last + 1, sender.counted()["dropped"]
            sender.record(last)
            is_full = sender.counted()["dropped"] == dropped + SPANS_OF_ONE
    await asyncio.to_thread(sender.tracing.shutdown, 120)
    await rotel.trace(lambda span: span["trace_id"] == f"{last:032x}", {"egret.exchange"})
    arrived = {int(span["trace_id"], 16) for span in rotel.spans()}
    newest = range(last - QUEUE_SPANS // SPANS_OF_ONE + 1, last + 1)

    # To wait for an export would take all of these seconds, every time once the queue is full.
    assert statistics.median(seconds) < EXPORT_SECONDS / 50
    assert MIB < full < 16 * MIB
    assert grown < full / 2
    counted = sender.counted()
    recorded = (last + 1 - first) * SPANS_OF_ONE
    assert counted.pop("recorded") == recorded == sum(counted.values())
    assert counted["dropped"] > 0
    assert counted["exported"] >= QUEUE_SPANS
    assert arrived.issuperset(newest)


@asynccontextmanager
async def _pushing(
    metrics: WorkerMetrics, rotel: Rotel, protocol: OtlpProtocol
) -> AsyncIterator[MetricsPush]:
    endpoint = rotel.grpc_endpoint if protocol is OtlpProtocol.GRPC else rotel.http_endpoint
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    push = MetricsPush(
        registry,
        metric_exporter(endpoint, protocol),
        resource=resource(version="1.2.3", instance="host:9464"),
        every_seconds=0.05,
        count=SupervisorMetrics(registry, wanted=2),
    )
    push.start()
    try:
        yield push
    finally:
        await asyncio.to_thread(push.close)


@pytest.mark.parametrize("protocol", OtlpProtocol)
async def test_metrics_of_all_workers_are_pushed_and_never_fall(
    tmp_path: Path, protocol: OtlpProtocol
) -> None:
    """Though a worker is killed and another takes its place; all points begin at one moment."""
    directory = tmp_path / "metrics"
    metrics = WorkerMetrics(directory)
    async with (
        running_rotel(tmp_path, prints="metrics") as rotel,
        _pushing(metrics, rotel, protocol),
    ):
        for round_ in range(1, 4):
            with metric_worker(directory) as worker:
                await asyncio.to_thread(worker.tell, "exchange traced")
                await _until(rotel, "egret_exchanges", round_)
            metrics.worker_gone(worker.pid)
        await _until(rotel, "egret_metric_pushes", 5)
    exchanges = [point.value for point in rotel.points("egret_exchanges")]
    overhead = rotel.points("egret_overhead_seconds")

    assert exchanges == sorted(exchanges)
    assert exchanges[-1] == overhead[-1].value == 3
    assert {f"{0xABC:032x}"} == {trace for point in overhead for trace in point.traces}
    began = {
        point.began_ns
        for name in ("egret_exchanges", "egret_overhead_seconds")
        for point in rotel.points(name)
    }
    assert len(began) == 1
    assert rotel.points("egret_workers_wanted")[-1].value == 2


async def _until(rotel: Rotel, metric: str, value: float) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not any(point.value >= value for point in rotel.points(metric)):
        assert time.monotonic() < deadline, metric
        await asyncio.sleep(0.05)
