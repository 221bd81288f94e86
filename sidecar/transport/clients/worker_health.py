"""Asks workers over their sockets how they are, as Envoy does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.server.health import WorkerState

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
