"""A chart of usage over time, as PNG or SVG; needs the extra `charts`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from sidecar.embedded.wheels import wheel_with
from sidecar.storage.usage_reports import UsagePoint

MAX_SHOWN: Final = 8
"""More could not be told apart by their colours; the rest is drawn as one."""

REST: Final = "all others"
_BAR: Final = 0.85  # of the width of an hour or a day


class ChartError(Exception):
    """The chart cannot be drawn; the message says what would help."""


def draw_usage(points: Sequence[UsagePoint], *, file: Path, title: str, step: timedelta) -> None:
    """Draw cost over time into *file*, or tokens where nothing has a price.

    Raises:
        ChartError: matplotlib is not there, or the file cannot be written.
    """
    try:
        # Here: it takes a second to import, and most installations do without it.
        from matplotlib import dates  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ModuleNotFoundError:
        raise ChartError(f"matplotlib is not installed: {wheel_with('charts')}") from None
    has_cost = any(point.cost_usd for point in points)
    figure = Figure(figsize=(9, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    days: Any = dates  # its functions are untyped (matplotlib 3.10)
    times = sorted({point.began_at for point in points})
    below = [0.0] * len(times)
    for name, values in _series(points, times, has_cost=has_cost):
        axes.bar(
            days.date2num(times),
            values,
            width=step / timedelta(days=1) * _BAR,
            align="edge",
            bottom=below,
            label=name,
            zorder=2,
        )
        below = [low + value for low, value in zip(below, values, strict=True)]
    axes.set_title(title, loc="left")
    axes.set_ylabel("US dollars" if has_cost else "tokens")
    axes.grid(axis="y", linewidth=0.5, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    locator = days.AutoDateLocator(maxticks=10)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(days.ConciseDateFormatter(locator))
    if points:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise ChartError(f"{file} cannot be written: {error}") from None


def _series(
    points: Sequence[UsagePoint], times: Sequence[datetime], *, has_cost: bool
) -> list[tuple[str, list[float]]]:
    """Return the values of each name at each time: the largest first, those beyond as one."""
    by_name: defaultdict[str, defaultdict[datetime, Decimal]] = defaultdict(
        lambda: defaultdict(Decimal)
    )
    for point in points:
        by_name[point.name][point.began_at] += point.cost_usd if has_cost else point.tokens
    ordered = sorted(by_name, key=lambda name: (-sum(by_name[name].values()), name))
    for name in ordered[MAX_SHOWN:]:
        for at, value in by_name[name].items():
            by_name[REST][at] += value
    names = ordered[:MAX_SHOWN] + ([REST] if len(ordered) > MAX_SHOWN else [])
    return [(name, [float(by_name[name][at]) for at in times]) for name in names]
