from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.bench_against import Series, against_figures, against_grid
from loadtest.bench_stack import Side
from loadtest.load import LoadError
from loadtest.results import ROOT


@pytest.fixture
def series() -> Series:
    """Three rounds of one figure, in which the machine became slower by half."""
    series = Series()
    for new, rev in ((40, 100), (60, 150), (50, 100)):
        series.add("new.h2corn.c16.cpu", new)
        series.add("rev.h2corn.c16.cpu", rev)
    return series


def test_a_ratio_is_taken_within_a_round(series: Series) -> None:
    """The speed of the machine drifts for both sides alike."""
    assert against_figures(series, ["h2corn"]) == {
        "h2corn.c16.cpu": 0.4,
        "h2corn.c16.cpu_min": 0.4,
        "h2corn.c16.cpu_max": 0.5,
        "new.h2corn.c16.cpu": 50,
        "rev.h2corn.c16.cpu": 100,
        "errors": 0,
    }


def test_the_table_has_a_line_for_each_figure_that_was_measured(series: Series) -> None:
    """With the values of both sides, the ratio and its range."""
    (row,) = against_grid(against_figures(series, ["h2corn"]), ["h2corn"]).rows
    assert row[0] == "h2corn"
    assert row[2:] == ["100.00", "50.00", "0.40", "0.40-0.50"]


def test_the_server_in_go_has_a_line_of_its_own(series: Series) -> None:
    """Behind those beside the other revision."""
    for _ in range(3):
        series.add("go.c16.worker_cpu_us", 10)
        series.add("new.h2corn.c16.rps", 300)
        series.add("rev.h2corn.c16.rps", 100)
    _, rps, go = against_grid(against_figures(series, ["h2corn"]), ["h2corn"]).rows
    assert rps[4:] == ["3.00", "3.00-3.00"]
    assert go[2:] == ["10.00", "50.00", "5.00", "4.00-6.00"]


def test_a_side_runs_the_code_of_its_own_checkout(tmp_path: Path) -> None:
    """A comparison of a revision with itself would show no difference."""
    Side("new", ROOT).check()
    other = tmp_path / "sidecar"
    other.mkdir()
    (other / "__init__.py").touch()
    Side("rev", tmp_path).check()


def test_a_failed_command_of_a_side_is_named() -> None:
    """With the end of its output."""
    with pytest.raises(LoadError, match="new: `egret no-such-command` failed"):
        Side("new", ROOT).run("no-such-command", settings={})
