from __future__ import annotations

import pytest

from loadtest.telemetry_costs import METRICS, OFF, STEPS, calmest
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


def test_what_telemetry_adds_is_the_middle_of_all_runs_beside_their_ends() -> None:
    """Of each step, in their order; what a conversation costs without it is no row."""
    added = ((20.0, 50.0, 900.0), (25.0, 70.5, 800.0), (22.0, 61.0, 850.0))
    runs = [
        {OFF: 300.0, **{step: times[min(at, 2)] for at, step in enumerate(STEPS[1:])}}
        for times in added
    ]

    figures = telemetry_figures(runs)
    assert len(figures) == len(STEPS) - 1
    assert figures[f"telemetry.{METRICS}"] == 22.0
    rows = telemetry_grid(runs).rows
    assert [row[0] for row in rows] == list(STEPS[1:])
    assert list(rows[0]) == [METRICS, "22.0", "20.0", "25.0"]
    assert list(rows[1]) == [STEPS[2], "61.0", "50.0", "70.5"]


def test_the_calmest_rounds_are_chosen_by_all_steps_together() -> None:
    """A step that was lucky in a disturbed round does not make it a calm one."""
    lucky, calm = {OFF: 9.0, METRICS: 1.0}, {OFF: 2.0, METRICS: 3.0}
    assert calmest([lucky, calm, lucky, lucky]) == [calm]
    assert calmest([lucky]) == [lucky]
