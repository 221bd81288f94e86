"""Two revisions of Egret beside each other: each one's own program and Envoy configuration.

A side is a checkout, used through its command line and settings only: any two revisions with the
same public behaviour can be compared. They share PostgreSQL, each with a database of its own, and
the provider; every engine of a side has workers and an Envoy of its own.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
from egret_tools.devstack.child import Children, Program, until_ready
from egret_tools.devstack.envoy_secrets import write_credential
from egret_tools.devstack.postgres import running_postgres
from egret_tools.devstack.run_directory import RunDirectory
from pydantic import SecretStr

from loadtest.bench_envoy import (
    BARE,
    provider_config,
    running_bench_envoy,
    shipped_config,
    socket_address,
)
from loadtest.bench_stream import running_provider
from loadtest.load import LoadError
from loadtest.results import ROOT
from sidecar.settings.sections import inherited_environment

NEW: Final = "new"
REV: Final = "rev"
SIDES: Final = (NEW, REV)
OWNER: Final = "bench"
STREAM_POLICY: Final = """
name: window
usage: {streams: estimate}
guardrails:
  - {name: pii, type: pii, stage: output, action: redact}
  - {name: secrets, type: secrets, stage: output, action: block}
"""
PATH: Final = "/v1/chat/completions"
START_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Side:
    """A checkout, which is run as a user runs it."""

    name: str
    checkout: Path

    def environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Return the environment in which `python -m sidecar` is this side's own."""
        path = f"{self.checkout}:{self.checkout / 'tools'}"
        safe = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
        return {**inherited_environment(), **safe, **settings}

    def run(self, *words: str, settings: Mapping[str, str], given: str = "") -> str:
        """Run one command and return its standard output.

        Raises:
            LoadError: it failed.
        """
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-m", "sidecar", *words],
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
        done = subprocess.run(
            [sys.executable, "-c", "import sidecar; print(sidecar.__file__)"],
            env=self.environment({}),
            capture_output=True,
            text=True,
            check=True,
        )
        if not Path(done.stdout.strip()).is_relative_to(self.checkout):
            raise LoadError(f"{self.name} runs {done.stdout.strip()}, not {self.checkout}")


@dataclass(frozen=True, slots=True)
class Gateway:
    """One side on one engine, or the Envoy without Egret: its address and processes."""

    url: str
    envoy_pid: int
    supervisor_pid: int | None
    keys: Mapping[str, SecretStr]


@dataclass(frozen=True, slots=True)
class Shared:
    """All that the sides have in common."""

    children: Children
    run: RunDirectory
    provider: Path
    dsns: Mapping[str, str]


@asynccontextmanager
async def running_sides(
    rev: Path, engines: Sequence[str], *, run: RunDirectory
) -> AsyncIterator[Mapping[str, Gateway]]:
    """Run everything and yield the gateways: `<side>.<engine>`, and `envoy` without Egret.

    Raises:
        PartError: a part does not come up.
        LoadError: a command of a side failed.
    """
    async with AsyncExitStack() as parts:
        shared = await _start_shared(parts, run)
        gateways: dict[str, Gateway] = {}
        for side in (Side(REV, rev), Side(NEW, ROOT)):
            await asyncio.to_thread(side.check)
            keys = await asyncio.to_thread(_set_up, side, shared.dsns[side.name])
            for engine in engines:
                gateways[f"{side.name}.{engine}"] = await _start_gateway(
                    parts, shared, side, engine, keys
                )
            if side.name == REV:
                rendered = await asyncio.to_thread(_rendered, side, shared, "bare", ())
                bare = shipped_config(
                    rendered, provider=socket_address(str(shared.provider)), is_bare=True
                )
                gateways[BARE] = await _start_envoy(parts, shared, bare, "bare", None, keys)
        yield gateways


async def _start_shared(parts: AsyncExitStack, run: RunDirectory) -> Shared:
    children = Children()
    dsn = await parts.enter_async_context(
        running_postgres(children, directory=run.path / "postgres", logs=run.logs)
    )
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"CREATE DATABASE {REV}")
    finally:
        await connection.close()
    dsns = {NEW: dsn, REV: dsn.replace("/egret?", f"/{REV}?")}
    streams, provider = run.path / "streams.sock", run.path / "provider.sock"
    await parts.enter_async_context(running_provider(streams, logs=run.logs))
    place = run.path / "provider"
    place.mkdir()
    config = provider_config(socket_address(str(provider)), streams=socket_address(str(streams)))
    await parts.enter_async_context(
        running_bench_envoy(children, config=config, directory=place, threads=1)
    )
    sds = run.path / "sds"
    sds.mkdir(mode=0o700)
    for name, value in (("openai", "Bearer sk-bench"), ("anthropic", "sk-ant-bench")):
        write_credential(sds, name=name, header_value=SecretStr(value))
    return Shared(children, run, provider, dsns)


def _set_up(side: Side, dsn: str) -> dict[str, SecretStr]:
    """Fill the side's database; return a key under the built-in policy and one for streams."""
    settings = {"EGRET_POSTGRES__DSN": dsn}
    side.run("migrate", settings=settings)
    side.run("policy", "apply", "-f", "-", "--yes", settings=settings, given=STREAM_POLICY)
    side.run("orgs", "create", OWNER, settings=settings)
    side.run("teams", "create", OWNER, "--org", OWNER, settings=settings)
    create = ("keys", "create", "--team", f"{OWNER}/{OWNER}", "--name")
    plain = side.run(*create, "plain", settings=settings)
    streams = side.run(*create, "streams", "--policy", "window", settings=settings)
    return {"": SecretStr(plain.strip()), "window": SecretStr(streams.strip())}


async def _start_gateway(
    parts: AsyncExitStack, shared: Shared, side: Side, engine: str, keys: Mapping[str, SecretStr]
) -> Gateway:
    place = shared.run.path / f"{side.name}-{engine}"
    place.mkdir()
    socket = place / "worker-0.sock"
    settings = {
        "TMPDIR": str(shared.run.temporary),
        "EGRET_SERVER__ENGINE": engine,
        "EGRET_SERVER__WORKERS": "1",
        "EGRET_SERVER__SOCKET_DIRECTORY": str(place),
        "EGRET_SERVER__DRAIN_DELAY_SECONDS": "0",
        "EGRET_SERVER__DRAIN_GRACE_SECONDS": "5",
        "EGRET_POSTGRES__DSN": shared.dsns[side.name],
        "EGRET_TELEMETRY__METRICS_PORT": "0",
        "EGRET_USAGE__SPOOL_DIRECTORY": str(place / "usage"),
    }
    program = Program(
        part=f"Workers of {side.name}",
        command=(sys.executable, "-m", "sidecar", "serve"),
        log=place / "workers.log",
        environment=side.environment(settings),
        grace_seconds=20,
    )
    workers = await parts.enter_async_context(shared.children.running(program))

    async def serves() -> bool:
        return await asyncio.to_thread(socket.exists)

    await until_ready(workers, serves, seconds=START_SECONDS)
    rendered = await asyncio.to_thread(_rendered, side, shared, engine, (str(socket),))
    config = shipped_config(rendered, provider=socket_address(str(shared.provider)))
    return await _start_envoy(parts, shared, config, f"{side.name}-{engine}", workers.pid, keys)


def _rendered(side: Side, shared: Shared, engine: str, sockets: Sequence[str]) -> str:
    parameters = {
        "worker_sockets": list(sockets) or [f"/nowhere/{engine}.sock"],
        "sds_directory": str(shared.run.path / "sds"),
        "http_port": 0,
        "access_log_path": "/dev/null",
    }
    return side.run("envoy", "render", "-", settings={}, given=json.dumps(parameters))


async def _start_envoy(
    parts: AsyncExitStack,
    shared: Shared,
    config: str,
    name: str,
    supervisor_pid: int | None,
    keys: Mapping[str, SecretStr],
) -> Gateway:
    place = shared.run.path / f"envoy-{name}"
    place.mkdir()
    pid, ports = await parts.enter_async_context(
        running_bench_envoy(shared.children, config=config, directory=place, threads=1)
    )
    (port,) = ports.values()
    return Gateway(f"http://127.0.0.1:{port}{PATH}", pid, supervisor_pid, keys)
