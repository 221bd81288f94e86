"""rotel, an OpenTelemetry collector that others wrote, as a process on the loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from egret_tools.devstack.processes import (
    Children,
    Program,
    free_port,
    program_in_wheel,
    until_ready,
)

LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Collector:
    """Where it listens, and the file that it writes to."""

    pid: int
    grpc_port: int
    http_port: int
    printed: Path

    @property
    def grpc_endpoint(self) -> str:
        """OTLP over gRPC."""
        return f"http://{LOOPBACK}:{self.grpc_port}"

    @property
    def http_endpoint(self) -> str:
        """OTLP over HTTP, without the path of a signal."""
        return f"http://{LOOPBACK}:{self.http_port}"


@asynccontextmanager
async def running_collector(place: Path, *options: str) -> AsyncIterator[Collector]:
    """Run it on two free ports until the block ends; what it receives goes nowhere.

    Raises:
        PartError: it is not installed, or does not come up.
    """
    grpc_port, http_port, printed = free_port(), free_port(), place / "rotel.log"
    command = (
        str(program_in_wheel("rotel", ends_with="rotel/rotel-agent")),
        "start",
        f"--otlp-grpc-endpoint={LOOPBACK}:{grpc_port}",
        f"--otlp-http-endpoint={LOOPBACK}:{http_port}",
        "--exporter=blackhole",
        *options,
    )
    program = Program(part="rotel", command=command, log=printed, environment={})
    async with Children().running(program) as child:

        async def is_listening() -> bool:
            return await _listens(grpc_port) and await _listens(http_port)

        await until_ready(child, is_listening)
        yield Collector(child.pid, grpc_port, http_port, printed)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    return True
