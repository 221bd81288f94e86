"""Valkey from the wheel, on a Unix socket and without persistence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from egret_tools.devstack.child import Children, Program, until_ready
from egret_tools.devstack.wheels import valkey_program
from sidecar.settings.sections import inherited_environment

PART: Final = "Valkey"
SOCKET_NAME: Final = "valkey.sock"


@asynccontextmanager
async def running_valkey(children: Children, *, directory: Path, logs: Path) -> AsyncIterator[str]:
    """Run a server and yield its URL.

    Raises:
        PartError: it cannot be started.
    """
    socket = _new_socket(directory)
    program = Program(
        part=PART,
        command=(
            str(valkey_program()),
            *("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
            *("--save", "", "--appendonly", "no", "--dir", str(directory)),
        ),
        log=logs / "valkey.log",
        environment=inherited_environment(),
    )
    async with children.running(program) as server:
        await until_ready(server, lambda: _answers(socket))
        yield f"unix://{socket}"


def _new_socket(directory: Path) -> Path:
    directory.mkdir(mode=0o700)
    return directory / SOCKET_NAME


async def _answers(socket: Path) -> bool:
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket))
    except OSError:
        return False
    try:
        writer.write(b"PING\r\n")
        return await reader.readline() == b"+PONG\r\n"
    except OSError:
        return False
    finally:
        writer.close()
