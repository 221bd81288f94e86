"""`egret audit`: the audit log."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from datetime import UTC, datetime
from typing import Annotated, Final

import orjson
import typer

from sidecar.admin.audit_log import AuditEntry, AuditFilter, AuditTail, audit_entries
from sidecar.cli.arguments import since_or_exit
from sidecar.cli.connection import on_connection, on_database
from sidecar.cli.terminal import (
    Output,
    OutputOption,
    Row,
    ends_quietly,
    print_json,
    print_rows,
)
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import connect

audit = typer.Typer(no_args_is_help=True, help="The log of administrative changes.")

EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_COLUMNS: Final = ("at", "by", "action", "what", "change", "note")


@audit.command("list")
def list_entries(
    since: Annotated[
        str | None, typer.Option("--since", help="How long ago (7d), or a time (2027-01-31).")
    ] = None,
    object_type: Annotated[
        str | None, typer.Option("--type", help="Of one table: api_keys, teams, policies, …")
    ] = None,
    object_id: Annotated[
        str | None, typer.Option("--id", help="Of one thing: a key's or a team's id, a policy.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most.")] = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the latest changes, the latest first. Secrets are masked; content is never in it.

    `by` is the name that --as gave or the user of the operating system, and the database's role.

    Example: egret audit list --id 5OKO8h6jGWNP --since 30d
    """
    wanted = AuditFilter(
        since=since_or_exit(since), object_type=object_type, object_id=object_id, limit=limit
    )
    query = {
        "since": wanted.since or EARLIEST,
        "object_type": object_type,
        "object_id": object_id,
    }
    found = on_connection(
        lambda connection: audit_entries(connection, wanted),
        remote=lambda server: tuple(server.pages(AuditEntry, "/audit", query=query, most=limit)),
    )
    if output is Output.JSON:
        print_json(found)
    else:
        print_rows([_row(entry) for entry in found], columns=_COLUMNS, output=output)


@audit.command("follow")
def follow(
    since: Annotated[
        str | None,
        typer.Option("--since", help="Begin with changes of so long ago (1h); else now."),
    ] = None,
    every: Annotated[
        float, typer.Option("--every", min=0.1, max=60, help="Seconds between two looks.")
    ] = 2.0,
) -> None:
    """Write each change as a line of log, as it is made, until Ctrl-C: for log collectors.

    Lines are those of Egret's log (JSON, event `audit.update` and the like); `egret logs` reads
    them. Secrets are masked.

    Example: egret audit follow --since 1h | egret logs
    """
    tail = AuditTail(since_or_exit(since))

    async def write_all(settings: PostgresSettings) -> None:
        async with connect(settings) as connection:
            with ends_quietly():  # else a closed pipe is taken for a database without an answer
                while True:
                    for entry in await tail.more(connection):
                        fields = {
                            name: value
                            for name, value in dataclasses.asdict(entry).items()
                            if value is not None and name not in {"at", "action"}
                        }
                        event = f"audit.{entry.action}"
                        head = {"timestamp": entry.at, "level": "info", "event": event}
                        line = orjson.dumps(head | fields, option=orjson.OPT_UTC_Z)
                        sys.stdout.write(line.decode() + "\n")
                    sys.stdout.flush()
                    await asyncio.sleep(every)

    with ends_quietly():
        on_database(write_all)


def _row(entry: AuditEntry) -> Row:
    role = entry.database_role
    what = (
        entry.object_type if entry.object_id is None else f"{entry.object_type} {entry.object_id}"
    )
    return {
        "at": entry.at,
        "by": role if entry.actor is None else f"{entry.actor} ({role})",
        "action": entry.action,
        "what": what,
        "change": _change(entry),
        "note": entry.note,
    }


def _change(entry: AuditEntry) -> str:
    if entry.object_id is None:
        return "all rows" if entry.action == "truncate" else f"{entry.rows} rows"
    before, after = entry.before or {}, entry.after or {}
    sides = [side for side in (before, after) if side]  # a row that was made or deleted has one
    return ", ".join(
        f"{name}: {' → '.join(_shown(side.get(name)) for side in sides)}"
        for name in dict.fromkeys((*before, *after))
        if not (before.get(name) is None and after.get(name) is None)
    )


def _shown(value: object) -> str:
    match value:
        case None:
            return "-"
        case str():
            return value
        case _:
            return orjson.dumps(value).decode()
