"""`egret health`: asks the workers' health service."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

import grpc
import grpc.aio
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.cli.terminal import (
    FAILED,
    WRONG_USAGE,
    Output,
    OutputOption,
    Row,
    fail,
    in_one_line,
    print_rows,
)
from sidecar.server.worker_health import Question, WorkerState, holds
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
    try:
        server = read_settings().server
    except SettingsError as error:
        fail(in_one_line(error), hint="correct the environment", code=WRONG_USAGE)
    sockets = [server.worker_socket(index) for index in range(server.workers)]
    states = asyncio.run(worker_states(sockets))
    rows: list[Row] = [
        {"worker": index, "state": state.value, "socket": str(socket)}
        for index, (socket, state) in enumerate(zip(sockets, states, strict=True))
    ]
    print_rows(rows, columns=("worker", "state", "socket"), output=output)
    if not holds(question, states):
        raise typer.Exit(FAILED)


ANSWER_SECONDS: Final = 2.0


async def worker_states(sockets: Iterable[Path]) -> tuple[WorkerState, ...]:
    """Return the state of the worker behind each socket."""
    return tuple(await asyncio.gather(*(_state(socket) for socket in sockets)))


async def _state(socket: Path) -> WorkerState:
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=ANSWER_SECONDS)
        except grpc.aio.AioRpcError:
            return WorkerState.SILENT
    is_serving = answer.status == health_pb2.HealthCheckResponse.SERVING
    return WorkerState.SERVING if is_serving else WorkerState.NOT_SERVING
