"""`make image-test`: what is in the image, and whether it serves as a cluster would run it.

As a number that is not root's, with a read-only root, no capability and nothing mounted but what
the chart mounts; judged by a real Envoy before its socket. Writes build/bench/image.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from egret_tools.devstack.credentials import (
    write_certificate,
    write_certificates,
    write_credential,
)
from egret_tools.devstack.envoy import EnvoyRun, running_envoy
from egret_tools.devstack.envoy_config import EnvoyParameters, render_envoy_config
from egret_tools.devstack.processes import Children
from pydantic import SecretStr

from loadtest.results import Grid, circumstances, new_console, write_json
from sidecar.cli.health import WorkerState, worker_states

USER: Final = "65532:65532"
PATIENCE_SECONDS: Final = 60.0
MEGABYTE: Final = 1_000_000
SEEN_FROM_WITHIN: Final = """
import json, os, pathlib
def writes(path):
    try:
        pathlib.Path(path, "x").write_text("x")
    except OSError as error:
        return error.strerror
    return "written"
print(json.dumps({
    "user": os.getuid(),
    "capabilities": pathlib.Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0],
    "root": writes("/opt/egret"),
    "sockets": writes("/run/egret"),
}))
"""


class ImageFaultError(Exception):
    """The image is not what it should be; says what."""


@dataclass(frozen=True, slots=True)
class Tool:
    """Docker or Podman, and what it needs on this machine."""

    command: tuple[str, ...]
    run_options: tuple[str, ...]

    def do(self, *arguments: str) -> str:
        """Run it; return what it prints.

        Raises:
            ImageFaultError: it failed; with its last words.
        """
        try:
            ran = subprocess.run(  # noqa: S603 - the tool that was named
                (*self.command, *arguments), capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            hint = "name another by --tool, for example IMAGE_TEST_OPTIONS='--tool podman'"
            raise ImageFaultError(f"{self.command[0]} is not installed; {hint}") from None
        if ran.returncode:
            said = f"{ran.stdout}\n{ran.stderr}".strip()  # of `exec`, the command's own words too
            raise ImageFaultError(f"{arguments[0]}: {said[-500:]}")
        return ran.stdout


def main() -> int:
    """Check the image; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.image_check", description=__doc__)
    parser.add_argument("image")
    parser.add_argument("--tool", default="docker", help="docker, or podman with its options")
    parser.add_argument("--run-options", default="", help="further options of its `run`")
    given = parser.parse_args()
    tool = Tool(tuple(shlex.split(given.tool)), tuple(shlex.split(given.run_options)))
    run = circumstances(f"make image-test IMAGE={given.image}")
    try:
        figures = _checked(tool, given.image)
    except ImageFaultError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    rows = [(name, f"{value:.2f}") for name, value in figures.items()]
    Grid(f"{given.image}: runs as it should", ("figure", "value"), rows).show(new_console())
    print(write_json("image", figures, run))
    return 0


def _checked(tool: Tool, image: str) -> dict[str, float]:
    (described,) = json.loads(tool.do("image", "inspect", image))
    config = described["Config"]
    _expect("user", config["User"], USER)
    _expect("entrypoint", config["Entrypoint"], ["/opt/egret/bin/egret"])
    _expect("command", config["Cmd"], ["serve"])
    # Not below the system's own, whose folders have names that are too long for a socket.
    with tempfile.TemporaryDirectory(prefix="egret-image-") as place:
        sockets = Path(place) / "sockets"
        sockets.mkdir()
        sockets.chmod(0o777)  # the container's user is none of this machine's
        with _running(tool, image, sockets) as (container, started_at):
            socket = sockets / "worker-0.sock"
            answers = _seconds_until(socket, WorkerState.NOT_SERVING, started_at)
            serves = _seconds_until(socket, WorkerState.SERVING, started_at)
            tool.do("exec", container, "egret", "health", "started")
            tool.do("exec", container, "egret", "lint", "--rules")
            within = json.loads(tool.do("exec", container, "python", "-c", SEEN_FROM_WITHIN))
            _expect("what it may do", within, {
                "user": 65532, "capabilities": "0" * 16, "root": "Read-only file system",
                "sockets": "written",
            })  # fmt: skip
            asyncio.run(_judges(Path(place), socket))
    # Without a database a worker first waits for its policies, then serves, and refuses with 503.
    return {
        "size_mb": described["Size"] / MEGABYTE,
        "answers_seconds": answers,
        "serves_without_database_seconds": serves,
    }


def _expect(what: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise ImageFaultError(f"{what} is {found}, not {wanted}")


def _seconds_until(socket: Path, state: WorkerState, started_at: float) -> float:
    """Wait until the worker says so much of itself, or more."""
    enough = {state, WorkerState.SERVING}
    while asyncio.run(worker_states([socket]))[0] not in enough:
        if time.monotonic() - started_at > PATIENCE_SECONDS:
            raise ImageFaultError(
                f"after {PATIENCE_SECONDS:.0f} s its worker is not {state.value}"
            )
        time.sleep(0.05)
    return time.monotonic() - started_at


@contextmanager
def _running(tool: Tool, image: str, sockets: Path) -> Iterator[tuple[str, float]]:
    """Run it without a database, as it is while the database is away."""
    container = tool.do(
        "run", "--detach", "--read-only", "--cap-drop", "all",
        "--security-opt", "no-new-privileges",
        "--tmpfs", "/tmp",  # noqa: S108 - the container's
        "--tmpfs", "/var/lib/egret:mode=1777",
        "--volume", f"{sockets}:/run/egret/sockets",
        "--env", "EGRET_POSTGRES__DSN=postgresql://nobody@127.0.0.1:1/none",
        "--env", "EGRET_SERVER__WORKERS=1",
        "--env", "EGRET_SERVER__SOCKET_MODE=438",
        "--env", "EGRET_SERVER__DRAIN_DELAY_SECONDS=0",
        *tool.run_options, image,
    ).strip()  # fmt: skip
    try:
        # From here: before, the tool unpacks the image, which a node does once.
        yield container, time.monotonic()
        tool.do("stop", "--time", "20", container)
        (ended,) = json.loads(tool.do("inspect", container))
        _expect("exit code after SIGTERM", ended["State"]["ExitCode"], 0)
    finally:
        tool.do("rm", "--force", container)


async def _judges(place: Path, socket: Path) -> None:
    """Ask a real Envoy, which asks the container."""
    certificates = write_certificates(place / "certificates")
    sds, run, logs = place / "sds", place / "run", place / "logs"
    for folder in (sds, run, logs):
        folder.mkdir()
    gateway = certificates.gateway
    write_certificate(sds, name="server_certificate", certificate=gateway)
    for provider in ("openai", "anthropic"):
        write_credential(sds, name=provider, header_value=SecretStr("made up"))
    parameters = EnvoyParameters(
        worker_sockets=(str(socket),), sds_directory=str(sds), https_address="127.0.0.1",
        https_port=0, http_port=0, access_log_path="/dev/null",
    )  # fmt: skip
    async with (
        running_envoy(
            Children(), run=EnvoyRun(run, logs), config=render_envoy_config(parameters)
        ) as envoy,
        aiohttp.ClientSession() as client,
        client.post(f"http://127.0.0.1:{envoy.http_port}/v1/chat/completions", json={}) as answer,
    ):
        _expect("status of a request without a key", answer.status, 401)
        if "x-egret-request-id" not in answer.headers:
            raise ImageFaultError("the refusal is not Egret's")


if __name__ == "__main__":
    sys.exit(main())
