"""One worker: builds every part, serves its socket, and takes all down in order.

The database need not be there at the start: requests are refused with 503 until it is.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import random
import secrets
import signal
import time
import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from typing import Final, Protocol

from sidecar import __version__
from sidecar.domain.report import Clocks
from sidecar.extproc.stream import Budgets, OverloadGuard
from sidecar.guardrails.message_table import MessageTable
from sidecar.guardrails.remote.checks import RemoteChecks
from sidecar.guardrails.remote.dispatch import CheckDispatcher, open_clients
from sidecar.guardrails.remote.resilience import ResilienceOptions, ResilientChecks
from sidecar.guardrails.remote.verdict_cache import VerdictCache
from sidecar.guardrails.runner import GuardrailRunner
from sidecar.pipeline.dependencies import Worker
from sidecar.pipeline.request import serve
from sidecar.policy.compilation import (
    CompiledPolicy,
    compile_each,
    compile_shipped,
    keep_compiled,
)
from sidecar.server.grpc_server import GrpcServer
from sidecar.server.options import NetworkAddress, ReceiveLog, ServerOptions, TlsFiles
from sidecar.settings.process import Settings
from sidecar.settings.sections import metrics_directory
from sidecar.settings.serving import ExchangeSettings, NetworkTls
from sidecar.storage.finding_counts import MAX_ROWS, FindingCounts
from sidecar.storage.key_activity import MAX_KEYS, KeyActivity
from sidecar.storage.pool import Pool, open_pool
from sidecar.storage.postgres_keys import PostgresKeyStore
from sidecar.storage.postgres_policies import PostgresPolicyStore
from sidecar.storage.worker_status import WorkerStatus
from sidecar.telemetry.exemplars import ExemplarFile, exemplar_path
from sidecar.telemetry.logs import get_logger
from sidecar.telemetry.process_metrics import GcPauses
from sidecar.telemetry.recorder import Recorder
from sidecar.telemetry.remote_metrics import RemoteMetrics
from sidecar.worker.keys import WorkerKeys, open_keys
from sidecar.worker.limits import WorkerLimits, open_limits
from sidecar.worker.messages import open_messages
from sidecar.worker.policies import Compile, PolicyReloader
from sidecar.worker.runtime import (
    BackgroundTasks,
    RuntimeSampler,
    use_huge_pages,
)
from sidecar.worker.supervisor import SchemaWatch
from sidecar.worker.usage import UsageSettlement, WorkerUsage, open_usage

POLICIES_SECONDS: Final = 10.0
"""How long a worker waits for its first policies before it serves, and refuses, without them."""
BUILDING_SECONDS: Final = 60.0
"""The same while they are being compiled: less than the wait of a startup probe."""
POLL_SECONDS: Final = 0.02
_SECRET_BYTES: Final = 32
_SHARE_OF_EXCHANGE: Final = 0.95
"""The rest is for the steps before and after, so that a check ends before its exchange has to."""


async def run_worker(settings: Settings, index: int, *, ready_pipe: int) -> None:
    """Serve until SIGTERM, then drain; write to *ready_pipe* and close it as that begins and ends.

    Raises:
        SocketError: the socket cannot be served.
        SpoolError: the directory for usage cannot be used.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    exemplars, directory = None, metrics_directory()
    if directory is not None and settings.telemetry.otlp_endpoint is not None:
        exemplars = ExemplarFile(exemplar_path(directory, os.getpid()))
    host, socket = gethostname(), str(settings.server.worker_socket(index))
    # One host may have several supervisors, each with a first worker.
    recorder = Recorder(settings.telemetry, instance=f"{host}:{socket}", exemplars=exemplars)
    recorder.metrics.build(__version__)
    async with AsyncExitStack() as stack:
        stores = await _open_stores(settings, recorder, stack, instance=f"worker-{index}")

        def fleet_counted(workers: int) -> None:
            if not settings.limits.shares:
                stores.limits.sharing.shares = workers

        status = WorkerStatus(
            stores.pool, settings.postgres, host=host, socket=socket, counted=fleet_counted
        )

        def policies_loaded(versions: Mapping[str, int], documents: Iterable[str]) -> None:
            status.policies_loaded(versions)
            if directory is not None:
                loop.run_in_executor(None, keep_compiled, directory, documents)

        policies = PolicyReloader(
            PostgresPolicyStore(stores.pool, settings.postgres),
            compile_policies=_compile_policies(directory),
            metrics=recorder.metrics,
            on_loaded=policies_loaded,
        )
        # Before policies are read: a command that finds no row need not wait for this worker.
        await status.report()
        stack.push_async_callback(status.aclose)
        worker = await _build_worker(
            settings,
            recorder,
            stack,
            stores=stores,
            policies=policies,
            status=status,
        )
        server = _server(settings, index, worker, receive_log=stores.usage.receive_log)
        await server.start()
        await wait_for_policies(policies, stopping)
        if not stopping.is_set():
            # All objects of now live as long as the worker: the collector need not walk them.
            gc.freeze()
            use_huge_pages()
            server.set_ready(is_ready=True)
            os.write(ready_pipe, b"1")
            get_logger().info("worker.ready", worker=index, socket=socket)
            await stopping.wait()
        os.close(ready_pipe)
        get_logger().info("worker.draining", worker=index)
        await server.drain()
    recorder.shutdown()


class Loading(Protocol):
    """Policies that are being loaded."""

    @property
    def snapshot(self) -> object | None:
        """The policies in force, None before the first."""

    @property
    def is_building(self) -> bool:
        """Return whether policies were read and are being compiled."""


def _compile_policies(directory: Path | None) -> Compile:
    """Return the function that compiles policies, and begin with the databases that all share.

    The supervisor's *directory* for metrics belongs to its workers alone.
    """
    if directory is None:
        return compile_each
    shipped = asyncio.ensure_future(compile_shipped(directory))

    async def compile_policies(
        documents: Iterable[str], *, gives_way: bool
    ) -> AsyncGenerator[CompiledPolicy]:
        every = compile_each(documents, directory=directory, gives_way=gives_way)
        async with aclosing(every):
            async for one in every:
                await shipped
                yield one
        await shipped

    return compile_policies


async def wait_for_policies(policies: Loading, stopping: asyncio.Event) -> None:
    """Wait for the first policies, but not longer than they usually take.

    A worker without policies refuses fast and looks least busy: Envoy would send it most of the
    requests that others could serve. If the database is away, all workers are alike.
    """
    now = asyncio.get_running_loop().time
    read_by, built_by = now() + POLICIES_SECONDS, now() + BUILDING_SECONDS
    while policies.snapshot is None and not stopping.is_set():
        if now() > (built_by if policies.is_building else read_by):
            return
        await asyncio.sleep(POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class _Stores:
    """The parts of a worker that store something: in PostgreSQL, Valkey or on disk."""

    pool: Pool
    keys: WorkerKeys
    limits: WorkerLimits
    usage: WorkerUsage


async def _open_stores(
    settings: Settings, recorder: Recorder, stack: AsyncExitStack, *, instance: str
) -> _Stores:
    metrics = recorder.metrics
    pool = await stack.enter_async_context(open_pool(settings.postgres))
    keys = await open_keys(settings, pool, metrics=metrics.keys, stack=stack)
    limits = await open_limits(settings, pool, metrics=metrics.limits, stack=stack)
    settlement = UsageSettlement(
        limits.prices,
        metrics.usage,
        limiter=limits.limiter,
        keys=keys.cache,
        owner_limits=PostgresKeyStore(pool, settings.postgres).owner_limits,
    )
    stack.push_async_callback(settlement.aclose)
    usage = await open_usage(
        settings,
        pool,
        metrics=metrics.usage,
        prices=limits.prices,
        listener=settlement,
        instance=instance,
        stack=stack,
    )
    return _Stores(pool, keys, limits, usage)


async def open_remote_checks(
    settings: ExchangeSettings, *, metrics: RemoteMetrics, stack: AsyncExitStack
) -> RemoteChecks:
    """Build the checks within the event loop, to be closed with *stack*. Opens no connection."""
    return ResilientChecks(
        CheckDispatcher(await open_clients(stack)),
        cache=VerdictCache(clock=time.monotonic, secret=secrets.token_bytes(_SECRET_BYTES)),
        options=ResilienceOptions(
            clock=time.monotonic,
            jitter=random.random,
            longest_seconds=settings.inspect_seconds * _SHARE_OF_EXCHANGE,
            on_breaker=metrics.breaker_is,
        ),
    )


async def _build_worker(
    settings: Settings,
    recorder: Recorder,
    stack: AsyncExitStack,
    *,
    stores: _Stores,
    policies: PolicyReloader,
    status: WorkerStatus,
) -> Worker:
    messages = await open_messages(settings, metrics=recorder.metrics.process, stack=stack)
    remote = await open_remote_checks(
        settings.exchange, metrics=recorder.metrics.remote, stack=stack
    )
    key_activity, findings = await _start_tasks(
        settings,
        recorder,
        stack,
        stores=stores,
        policies=policies,
        status=status,
        messages=messages,
    )
    exchange, hash_key = settings.exchange, settings.redaction.hash_key
    return Worker(
        keys=stores.keys.cache,
        key_activity=key_activity,
        findings=findings,
        usage=stores.usage.notes,
        verdicts=stores.usage.verdicts,
        policies=policies,
        guardrail_runner=GuardrailRunner(remote=remote, clock=time.monotonic),
        recorder=recorder,
        clocks=Clocks(monotonic=time.monotonic, wall=time.time),
        new_request_id=lambda: str(uuid.uuid4()),
        timing=exchange.timing,
        redaction_key=None if hash_key is None else hash_key.get_secret_value().encode(),
        limiter=stores.limits.limiter,
        prices=stores.limits.prices,
        guard=OverloadGuard(
            max_exchanges=exchange.max_exchanges,
            max_held_bytes=exchange.max_held_bytes,
            # So that a body of any length finds room beside those of one organization.
            reserved_bytes=max(exchange.max_body_bytes, exchange.max_held_bytes // 8),
        ),
        budgets=Budgets(
            authorize_seconds=exchange.authorize_seconds,
            body_seconds=exchange.body_seconds,
            body_idle_seconds=exchange.body_idle_seconds,
            inspect_seconds=exchange.inspect_seconds,
        ),
        max_body_bytes=exchange.max_body_bytes,
        route_by_model=exchange.route_by_model,
        default_output_tokens=settings.limits.default_output_tokens,
        limits_in_metadata=settings.limits.in_metadata,
        contact=exchange.contact,
        messages=messages,
        own_ends=stores.usage.own_ends,
        usage_source=settings.usage.source,
        read_answers=settings.usage.reads,
    )


async def _start_tasks(
    settings: Settings,
    recorder: Recorder,
    stack: AsyncExitStack,
    *,
    stores: _Stores,
    policies: PolicyReloader,
    status: WorkerStatus,
    messages: MessageTable | None,
) -> tuple[KeyActivity, FindingCounts]:
    """Run the work beside requests until *stack* is closed; return the counts that it writes."""
    pool, limits = stores.pool, stores.limits
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, policies.note_change)
    tasks = await stack.enter_async_context(BackgroundTasks())
    key_activity = KeyActivity(pool, settings.postgres, most=MAX_KEYS)
    findings = FindingCounts(pool, settings.postgres, most=MAX_ROWS)
    stack.push_async_callback(key_activity.aclose)
    stack.push_async_callback(findings.aclose)
    tasks.start(policies.run(), name="policies")
    tasks.start(status.run(), name="status")
    tasks.start(key_activity.run(), name="key uses")
    tasks.start(findings.run(), name="findings")
    tasks.start(SchemaWatch(pool, settings.postgres).run(), name="schema")
    tasks.start(
        RuntimeSampler(recorder.metrics.process, pool, GcPauses(), messages).run(),
        name="runtime sampler",
    )
    stores.keys.start(
        tasks,
        on_policies=policies.note_change,
        on_barrier=status.barrier_received,
        on_owner=limits.limiter.budgets.forget,
    )
    limits.start(tasks)
    return key_activity, findings


def _server(
    settings: Settings, index: int, worker: Worker, *, receive_log: ReceiveLog | None
) -> GrpcServer:
    network, listen = None, settings.listen
    if listen.host is not None:
        files = listen.tls_files if listen.tls is NetworkTls.MUTUAL else None
        tls = None if files is None else TlsFiles(*files)
        network = NetworkAddress(listen.host, listen.port + index, tls)
    options = ServerOptions(
        socket_path=settings.server.worker_socket(index),
        socket_mode=settings.server.socket_mode,
        max_message_bytes=settings.server.max_message_bytes,
        drain_delay_seconds=settings.server.drain_delay_seconds,
        drain_grace_seconds=settings.server.drain_grace_seconds,
        network=network,
    )
    return GrpcServer(options, functools.partial(serve, worker=worker), receive_log)
