"""`egret health`: asks the workers' health service; combines all answers into that of a probe."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Final, assert_never

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
from sidecar.settings.process import SettingsError, read_settings


class WorkerState(enum.Enum):
    """The health that one worker reports."""

    SERVING = "serving"
    NOT_SERVING = "not serving"
    """It starts or drains."""
    SILENT = "silent"


class Question(enum.Enum):
    """An orchestrator's probe of all workers together.

    STARTED: all of them serve, so that Envoy may be started.
    READY: one of them serves, so that requests may come; Envoy leaves out the others.
    LIVE: one of them answers, even if it drains, so that a restart would not help.
    """

    STARTED = "started"
    READY = "ready"
    LIVE = "live"


def holds(question: Question, states: Sequence[WorkerState]) -> bool:
    """Answer *question* by the states of the workers."""
    match question:
        case Question.STARTED:
            return all(state is WorkerState.SERVING for state in states)
        case Question.READY:
            return any(state is WorkerState.SERVING for state in states)
        case Question.LIVE:
            return any(state is not WorkerState.SILENT for state in states)
        case _:
            assert_never(question)


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
