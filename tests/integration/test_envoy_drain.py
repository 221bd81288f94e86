"""The drain of an Envoy whose pod is taken away, with a real Envoy."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sidecar.embedded.wheels import envoy_program

PATIENCE_SECONDS = 20
HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def _envoy(place: Path, port: int) -> dict[str, Any]:
    """Return an Envoy that answers 200 to everything."""
    hcm = {
        "@type": f"type.googleapis.com/{HCM}",
        "stat_prefix": "x",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "x",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": hcm}]
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    listener = {"name": "x", "address": address, "filter_chains": [{"filters": filters}]}
    return {
        "admin": {"address": {"pipe": {"path": str(place / "admin.sock"), "mode": 0o600}}},
        "static_resources": {"listeners": [listener]},
    }


@contextmanager
def envoy(place: Path) -> Iterator[int]:
    """Run Envoy as the chart does, and return its port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    (place / "envoy.json").write_text(json.dumps(_envoy(place, port)))
    options = ("--drain-time-s", "60", "--drain-strategy", "immediate")
    command = (envoy_program(), "--disable-hot-restart", "--concurrency", "1", *options)
    with subprocess.Popen(
        (*command, "-c", place / "envoy.json", "-l", "error"), stderr=subprocess.DEVNULL
    ) as process:
        try:
            _until_open(port)
            yield port
        finally:
            process.terminate()


def _until_open(port: int) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise AssertionError("Envoy does not listen")


@asynccontextmanager
async def drainer(admin: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the container beside Envoy, until it waits for its signal."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidecar.app.envoy_drain", str(admin),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert b"envoy.drain_awaits_signal" in await process.stdout.readline()
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def _ask(connection: http.client.HTTPConnection) -> tuple[int, str | None]:
    connection.request("GET", "/")
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.headers["connection"]


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="egret-drain-") as made:
        yield Path(made)


async def test_on_sigterm_clients_are_sent_elsewhere_and_new_ones_still_served(
    place: Path,
) -> None:
    """A connection that lives is told to end with its answer; nobody meets a closed port."""
    with envoy(place) as port:
        async with drainer(place / "admin.sock") as draining:
            held = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            assert await asyncio.to_thread(_ask, held) == (200, None)
            draining.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(draining.wait(), PATIENCE_SECONDS) == 0
            assert await asyncio.to_thread(_ask, held) == (200, "close")
            new = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            assert await asyncio.to_thread(_ask, new) == (200, "close")
            held.close()
            new.close()


async def test_an_envoy_that_does_not_answer_fails_the_drain(place: Path) -> None:
    """It ends in time all the same, and says so by its exit code."""
    async with drainer(place / "admin.sock") as draining:
        draining.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(draining.wait(), PATIENCE_SECONDS) == 1
