"""`egret up` and `egret demo` as a person starts them: whole processes, from start to end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]

CHECKOUT = Path(__file__).parents[2]
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "mail bob@example.com"}]}


@dataclass(frozen=True, slots=True)
class Up:
    """A running `egret up`."""

    process: asyncio.subprocess.Process
    run: Path
    facts: dict[str, Any]

    def parts(self) -> list[int]:
        """Return the processes that work below the run directory."""
        return [pid for pid, line in command_lines() if str(self.run) in line]

    async def ended(self) -> tuple[int, str]:
        """Wait for the end; returns the exit code and what was printed last."""
        out, _ = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode()


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
    for _ in range(400):
        if not up.parts():
            return True
        await asyncio.sleep(0.05)
    return False


def is_gone(run: Path) -> bool:
    """Whether nothing is left where the run directory was, nor beside it."""
    return list(run.parent.iterdir()) == []


@pytest.fixture
def run() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="egret-") as parent:
        yield Path(parent) / "run"


async def egret(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "sidecar", *arguments),
        cwd=CHECKOUT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


@asynccontextmanager
async def started(run: Path, *options: str) -> AsyncIterator[Up]:
    """Start with one worker and wait for egret.json."""
    process = await egret("up", "--run-directory", str(run), "--workers", "1", *options)
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


async def test_a_stack_answers_over_tls_and_leaves_nothing_behind(run: Path) -> None:
    """With the key from egret.json; after SIGTERM no process and no directory is left."""
    async with started(run) as up:
        mode = stat.S_IMODE((run / "egret.json").stat().st_mode)
        tls = ssl.create_default_context(cafile=up.facts["ca_file"])
        headers = {"authorization": f"Bearer {up.facts['key']}"}
        async with aiohttp.ClientSession(headers=headers) as client:
            url = f"{up.facts['https_url']}/v1/chat/completions"
            async with client.post(url, json=CHAT, ssl=tls) as answer:
                status, timing = answer.status, answer.headers["server-timing"]
            async with client.get(f"{up.facts['mock_debug_url']}/last") as answer:
                assert answer.status == 200
            async with client.get(up.facts["metrics_url"]) as answer:
                assert 'egret_build_info{engine="h2corn"' in await answer.text()
        assert (status, mode, up.facts["pid"]) == (200, 0o600, up.process.pid)
        assert "egret;dur=" in timing
        assert "upstream;dur=" in timing
        up.process.send_signal(signal.SIGTERM)
        code, printed = await up.ended()
        assert await none_left(up)
    assert code == 0, printed
    assert is_gone(run)


async def test_a_part_that_dies_ends_the_stack_and_is_named(run: Path) -> None:
    """Exit code 1: half a stack is worse than none."""
    async with started(run) as up:
        envoy = next(pid for pid, line in command_lines() if f"{run}/envoy.yaml" in line)
        os.kill(envoy, signal.SIGKILL)
        code, printed = await up.ended()
        assert await none_left(up)
    assert code == 1
    assert "Envoy" in printed
    assert "signal 9" in printed
    assert is_gone(run)


async def test_a_killed_stack_takes_its_parts_along_and_the_next_one_clears_up(run: Path) -> None:
    """SIGKILL leaves no time to stop anything, and a stale directory."""
    async with started(run) as up:
        up.process.kill()
        await up.ended()
        assert await none_left(up)
    assert (run / "egret.json").exists()
    (run / "egret.json").unlink()
    async with started(run, "--timing", "mutation", "--no-traces") as up:
        headers = {"authorization": f"Bearer {up.facts['key']}"}
        async with (
            aiohttp.ClientSession(up.facts["url"], headers=headers) as client,
            client.post("/v1/chat/completions", json=CHAT) as answer,
        ):
            assert answer.status == 200
            assert "egret;dur=" in answer.headers["server-timing"]
        second = await egret("up", "--run-directory", str(run))
        refused, _ = await second.communicate()
    assert second.returncode == 1
    assert f"pid {up.process.pid}" in refused.decode().replace("\n", " ")


async def test_the_tour_comes_out_as_expected() -> None:
    """Every case of the table, as programs read it."""
    process = await egret("demo", "--output", "json")
    assert process.stdout is not None
    printed, _ = await process.communicate()
    rows = json.loads(printed.splitlines()[-1])
    assert [row["faults"] for row in rows] == [[]] * 7
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        pytest.param(("--upstream", "http://llm.example"), "https", id="upstream without TLS"),
        pytest.param(
            ("--upstream", "https://llm.example", "--upstream-ca", "missing.pem"),
            "there is no file",
            id="CA file that is not there",
        ),
        pytest.param(("--workers", "0"), "workers", id="no workers"),
    ],
)
async def test_wrong_usage_is_told_before_anything_starts(
    run: Path, arguments: tuple[str, ...], reason: str
) -> None:
    """Exit code 2."""
    process = await egret("up", "--run-directory", str(run), *arguments)
    printed, _ = await process.communicate()
    assert process.returncode == 2
    assert reason in printed.decode()
    assert is_gone(run)
