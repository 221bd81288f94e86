"""`egret usage`: what was used, and what it cost."""

from __future__ import annotations

import csv
import enum
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from sidecar.cli.database import on_connection
from sidecar.cli.moments import MomentError, parse_moment, parse_span
from sidecar.cli.output import (
    WRONG_USAGE,
    Output,
    OutputOption,
    Row,
    fail,
    note,
    print_json,
    print_rows,
)
from sidecar.cli.usage_chart import ChartError, draw_usage
from sidecar.storage.pool import Connection
from sidecar.storage.usage_reports import (
    By,
    UsagePoint,
    UsageSum,
    drop_usage,
    usage_points,
    usage_sums,
)

usage = typer.Typer(no_args_is_help=True, help="What was used, and what it cost.")

HOURLY_UP_TO: Final = timedelta(days=3)
"""A chart of longer than this has a bar a day."""

_CHARTS: Final = frozenset({".png", ".svg"})

_COLUMNS: Final = (
    "requests", "refused", "failed", "input_tokens", "cached_input", "output_tokens", "reasoning",
    "cost_usd", "estimated", "unpriced",
)  # fmt: skip


class ReportOutput(enum.Enum):
    """For people, for spreadsheets or for programs."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


@usage.command("report")
def report(
    by: Annotated[By, typer.Option("--by", help="What to add up by.")] = By.TEAM,
    since: Annotated[
        str, typer.Option("--since", help="How long ago (30d, 12h), or a time (2027-01-31).")
    ] = "30d",
    until: Annotated[str, typer.Option("--until", help="Up to this time.")] = "now",
    chart: Annotated[
        Path | None,
        typer.Option("--chart", metavar="FILE", help="Also draw it over time: .png or .svg."),
    ] = None,
    output: Annotated[
        ReportOutput, typer.Option("--output", "-o", help="For people or programs.")
    ] = ReportOutput.TABLE,
) -> None:
    """Add up what was used, the dearest first. Times are UTC, and whole hours.

    `estimated` counts requests whose tokens the provider did not tell, `unpriced` those whose
    model has no price: their cost is not in the sum.

    Example: egret usage report --by team --since 30d --chart usage.svg
    """
    now = datetime.now(UTC)
    start, end = _since(since, now=now), _until(until, now=now)
    if start >= end:
        fail("--since is not before --until", mend="give other times", code=WRONG_USAGE)
    if chart is not None and chart.suffix not in _CHARTS:
        fail(f"--chart: {chart} is no .png or .svg", mend="rename it", code=WRONG_USAGE)
    is_hourly = end - start <= HOURLY_UP_TO

    async def read(connection: Connection) -> tuple[list[UsageSum], list[UsagePoint]]:
        sums = await usage_sums(connection, by, since=start, until=end)
        if chart is None:
            return sums, []
        unit = "hour" if is_hourly else "day"
        return sums, await usage_points(connection, by, since=start, until=end, unit=unit)

    sums, points = on_connection(read)
    _print(sums, by=by, output=output)
    if chart is not None:
        step = timedelta(hours=1) if is_hourly else timedelta(days=1)
        try:
            draw_usage(points, file=chart, title=f"Usage by {by.value}", step=step)
        except ChartError as error:
            fail(str(error), mend="the figures above are complete")
        note(f"drawn: {chart}")


@usage.command("drop")
def drop(
    keep_months: Annotated[
        int,
        typer.Option("--keep-months", min=1, max=1200, help="Whole months before this one."),
    ],
    output: OutputOption = Output.TABLE,
) -> None:
    """Drop the requests of older months; sums by hour and day stay, and so do reports.

    Example: egret usage drop --keep-months 13
    """
    dropped = on_connection(lambda connection: drop_usage(connection, keep_months=keep_months))
    print_rows([{"dropped": month} for month in dropped], columns=("dropped",), output=output)


def _since(text: str, *, now: datetime) -> datetime:
    try:
        return now - parse_span(text)
    except (MomentError, OverflowError):
        return _moment(text, option="--since", now=now)


def _until(text: str, *, now: datetime) -> datetime:
    return _moment(text, option="--until", now=now)


def _moment(text: str, *, option: str, now: datetime) -> datetime:
    try:
        moment = parse_moment(text, now=now)
    except MomentError as error:
        fail(f"{option}: {error}", mend="give another", code=WRONG_USAGE)
    if moment is None:
        fail(f"{option}: never is no time", mend="give another", code=WRONG_USAGE)
    return moment


def _print(sums: Sequence[UsageSum], *, by: By, output: ReportOutput) -> None:
    match output:
        case ReportOutput.JSON:
            print_json([_exact(one, by) for one in sums])
        case ReportOutput.CSV:
            rows = [_exact(one, by) for one in sums]
            names = [by.value, *UsageSum.__dataclass_fields__]
            writer = csv.DictWriter(
                sys.stdout, [name for name in names if name != "name"], lineterminator="\n"
            )
            writer.writeheader()
            writer.writerows(rows)
        case ReportOutput.TABLE:
            rows_of_people = [_row(one, by) for one in sums]
            print_rows(rows_of_people, columns=(by.value, *_COLUMNS), output=Output.TABLE)


def _exact(one: UsageSum, by: By) -> dict[str, object]:
    """Return every field; money as text, to its last digit."""
    fields = asdict(one)
    name = fields.pop("name")
    return {by.value: name, **fields, "cost_usd": f"{one.cost_usd:f}"}


def _row(one: UsageSum, by: By) -> Row:
    return {
        by.value: one.name,
        "requests": f"{one.requests:,}",
        "refused": f"{one.refused:,}",
        "failed": f"{one.failed:,}",
        "input_tokens": f"{one.input_tokens:,}",
        "cached_input": f"{one.cached_input_tokens:,}",
        "output_tokens": f"{one.output_tokens:,}",
        "reasoning": f"{one.reasoning_tokens:,}",
        "cost_usd": f"{one.cost_usd:,.4f}",
        "estimated": f"{one.estimated:,}",
        "unpriced": f"{one.unpriced:,}",
    }
