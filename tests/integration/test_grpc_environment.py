from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from sidecar.settings.sections import inherited_environment
from sidecar.worker.supervisor import WORKER_DEFAULTS

SPAWN = """
import asyncio, sys
import grpc
import uvloop

async def ask(channel):
    call = channel.unary_unary("/x/y")
    while True:
        try:
            await call(b"")
        except grpc.aio.AioRpcError:
            pass

async def main(address):
    server = grpc.aio.server()
    server.add_insecure_port(address)
    await server.start()
    asking = [asyncio.ensure_future(ask(grpc.aio.insecure_channel(address))) for _ in range(4)]
    for _ in range(20):
        process = await asyncio.create_subprocess_exec("/bin/true")
        await process.wait()
    for one in asking:
        one.cancel()
    await server.stop(None)

uvloop.run(main(sys.argv[1]))
"""


async def said_while_spawning(directory: Path, environment: dict[str, str]) -> str:
    """Return what gRPC says in a process that serves, asks, and starts other processes."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SPAWN, f"unix:{directory}/s",
        env={**inherited_environment(), "GRPC_VERBOSITY": "INFO", **environment},
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await process.communicate()
    return said.decode()


@pytest.mark.parametrize(
    ("environment", "is_handled"), [({}, True), (WORKER_DEFAULTS, False)], ids=["bare", "ours"]
)
async def test_grpc_does_not_stop_its_threads_for_a_process_that_is_started(
    tmp_path: Path, environment: dict[str, str], *, is_handled: bool
) -> None:
    """It does by itself, which now and then never ends; in a worker's environment it does not."""
    said = await said_while_spawning(tmp_path, environment)

    assert ("fork_posix.cc" in said) is is_handled
