from __future__ import annotations

import pytest

from loadtest.figures import Cell, Round, bench_figures, errors_of, per_request_us
from loadtest.load import Measured


def measured(*, errors: int = 0, dropped: int = 0, p50_ms: float = 1.0) -> Measured:
    return Measured(
        requests=1000,
        seconds=2.0,
        errors=errors,
        dropped=dropped,
        p50_ms=p50_ms,
        p95_ms=2 * p50_ms,
        p99_ms=4 * p50_ms,
        max_ms=8 * p50_ms,
    )


def cell(seen: Measured, *, worker: float = 0.0, envoy: float = 0.0) -> Cell:
    return Cell(seen, worker_cpu_seconds=worker, envoy_cpu_seconds=envoy)


def test_a_round_gives_what_was_seen_and_what_was_added() -> None:
    """Rates count what was answered well; CPU time is divided by all requests."""
    one = Round(
        "c16",
        {
            "envoy": cell(measured(p50_ms=0.5), envoy=0.1),
            "egret": cell(measured(errors=100, p50_ms=2.0), worker=0.8, envoy=0.4),
        },
    )
    figures = bench_figures([one])
    assert {key: figures[key] for key in figures if key.startswith("egret")} == pytest.approx(
        {
            "egret.c16.rps": 450.0,
            "egret.c16.p50_ms": 2.0,
            "egret.c16.p95_ms": 4.0,
            "egret.c16.p99_ms": 8.0,
            "egret.c16.added_p50_ms": 1.5,
            "egret.c16.added_p95_ms": 3.0,
            "egret.c16.added_p99_ms": 6.0,
            "egret.c16.worker_cpu_us": 800.0,
            "egret.c16.envoy_cpu_us": 400.0,
            "egret.c16.errors": 100,
            "egret.c16.dropped": 0,
        }
    )
    assert figures["envoy.c16.envoy_cpu_us"] == pytest.approx(100.0)
    assert "envoy.c16.worker_cpu_us" not in figures


def test_what_was_added_is_taken_within_a_round_before_the_median() -> None:
    """A minute in which everything is slow moves both sides, and not their difference."""
    pairs = [(1.0, 2.0), (11.0, 12.0), (5.0, 6.1)]
    rounds = [
        Round("c1", {"envoy": cell(measured(p50_ms=a)), "egret": cell(measured(p50_ms=b))})
        for a, b in pairs
    ]
    figures = bench_figures(rounds)
    assert figures["envoy.c1.p50_ms"] == pytest.approx(5.0)
    assert figures["egret.c1.p50_ms"] == pytest.approx(6.1)
    assert figures["egret.c1.added_p50_ms"] == pytest.approx(1.0)


def test_errors_and_dropped_requests_of_all_rounds_are_summed() -> None:
    """A median would hide a round in which requests failed."""
    failing = [measured(errors=0), measured(errors=7, dropped=3), measured(errors=0)]
    rounds = [
        Round("open2000", {"envoy": cell(measured()), "egret": cell(one)}) for one in failing
    ]
    figures = bench_figures(rounds)
    assert figures["egret.open2000.errors"] == 7
    assert figures["egret.open2000.dropped"] == 3
    assert errors_of(figures) == 7


def test_errors_without_egret_count_as_well() -> None:
    """A baseline that fails is no baseline."""
    assert errors_of({"envoy.c1.errors": 2, "egret.c1.errors": 1, "egret.c1.rps": 9}) == 3


def test_cpu_time_is_microseconds_a_request() -> None:
    """Half a second over a thousand requests."""
    assert per_request_us(0.5, 1000) == pytest.approx(500.0)
