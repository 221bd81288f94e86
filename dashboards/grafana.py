"""Boards as Grafana's JSON."""

from __future__ import annotations

from typing import Final, assert_never

from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.builders.common import StackingConfig
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import StackingMode
from grafana_foundation_sdk.models.dashboard import DashboardLinkType, DataSourceRef

from dashboards.board import Board, Kind, Panel, Query, Variable

_SOURCE: Final = DataSourceRef(type_val="prometheus", uid="$datasource")
_HEIGHTS: Final = {Kind.NUMBER: 4, Kind.LINES: 8, Kind.STACKED: 8}
_FILL: Final = 30  # per cent


def as_json(board: Board) -> str:
    """Return what Grafana imports: the same for the same board, so that a change is a diff."""
    built = (
        dashboards.Dashboard(board.title)
        .uid(f"egret-{board.name}")
        .description(board.description)
        .tags(["egret"])
        .refresh("30s")
        .time("now-3h", "now")
        .link(
            dashboards.DashboardLink("Egret")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["egret"])
            .keep_time(keep_time=True)
        )
        .with_variable(
            dashboards.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
        )
    )
    for variable in board.variables:
        built.with_variable(_variable(variable))
    number = 0
    for row in board.rows:
        number += 1
        built.with_row(dashboards.Row(row.title).id(number))
        for panel in row.panels:
            number += 1
            built.with_panel(_panel(panel, number))
    return JSONEncoder(sort_keys=True, indent=2).encode(built.build()) + "\n"


def _variable(variable: Variable) -> dashboards.QueryVariable:
    return (
        dashboards.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(_SOURCE)
        .query(variable.query)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".*")
    )


def _panel(panel: Panel, number: int) -> stat.Panel | timeseries.Panel:
    shown = _shown(panel.kind)
    shown.id(number).title(panel.title).description(panel.description)
    shown.datasource(_SOURCE).unit(panel.unit.value).span(panel.width).height(_HEIGHTS[panel.kind])
    for letter, query in zip("ABCDEF", panel.queries, strict=False):
        shown.with_target(_target(query, letter))
    return shown


def _shown(kind: Kind) -> stat.Panel | timeseries.Panel:
    match kind:
        case Kind.NUMBER:
            return stat.Panel()
        case Kind.LINES:
            return timeseries.Panel().min(0)
        case Kind.STACKED:
            stacked = StackingConfig().mode(StackingMode.NORMAL)
            return timeseries.Panel().min(0).stacking(stacked).fill_opacity(_FILL)
        case _:
            assert_never(kind)


def _target(query: Query, letter: str) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(letter).expr(query.expression)
    if query.leads_to_traces:
        target.exemplar(exemplar=True)
    return target.legend_format(query.legend) if query.legend else target
