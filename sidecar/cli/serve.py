"""`egret serve` and `egret migrate`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from sidecar.cli.connection import on_database, settings_or_exit
from sidecar.cli.terminal import (
    FAILED,
    WRONG_USAGE,
    Output,
    OutputOption,
    fail,
    note,
    print_rows,
)
from sidecar.settings.process import former_variables, unknown_variables
from sidecar.settings.sections import inherited_environment
from sidecar.settings.serving import ServerSettings
from sidecar.storage import migrate as migrations
from sidecar.storage.migrate import Migration, UnknownRevisionError


def serve(
    workers: Annotated[
        int | None, typer.Option(help="Processes, one Unix socket each.", min=1, max=256)
    ] = None,
) -> None:
    """Serve ext_proc, one process and one Unix socket a worker.

    Settings come from the environment: EGRET_POSTGRES__DSN, EGRET_SERVER__SOCKET_DIRECTORY, …
    SIGTERM drains: health turns NOT_SERVING first, open streams end, then the sockets close.

    Example: EGRET_POSTGRES__DSN=postgresql://egret@db/egret egret serve --workers 4
    """
    # Here, since `egret migrate` needs no worker.
    from sidecar.telemetry.endpoint import EndpointError  # noqa: PLC0415
    from sidecar.telemetry.logs import configure_logs, get_logger  # noqa: PLC0415
    from sidecar.worker.supervisor import Supervisor, WorkerStartError  # noqa: PLC0415

    settings = settings_or_exit(for_workers=True)
    try:
        if workers is not None:
            server = ServerSettings(**(settings.server.model_dump() | {"workers": workers}))
            settings = settings.model_copy(update={"server": server})
        configure_logs(settings.telemetry.log_level)
        for variable in former_variables(inherited_environment()):
            get_logger().warning("settings.former", variable=variable, hint="remove it")
        for one in unknown_variables(inherited_environment()):
            fields = {} if one.meant is None else {"meant": one.meant}
            get_logger().warning("settings.unknown", variable=one.variable, **fields)
        asyncio.run(Supervisor(settings).run())
    except (EndpointError, WorkerStartError) as error:
        note(f"error: {error}")
        raise typer.Exit(WRONG_USAGE) from None


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
            pending = on_database(migrations.pending)
            _print(pending, output=output)
            if pending:
                raise typer.Exit(FAILED)
        else:
            applied = on_database(lambda settings: migrations.migrate(settings, on_warning=note))
            _print(applied, output=output)
    except UnknownRevisionError as error:
        fail(str(error), hint="upgrade Egret")


def _print(steps: tuple[Migration, ...], *, output: Output) -> None:
    if not steps and output is Output.TABLE:
        note("The schema is up to date.")
        return
    rows = [{"revision": step.revision, "summary": step.summary} for step in steps]
    print_rows(rows, columns=("revision", "summary"), output=output)
