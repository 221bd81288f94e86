"""`egret serve`: the workers behind Envoy."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from sidecar.settings.environment import inherited_environment
from sidecar.settings.process import SettingsError, read_settings
from sidecar.settings.serving import ServerSettings


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
    # Here, since every other command would wait for these imports too.
    from sidecar.app.supervisor import Supervisor, WorkerStartError  # noqa: PLC0415
    from sidecar.settings.strangers import strangers  # noqa: PLC0415
    from sidecar.telemetry.endpoint import EndpointError  # noqa: PLC0415
    from sidecar.telemetry.logs import configure_logs, get_logger  # noqa: PLC0415

    try:
        settings = read_settings()
        if workers is not None:
            server = ServerSettings(**(settings.server.model_dump() | {"workers": workers}))
            settings = settings.model_copy(update={"server": server})
        configure_logs(settings.telemetry.log_level)
        for one in strangers(inherited_environment()):
            fields = {} if one.meant is None else {"meant": one.meant}
            get_logger().warning("settings.unknown", variable=one.variable, **fields)
        asyncio.run(Supervisor(settings).run())
    except (SettingsError, EndpointError, WorkerStartError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - the last word to whoever started us
        raise typer.Exit(2) from None
