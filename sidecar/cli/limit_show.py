"""`egret limits show`: how every limit that holds for a key stands now."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from sidecar.cli.bars import bar
from sidecar.cli.bindings import OrgOption, TeamOption
from sidecar.cli.database import on_connection, settings_or_exit
from sidecar.cli.limit_owners import owner_of
from sidecar.cli.limit_words import shown, shown_amount, shown_for, shown_span, shown_whose
from sidecar.cli.output import Output, OutputOption, Row, console, note, print_json
from sidecar.storage.limit_holders import holders_for
from sidecar.storage.limit_states import LiveLimit, LiveLimits, Source, live_limits
from sidecar.storage.pool import Connection


def show(
    key: Annotated[
        str | None, typer.Argument(metavar="KEY_ID", help="A key: its public id.")
    ] = None,
    team: TeamOption = None,
    org: OrgOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show how limits stand now: those of a key, of its team and of its organization.

    Reads what workers count in Valkey and changes nothing. Where Valkey does not answer, days,
    weeks and months are told by the records of usage.

    Example: egret limits show 5OKO8h6jGWNP
    """
    owner = owner_of(key=key, team=team, org=org)
    valkey = settings_or_exit().valkey
    now = time.time()

    async def look(connection: Connection) -> LiveLimits:
        holders = await holders_for(connection, owner)
        return await live_limits(connection, valkey, holders, now=now)

    found = on_connection(look)
    if found.away is not None:
        note(
            f"warning: Valkey gave no answer ({found.away}); days, weeks and months are by the"
            " records of usage, of the rest nothing is known"
        )
    if output is Output.JSON:
        print_json([_row(one) for one in found.limits])
    else:
        console().print(_table(found.limits, now=now))


def _row(live: LiveLimit) -> Row:
    limit, resets_at = live.limit, live.resets_at
    return {
        "level": limit.level.value,
        "whose": live.holder.name,
        "limit": shown(limit),
        "measure": limit.measure.value,
        "window": limit.window.value,
        "models": limit.models,
        "operations": limit.operations,
        "time_zone": limit.time_zone,
        "amount": limit.amount,
        "at_once": live.room,
        "used": live.used,
        "remaining": live.remaining,
        "resets_at": None if resets_at is None else datetime.fromtimestamp(resets_at, UTC),
        "source": live.source.value,
    }


def _table(found: tuple[LiveLimit, ...], *, now: float) -> Table:
    table = Table()
    for column in ("whose", "limit", "for", "used", "remaining", "resets in"):
        table.add_column(column)
    for live in found:
        limit = live.limit
        table.add_row(
            Text(shown_whose(limit.level, live.holder.name)),
            Text(shown(limit)),
            Text(shown_for(limit)),
            bar(live.used, live.room),
            Text(_remaining(live)),
            Text("-" if live.resets_at is None else shown_span(max(0.0, live.resets_at - now))),
        )
    return table


def _remaining(live: LiveLimit) -> str:
    measure = live.limit.measure
    if live.remaining is None:
        return "-"
    left = f"{shown_amount(measure, live.remaining)} of {shown_amount(measure, live.room)}"
    return f"{left} (by records)" if live.source is Source.RECORDS else left
