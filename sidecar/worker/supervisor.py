"""Starts workers and restarts those that die; watches the version of the database's schema."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Final, Never

import asyncpg

from sidecar import __version__
from sidecar.settings.process import Settings
from sidecar.settings.sections import inherited_environment
from sidecar.settings.serving import NetworkTls
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.migrate import REVISION
from sidecar.storage.pool import UNAVAILABLE, Pool, fetch
from sidecar.storage.spool_files import lock_file
from sidecar.telemetry.endpoint import EndpointError, MetricsEndpoint
from sidecar.telemetry.logs import get_logger
from sidecar.telemetry.process_metrics import SupervisorMetrics, WorkerMetrics
from sidecar.worker.runtime import CANNOT_START

if TYPE_CHECKING:
    from sidecar.telemetry.otlp import MetricsPush


_DIRECTORY_PREFIX: Final = "egret-metrics-"
FIRST_RESTART_SECONDS: Final = 0.1
LONGEST_RESTART_SECONDS: Final = 5.0
STEADY_SECONDS: Final = 30.0
"""A worker that lived this long is restarted without delay again."""
KILL_AFTER_SECONDS: Final = 5.0
"""How long past its own drain a worker may take before it is killed."""
WORKER_DEFAULTS: Final = {
    # A worker that has a gRPC channel, to a guardrail's server or a collector, starts a process
    # that compiles policies, and uvloop starts processes by fork. gRPC's core stops its threads
    # around each fork, and on a busy machine now and then waits for one of them for ever, before
    # the fork or in the child: the worker's loop stands still. Seen in three workers at their
    # start, by their stacks. The child becomes another program at once and needs none of it.
    "GRPC_ENABLE_FORK_SUPPORT": "false",
}
"""Environment variables of a worker; one that is already set keeps its value."""


NOT_STARTED: Final = -1
"""In the place of an exit code: the system started no process."""


class WorkerStartError(Exception):
    """A worker refuses to start; its log line says why."""


class Supervisor:
    """Runs the workers and the metrics endpoint. One per `egret serve`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._serving: set[int] = set()
        """Workers that wrote to their pipe that they are ready, and have not closed it since."""
        self._have_served: set[int] = set()
        self._stopping = asyncio.Event()
        self._stop_signals = 0
        self._unstartable: int | None = None
        self._metrics_directory, self._directory_lock = _own_directory()
        self._metrics = WorkerMetrics(self._metrics_directory)
        try:
            self._endpoint = MetricsEndpoint(self._metrics, settings.telemetry)
        except EndpointError:
            self._remove_directory()
            raise
        listen = settings.listen
        is_mutual = listen.host is not None and listen.tls is NetworkTls.MUTUAL
        files = {"server": listen.certificate_file, "client_ca": listen.client_ca_file}
        self._own_metrics = SupervisorMetrics(
            self._endpoint.registry,
            wanted=settings.server.workers,
            certificates={name: one for name, one in files.items() if one and is_mutual},
        )
        self._push: MetricsPush | None = None
        telemetry = settings.telemetry
        if telemetry.otlp_endpoint is not None and telemetry.metrics_push_seconds:
            from sidecar.telemetry import otlp  # noqa: PLC0415 - without a push it is never loaded

            # As in Prometheus's `instance`: one host may have several supervisors.
            instance = f"{gethostname()}:{self._endpoint.port}"
            self._push = otlp.MetricsPush(
                self._endpoint.registry,
                otlp.metric_exporter(telemetry.otlp_endpoint, telemetry.otlp_protocol),
                resource=otlp.resource(version=__version__, instance=instance),
                every_seconds=telemetry.metrics_push_seconds,
                count=self._own_metrics,
            )

    async def run(self) -> None:
        """Keep the workers running until SIGTERM or SIGINT.

        Raises:
            WorkerStartError: a worker could not start the first time.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._forward, signal.SIGHUP)
        self._endpoint.start()
        if self._push is not None:
            self._push.start()
        get_logger().info(
            "supervisor.started",
            workers=self._settings.server.workers,
            metrics_port=self._endpoint.port,
        )
        try:
            async with asyncio.TaskGroup() as group:
                for index in range(self._settings.server.workers):
                    group.create_task(self._keep_running(index))
            if self._unstartable is not None:
                raise WorkerStartError(
                    f"worker {self._unstartable} cannot start; its log says why"
                )
        finally:
            if self._push is not None:
                self._push.close()
            self._endpoint.close()
            self._remove_directory()

    def _remove_directory(self) -> None:
        shutil.rmtree(self._metrics_directory, ignore_errors=True)
        os.close(self._directory_lock)

    async def _keep_running(self, index: int) -> None:
        delay = FIRST_RESTART_SECONDS
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            started_at = loop.time()
            code = await self._run_once(index)
            if self._stopping.is_set():
                return
            # One that has served has usable settings: what it lacks now may be there again soon,
            # for example room on the disk.
            if code == CANNOT_START and index not in self._have_served:
                # The others may be serving: they drain first.
                self._unstartable = index
                self._stopping.set()
                return
            if loop.time() - started_at > STEADY_SECONDS:
                delay = FIRST_RESTART_SECONDS
            self._own_metrics.worker_died()
            get_logger().error("worker.died", worker=index, exit_code=code, restart_seconds=delay)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._stopping.wait()
            delay = min(2 * delay, LONGEST_RESTART_SECONDS)

    async def _run_once(self, index: int) -> int:
        ready_reader, ready_writer = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "sidecar.worker",
                str(index),
                str(os.getpid()),
                str(ready_writer),
                pass_fds=(ready_writer,),
                env=WORKER_DEFAULTS
                | inherited_environment()
                | {"PROMETHEUS_MULTIPROC_DIR": str(self._metrics_directory)},
                # Ctrl-C goes to the whole terminal group; workers get their signal from here.
                start_new_session=True,
            )
        except OSError as error:  # too many processes, no memory: the other workers go on
            os.close(ready_reader)
            get_logger().error("worker.not_started", worker=index, reason=error.strerror)
            return NOT_STARTED
        finally:
            os.close(ready_writer)
        self._processes[index] = process
        loop = asyncio.get_running_loop()

        def note_readiness() -> None:
            if os.read(ready_reader, 1):
                self._serving.add(index)
                self._have_served.add(index)
            else:
                self._serving.discard(index)
                loop.remove_reader(ready_reader)
            self._own_metrics.running(len(self._serving))

        loop.add_reader(ready_reader, note_readiness)
        server = self._settings.server
        patience = server.drain_delay_seconds + server.drain_grace_seconds + KILL_AFTER_SECONDS
        try:
            exited = asyncio.ensure_future(process.wait())
            stopping = asyncio.ensure_future(self._stopping.wait())
            await asyncio.wait({exited, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if exited.done():
                return exited.result()
            _send(process, signal.SIGTERM)
            try:
                async with asyncio.timeout(patience):
                    return await exited
            except TimeoutError:
                get_logger().error("worker.killed", worker_pid=process.pid)
                _send(process, signal.SIGKILL)
                return await process.wait()
        finally:
            del self._processes[index]
            loop.remove_reader(ready_reader)
            os.close(ready_reader)
            self._serving.discard(index)
            self._own_metrics.running(len(self._serving))
            self._metrics.worker_gone(process.pid)

    def _stop(self) -> None:
        self._stop_signals += 1
        if self._stop_signals > 1:  # do not wait for the drain
            self._forward(signal.SIGKILL)
        self._stopping.set()

    def _forward(self, number: signal.Signals) -> None:
        for index, process in self._processes.items():
            # SIGHUP would end a worker that is starting, and it reads the policies of now anyway.
            if number is not signal.SIGHUP or index in self._serving:
                _send(process, number)


def _own_directory() -> tuple[Path, int]:
    """Make a directory for metrics and lock it, and remove those of supervisors that were killed.

    Each has some megabytes of compiled policies, and a container keeps its files over restarts.
    Those without a lock file are of an earlier release, which may still run.
    """
    root = Path(tempfile.gettempdir())
    for left in root.glob(f"{_DIRECTORY_PREFIX}*"):
        with contextlib.suppress(OSError):  # its supervisor lives, or is another user's
            lock = lock_file(left / "lock", creates=False)
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    hidden = Path(tempfile.mkdtemp(prefix=f".{_DIRECTORY_PREFIX}", dir=root))
    lock = lock_file(hidden / "lock")
    return hidden.rename(root / hidden.name[1:]), lock


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


WATCH_SECONDS: Final = 60.0


def log_schema(revision: str) -> None:
    """Log the state of the schema and a hint; *revision* is empty if there is no schema.

    Revisions are numbers of four digits, in the order in which they are applied. Behind: tables
    or columns of this version may be missing, so that statements fail. Ahead: a newer version has
    migrated, and everything this one needs is still there.
    """
    log, migrate = get_logger(), "run `egret migrate`"
    if not revision:
        log.error("schema.none", revision=revision, wanted=REVISION, hint=migrate)
    elif revision < REVISION:
        log.error("schema.behind", revision=revision, wanted=REVISION, hint=migrate)
    elif revision > REVISION:
        log.warning("schema.ahead", revision=revision, wanted=REVISION, hint="upgrade Egret")
    else:
        log.info("schema.current", revision=revision)


@dataclass(frozen=True, slots=True)
class SchemaWatch:
    """Reports the revision of the schema, at the start and at each change."""

    pool: Pool
    settings: PostgresSettings
    on_change: Callable[[str], None] = log_schema
    seconds: float = WATCH_SECONDS

    async def run(self) -> Never:
        """Watch until cancelled."""
        known: str | None = None
        while True:
            # An outage is logged by every other part that needs the database.
            with contextlib.suppress(*UNAVAILABLE):
                try:
                    rows = await fetch(
                        self.pool,
                        "SELECT version_num FROM alembic_version",
                        settings=self.settings,
                    )
                except asyncpg.UndefinedTableError:
                    rows = []
                found = str(rows[0][0]) if rows else ""
                if found != known:
                    self.on_change(found)
                known = found
            await asyncio.sleep(self.seconds)
