from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import orjson
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar import __version__
from sidecar.settings.sections import inherited_environment
from tests.support.command_line import run_command
from tests.support.postgres import Database
from tests.support.rotel import running_rotel

PATIENCE_SECONDS = 40


@dataclass
class Serving:
    """A running `egret serve` and where its workers listen."""

    process: asyncio.subprocess.Process
    sockets: Path
    log: Path
    environment: Mapping[str, str]

    def workers(self) -> list[psutil.Process]:
        """The worker processes, oldest first."""
        return [
            child
            for child in psutil.Process(self.process.pid).children()
            if "sidecar.worker" in child.cmdline()
        ]

    def worker(self, index: int) -> psutil.Process:
        """The process of one worker."""
        return next(one for one in self.workers() if one.cmdline()[-3] == str(index))

    async def is_serving(self, worker: int) -> bool:
        """Whether a health check of that worker's socket says SERVING."""
        target = f"unix:{self.sockets / f'worker-{worker}.sock'}"
        async with grpc.aio.insecure_channel(target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
            except grpc.aio.AioRpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def health(self, question: str) -> tuple[int, list[str]]:
        """Run `egret health`; return its exit code and the states it shows."""
        command = ("-m", "sidecar", "health", question, "-o", "json")
        asked = await asyncio.create_subprocess_exec(
            sys.executable, *command, env=self.environment, stdout=asyncio.subprocess.PIPE
        )
        rows, _ = await asyncio.wait_for(asked.communicate(), PATIENCE_SECONDS)
        return asked.returncode or 0, [row["state"] for row in orjson.loads(rows)]

    async def shown_running(self, expected: str) -> str:
        """Return `egret_workers_running` as the metrics show it, after a moment to get there."""
        port, shown = _logged_port(self.log), ""
        for _ in range(1_000):
            page = await asyncio.to_thread(_fetch, f"http://127.0.0.1:{port}/metrics")
            shown = page.split("\negret_workers_running ")[1].split("\n")[0]
            if shown == expected:
                break
            await asyncio.sleep(0.02)
        return shown

    async def until_serving(self, *workers: int) -> None:
        """Wait until these workers serve."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            for worker in workers:
                while not await self.is_serving(worker):  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.05)


@asynccontextmanager
async def serving(dsn: str, directory: Path, **settings: str) -> AsyncIterator[Serving]:
    log = directory / "log"
    environment = _environment(dsn, directory, settings)
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sidecar", "serve", "--workers", "2",
            env=environment, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield Serving(process, directory / "s", log, environment)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _environment(dsn: str, directory: Path, settings: Mapping[str, str]) -> dict[str, str]:
    return inherited_environment() | {
        "EGRET_POSTGRES__DSN": dsn,
        "EGRET_SERVER__SOCKET_DIRECTORY": str(directory / "s"),
        "EGRET_SERVER__DRAIN_DELAY_SECONDS": "0",
        "EGRET_TELEMETRY__METRICS_PORT": "0",
        "TMPDIR": str(directory / "tmp") if (directory / "tmp").is_dir() else str(directory),
        **{f"EGRET_{name}": value for name, value in settings.items()},
    }


async def test_a_killed_worker_is_replaced_and_the_others_go_on(
    database: Database, tmp_path: Path
) -> None:
    """Its socket serves again from a new process, which counts as running once it is ready."""
    async with serving(database.dsn, tmp_path) as running:
        await running.until_serving(0, 1)
        before = await running.shown_running("2.0")
        victim, other = running.workers()
        victim.kill()
        await asyncio.to_thread(psutil.wait_procs, [victim], PATIENCE_SECONDS)
        while not (starting := {*running.workers()} - {other, victim}):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
        (successor,) = starting
        successor.suspend()  # a slow look at the metrics must not come after it is ready
        meanwhile = await running.shown_running("1.0")
        successor.resume()
        await running.until_serving(0, 1)
        after = await running.shown_running("2.0")
        assert {*running.workers()} == {other, successor}
    assert (before, meanwhile, after) == ("2.0", "1.0", "2.0")


async def test_probes_and_the_network_see_what_the_sockets_show_until_sigterm_drains_them(
    database: Database, tmp_path: Path
) -> None:
    """One port a worker; exit codes say what an orchestrator asks; no worker or socket is left."""
    first = _two_free_ports()
    settings = {"LISTEN__HOST": "127.0.0.1", "LISTEN__TLS": "off", "LISTEN__PORT": str(first)}
    async with serving(database.dsn, tmp_path, **settings) as running:
        await running.until_serving(0, 1)
        for port in (first, first + 1):
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert await running.health("started") == (0, ["serving", "serving"])
        workers = running.workers()
        running.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_SECONDS):
            code = await running.process.wait()
        alive = [worker.pid for worker in workers if worker.is_running()]
        assert (code, alive, list(running.sockets.iterdir())) == (0, [], [])
        assert await running.health("live") == (1, ["silent", "silent"])


def _two_free_ports() -> int:
    """Return the first of two ports, one after the other, that nobody uses."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as one:
            first = int(one.getsockname()[1])
            with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", first + 1)):
                return first


async def test_workers_end_with_a_supervisor_that_is_killed(
    database: Database, tmp_path: Path
) -> None:
    """A worker that nobody supervises would keep its socket and its old policies."""
    async with serving(database.dsn, tmp_path) as running:
        await running.until_serving(0, 1)
        workers = running.workers()
        running.process.kill()
        _, alive = await asyncio.to_thread(psutil.wait_procs, workers, PATIENCE_SECONDS)
        assert alive == []


async def test_without_a_database_workers_serve_and_say_so_later(tmp_path: Path) -> None:
    """Start does not depend on PostgreSQL: the socket answers, requests get 503."""
    async with serving(f"postgresql://nobody@/none?host={tmp_path}", tmp_path) as running:
        await running.until_serving(0)
        assert running.process.returncode is None


async def test_a_reload_ends_no_worker_that_is_starting(tmp_path: Path) -> None:
    """It has no handler of the signal yet, and reads the policies of now anyway."""
    async with serving(f"postgresql://nobody@/none?host={tmp_path}", tmp_path) as running:
        while "supervisor.started" not in running.log.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for _ in range(10):
            running.process.send_signal(signal.SIGHUP)
            await asyncio.sleep(0.05)
        await running.until_serving(0)
        assert running.process.returncode is None
    assert "worker.died" not in running.log.read_text()


async def test_a_worker_that_still_compiles_ends_at_sigterm(
    database: Database, tmp_path: Path
) -> None:
    """No thread ends at a signal: this one waits for ever, as one seems to on a slow machine."""
    async with serving(database.dsn, tmp_path) as running:
        while not (found := [*tmp_path.glob("egret-metrics-*")]):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.01)
        terms = found[0] / "terms"
        terms.mkdir(0o700)
        os.mkfifo(terms / hashlib.sha256(json.dumps([__version__, []]).encode()).hexdigest())
        while not (terms / "lock").exists():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
        running.process.terminate()
        code = await asyncio.wait_for(running.process.wait(), PATIENCE_SECONDS)
    text = running.log.read_text()
    assert code == 0
    assert "worker.draining" in text
    assert "worker.killed" not in text
    assert "worker.ready" not in text


async def test_wrong_settings_end_serve_at_once_and_are_all_named(tmp_path: Path) -> None:
    """Exit code 2; each variable with its fault, no value repeated."""
    async with serving(
        "postgresql:///x", tmp_path, SERVER__SOCKET_MODE="999999", CACHE__MAX_KEYS="none-of-it"
    ) as running:
        code = await asyncio.wait_for(running.process.wait(), PATIENCE_SECONDS)
    text = running.log.read_text()
    assert code == 2
    assert "EGRET_SERVER__SOCKET_MODE" in text
    assert "EGRET_CACHE__MAX_KEYS" in text
    assert "none-of-it" not in text


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("serve", 2, "EGRET_EXCHANGE__SHARED_MESSAGES_SECONDS needs EGRET_VALKEY__URL"),
        ("doctor", 2, "EGRET_EXCHANGE__SHARED_MESSAGES_SECONDS needs EGRET_VALKEY__URL"),
        ("migrate", 1, "PostgreSQL gave no answer"),
    ],
)
def test_a_secret_of_workers_is_missed_where_workers_run_alone(
    command: str, code: int, said: str
) -> None:
    """A job that migrates has their settings without it."""
    settings = {
        "EGRET_POSTGRES__DSN": "postgresql://nobody@127.0.0.1:1/none",
        "EGRET_VALKEY__URL": "redis://127.0.0.1:1",
        "EGRET_EXCHANGE__SHARED_MESSAGES_SECONDS": "600",
    }
    ran = run_command([command], environment=settings)
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith(f"error: {said}")


async def test_a_socket_that_another_serves_is_not_taken_over(
    database: Database, tmp_path: Path
) -> None:
    """The second `egret serve` on the same folder ends with the path and the fix."""
    dsn = database.dsn
    async with serving(dsn, tmp_path) as first:
        await first.until_serving(0, 1)
        async with serving(dsn, tmp_path) as second:
            code = await asyncio.wait_for(second.process.wait(), PATIENCE_SECONDS)
        assert code == 2
        assert "another process serves" in second.log.read_text()
        assert await first.is_serving(0)


async def test_the_others_end_in_order_before_serve_if_one_worker_cannot_start(
    tmp_path: Path,
) -> None:
    """They may be serving: none is left behind, and none ends with a traceback."""
    (tmp_path / "s" / "worker-1.sock").mkdir(parents=True)
    workers: set[psutil.Process] = set()
    async with serving(f"postgresql://nobody@/none?host={tmp_path}", tmp_path) as running:
        ended = asyncio.ensure_future(running.process.wait())
        while not (await asyncio.wait([ended], timeout=0.05))[0]:
            with contextlib.suppress(psutil.Error):
                workers.update(running.workers())
        alive = [worker for worker in workers if worker.is_running()]
    assert (ended.result(), alive) == (2, [])
    text = running.log.read_text()
    assert "cannot bind" in text
    assert "Traceback" not in text


async def test_a_worker_that_cannot_start_again_does_not_end_the_others(
    database: Database, tmp_path: Path
) -> None:
    """Its place for usage is away, as on a full disk; once that is back, so is the worker."""
    spool, away = tmp_path / "spool", tmp_path / "away"
    async with serving(database.dsn, tmp_path, USAGE__SPOOL_DIRECTORY=str(spool)) as running:
        await running.until_serving(0, 1)
        spool.rename(away)
        spool.touch()
        running.worker(0).kill()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while running.log.read_text().count("cannot make a folder for usage") < 2:
                assert running.process.returncode is None
                await asyncio.sleep(0.05)
        assert await running.is_serving(1)
        spool.unlink()
        away.rename(spool)
        await running.until_serving(0, 1)


async def test_the_first_signal_lets_workers_drain_that_end_because_another_cannot_start(
    tmp_path: Path,
) -> None:
    """It is no second signal, which would kill them."""
    settings = {"SERVER__DRAIN_DELAY_SECONDS": "1"}
    dsn = f"postgresql://nobody@/none?host={tmp_path}"
    async with serving(dsn, tmp_path, **settings) as running:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(running.workers()) < 2:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.01)
            late = running.worker(1)
            late.suspend()
            await running.until_serving(0)
            (running.sockets / "worker-1.sock").mkdir()
            late.resume()
            while "worker.draining" not in running.log.read_text():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            running.process.terminate()
            assert await running.process.wait() == 2
        # A worker that is killed leaves its socket.
        assert [*running.sockets.iterdir()] == [running.sockets / "worker-1.sock"]


async def test_metrics_of_all_workers_are_one_page(database: Database, tmp_path: Path) -> None:
    """The supervisor answers for every worker, and pushes the same to a collector.

    An engine of an older version is accepted, with one warning.
    """
    telemetry = {"TELEMETRY__METRICS_PORT": "0", "TELEMETRY__METRICS_PUSH_SECONDS": "0.5"}
    async with (
        running_rotel(tmp_path, prints="metrics") as rotel,
        serving(
            database.dsn,
            tmp_path,
            TELEMETRY__OTLP_ENDPOINT=rotel.grpc_endpoint,
            SERVER__ENGINE="grpcio",
            **telemetry,
        ) as running,
    ):
        await running.until_serving(0, 1)
        assert await running.shown_running("2.0") == "2.0"
        port = _logged_port(running.log)
        page = await asyncio.to_thread(_fetch, f"http://127.0.0.1:{port}/metrics")
        assert "egret_build_info" in page
        assert "egret_workers_running 2.0" in page
        assert "egret_worker_deaths_total 0.0" in page
        assert 'outcome="failed"} 0.0' in page
        async with asyncio.timeout(PATIENCE_SECONDS):
            while 2 not in {  # noqa: ASYNC110 - another process
                point.value for point in rotel.points("egret_workers_running")
            }:
                await asyncio.sleep(0.1)
        running.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(running.process.wait(), PATIENCE_SECONDS)
        assert rotel.points("egret_build_info")[0].attributes["engine"] == "http2"
        assert running.log.read_text().count("settings.former") == 1


def _logged_port(log: Path) -> str:
    line = next(line for line in log.read_text().splitlines() if "supervisor.started" in line)
    return line.split('"metrics_port":')[1].split(",")[0].strip(" }")


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310 - loopback
        return str(response.read(), "utf-8")


async def test_a_taken_metrics_port_ends_serve_and_leaves_no_folder(tmp_path: Path) -> None:
    """The line names the port and the setting; the folder for metrics is gone again."""
    place = tmp_path / "tmp"
    place.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with serving(
            "postgresql:///x", tmp_path, TELEMETRY__METRICS_PORT=str(port)
        ) as running:
            code = await asyncio.wait_for(running.process.wait(), PATIENCE_SECONDS)
    text = running.log.read_text()
    assert (code, list(place.iterdir())) == (2, [])
    assert f"127.0.0.1:{port}" in text
    assert "EGRET_TELEMETRY__METRICS_PORT" in text
