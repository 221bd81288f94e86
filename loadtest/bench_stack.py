"""Egret as a user runs it, ready for a measurement: PostgreSQL, workers, Envoys, the provider.

A side is a checkout, used through its command line and settings only, so that any two revisions
with the same public behaviour can be measured beside each other. Sides share one PostgreSQL, each
with a database of its own, and the provider. Each has workers and an Envoy of its own, with the
configuration that it ships.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import aiohttp
import asyncpg
import yaml
from egret_tools.devstack.credentials import write_credential
from egret_tools.devstack.databases import running_postgres
from egret_tools.devstack.processes import (
    Children,
    PartError,
    Program,
    free_port,
    until_ready,
)
from egret_tools.devstack.run_directory import RunDirectory
from pydantic import SecretStr

from loadtest.bench_envoy import (
    BARE,
    Config,
    provider_config,
    running_bench_envoy,
    shipped_config,
    socket_address,
)
from loadtest.load import LoadError
from loadtest.processes import children_of, cpu_seconds, family_of
from loadtest.results import ROOT
from loadtest.texts import MODEL
from sidecar.settings.sections import inherited_environment

PATH: Final = "/v1/chat/completions"
OWNER: Final = "bench"
START_SECONDS: Final = 120.0
ANSWERS_IN_A_ROW: Final = 20


@dataclass(frozen=True, slots=True)
class Side:
    """A checkout. Its name begins the names of its gateways and databases.

    *settings* are variables of its workers, *workers* their number unless it is the stack's. By a
    *session_header* Envoy sends all requests of a session to one worker. *python* runs its
    programs, with the packages that this checkout pins.
    """

    name: str
    checkout: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    workers: int | None = None
    session_header: str = ""
    python: str = sys.executable

    @property
    def database(self) -> str:
        """The name of its database."""
        return f"bench_{self.name.replace('.', '_')}"

    def environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Return the environment in which `python -m sidecar` is this side's own."""
        path = f"{self.checkout}:{self.checkout / 'tools'}"
        return {
            **inherited_environment(),
            "PYTHONPATH": path,
            "PYTHONSAFEPATH": "1",
            **settings,
        }

    def run(self, *words: str, settings: Mapping[str, str], given: str = "") -> str:
        """Run one command and return its standard output.

        Raises:
            LoadError: it failed.
        """
        done = subprocess.run(  # noqa: S603 - our own program
            [self.python, "-m", "sidecar", *words],
            env=self.environment(settings),
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            tail = (done.stderr or done.stdout)[-2000:]
            raise LoadError(f"{self.name}: `egret {' '.join(words)}` failed: {tail}")
        return done.stdout

    def check(self) -> None:
        """Raise `LoadError` unless Python finds the code of this checkout."""
        done = subprocess.run(  # noqa: S603 - our own program
            [self.python, "-c", "import sidecar; print(sidecar.__file__)"],
            env=self.environment({}),
            capture_output=True,
            text=True,
            check=True,
        )
        if not Path(done.stdout.strip()).is_relative_to(self.checkout):
            raise LoadError(f"{self.name} runs {done.stdout.strip()}, not {self.checkout}")


HERE: Final = Side("egret", ROOT)
TABLE_SETTING: Final = "EGRET_EXCHANGE__MESSAGE_TABLE_MB"
"""Of the table of known messages; 0 is without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """Options of a stack: processes a side, threads an Envoy, policies as YAML documents.

    *provider* is the address of a server over HTTP/1.1; by default an Envoy answers. *servers* are
    programs of other ext_proc servers by the names of their gateways; each listens on the socket
    that is its argument.
    """

    workers: int = 1
    envoy_threads: int = 1
    policies: str = ""
    provider: Config | None = None
    servers: Mapping[str, Path] = field(default_factory=dict)
    buffered: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Gateway:
    """One side, or the Envoy without Egret.

    `keys` has one for each policy by its name, and one without a policy by the empty name.
    `metrics_url` is the workers' page of metrics.
    """

    url: str
    envoy_pid: int
    supervisor_pid: int | None
    keys: Mapping[str, SecretStr]
    metrics_url: str = ""

    @property
    def key(self) -> SecretStr:
        """The key without a policy of its own: the built-in policy holds."""
        return self.keys[""]

    @property
    def processes(self) -> tuple[int, ...]:
        """All processes below the supervisor."""
        return children_of(self.supervisor_pid) if self.supervisor_pid else ()

    def family(self) -> tuple[int, ...]:
        """Return all processes: Envoy, the supervisor and those below it."""
        return (self.envoy_pid, *(family_of(self.supervisor_pid) if self.supervisor_pid else ()))

    def cpu_seconds(self) -> tuple[float, float]:
        """Return the CPU time so far of all processes of Egret, and of Envoy."""
        envoy, *egret = self.family()
        return cpu_seconds(egret), cpu_seconds((envoy,))


@asynccontextmanager
async def running_gateways(
    sides: Sequence[Side],
    *,
    run: RunDirectory,
    options: StackOptions | None = None,
) -> AsyncIterator[dict[str, Gateway]]:
    """Run everything and yield the gateways once requests are answered, by name.

    Names are those of the sides, and `envoy` without Egret, in the configuration of the first
    side. Egret exports no traces, logs a line for each request to a
    file and records usage, as in production.

    Raises:
        PartError: a part does not come up.
        LoadError: a command of a side failed.
    """
    async with AsyncExitStack() as parts:
        starter = _Starter(parts, run, options or StackOptions())
        await starter.start_shared()
        gateways: dict[str, Gateway] = {}
        for side in sides:
            await asyncio.to_thread(side.check)
            dsn = await starter.new_database(side)
            keys = await asyncio.to_thread(starter.set_up, side, dsn)
            if side is sides[0]:
                gateways[BARE] = await starter.start_envoy(side, BARE, sockets=(), keys=keys)
                for name, program in starter.options.servers.items():
                    gateways[name] = await starter.start_server(side, name, program, keys=keys)
            gateways[side.name] = await starter.start_gateway(side, dsn=dsn, keys=keys)
        for name, gateway in gateways.items():
            if name != BARE:
                await _until_answered(gateway)
        yield gateways


async def _until_answered(gateway: Gateway) -> None:
    """Wait until the worker has compiled all policies: until then it answers 503."""
    deadline, chat = time.monotonic() + START_SECONDS, {"model": MODEL, "messages": []}
    async with aiohttp.ClientSession() as client:
        for key in gateway.keys.values():
            headers, in_a_row = {"authorization": f"Bearer {key.get_secret_value()}"}, 0
            while in_a_row < ANSWERS_IN_A_ROW:
                if time.monotonic() > deadline:
                    raise PartError("Policies", "were not compiled", hint="look at workers.log")
                async with client.post(gateway.url, json=chat, headers=headers) as answer:
                    in_a_row = in_a_row + 1 if answer.ok else 0
                await asyncio.sleep(0 if in_a_row else 0.1)


@dataclass(slots=True)
class _Starter:
    """Starts one part after another; `parts` stops them in the opposite order."""

    parts: AsyncExitStack
    run: RunDirectory
    options: StackOptions
    children: Children = field(default_factory=Children)
    dsn: str = ""

    @property
    def sds(self) -> Path:
        """Directory of the credentials that Envoy sends to providers."""
        return self.run.path / "sds"

    @property
    def provider(self) -> Config:
        """Address of the provider."""
        return self.options.provider or socket_address(str(self.run.path / "provider.sock"))

    async def start_shared(self) -> None:
        """Start PostgreSQL and the provider."""
        run = self.run
        self.dsn = await self.parts.enter_async_context(
            running_postgres(self.children, directory=run.path / "postgres", logs=run.logs)
        )
        if self.options.provider is None:
            streams = run.path / "streams.sock"
            await self._start_streams(streams)
            config = provider_config(self.provider, streams=socket_address(str(streams)))
            await self._run_envoy("provider", config)
        self.sds.mkdir(mode=0o700)
        for name, value in (("openai", "Bearer sk-bench"), ("anthropic", "sk-ant-bench")):
            write_credential(self.sds, name=name, header_value=SecretStr(value))

    async def _start_streams(self, socket: Path) -> None:
        program = Program(
            part="Provider",
            command=(sys.executable, "-m", "loadtest.streams.provider", str(socket)),
            log=self.run.logs / "provider.log",
            environment=inherited_environment(),
        )
        await self._run_until_there(program, socket)

    async def _run_until_there(self, program: Program, socket: Path) -> int:
        child = await self.parts.enter_async_context(self.children.running(program))

        async def is_there() -> bool:
            return await asyncio.to_thread(socket.exists)

        await until_ready(child, is_there, seconds=START_SECONDS)
        return child.pid

    async def new_database(self, side: Side) -> str:
        """Create the database of *side* and return its DSN."""
        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute(f"CREATE DATABASE {side.database}")
        finally:
            await connection.close()
        return self.dsn.replace("/egret?", f"/{side.database}?")

    def set_up(self, side: Side, dsn: str) -> dict[str, SecretStr]:
        """Fill the database of *side* and return its keys, each of an organization of its own."""
        settings = {"EGRET_POSTGRES__DSN": dsn}
        policies = self.options.policies
        names = [document["name"] for document in yaml.safe_load_all(policies)] if policies else []
        side.run("migrate", settings=settings)
        if policies:
            side.run("policy", "apply", "-f", "-", "--yes", settings=settings, given=policies)
        keys: dict[str, SecretStr] = {}
        for name in ("", *names):
            owner, policy = name or OWNER, ("--policy", name) if name else ()
            side.run("orgs", "create", owner, settings=settings)
            side.run("teams", "create", owner, "--org", owner, settings=settings)
            create = ("keys", "create", "--team", f"{owner}/{owner}", "--name", owner, *policy)
            keys[name] = SecretStr(side.run(*create, settings=settings).strip())
        return keys

    async def start_gateway(
        self, side: Side, *, dsn: str, keys: Mapping[str, SecretStr]
    ) -> Gateway:
        """Start workers and an Envoy in front of them."""
        name = side.name
        place = self.run.path / name
        place.mkdir()
        workers = side.workers or self.options.workers
        sockets = [str(place / f"worker-{number}.sock") for number in range(workers)]
        metrics_port = free_port()
        settings = {
            "TMPDIR": str(self.run.temporary),
            "EGRET_SERVER__WORKERS": str(workers),
            "EGRET_SERVER__SOCKET_DIRECTORY": str(place),
            "EGRET_SERVER__DRAIN_DELAY_SECONDS": "0",
            "EGRET_SERVER__DRAIN_GRACE_SECONDS": "5",
            "EGRET_POSTGRES__DSN": dsn,
            "EGRET_TELEMETRY__METRICS_PORT": str(metrics_port),
            "EGRET_USAGE__SPOOL_DIRECTORY": str(place / "usage"),
            **side.settings,
        }
        program = Program(
            part=f"Workers of {name}",
            command=(side.python, "-m", "sidecar", "serve"),
            log=place / "workers.log",
            environment=side.environment(settings),
            grace_seconds=20,
        )
        supervisor = await self._run_until_there(program, Path(sockets[-1]))
        gateway = await self.start_envoy(
            side, name, sockets=sockets, keys=keys, supervisor_pid=supervisor
        )
        return replace(gateway, metrics_url=f"http://127.0.0.1:{metrics_port}/metrics")

    async def start_server(
        self, side: Side, name: str, program: Path, *, keys: Mapping[str, SecretStr]
    ) -> Gateway:
        """Start another ext_proc server and an Envoy of *side* in front of it."""
        socket = self.run.sockets / f"{name}.sock"
        started = Program(
            part=name,
            command=(str(program), str(socket)),
            log=self.run.logs / f"{name}.log",
            environment={**inherited_environment(), "GOMAXPROCS": "1"},
        )
        pid = await self._run_until_there(started, socket)
        return await self.start_envoy(
            side, name, sockets=[str(socket)], keys=keys, supervisor_pid=pid
        )

    async def start_envoy(
        self,
        side: Side,
        name: str,
        *,
        sockets: Sequence[str],
        keys: Mapping[str, SecretStr],
        supervisor_pid: int | None = None,
    ) -> Gateway:
        """Start an Envoy in front of the workers at *sockets*; without any, without Egret."""
        parameters = {
            "worker_sockets": list(sockets) or ["/nowhere.sock"],
            "sds_directory": str(self.sds),
            "http_port": 0,
            # Written as in production, kept nowhere: a run makes some hundred megabytes of it.
            "access_log_path": "/dev/null",
        }
        rendered = await asyncio.to_thread(
            side.run, "envoy", "render", "-", settings={}, given=json.dumps(parameters)
        )
        config = shipped_config(
            rendered,
            provider=self.provider,
            over_http1=self.options.provider is not None,
            is_bare=not sockets,
            is_buffered=name in self.options.buffered,
            session_header=side.session_header,
        )
        pid, ports = await self._run_envoy(f"envoy-{name}", config)
        (port,) = ports.values()
        return Gateway(f"http://127.0.0.1:{port}{PATH}", pid, supervisor_pid, keys)

    async def _run_envoy(self, name: str, config: str) -> tuple[int, Mapping[str, int]]:
        place = self.run.path / name
        place.mkdir()
        threads = self.options.envoy_threads
        return await self.parts.enter_async_context(
            running_bench_envoy(self.children, config=config, directory=place, threads=threads)
        )
