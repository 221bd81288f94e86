"""`egret budget`: the spent part of a budget, and a forecast for its period."""

from __future__ import annotations

import csv
import sys
import time
from datetime import datetime
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from sidecar.admin.limits import (
    Holder,
    SpentBudget,
    budgets_of,
    holders_of_limits,
    owned_limits,
)
from sidecar.cli.arguments import KeyOption, OrgOption, TeamOption
from sidecar.cli.connection import on_connection
from sidecar.cli.limits import owner_or_all, unreadable_rows, warn_of_unreadable
from sidecar.cli.limits_server import spent_budgets_there
from sidecar.cli.terminal import bar, percent, print_json, print_table
from sidecar.cli.usage import ReportOutput
from sidecar.domain.limits import Measure
from sidecar.limits.budgets import thresholds_passed
from sidecar.limits.limit_syntax import shown, shown_amount, shown_for, shown_span, shown_whose
from sidecar.storage.pool import Connection

budget = typer.Typer(no_args_is_help=True, help="Budgets: spend so far, and forecast.")

_CSV: Final = (
    "level", "whose", "id", "limit", "window", "models", "operations", "time_zone", "starts_at",
    "resets_at", "spent_usd", "amount_usd", "spent_percent", "projected_usd", "runs_out_at",
    "thresholds_passed",
)  # fmt: skip


@budget.command("report")
def report(
    key: KeyOption = None,
    team: TeamOption = None,
    org: OrgOption = None,
    output: Annotated[
        ReportOutput, typer.Option("--output", "-o", help="For people or programs.")
    ] = ReportOutput.TABLE,
) -> None:
    """Report the budgets of the present period: of all, or of one owner and whom it holds.

    By the records of usage: requests that are under way are not in them. `projected` is what the
    period will have cost by its end at its rate so far; `-` in its first hour.

    Example: egret budget report --org acme
    """
    owner = owner_or_all(key=key, team=team, org=org)
    now = time.time()

    async def read(connection: Connection) -> tuple[tuple[Holder, ...], list[SpentBudget]]:
        if owner is not None:
            await owned_limits(connection, owner)  # fails if its own cannot be read
        holders = await holders_of_limits(connection, owner, measure=Measure.COST)
        return holders, await budgets_of(connection, holders, now=now)

    holders, found = on_connection(read, remote=lambda server: spent_budgets_there(server, owner))
    match output:
        case ReportOutput.JSON:
            rows = [_exact(one) | {"unreadable": None} for one in found]
            print_json([*rows, *unreadable_rows(holders, _CSV)])
        case ReportOutput.CSV:
            writer = csv.DictWriter(sys.stdout, _CSV, lineterminator="\n")
            writer.writeheader()
            for row in map(_exact, found):
                for name, value in row.items():
                    if isinstance(value, datetime):
                        row[name] = value.strftime("%Y-%m-%dT%H:%M:%SZ")
                    elif isinstance(value, tuple):
                        row[name] = " ".join(map(str, value))
                writer.writerow(row)
        case ReportOutput.TABLE:
            _print_table(found, now=now)
    warn_of_unreadable(holders)


def _exact(one: SpentBudget) -> dict[str, Any]:
    whose = {"level": one.limit.level.value, "whose": one.holder.name, "id": one.holder.id}
    return whose | one.exact() | {"spent_percent": percent(one.spent, one.limit.amount)}


def _print_table(found: list[SpentBudget], *, now: float) -> None:
    columns = ("whose", "budget", "for", "spent", "", "projected", "passed", "resets in")
    rows = []
    for one in found:
        limit, period = one.limit, one.period
        passed = thresholds_passed(one.spent, limit.amount)
        cost = period.projected
        style = "red" if cost is not None and cost > limit.amount else ""
        rows.append(
            (
                Text(shown_whose(limit.level, one.holder.name)),
                Text(shown(limit)),
                Text(shown_for(limit)),
                Text(shown_amount(Measure.COST, one.spent)),
                bar(one.spent, limit.amount),
                Text("-" if cost is None else shown_amount(Measure.COST, cost), style=style),
                Text(", ".join(f"{threshold} %" for threshold in passed) or "-"),
                Text(shown_span(period.end - now)),
            )
        )
    print_table(rows, columns=columns)
