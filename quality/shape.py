"""How the package is cut and worded, in figures with budgets.

    python -m quality.shape [--write]

Counts modules, lines and functions of `sidecar` without generated code, private functions used
exactly once, files of one name, and words that hide the subject of a sentence, in code and docs.
Names the modules without a test file of their own. Exits 1 above a budget of quality/budgets.json
or where a test file is missing; `--write` lowers budgets and never raises them.
"""

from __future__ import annotations

import argparse
import ast
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quality.budgets import FIX, exceeded, lowered, read_budgets, write_budgets
from quality.mirror import check_mirror

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGE: Final = "sidecar"
DOCS: Final = ("README.md", "docs", "CHANGELOG.md")
SECTION: Final = "shape"
WORDS: Final = {
    "what": r"\bwhat\b",
    "nobody": r"\b(?:nobody|whoever|somebody|anybody)\b",
    "told": r"\b(?:told|tells?|heard|hears?)\b",
}
TARGETS: Final = {
    "modules": 272,
    "modules_under_60": 7,
    "same_base_name": 10,
    "private_used_once_share": 0.055,
    **{
        f"{where}{word}_per_1000{unit}": limit
        for where, unit in (("", ""), ("docs_", "_words"))
        for word, limit in (("what", 1), ("nobody", 0.2), ("told", 0.2))
    },
}
"""Figures that have a budget, which is never lowered below these."""
TOLERANCE: Final = 0.02
"""Shares rise by a little when unrelated lines are removed."""
SMALL_MODULE_LINES: Final = 60
_SKIPPED: Final = {"_generated", "__pycache__", "versions"}
_CODE_BLOCK: Final = re.compile(r"```.*?```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Source:
    """A module: its path, text and syntax tree."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        """Number of lines."""
        return self.text.count("\n")


def main() -> int:
    """Count, compare, print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m quality.shape", description=__doc__)
    parser.add_argument("--write", action="store_true", help="lower the budgets to these figures")
    options = parser.parse_args()
    sources = read_sources(ROOT / PACKAGE)
    figures = {
        **shape_figures(sources),
        **word_figures("", "".join(one.text for one in sources), unit="lines"),
        **word_figures("docs_", read_docs(ROOT / name for name in DOCS), unit="words"),
    }
    held = {name: value for name, value in figures.items() if name in TARGETS}
    if options.write:
        write_budgets(SECTION, lowered(held, read_budgets(SECTION), targets=TARGETS))
    budgets = read_budgets(SECTION)
    print(f"{'':32}{'now':>10}{'budget':>10}{'target':>10}")
    for name, value in figures.items():
        row = (value, budgets.get(name), TARGETS.get(name))
        print(f"{name:32}" + "".join(f"{'' if one is None else f'{one:,g}':>10}" for one in row))
    faults = [
        *exceeded(held, budgets, tolerance=TOLERANCE),
        *check_mirror([one.path for one in sources], ROOT, write=options.write),
    ]
    for line in faults:
        print(f"✗ {line}")
    if faults:
        print(FIX)
    return 1 if faults else 0


def read_sources(package: Path) -> list[Source]:
    """Read the modules of *package*, without generated code and migrations."""
    return [
        Source(path, text, ast.parse(text))
        for path in sorted(package.rglob("*.py"))
        if not _SKIPPED.intersection(path.parts)
        for text in [path.read_text(encoding="utf-8")]
    ]


def shape_figures(sources: Iterable[Source]) -> dict[str, float]:
    """Return sizes and repetitions; `__init__.py` counts in lines and functions alone."""
    sources = list(sources)
    modules = [one for one in sources if one.path.name != "__init__.py"]
    functions = [
        node
        for one in sources
        for node in ast.walk(one.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    names = Counter(one.path.name for one in modules)
    sizes = [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]
    return {
        "modules": len(modules),
        "modules_under_60": sum(one.lines < SMALL_MODULE_LINES for one in modules),
        "same_base_name": sum(count > 1 for count in names.values()),
        "median_module": statistics.median(one.lines for one in modules),
        "largest_module": max(one.lines for one in modules),
        "lines": sum(one.lines for one in sources),
        "functions": len(functions),
        "mean_function": round(statistics.mean(sizes), 1),
        "private_used_once_share": round(_used_once(sources, functions) / len(functions), 3),
    }


def _used_once(
    sources: Iterable[Source], functions: Iterable[ast.FunctionDef | ast.AsyncFunctionDef]
) -> int:
    """Return the number of private functions whose name is defined once and used once."""
    defined = Counter(
        node.name
        for node in functions
        if node.name.startswith("_") and not node.name.startswith("__")
    )
    used: Counter[str] = Counter()
    for one in sources:
        for node in ast.walk(one.tree):
            if isinstance(node, ast.Name):
                used[node.id] += 1
            elif isinstance(node, ast.Attribute):
                used[node.attr] += 1
    return sum(count == 1 and used[name] == 1 for name, count in defined.items())


def word_figures(prefix: str, text: str, *, unit: str) -> Mapping[str, float]:
    """Return how often each of `WORDS` is in 1,000 lines, or words, of *text*."""
    if unit == "words":
        total, suffix = len(re.findall(r"\w+", text)), "_words"
    else:
        total, suffix = text.count("\n"), ""
    return {
        f"{prefix}{word}_per_1000{suffix}": round(
            1000 * len(re.findall(pattern, text, re.IGNORECASE)) / total, 2
        )
        for word, pattern in WORDS.items()
    }


def read_docs(places: Iterable[Path]) -> str:
    """Return the text of Markdown files and of directories of them, without blocks of code."""
    files = [
        file
        for place in places
        for file in (sorted(place.rglob("*.md")) if place.is_dir() else [place])
    ]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    return _CODE_BLOCK.sub("", text)


if __name__ == "__main__":
    sys.exit(main())
