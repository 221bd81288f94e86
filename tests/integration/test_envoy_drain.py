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
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from egret_tools.devstack.processes import envoy_program

PATIENCE_SECONDS = 60
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
        sys.executable, "-m", "sidecar.worker.envoy_drain", str(admin),
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
            held = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            assert await asyncio.to_thread(_ask, held) == (200, None)
            draining.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(draining.wait(), PATIENCE_SECONDS) == 0
            assert await asyncio.to_thread(_ask, held) == (200, "close")
            new = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            assert await asyncio.to_thread(_ask, new) == (200, "close")
            held.close()
            new.close()


class Client:
    """Asks again and again, on one connection until an answer ends it."""

    def __init__(self) -> None:
        self.port = 0
        self.found: Counter[tuple[int, int]] = Counter()
        """How often which port answered with which status."""

    def run(self, service: list[int], stop: threading.Event) -> None:
        """Connect to the first of *service*, as often as there is need, until *stop*."""
        while not stop.is_set():
            self.port = service[0]
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            ends = None
            while ends != "close" and not stop.is_set():
                status, ends = _ask(connection)
                self.found[self.port, status] += 1
            connection.close()


async def test_an_envoy_is_replaced_under_load_without_a_failed_request(place: Path) -> None:
    """It leaves the service, tells its clients, waits until they are gone, and ends at once."""
    (place / "old").mkdir()
    (place / "new").mkdir()
    stop = threading.Event()
    clients = [Client() for _ in range(4)]

    async def all_are_at(port: int) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while any(not client.found[port, 200] for client in clients):  # noqa: ASYNC110 - threads
                await asyncio.sleep(0.01)

    with ExitStack() as old, envoy(place / "new") as new_port:
        old_port = old.enter_context(envoy(place / "old"))
        service = [old_port]
        async with asyncio.TaskGroup() as group, drainer(place / "old" / "admin.sock") as draining:
            for client in clients:
                group.create_task(asyncio.to_thread(client.run, service, stop))
            try:
                await all_are_at(old_port)
                service[0] = new_port
                draining.send_signal(signal.SIGTERM)
                await all_are_at(new_port)  # preStop: in the chart as long as an answer may take
                old.close()
            finally:
                stop.set()
    found = sum((client.found for client in clients), Counter[tuple[int, int]]())
    assert {key for key, count in found.items() if count} == {(old_port, 200), (new_port, 200)}


async def test_an_envoy_that_does_not_answer_fails_the_drain(place: Path) -> None:
    """It ends in time all the same, and says so by its exit code."""
    async with drainer(place / "admin.sock") as draining:
        draining.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(draining.wait(), PATIENCE_SECONDS) == 1
