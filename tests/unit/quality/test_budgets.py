from __future__ import annotations

from pathlib import Path

import pytest

from quality.budgets import exceeded, lowered, read_budgets, write_budgets


@pytest.mark.parametrize(
    ("figures", "faults"),
    [
        pytest.param({"modules": 9}, [], id="lower"),
        pytest.param({"modules": 10}, [], id="equal"),
        pytest.param({"modules": 11}, ["modules: 11 instead of 10"], id="above"),
        pytest.param({}, ["modules: either figure or budget is missing"], id="no longer counted"),
        pytest.param(
            {"modules": 10, "new": 1},
            ["new: either figure or budget is missing"],
            id="without a budget",
        ),
    ],
)
def test_a_figure_above_its_budget_or_without_one_is_a_fault(
    figures: dict[str, float], faults: list[str]
) -> None:
    """A changed name must not open the gate."""
    assert exceeded(figures, {"modules": 10}) == faults


def test_a_tolerance_is_a_share_of_the_budget() -> None:
    """For shares, which move with unrelated lines."""
    assert exceeded({"share": 10.2}, {"share": 10}, tolerance=0.02) == []
    assert exceeded({"share": 10.3}, {"share": 10}, tolerance=0.02)


def test_a_budget_falls_and_never_rises() -> None:
    """It follows the figure down, and stays where the figure is higher."""
    assert lowered({"a": 5, "b": 15}, {"a": 10, "b": 10}) == {"a": 5, "b": 10}


def test_a_budget_is_not_lowered_below_its_target() -> None:
    """Once the target is reached, the figure may move beneath it."""
    assert lowered({"a": 1}, {"a": 10}, targets={"a": 3}) == {"a": 3}


def test_a_section_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    """One file holds the budgets of several programs."""
    file = tmp_path / "budgets.json"
    write_budgets("path", {"calls": 2}, file)
    write_budgets("shape", {"modules": 3}, file)
    write_budgets("shape", {"modules": 1}, file)
    assert read_budgets("path", file) == {"calls": 2}
    assert read_budgets("shape", file) == {"modules": 1}
    assert read_budgets("other", file) == {}
