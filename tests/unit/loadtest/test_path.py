from __future__ import annotations

import pytest

from loadtest.counts import python_version, read_baseline
from loadtest.path import TOLERANCE, Walk, held, path_figures, path_grid, trace, walk_grids
from quality.budgets import FIX, exceeded, read_budgets

WALK: Walk = {
    "calls": {
        "sidecar/pipeline/request.py:judge": 1,
        "sidecar/pipeline/request.py:judge.<locals>.<genexpr>": 3,
        "sidecar/keys/cache.py:KeyCache.peek": 2,
    },
    "objects": {"sidecar.pipeline.request.Caller": 2},
}


@pytest.fixture(scope="module")
def walks() -> dict[str, Walk]:
    """The walks of today's code."""
    return trace()


@pytest.mark.skipif(
    python_version() != read_baseline()[0], reason="comprehensions are calls in Python 3.11 only"
)
def test_a_request_runs_through_no_more_code_than_its_budget(walks: dict[str, Walk]) -> None:
    """`make path` shows the figures, `make path BENCH_OPTIONS=--walk` every function."""
    above = exceeded(held(path_figures(walks)), read_budgets("path"), tolerance=TOLERANCE)
    assert not above, "\n".join([*above, FIX])


def test_a_walk_is_the_same_in_every_run(walks: dict[str, Walk]) -> None:
    """A budget needs figures without noise."""
    assert walks == trace()


def test_objects_of_every_kind_of_class_are_counted(walks: dict[str, Walk]) -> None:
    """A frozen dataclass, a class with a constructor of its own, and a struct made in C."""
    built = {name.rpartition(".")[2] for name in walks["chat"]["objects"]}
    assert {"JudgedRequest", "RequestRecord", "Message"} <= built


def test_figures_are_counted_over_functions_files_and_packages() -> None:
    """Comprehensions and lambdas are calls, but no functions."""
    assert path_figures({"chat": WALK}) == {
        "chat.calls": 6,
        "chat.functions": 2,
        "chat.files": 2,
        "chat.packages": 2,
        "chat.objects": 2,
    }


def test_packages_have_no_budget() -> None:
    """A file moved to a package of its own makes nothing worse."""
    assert "chat.packages" not in held(path_figures({"chat": WALK}))


def test_the_table_shows_a_budget_where_it_differs() -> None:
    """One line for each conversation."""
    figures = path_figures(dict.fromkeys(("chat", "redacted", "no_key", "log_entry"), WALK))
    rows = path_grid(figures, {"chat.calls": 9}).rows
    assert rows[0] == ["chat", "6 (9)", "2", "2", "2", "2"]


def test_a_walk_lists_functions_in_order_of_entry_then_objects() -> None:
    """With the calls of each."""
    steps, built = walk_grids({"chat": WALK})
    assert steps.rows[0] == ["1", "sidecar/pipeline/request.py", "judge", "1"]
    assert built.rows == [["sidecar.pipeline.request.Caller", "2"]]
