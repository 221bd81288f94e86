"""`egret health`: do the workers on this machine serve."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from sidecar.cli.output import (
    FAILED,
    WRONG_USAGE,
    Output,
    OutputOption,
    Row,
    fail,
    print_rows,
)
from sidecar.server.health import Question, holds
from sidecar.settings.process import SettingsError, read_settings


def health(
    question: Annotated[
        Question,
        typer.Argument(help="started: all serve; ready: one serves; live: one answers."),
    ] = Question.READY,
    output: OutputOption = Output.TABLE,
) -> None:
    """Ask the workers behind the sockets of EGRET_SERVER__SOCKET_DIRECTORY how they are.

    Exits with 1 if the answer is no: made for the probes of a container.

    Example: egret health started
    """
    # Here, since no other command should wait for these imports.
    from sidecar.app.worker_sockets import worker_sockets  # noqa: PLC0415
    from sidecar.transport.clients.worker_health import worker_states  # noqa: PLC0415

    try:
        settings = read_settings()
    except SettingsError as error:
        fail(str(error), mend="correct the environment", code=WRONG_USAGE)
    sockets = worker_sockets(settings.server)
    states = asyncio.run(worker_states(sockets))
    rows: list[Row] = [
        {"worker": index, "state": state.value, "socket": str(socket)}
        for index, (socket, state) in enumerate(zip(sockets, states, strict=True))
    ]
    print_rows(rows, columns=("worker", "state", "socket"), output=output)
    if not holds(question, states):
        raise typer.Exit(FAILED)
