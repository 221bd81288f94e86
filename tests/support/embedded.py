"""`egret up` as a process of its own, for tests that stop, kill or restart it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from sidecar.settings.sections import inherited_environment

CHECKOUT: Final = Path(__file__).parents[2]
CHAT: Final = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "mail bob@example.com"}],
}


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a command."""

    code: int
    printed: str


@dataclass(frozen=True, slots=True)
class Up:
    """A running `egret up`."""

    process: asyncio.subprocess.Process
    run: Path
    facts: dict[str, Any]

    def parts(self) -> list[int]:
        """Return the processes that work below the run directory."""
        return [pid for pid, line in command_lines() if str(self.run) in line]

    def pid(self, part: str) -> int:
        """Return the process id of a part, by the name of its log."""
        return int((self.run / "pids" / part).read_text())

    def kill(self, part: str) -> None:
        """End a part without a chance to clean up."""
        os.kill(self.pid(part), signal.SIGKILL)

    async def ended(self) -> tuple[int, str]:
        """Wait for the end; returns the exit code and what was printed last."""
        out, _ = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode()

    async def status(self) -> int:
        """Return the status of a request with the printed key."""
        headers = {"authorization": f"Bearer {self.facts['key']}"}
        async with (
            aiohttp.ClientSession(self.facts["url"], headers=headers) as client,
            client.post("/v1/chat/completions", json=CHAT) as answer,
        ):
            return answer.status

    async def command(self, *arguments: str) -> Ended:
        """Run an egret command on the stack's servers."""
        process = await egret(*arguments, EGRET_POSTGRES__DSN=self.facts["postgres_dsn"])
        printed, _ = await process.communicate()
        assert process.returncode is not None
        return Ended(process.returncode, printed.decode())


def command_lines() -> Iterator[tuple[int, str]]:
    """Yield every process with its arguments."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                yield int(entry.name), (entry / "cmdline").read_bytes().decode("utf-8", "replace")
            except OSError:
                continue


async def none_left(up: Up) -> bool:
    """Wait until no part runs any more; False when one stays."""
    for _ in range(1_200):
        if not up.parts():
            return True
        await asyncio.sleep(0.05)
    return False


async def egret(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    """Start a command of this checkout."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "sidecar", *arguments),
        cwd=CHECKOUT,
        env={**inherited_environment(), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


@asynccontextmanager
async def started(run: Path, *options: str) -> AsyncIterator[Up]:
    """Start with one worker and wait for egret.json."""
    # Another process of the same test run starts stacks as well, and may want the usual ports.
    ports = () if "--port" in options else ("--port", "0", "--https-port", "0")
    process = await egret("up", "--run-directory", str(run), "--workers", "1", *ports, *options)
    try:
        while not (run / "egret.json").exists():
            if process.returncode is not None:
                pytest.fail((await process.communicate())[0].decode())
            await asyncio.sleep(0.05)
        yield Up(process, run, json.loads((run / "egret.json").read_text()))
    finally:
        if process.returncode is None:
            process.terminate()
            await process.communicate()
