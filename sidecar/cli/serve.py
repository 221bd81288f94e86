"""`egret serve`: the workers behind Envoy, and `egret worker`, which it starts one of a core."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, NoReturn

import typer
import uvloop

from sidecar.app.process import die_with_parent
from sidecar.app.supervisor import Supervisor, WorkerStartError
from sidecar.app.worker import run_worker
from sidecar.settings import ServerSettings, Settings, SettingsError, read_settings
from sidecar.telemetry.endpoint import EndpointError
from sidecar.telemetry.logs import configure_logs
from sidecar.transport.engine import SocketError


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
    settings = _settings()
    if workers is not None:
        server = ServerSettings(**(settings.server.model_dump() | {"workers": workers}))
        settings = settings.model_copy(update={"server": server})
    try:
        asyncio.run(Supervisor(settings).run())
    except (EndpointError, WorkerStartError) as error:
        _fail(str(error))


def worker(index: Annotated[int, typer.Argument(min=0)]) -> None:
    """Serve one socket; started by `egret serve`."""
    die_with_parent()
    settings = _settings()
    try:
        uvloop.run(run_worker(settings, index))
    except SocketError as error:
        _fail(str(error))


def _settings() -> Settings:
    try:
        settings = read_settings()
    except SettingsError as error:
        _fail(str(error))
    configure_logs(settings.telemetry.log_level)
    return settings


def _fail(message: str) -> NoReturn:
    print(message, file=sys.stderr)  # noqa: T201 - the last word to whoever started us
    raise typer.Exit(2)
