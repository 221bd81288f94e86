"""Figures that may only fall, kept in budgets.json: read, compared, lowered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).with_name("budgets.json")
FIX: Final = (
    "Lower the figure. A figure that has fallen is kept by `make budgets`; raising a budget takes"
    " an edit of quality/budgets.json by hand, with the reason in the commit message."
)


def read_budgets(section: str, file: Path = FILE) -> dict[str, float]:
    """Return the budgets of *section* by the name of the figure."""
    budgets: dict[str, float] = _document(file).get(section, {})
    return budgets


def exceeded(
    figures: Mapping[str, float], budgets: Mapping[str, float], *, tolerance: float = 0.0
) -> list[str]:
    """Name each figure above its budget, and each without its counterpart.

    *tolerance* is a share of the budget; `lowered` has none.
    """
    above = [
        f"{name}: {figures[name]:g} instead of {budget:g}"
        for name, budget in budgets.items()
        if name in figures and figures[name] > budget * (1 + tolerance)
    ]
    unmatched = sorted(figures.keys() ^ budgets.keys())
    return above + [f"{name}: either figure or budget is missing" for name in unmatched]


def lowered(
    figures: Mapping[str, float],
    budgets: Mapping[str, float],
    *,
    targets: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Return the budgets after *figures*: never above the present one, nor below the target."""
    targets = targets or {}
    return {
        name: min(budgets.get(name, figure), max(figure, targets.get(name, 0)))
        for name, figure in figures.items()
    }


def write_budgets(section: str, budgets: Mapping[str, float], file: Path = FILE) -> None:
    """Replace *section* of the file."""
    document = _document(file) | {section: dict(budgets)}
    file.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _document(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return document
