"""The development stack: PostgreSQL, Valkey, workers, mock LLM, Envoy and the console."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol, TypeVar

import orjson
from pydantic import SecretStr

from egret_tools.devstack.console import running_console
from egret_tools.devstack.credentials import (
    CA_NAME,
    Certificates,
    write_certificate,
    write_certificates,
)
from egret_tools.devstack.databases import running_postgres, running_valkey
from egret_tools.devstack.demo_setup import set_up, set_up_examples
from egret_tools.devstack.envoy import EnvoyAddress, EnvoyRun, running_envoy
from egret_tools.devstack.envoy_config import EnvoyParameters, OtlpCollector, render_envoy_config
from egret_tools.devstack.processes import (
    Children,
    OnRestart,
    PartError,
    check_port,
    free_port,
)
from egret_tools.devstack.providers import (
    Providers,
    Upstream,
    made_up_credentials,
    mock_providers,
    running_mock_provider,
    upstream_providers,
    write_credentials,
)
from egret_tools.devstack.run_directory import RunDirectory
from egret_tools.devstack.trace_receiver import running_trace_receiver
from egret_tools.devstack.workers import running_workers, worker_sockets
from sidecar.settings.serving import Timing
from sidecar.storage.migrate import UnknownRevisionError
from sidecar.storage.pool import UNAVAILABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """Ports of 0 are free ones, and Envoy has others after a restart. `upstream` None is the mock.

    `worker_settings` are further EGRET_ variables for the workers; they win over the stack's own.
    `collector_port` is where on the loopback an OTLP receiver of yours listens (gRPC): it gets the
    spans instead of `traces.jsonl`. With `console` there is one, with organizations to look at.
    """

    workers: int = 2
    http_port: int = 0
    https_port: int = 0
    admin_port: int = 0
    metrics_port: int = 0
    console_port: int = 0
    console: bool = False
    upstream: Upstream | None = None
    timing: Timing = Timing.METADATA
    traces: bool = True
    collector_port: int | None = None
    envoy_threads: int = 2
    worker_settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StackFacts:
    """Addresses and credentials of a running stack: the content of `egret.json`."""

    url: str
    https_url: str
    ca_file: Path
    admin_url: str
    metrics_url: str
    console_url: str | None
    mock_debug_url: str | None
    key: SecretStr
    pid: int
    workers_pid: int
    postgres_dsn: str
    valkey_url: str
    traces_file: Path | None
    access_log: Path
    logs: Path

    def as_json(self) -> dict[str, object]:
        """Return it with the key in the clear: the file is readable by its owner only."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain = {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}
        return {**plain, "key": self.key.get_secret_value()}


LOOPBACK: Final = "127.0.0.1"
SPAN_FLUSH_MS: Final = 200
SECRETS_NAME: Final = "secrets.json"

_T = TypeVar("_T")


class Progress(Protocol):
    """Shows the part that is starting."""

    def step(self, part: str) -> AbstractContextManager[object]:
        """Return a block that lasts while *part* starts."""
        ...


class NoProgress:
    """Shows nothing."""

    def step(self, part: str) -> AbstractContextManager[object]:
        """Return a block that shows nothing of *part*."""
        del part
        return nullcontext()


@dataclass(frozen=True, slots=True)
class RunningStack:
    """Where everything is; `keep_running` restarts parts until one of them stays dead."""

    facts: StackFacts
    keep_running: Callable[[OnRestart], Awaitable[PartError]]


@dataclass(frozen=True, slots=True)
class _Starter:
    """Starts one part after another and remembers how to stop them."""

    parts: AsyncExitStack
    progress: Progress
    children: Children
    run: RunDirectory

    async def enter(self, part: str, running: AbstractAsyncContextManager[_T]) -> _T:
        with self.progress.step(part):
            return await self.parts.enter_async_context(running)


@dataclass(frozen=True, slots=True)
class _Storage:
    postgres_dsn: str
    valkey_url: str
    key: SecretStr
    hash_key: str


@dataclass(frozen=True, slots=True)
class _Workers:
    sockets: tuple[Path, ...]
    metrics_port: int
    otlp_port: int | None
    traces_file: Path | None
    pid: int


@asynccontextmanager
async def running_stack(
    options: StackOptions, *, run: RunDirectory, progress: Progress | None = None
) -> AsyncIterator[RunningStack]:
    """Start everything, yield when requests are answered, stop in the opposite order.

    Raises:
        PartError: a part does not come up.
    """
    check_port("Envoy", options.http_port)
    check_port("Envoy", options.https_port)
    async with AsyncExitStack() as parts:
        start = _Starter(parts, progress or NoProgress(), Children(pid_directory=run.pids), run)
        with start.progress.step("Certificates"):
            certificates = write_certificates(run.path / "certificates")
        storage = await _start_storage(start)
        providers = await _start_providers(options, start=start, certificates=certificates)
        workers = await _start_workers(options, start=start, storage=storage)
        _write_secrets(run.path / "sds", providers=providers, certificates=certificates)
        envoy = await start.enter(
            "Envoy",
            running_envoy(
                start.children,
                run=EnvoyRun(run.path, run.logs, threads=options.envoy_threads),
                config=render_envoy_config(
                    _envoy_parameters(options, run, providers=providers, workers=workers)
                ),
            ),
        )
        facts = _facts(run, storage=storage, providers=providers, workers=workers, envoy=envoy)
        if options.console:
            facts = replace(facts, console_url=await _start_console(options, start, facts))
        run.write_ready(facts.as_json())
        parts.callback(run.forget_ready)
        yield RunningStack(facts, start.children.keep_running)


async def _start_storage(start: _Starter) -> _Storage:
    run = start.run
    kept = _Secrets.read(run.data / SECRETS_NAME)
    dsn = await start.enter(
        "PostgreSQL",
        running_postgres(start.children, directory=run.data / "postgres", logs=run.logs),
    )
    with start.progress.step("Schema, policies and key"):
        try:
            key = await set_up(SecretStr(dsn), known=kept.key)
        except UNAVAILABLE as error:
            raise PartError(
                "PostgreSQL",
                f"it gave no answer to the set-up: {type(error).__name__}",
                hint=f"look at {run.logs / 'postgres.log'}",
            ) from error
        except UnknownRevisionError as error:
            raise PartError("PostgreSQL", str(error), hint=f"drop {run.data}: --fresh") from error
        kept = replace(kept, key=key.get_secret_value())
        kept.write(run.data / SECRETS_NAME)
    valkey_url = await start.enter(
        "Valkey", running_valkey(start.children, directory=run.path / "valkey", logs=run.logs)
    )
    return _Storage(postgres_dsn=dsn, valkey_url=valkey_url, key=key, hash_key=kept.hash_key)


@dataclass(frozen=True, slots=True)
class _Secrets:
    """Secrets that must be the same in the next run of the same data."""

    key: str | None
    hash_key: str

    @classmethod
    def read(cls, file: Path) -> _Secrets:
        """Return those of the earlier run, else new ones."""
        try:
            return cls(**orjson.loads(file.read_bytes()))
        except (FileNotFoundError, orjson.JSONDecodeError, TypeError):
            return cls(key=None, hash_key=secrets.token_urlsafe(32))

    def write(self, file: Path) -> None:
        """Write them in one step, readable by their owner only."""
        new = file.with_suffix(".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as output:
            output.write(orjson.dumps(self))
        new.replace(file)


async def _start_providers(
    options: StackOptions, *, start: _Starter, certificates: Certificates
) -> Providers:
    if options.upstream is not None:
        return upstream_providers(options.upstream)
    credentials = made_up_credentials()
    mock = await start.enter(
        "Mock LLM",
        running_mock_provider(
            start.children,
            run=start.run,
            certificate=certificates.provider,
            credentials=credentials,
        ),
    )
    return mock_providers(mock, certificates=certificates, credentials=credentials)


async def _start_workers(options: StackOptions, *, start: _Starter, storage: _Storage) -> _Workers:
    run = start.run
    otlp_port, traces_file = options.collector_port, None
    if options.traces and otlp_port is None:
        traces_file = run.traces_file
        otlp_port = await start.enter("Trace receiver", running_trace_receiver(traces_file))
    metrics_port = options.metrics_port or free_port()
    sockets = worker_sockets(run.sockets, workers=options.workers)
    settings = {
        "TMPDIR": str(run.temporary),
        "EGRET_SERVER__WORKERS": str(options.workers),
        "EGRET_SERVER__SOCKET_DIRECTORY": str(run.sockets),
        # Envoy stops before the workers do, so no client would see NOT_SERVING.
        "EGRET_SERVER__DRAIN_DELAY_SECONDS": "0",
        "EGRET_SERVER__DRAIN_GRACE_SECONDS": "5",
        "EGRET_EXCHANGE__TIMING": options.timing.value,
        "EGRET_USAGE__SPOOL_DIRECTORY": str(run.data / "usage"),
        "EGRET_POSTGRES__DSN": storage.postgres_dsn,
        "EGRET_VALKEY__URL": storage.valkey_url,
        "EGRET_CACHE__L2_SECRET": secrets.token_urlsafe(32),
        "EGRET_REDACTION__HASH_KEY": storage.hash_key,
        "EGRET_TELEMETRY__METRICS_PORT": str(metrics_port),
        **options.worker_settings,
    }
    if otlp_port is not None:
        settings.setdefault("EGRET_TELEMETRY__OTLP_ENDPOINT", f"http://{LOOPBACK}:{otlp_port}")
    pid = await start.enter(
        "Egret workers",
        running_workers(start.children, sockets=sockets, settings=settings, logs=run.logs),
    )
    return _Workers(
        sockets=sockets,
        metrics_port=metrics_port,
        otlp_port=otlp_port,
        traces_file=traces_file,
        pid=pid,
    )


async def _start_console(options: StackOptions, start: _Starter, facts: StackFacts) -> str:
    settings = {
        "EGRET_POSTGRES__DSN": facts.postgres_dsn,
        "EGRET_VALKEY__URL": facts.valkey_url,
    }
    await set_up_examples(SecretStr(facts.postgres_dsn))
    port = options.console_port or free_port()
    return await start.enter(
        "Console",
        running_console(start.children, port=port, settings=settings, logs=start.run.logs),
    )


def _write_secrets(directory: Path, *, providers: Providers, certificates: Certificates) -> None:
    directory.mkdir(mode=0o700)
    write_certificate(directory, name="server_certificate", certificate=certificates.gateway)
    write_credentials(directory, providers)


def _envoy_parameters(
    options: StackOptions, run: RunDirectory, *, providers: Providers, workers: _Workers
) -> EnvoyParameters:
    port = workers.otlp_port
    return EnvoyParameters(
        worker_sockets=tuple(str(socket) for socket in workers.sockets),
        sds_directory=str(run.path / "sds"),
        openai=providers.by_name["openai"],
        anthropic=providers.by_name["anthropic"],
        azure=providers.by_name["azure"],
        gemini=providers.by_name["gemini"],
        bedrock=providers.by_name["bedrock"],
        https_address=LOOPBACK,
        https_port=options.https_port,
        http_port=options.http_port,
        admin_port=options.admin_port,
        access_log_path=str(run.access_log),
        otlp=None if port is None else OtlpCollector(LOOPBACK, port),
        span_flush_ms=SPAN_FLUSH_MS,
        writes_timing=options.timing is Timing.METADATA,
    )


def _facts(
    run: RunDirectory,
    *,
    storage: _Storage,
    providers: Providers,
    workers: _Workers,
    envoy: EnvoyAddress,
) -> StackFacts:
    return StackFacts(
        url=f"http://{LOOPBACK}:{envoy.http_port}",
        https_url=f"https://localhost:{envoy.https_port}",
        ca_file=run.path / "certificates" / CA_NAME,
        admin_url=envoy.admin_url,
        metrics_url=f"http://{LOOPBACK}:{workers.metrics_port}/metrics",
        console_url=None,
        mock_debug_url=providers.debug_url,
        key=storage.key,
        pid=os.getpid(),
        workers_pid=workers.pid,
        postgres_dsn=storage.postgres_dsn,
        valkey_url=storage.valkey_url,
        traces_file=workers.traces_file,
        access_log=run.access_log,
        logs=run.logs,
    )
