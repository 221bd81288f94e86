from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from loadtest.results import PAGE
from loadtest.sizing import cost_grid, workers_grid, write_sizing

FIGURES = {
    "new.h2corn.c16.cpu": 250.0,
    "new.h2corn.c16.envoy_cpu": 200.0,
    "new.h2corn.64k.cpu": 2_000.0,
    "new.h2corn.c1.added_p50": 0.706,
    "egret.rss_mb": 130.0,
}


def test_a_core_checks_as_many_requests_as_its_time_holds() -> None:
    """Figures that were not measured have no line."""
    assert cost_grid(FIGURES).rows == [
        ["CPU time of a worker, µs", "250"],
        ["CPU time of Envoy, its own work included, µs", "200"],
        ["requests a second that a core of workers can check", "4,000"],
        ["added latency without a queue, median, ms", "0.71"],
        ["CPU time of a worker, body of 64 KB, µs", "2,000"],
        ["memory of a worker, MB", "130"],
    ]


def test_workers_are_half_busy_and_never_fewer_than_two() -> None:
    """One serves while the other is replaced."""
    rows = workers_grid(FIGURES).rows
    assert rows[0] == ["100", "2", "2", "1", "260"]
    assert rows[-1] == ["10,000", "5", "40", "4", "650"]


def test_a_load_without_a_figure_has_a_dash() -> None:
    """A run of one load publishes its own figures only."""
    assert workers_grid({"new.h2corn.c16.cpu": 250.0}).rows[-1][1:] == ["5", "–", "–", "–"]  # noqa: RUF001 - a dash


def test_the_page_has_the_tables_of_the_published_figures(tmp_path: Path) -> None:
    """`python -m loadtest.sizing` writes them anew."""
    copy = Path(shutil.copy(PAGE, tmp_path))
    write_sizing(page=copy)
    assert copy.read_text() == PAGE.read_text()


@pytest.mark.parametrize("name", ["bench", "bench-against"])
def test_published_figures_have_their_circumstances(name: str) -> None:
    """The page shows commit and machine."""
    figures = json.loads((PAGE.parent / "figures" / f"{name}.json").read_text())
    assert {"command", "commit", "machine", "started"} <= figures.keys()
