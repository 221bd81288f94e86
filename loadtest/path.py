"""How many functions, files and objects one request runs through.

    python -m loadtest.path [--walk] [--write]

Traces one warm conversation of `counting.py` and counts the functions of `sidecar` that it calls,
their files and packages, and the instances of its classes that are built (`tracing.py` says how).
Lambdas and comprehensions are calls, but no functions.
`--walk` lists the functions in order of entry. Writes build/bench/path.json. Exits 1 above a
budget of quality/budgets.json, which `--write` lowers and never raises.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from loadtest.counts import run_in_a_worker
from loadtest.results import Grid, circumstances, new_console, write_json
from quality.budgets import FIX, exceeded, lowered, read_budgets, write_budgets

SECTION: Final = "path"
CONVERSATIONS: Final = {
    "chat": "chat",
    "redacted": "redacted chat",
    "no_key": "no key",
    "log_entry": "end of a chat",
}
"""The conversations of `counting.py` by the names of their figures."""
COUNTED: Final = ("calls", "functions", "files", "packages", "objects")
NOT_HELD: Final = ".packages"
"""More packages are no worse if each is easier to find."""

TOLERANCE: Final = 0.03
"""As in `counts.py`: a step more is no regression, a dozen are."""

Walk = Mapping[str, Mapping[str, int]]
"""`calls` of each `file:function`, in order of entry, and `objects` built of each class."""


def main() -> int:
    """Trace, compare, show; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.path", description=__doc__)
    parser.add_argument("--walk", action="store_true", help="list the functions and objects")
    parser.add_argument("--write", action="store_true", help="lower the budgets to these figures")
    options = parser.parse_args()
    run, walks = circumstances("make path"), trace()
    figures = path_figures(walks)
    if options.write:
        write_budgets(SECTION, lowered(held(figures), read_budgets(SECTION)))
    budgets = read_budgets(SECTION)
    console = new_console()
    if options.walk:
        for grid in walk_grids(walks):
            grid.show(console)
    path_grid(figures, budgets).show(console)
    write_json(SECTION, figures, run)
    above = exceeded(held(figures), budgets, tolerance=TOLERANCE)
    for line in above:
        console.print(f"✗ {line}", markup=False, style="red")
    if above:
        console.print(FIX, markup=False)
    return 1 if above else 0


def trace() -> dict[str, Walk]:
    """Return the walks, traced in a process of its own."""
    walks = json.loads(run_in_a_worker("loadtest.tracing"))
    return {name: walks[conversation] for name, conversation in CONVERSATIONS.items()}


def path_figures(walks: Mapping[str, Walk]) -> dict[str, int]:
    """Return flat figures, `<conversation>.<counted>`."""
    figures: dict[str, int] = {}
    for name, walk in walks.items():
        files = {place.partition(":")[0] for place in walk["calls"]}
        counted = (
            sum(walk["calls"].values()),
            sum(not place.rpartition(".")[2].startswith("<") for place in walk["calls"]),
            len(files),
            len({Path(file).parts[1] for file in files}),
            sum(walk["objects"].values()),
        )
        figures |= {f"{name}.{key}": value for key, value in zip(COUNTED, counted, strict=True)}
    return figures


def held(figures: Mapping[str, int]) -> dict[str, int]:
    """Return the figures that have a budget."""
    return {name: value for name, value in figures.items() if not name.endswith(NOT_HELD)}


def path_grid(figures: Mapping[str, int], budgets: Mapping[str, float]) -> Grid:
    """Return a line for each conversation; the budget in brackets where it differs."""

    def shown(name: str) -> str:
        budget = budgets.get(name, figures[name])
        return f"{figures[name]}" + (f" ({budget:g})" if budget != figures[name] else "")

    rows = [[name, *(shown(f"{name}.{key}") for key in COUNTED)] for name in CONVERSATIONS]
    return Grid("One request through the code (budget)", ("conversation", *COUNTED), rows)


def walk_grids(walks: Mapping[str, Walk]) -> list[Grid]:
    """Return the functions of each conversation in order of entry, then its objects."""
    grids: list[Grid] = []
    for name, walk in walks.items():
        steps = [
            [str(number), *place.split(":", 1), str(calls)]
            for number, (place, calls) in enumerate(walk["calls"].items(), start=1)
        ]
        built = [[cls, str(count)] for cls, count in walk["objects"].items()]
        columns = ("", "file", "function", "calls")
        grids.append(Grid(f"{name}: functions", columns, steps, labels=3))
        grids.append(Grid(f"{name}: objects", ("class", "built"), built))
    return grids


if __name__ == "__main__":
    sys.exit(main())
