"""`egret audit`: who changed what, and when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import orjson
import typer

from sidecar.cli.database import on_connection
from sidecar.cli.moments import since_or_exit
from sidecar.cli.output import Output, OutputOption, Row, print_json, print_rows
from sidecar.storage.audit import AuditEntry, AuditFilter, audit_entries

audit = typer.Typer(no_args_is_help=True, help="The log of administrative changes.")

_COLUMNS: Final = ("at", "by", "action", "what", "change")


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
        since=since_or_exit(since),
        object_type=object_type,
        object_id=object_id,
        limit=limit,
    )
    found = on_connection(lambda connection: audit_entries(connection, wanted))
    if output is Output.JSON:
        print_json(found)
    else:
        print_rows([_row(entry) for entry in found], columns=_COLUMNS, output=output)


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
    }


def _change(entry: AuditEntry) -> str:
    if entry.object_id is None:
        return "all rows" if entry.action == "truncate" else f"{entry.rows} rows"
    before, after = entry.before or {}, entry.after or {}
    return ", ".join(
        _difference(name, before, after)
        for name in dict.fromkeys((*before, *after))
        if not (before.get(name) is None and after.get(name) is None)
    )


def _difference(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if not before or not after:
        return f"{name}: {_shown((before or after)[name])}"
    return f"{name}: {_shown(before.get(name))} → {_shown(after.get(name))}"


def _shown(value: object) -> str:
    match value:
        case None:
            return "-"
        case str():
            return value
        case _:
            return orjson.dumps(value).decode()
