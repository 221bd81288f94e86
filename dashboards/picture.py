"""A board as a picture: not Grafana's, but of the same queries and the same data."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, assert_never

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dashboards.board import Board, Kind, Panel, Unit
from dashboards.prometheus import Series

Lines = Sequence[tuple[str, Series]]
"""The series of one panel with their names."""

_COLUMNS: Final = 24
_HEIGHTS: Final = {Kind.NUMBER: 1.0, Kind.LINES: 2.2, Kind.STACKED: 2.2}
_MAX_NAMES: Final = 8
_LABEL: Final = re.compile(r"\{\{(\w+)\}\}")


def legend(text: str, labels: Mapping[str, str]) -> str:
    """Return a legend with its labels filled in, as Grafana does."""
    return _LABEL.sub(lambda found: labels.get(found[1], ""), text)


def draw(board: Board, data: Mapping[str, Lines], file: Path) -> None:
    """Draw every panel of *board* into *file*; *data* is by the panel's title."""
    heights = [max(_HEIGHTS[panel.kind] for panel in row.panels) for row in board.rows]
    figure = Figure(figsize=(14, 1.2 * sum(heights) + 0.6), dpi=75)
    figure.suptitle(board.title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    grid = figure.add_gridspec(
        len(board.rows),
        _COLUMNS,
        height_ratios=heights,
        left=0.0,
        right=0.99,
        top=0.92,
        bottom=0.04,
        wspace=0.0,
        hspace=0.3,
    )
    for index, row in enumerate(board.rows):
        left = 0
        for panel in row.panels:
            # The first column is left to the figures of the scale.
            axes = figure.add_subplot(grid[index, left + 1 : left + panel.width])
            _panel(axes, panel, data[panel.title])
            left += panel.width
    figure.savefig(file)


def _panel(axes: Axes, panel: Panel, lines: Lines) -> None:
    axes.set_title(panel.title, loc="left", fontsize=9)
    if panel.kind is Kind.NUMBER:
        axes.axis("off")
        value = next((line.points[-1][1] for _, line in lines), math.nan)
        axes.text(0.02, 0.4, readable(value, panel.unit), fontsize=20, transform=axes.transAxes)
        return
    if panel.kind is Kind.STACKED:
        _stack(axes, lines)
    else:
        for name, line in lines:
            axes.plot(*zip(*line.points, strict=True), label=name, linewidth=1.2)
    _dress(axes, panel, named=any(name for name, _ in lines))


def _stack(axes: Axes, lines: Lines) -> None:
    moments = sorted({at for _, line in lines for at, _ in line.points})
    values = [[dict(line.points).get(at, 0.0) for at in moments] for _, line in lines]
    axes.stackplot(moments, *values, labels=[name for name, _ in lines], alpha=0.75)


def _dress(axes: Axes, panel: Panel, *, named: bool) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _clock(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: readable(value, panel.unit)))
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=7)
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    if named and handles:
        axes.legend(handles[:_MAX_NAMES], names[:_MAX_NAMES], fontsize=6, frameon=False, ncols=2)


def _clock(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%H:%M:%S}"


def readable(value: float, unit: Unit) -> str:
    """Return a value as a person reads it."""
    match unit:
        case Unit.SECONDS:
            return f"{value * 1000:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
        case Unit.SHARE:
            return f"{100 * value:.3g} %"
        case Unit.DOLLARS:
            return f"${value:.4g}"
        case Unit.BYTES:
            return f"{value / 2**20:.3g} MiB" if value >= 2**20 else f"{value / 1024:.3g} KiB"
        case Unit.REQUESTS:
            return f"{value:.3g}/s"
        case Unit.NUMBER:
            return f"{value:.4g}"
        case _:
            assert_never(unit)
