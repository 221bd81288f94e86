"""`egret usage`: reports, totals and charts."""

from __future__ import annotations

import enum
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from sidecar.admin.usage_reports import (
    NO_MODEL,
    REST,
    By,
    UsagePoint,
    UsageSum,
    drop_usage,
    usage_csv_text,
    usage_points,
    usage_sums,
)
from sidecar.cli.admin_server import AdminServer
from sidecar.cli.arguments import MomentError, parse_span, parse_time
from sidecar.cli.connection import on_connection
from sidecar.cli.terminal import (
    WRONG_USAGE,
    Output,
    OutputOption,
    Row,
    fail,
    install_hint,
    note,
    print_json,
    print_rows,
)
from sidecar.storage.pool import Connection

FEW_BARS: Final = 24
MAX_SHOWN: Final = 8
"""More could not be distinguished by colour; the rest is drawn as one."""

_BAR: Final = 0.85  # of the width of an hour or a day


class ChartError(Exception):
    """The chart cannot be drawn; the message has a hint."""


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
        raise ChartError(f"matplotlib is not installed: {install_hint('charts')}") from None
    has_cost = any(point.cost_usd for point in points)
    figure = Figure(figsize=(9, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    days: Any = dates  # its functions are untyped (matplotlib 3.10)
    times = sorted({point.began_at for point in points})
    below = [0.0] * len(times)
    by_name: defaultdict[str, defaultdict[datetime, Decimal]] = defaultdict(
        lambda: defaultdict(Decimal)
    )
    for point in points:
        by_name[point.name][point.began_at] += point.cost_usd if has_cost else point.tokens
    # The largest first, and at the bottom.
    for name in sorted(by_name, key=lambda one: (one == REST, -sum(by_name[one].values()), one)):
        values = [float(by_name[name][at]) for at in times]
        axes.bar(
            days.date2num(times),
            values,
            width=step / timedelta(days=1) * _BAR,
            align="edge",
            bottom=below,
            label="no model" if name == NO_MODEL else name,
            zorder=2,
        )
        below = [low + value for low, value in zip(below, values, strict=True)]
    if 0 < len(times) < FEW_BARS:  # a bar as wide as the picture would say nothing
        end = days.date2num(times[-1] + step)
        axes.set_xlim(end - FEW_BARS * (step / timedelta(days=1)), end)
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
        reason = getattr(error, "strerror", None) or error
        raise ChartError(f"{file} cannot be written: {reason}") from None


usage = typer.Typer(no_args_is_help=True, help="Usage and its cost.")

HOUR: Final = timedelta(hours=1)
HOURLY_UP_TO: Final = timedelta(days=3)
"""A chart of longer than this has a bar a day."""

HOUR_MONTHS: Final = 25
"""Two years to compare, and the month that they began in."""

_CHARTS: Final = frozenset({".png", ".svg"})

_COLUMNS: Final = (
    "requests", "refused", "failed", "input_tokens", "cached_input", "output_tokens", "reasoning",
    "cost_usd", "estimated", "unpriced",
)  # fmt: skip
_LEAST_DIGITS: Final = 4
_STORED_DIGITS: Final = 9
"""Of a cost in US dollars, after the point: those that a table has at least, and all of them."""


class ReportOutput(enum.Enum):
    """For people, for spreadsheets or for programs."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class _ReportQuery:
    """The figures of a report: the sums, the points of its chart, and the time between those."""

    by: By
    since: datetime
    until: datetime
    top: int | None
    is_drawn: bool

    async def read(
        self, connection: Connection
    ) -> tuple[list[UsageSum], list[UsagePoint], timedelta]:
        """Read them from the database."""
        since, until = self.since, self.until
        sums = await usage_sums(connection, self.by, since=since, until=until, largest=self.top)
        if not self.is_drawn:
            return sums, [], HOUR
        names = [one.name for one in sums[:MAX_SHOWN]]
        drawn = partial(usage_points, connection, self.by, since=since, until=until, names=names)
        if until - since > HOURLY_UP_TO:
            points = await drawn(unit="day")
            if len({point.began_at for point in points}) > HOURLY_UP_TO.days:
                return sums, points, timedelta(days=1)
        # A short span, or one of which only the last days have usage.
        return sums, await drawn(unit="hour"), HOUR

    def read_there(
        self, server: AdminServer
    ) -> tuple[list[UsageSum], list[UsagePoint], timedelta]:
        """Read them from `egret admin`, which limits hours to a shorter span."""
        query = {"by": self.by.value, "since": self.since, "until": self.until}
        limit = {} if self.top is None else {"limit": self.top}
        sums = server.call(list[UsageSum], "GET", "/usage", query=query | limit)
        if not self.is_drawn:
            return sums, [], HOUR
        unit = "day" if self.until - self.since > HOURLY_UP_TO else "hour"
        chosen = query | {"unit": unit, "limit": MAX_SHOWN}
        points = server.call(list[UsagePoint], "GET", "/usage/points", query=chosen)
        return sums, points, timedelta(days=1) if unit == "day" else HOUR


@usage.command("report")
def report(
    by: Annotated[By, typer.Option("--by", help="The dimension to sum by.")] = By.TEAM,
    since: Annotated[
        str, typer.Option("--since", help="How long ago (30d, 12h), or a time (2027-01-31).")
    ] = "30d",
    until: Annotated[str, typer.Option("--until", help="How long ago, or a time.")] = "now",
    top: Annotated[
        int | None,
        typer.Option("--top", min=1, max=1000, help="The largest so many; all others as one."),
    ] = None,
    chart: Annotated[
        Path | None,
        typer.Option("--chart", metavar="FILE", help="Also draw it over time: .png or .svg."),
    ] = None,
    output: Annotated[
        ReportOutput, typer.Option("--output", "-o", help="For people or programs.")
    ] = ReportOutput.TABLE,
) -> None:
    """Sum usage, the dearest first. Times are UTC, and whole hours.

    `estimated` counts requests whose tokens the provider did not report, `unpriced` those whose
    model has no price: their cost is not in the sum.

    Example: egret usage report --by key --since 30d --top 20 --chart usage.svg
    """
    now = datetime.now(UTC)
    start = _moment(since, option="--since", now=now)
    end = _moment(until, option="--until", now=now)
    if start >= end:
        fail("--since is not before --until", hint="give other times", code=WRONG_USAGE)
    if chart is not None and chart.suffix not in _CHARTS:
        fail(f"--chart: {chart} is no .png or .svg", hint="rename it", code=WRONG_USAGE)

    query = _ReportQuery(by=by, since=start, until=end, top=top, is_drawn=chart is not None)
    sums, points, step = on_connection(query.read, remote=query.read_there)
    _print(sums, by=by, output=output)
    if chart is not None:
        try:
            draw_usage(points, file=chart, title=f"Usage by {by.value}", step=step)
        except ChartError as error:
            fail(str(error), hint="the figures above are complete")
        note(f"drawn: {chart}")
        if step == HOUR and (bars := len({point.began_at for point in points})) <= 1:
            note(f"too little usage for a chart over time: it has {bars or 'no'} bar so far")


@usage.command("drop")
def drop(
    keep_months: Annotated[
        int,
        typer.Option("--keep-months", min=1, max=1200, help="Whole months before this one."),
    ],
    keep_hour_months: Annotated[
        int,
        typer.Option("--keep-hour-months", min=1, max=1200, help="The same of sums by hour."),
    ] = HOUR_MONTHS,
    output: OutputOption = Output.TABLE,
) -> None:
    """Drop the requests, and the sums by hour, of older months.

    Sums by day stay, and so do reports. No budget loses use: the last month stays whole.

    Example: egret usage drop --keep-months 13
    """
    dropped = on_connection(
        partial(drop_usage, keep_months=keep_months, keep_hour_months=keep_hour_months)
    )
    print_rows([{"dropped": month} for month in dropped], columns=("dropped",), output=output)


def _moment(text: str, *, option: str, now: datetime) -> datetime:
    """Read how long ago, or a time."""
    try:
        return now - parse_span(text)
    except (MomentError, OverflowError):
        pass
    try:
        return parse_time(text, now=now)
    except MomentError as error:
        fail(f"{option}: {error}", hint="give another", code=WRONG_USAGE)


def _print(sums: Sequence[UsageSum], *, by: By, output: ReportOutput) -> None:
    match output:
        case ReportOutput.JSON:
            print_json([_exact(one, by) for one in sums])
        case ReportOutput.CSV:
            sys.stdout.write(usage_csv_text(sums, heading=by.value))
        case ReportOutput.TABLE:
            # As many digits as show two of the least cost, in all rows, so that the points align.
            least = min((one.cost_usd for one in sums if one.cost_usd), default=Decimal(1))
            digits = max(_LEAST_DIGITS, min(1 - least.adjusted(), _STORED_DIGITS))
            rows_of_people = [_row(one, by, digits) for one in sums]
            print_rows(rows_of_people, columns=(by.value, *_COLUMNS), output=Output.TABLE)


def _exact(one: UsageSum, by: By) -> dict[str, object]:
    """Return every field; money as text, to its last digit."""
    fields = asdict(one)
    name = fields.pop("name")
    return {by.value: name, **fields, "cost_usd": f"{one.cost_usd:f}"}


def _row(one: UsageSum, by: By, cost_digits: int) -> Row:
    return {
        by.value: one.name,
        "requests": f"{one.requests:,}",
        "refused": f"{one.refused:,}",
        "failed": f"{one.failed:,}",
        "input_tokens": f"{one.input_tokens:,}",
        "cached_input": f"{one.cached_input_tokens:,}",
        "output_tokens": f"{one.output_tokens:,}",
        "reasoning": f"{one.reasoning_tokens:,}",
        "cost_usd": f"{one.cost_usd:,.{cost_digits}f}",
        "estimated": f"{one.estimated:,}",
        "unpriced": f"{one.unpriced:,}",
    }
