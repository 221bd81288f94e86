from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.counts import (
    HINT,
    MEMORY,
    Counts,
    count,
    counts_grid,
    python_version,
    read_baseline,
    regressions,
    write_baseline,
)

CHAT = {"chat": {"calls": 1000, "bytecodes": 20000}}


@pytest.fixture(scope="module")
def counted() -> Counts:
    """What is counted now."""
    return count()


@pytest.mark.skipif(
    python_version() != read_baseline()[0], reason="bytecodes differ between versions of Python"
)
def test_a_request_costs_no_more_than_it_did(counted: Counts) -> None:
    """Calls, bytecodes and memory, from Envoy's bytes to ours; `make counts` shows them all."""
    dearer = regressions(counted, read_baseline()[1])
    assert not dearer, "\n".join([*dearer, HINT])


def test_counts_are_the_same_however_often_they_are_taken(counted: Counts) -> None:
    """Or a baseline would mean nothing; memory alone differs, by less than what is allowed."""
    again = count()
    assert _exact(counted) == _exact(again)
    assert regressions(counted, again) == regressions(again, counted) == []


def _exact(counted: Counts) -> dict[tuple[str, str], int]:
    return {
        (name, what): number
        for name, counts in counted.items()
        for what, number in counts.items()
        if what != MEMORY
    }


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param({"chat": {"calls": 1030, "bytecodes": 20000}}, [], id="a few more"),
        pytest.param(
            {"chat": {"calls": 1031, "bytecodes": 20000}},
            ["chat: 1031 calls instead of 1000 (+3.1%)"],
            id="more",
        ),
        pytest.param({"chat": {"calls": 1, "bytecodes": 1}}, [], id="less"),
        pytest.param(
            {"chat": {"calls": 1000}},
            ["chat: bytecodes is on one side of the comparison only"],
            id="no longer counted",
        ),
        pytest.param(
            {**CHAT, "new": {"calls": 1}},
            ["new: calls is on one side of the comparison only"],
            id="without a baseline",
        ),
    ],
)
def test_what_costs_more_is_named_with_both_counts(
    changed: dict[str, dict[str, int]], said: list[str]
) -> None:
    """What is compared with nothing is said too: a gate must not open by a change of names."""
    assert regressions(changed, CHAT) == said


@pytest.mark.parametrize(("peak", "said"), [(1100, []), (1101, ["+10.1%"])])
def test_memory_may_differ_by_more_than_calls(peak: int, said: list[str]) -> None:
    """Free lists and growing tables make it differ from run to run."""
    dearer = regressions({"chat": {MEMORY: peak}}, {"chat": {MEMORY: 1000}})
    assert [line.split("(")[1].rstrip(")") for line in dearer] == said


def test_a_new_baseline_is_what_was_counted(tmp_path: Path) -> None:
    """With the version of Python that bytecodes depend on."""
    file = tmp_path / "counts.json"
    write_baseline(CHAT, file)
    assert read_baseline(file) == (python_version(), CHAT)


def test_the_table_shows_both_and_the_change() -> None:
    """One line for each thing counted."""
    grid = counts_grid({"chat": {"calls": 1100, "bytecodes": 20000}}, CHAT)
    assert grid.rows == [
        ["chat", "calls", "1100", "1000", "+10.0%"],
        ["chat", "bytecodes", "20000", "20000", "+0.0%"],
    ]
