from __future__ import annotations

from typing import Any

import pytest

from loadtest.generators import read_summary
from loadtest.load import LoadError, Measured


def summary(**metrics: dict[str, float]) -> dict[str, Any]:
    latency = {"avg": 1.2, "med": 1.0, "p(95)": 2.0, "p(99)": 3.0, "max": 9.0}
    every = {"http_req_duration": latency, **metrics}
    return {"metrics": {name: {"values": values} for name, values in every.items()}}


def test_a_summary_is_read_with_its_failures_and_drops() -> None:
    """k6 counts as `passes` of `http_req_failed` the requests that did fail."""
    seen = read_summary(
        summary(
            http_reqs={"count": 400, "rate": 99.0},
            http_req_failed={"rate": 0.01, "passes": 4, "fails": 396},
            dropped_iterations={"count": 12, "rate": 3.0},
        ),
        seconds=4,
    )
    assert seen == Measured(
        requests=400,
        seconds=4,
        errors=4,
        dropped=12,
        p50_ms=1.0,
        p95_ms=2.0,
        p99_ms=3.0,
        max_ms=9.0,
        quantiles_ms={95: 2.0, 99: 3.0},
    )
    assert seen.rps == pytest.approx(99.0)


def test_what_was_turned_away_is_told_apart_from_what_failed() -> None:
    """A refusal for overload is an answer; and how fast the others were is a figure of its own."""
    seen = read_summary(
        summary(
            http_reqs={"count": 10},
            http_req_failed={"rate": 0.5, "passes": 5, "fails": 5},
            refused={"count": 4, "rate": 1.0},
            **{"http_req_duration{expected_response:true}": {"p(99)": 7.0}},
        ),
        seconds=1,
    )
    assert (seen.errors, seen.refused, seen.admitted_p99_ms) == (5, 4, 7.0)


def test_a_metric_that_never_came_up_is_zero() -> None:
    """k6 leaves `dropped_iterations` out where nothing was dropped."""
    seen = read_summary(summary(http_reqs={"count": 1}), seconds=1)
    assert (seen.errors, seen.dropped) == (0, 0)


def test_a_load_that_made_no_request_measured_nothing() -> None:
    """It must not come out as zero milliseconds."""
    with pytest.raises(LoadError, match="no request"):
        read_summary(summary(), seconds=1)
