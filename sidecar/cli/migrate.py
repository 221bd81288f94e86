"""`egret migrate`."""

from __future__ import annotations

from typing import Annotated

import typer

from sidecar.cli.database import on_database
from sidecar.cli.output import FAILED, Output, OutputOption, fail, note, print_rows
from sidecar.storage import migrate as migrations
from sidecar.storage.migrate import Migration, UnknownRevisionError


def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Apply nothing; exit 1 if something is pending.")
    ] = False,
    sql: Annotated[
        bool, typer.Option("--sql", help="Apply nothing; print the statements that are pending.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Bring the database's schema up to date, in one transaction.

    Example: EGRET_POSTGRES__DSN=postgresql://egret@db/egret egret migrate
    """
    try:
        if sql:
            typer.echo(on_database(migrations.pending_sql), nl=False)
        elif check:
            _check(on_database(migrations.pending), output=output)
        else:
            applied = on_database(lambda settings: migrations.migrate(settings, on_warning=note))
            _print(applied, output=output)
    except UnknownRevisionError as error:
        fail(str(error), mend="upgrade Egret")


def _check(pending: tuple[Migration, ...], *, output: Output) -> None:
    _print(pending, output=output)
    if pending:
        raise typer.Exit(FAILED)


def _print(steps: tuple[Migration, ...], *, output: Output) -> None:
    if not steps and output is Output.TABLE:
        note("The schema is up to date.")
        return
    rows = [{"revision": step.revision, "summary": step.summary} for step in steps]
    print_rows(rows, columns=("revision", "summary"), output=output)
