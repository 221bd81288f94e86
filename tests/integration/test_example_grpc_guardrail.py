from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from sidecar.domain.guardrail_settings import GrpcSettings, RemoteEndpoint
from tests.support.remote_checks import answers_as_the_readme_says

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "grpc-guardrail"


def generating() -> list[str]:
    """Return the arguments by which the README generates the code."""
    shell = re.search(r"```sh\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL)
    assert shell is not None
    lines = shell[1].replace("\\\n", " ").splitlines()
    (line,) = [line for line in lines if "grpc_tools.protoc" in line]
    return shlex.split(line)[1:]


async def run(arguments: list[str], folder: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=folder, stdout=asyncio.subprocess.PIPE
    )


@pytest_asyncio.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    """The example, from its README's commands, beside a copy of the protocol."""
    shutil.copytree(ROOT / "proto" / "egret", tmp_path / "proto" / "egret")
    folder = tmp_path / "examples" / "grpc-guardrail"
    folder.mkdir(parents=True)
    shutil.copy(EXAMPLE / "server.py", folder)
    generated = await run(generating(), folder)
    await generated.communicate()
    assert generated.returncode == 0
    server = await run(["server.py", "--address", "127.0.0.1:0"], folder)
    assert server.stdout is not None
    port = (await server.stdout.readline()).decode().rpartition(" ")[2].strip()
    yield f"grpc://127.0.0.1:{port}"
    server.terminate()
    assert await server.wait() == 0


async def test_the_example_server_answers_as_its_readme_says(url: str) -> None:
    """Generated, started, asked, and ended by SIGTERM."""
    await answers_as_the_readme_says(GrpcSettings(RemoteEndpoint(url)))
