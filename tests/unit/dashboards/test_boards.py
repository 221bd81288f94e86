"""Dashboards as they are shipped: whole, explained, and for metrics that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.__main__ import PLACE
from dashboards.board import Board, Query, Unit
from dashboards.boards import BOARDS
from dashboards.grafana import as_json
from dashboards.picture import legend, readable
from tests.support.metric_pages import sample_names

ROOT = Path(__file__).parents[3]
COLUMNS = 24
METRIC = re.compile(r"\b(?:egret|gen_ai)_\w+(?=\{)")

each_board = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)


def _queries(board: Board) -> Iterator[Query]:
    for panel in board.panels:
        yield from panel.queries


def test_what_is_shipped_is_what_the_code_makes() -> None:
    """`python -m dashboards` writes it; no file is left over."""
    shipped = {file.stem: file.read_text(encoding="utf-8") for file in PLACE.iterdir()}

    assert shipped == {board.name: as_json(board) for board in BOARDS}


@each_board
def test_grafanas_own_model_reads_a_dashboard_back(board: Board) -> None:
    """With a datasource to choose, unique panels, and every query in its place."""
    made: dict[str, Any] = json.loads(as_json(board))
    read = Dashboard.from_json(made)
    variables = [one["name"] for one in made["templating"]["list"]]
    panels = [panel for panel in made["panels"] if panel["type"] != "row"]

    assert (read.uid, read.title) == (f"egret-{board.name}", board.title)
    assert variables == ["datasource", *(variable.name for variable in board.variables)]
    assert len({panel["id"] for panel in made["panels"]}) == len(made["panels"])
    assert [target["expr"] for panel in panels for target in panel["targets"]] == [
        query.expression for query in _queries(board)
    ]
    assert {panel["datasource"]["uid"] for panel in panels} == {"$datasource"}


@each_board
def test_each_panel_says_what_it_shows_and_fills_its_row(board: Board) -> None:
    """A title nobody else has, a sentence, and no gap at the end of a row."""
    titles = [panel.title for panel in board.panels]

    assert len(titles) == len(set(titles))
    assert all(panel.description.endswith(".") for panel in board.panels)
    assert {sum(panel.width for panel in row.panels) for row in board.rows} == {COLUMNS}


@each_board
def test_queries_ask_for_metrics_that_there_are_and_follow_the_variables(board: Board) -> None:
    """A mistyped name shows nothing, for ever; a fixed window lies about another resolution."""
    known = sample_names()
    asked = {name for query in _queries(board) for name in METRIC.findall(query.expression)}
    variables = {f"${variable.name}" for variable in board.variables}
    used = {
        name for query in _queries(board) for name in re.findall(r"\$[a-z]+", query.expression)
    }

    assert asked
    assert asked - known == set()
    assert used == variables
    assert not any(re.search(r"\[\d", query.expression) for query in _queries(board))


@each_board
def test_a_dashboard_has_its_picture_in_the_documentation(board: Board) -> None:
    """And the page shows it."""
    page = (ROOT / "docs" / "dashboards.md").read_text(encoding="utf-8")

    assert f"(images/dashboard-{board.name}.png)" in page
    assert (ROOT / "docs" / "images" / f"dashboard-{board.name}.png").stat().st_size > 0


def test_a_query_with_everything_chosen_is_plain_promql() -> None:
    """As the test on a live stack and the pictures ask it."""
    query = Query('sum(rate(a{instance=~"$instance", m=~"$model"}[$__rate_interval]))')

    assert query.with_everything("1m") == 'sum(rate(a{instance=~".*", m=~".*"}[1m]))'


def test_legends_and_values_read_as_in_grafana() -> None:
    """Labels that a series lacks leave nothing."""
    assert legend("{{a}} {{b}}xx", {"a": "openai", "b": "2"}) == "openai 2xx"
    assert legend("{{a}}", {}) == ""
    assert [
        readable(value, unit)
        for value, unit in (
            (0.0012, Unit.SECONDS), (2.5, Unit.SECONDS), (0.5, Unit.SHARE), (1536, Unit.BYTES),
            (3 * 2**20, Unit.BYTES), (1.5, Unit.REQUESTS), (0.25, Unit.DOLLARS), (3, Unit.NUMBER),
        )
    ] == ["1.2 ms", "2.5 s", "50 %", "1.5 KiB", "3 MiB", "1.5/s", "$0.25", "3"]  # fmt: skip
