"""`python -m egret_tools.mock_llm --config FILE`: prints one JSON line once it is ready."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

import orjson
import uvloop

from egret_tools.mock_llm.server import MockSettings, running_mock


async def _serve(settings: MockSettings) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with running_mock(settings) as address:
        ready = {"ready": True, "port": address.port, "debug_port": address.debug_port}
        sys.stdout.buffer.write(orjson.dumps(ready) + b"\n")
        sys.stdout.flush()
        await stopped.wait()


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m egret_tools.mock_llm", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="JSON: see MockSettings")
    arguments = parser.parse_args()
    uvloop.run(_serve(MockSettings.model_validate_json(arguments.config.read_bytes())))


if __name__ == "__main__":
    main()
