from __future__ import annotations

import pytest

from loadtest.telemetry_costs import LOG_LINE, METRICS, OFF
from loadtest.waterfall import (
    TRANSPORT,
    WORKER,
    telemetry_figures,
    telemetry_grid,
    waterfall,
    waterfall_grid,
)


def test_the_stages_add_up_to_the_worker() -> None:
    """What the stopwatch itself took is taken off, and the rest of the worker is gRPC's."""
    figures = waterfall({"read": 60.0, "judge": 60.0, "whole": 100.0}, worker_us=400.0)
    assert figures == pytest.approx({"read": 50.0, "judge": 50.0, TRANSPORT: 300.0, WORKER: 400.0})


def test_the_dearest_stage_comes_first_and_the_sum_last() -> None:
    """Shares are of the worker."""
    grid = waterfall_grid({"read": 10.0, TRANSPORT: 30.0, WORKER: 40.0})
    assert [row[0] for row in grid.rows] == [TRANSPORT, "read", WORKER]
    assert [row[2] for row in grid.rows] == ["75.0%", "25.0%", "100.0%"]


def test_what_telemetry_costs_is_what_it_adds_to_none() -> None:
    """Each step with those before it, in their order."""
    costs = {OFF: 200.0, METRICS: 225.0, LOG_LINE: 240.5}

    assert telemetry_figures(costs) == {
        f"telemetry.{METRICS}": 25.0,
        f"telemetry.{LOG_LINE}": 40.5,
    }
    assert list(telemetry_grid(costs).rows) == [
        [OFF, "200.0", "0.0"],
        [METRICS, "225.0", "25.0"],
        [LOG_LINE, "240.5", "40.5"],
    ]
