from __future__ import annotations

import json
import shutil
from pathlib import Path

from loadtest.results import PAGE, PUBLISHED
from loadtest.targets import AIMS, SOURCES, targets_grid, write_targets


def _files(**figures: float) -> dict[str, dict[str, float]]:
    return {
        name: {key.replace("__", "."): one for key, one in figures.items()} for name in SOURCES
    }


def test_a_missed_target_is_red() -> None:
    """A rate is to be high, a cost low; a bound itself is reached."""
    rows = {
        row[0]: row[1:]
        for row in targets_grid(_files(h2corn__c16__cpu=0.42, h2corn__c16__rps=1.7)).rows
    }
    assert rows["Egret's CPU, 16 connections"] == ["0.420", "≤ 0.42", "reached"]
    assert rows["requests a second, 16 connections"] == ["1.700", "≥ 1.80", "🔴 missed"]


def test_a_target_without_a_figure_keeps_its_line() -> None:
    """With a dash, so that it does not look reached."""
    rows = targets_grid(_files()).rows
    assert len(rows) == len(AIMS)
    assert {row[3] for row in rows} == {""}


def test_each_target_has_a_published_figure() -> None:
    """A figure of another name would leave a dash, and no target that is missed."""
    published = {
        name: json.loads((PUBLISHED / f"{name}.json").read_text("utf-8")) for name in SOURCES
    }
    assert [row[0] for row in targets_grid(published).rows if not row[3]] == []


def test_other_gateways_are_compared_within_their_own_run() -> None:
    """Requests a second of Egret through those of the other."""
    files = _files() | {"bench-peers": {"Egret.c16.rps": 300.0, "LiteLLM guarded.c16.rps": 10.0}}
    shown = [row[1] for row in targets_grid(files).rows if "LiteLLM's" in row[0]]
    assert shown == ["30.000"]


def test_the_page_has_the_table_of_the_published_figures(tmp_path: Path) -> None:
    """`make targets` writes it anew."""
    copy = Path(shutil.copy(PAGE, tmp_path))
    write_targets(page=copy)
    assert copy.read_text() == PAGE.read_text()
