"""Rates and quantiles between two snapshots of metrics."""

from __future__ import annotations

import pytest
from msgspec import structs

from sidecar.telemetry.traffic_stats import traffic_stats
from tests.support.metric_pages import MetricPages
from tests.support.reports import redacted_report, timings


def test_traffic_is_counted_between_two_snapshots() -> None:
    """Twenty exchanges in four seconds, whatever there was before."""
    pages = MetricPages()
    pages.work(7)
    before = pages.snapshot(at=10.0)
    pages.work(20)
    pages.metrics.exchange_began()
    now = traffic_stats(before, pages.snapshot(at=14.0))

    assert (now.seconds, now.requests, now.in_flight) == (4.0, 5.0, 1)
    assert (now.workers_running, now.workers_wanted) == (1, 2)
    assert now.outcomes == {"redacted": 5.0}
    assert now.errors == {}
    assert (now.tiers, now.cache_hit_ratio) == ({"l1": 5.0}, 1.0)
    assert now.guardrails == {"keys block": 5.0, "pii redact": 5.0, "tone error_open": 5.0}
    assert now.providers == {"openai answered": 5.0}
    assert now.cost_usd_an_hour == pytest.approx(180)
    # All in the bucket from 2.5 to 5 ms: the half of it is at 3.75.
    assert now.overhead_ms["p50"] == pytest.approx(3.75)


def test_counts_of_a_new_supervisor_are_all_new() -> None:
    """They are less than before, and no rate is below nothing."""
    old, new = MetricPages(), MetricPages()
    old.work(30)
    new.work(2)

    assert traffic_stats(old.snapshot(at=0.0), new.snapshot(at=1.0)).requests == 2


def test_without_traffic_there_is_nothing_to_divide_by() -> None:
    """No latency, no ratio, no lines."""
    pages = MetricPages()
    now = traffic_stats(pages.snapshot(at=0.0), pages.snapshot(at=2.0))

    assert (now.requests, now.cache_hit_ratio) == (0, None)
    assert now.overhead_ms == {"p50": None, "p95": None, "p99": None}
    assert now.outcomes == now.guardrails == now.faults == {}


def test_times_above_the_last_bucket_count_as_that_bucket() -> None:
    """As Prometheus does it."""
    pages = MetricPages()
    before = pages.snapshot()
    pages.metrics.record(structs.replace(redacted_report(), **timings(60.0)))

    assert traffic_stats(before, pages.snapshot(at=1.0)).overhead_ms["p50"] == 5000
