"""The parts a measurement runs on: PostgreSQL, the workers of each engine, one Envoy."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from loadtest.bench_envoy import bench_config, running_bench_envoy
from loadtest.processes import children_of
from sidecar.authorization.api_key import generate
from sidecar.embedded.child import Children
from sidecar.embedded.envoy_config import EnvoyParameters
from sidecar.embedded.envoy_secrets import write_credential
from sidecar.embedded.postgres import running_postgres
from sidecar.embedded.run_directory import RunDirectory
from sidecar.embedded.workers import running_workers, worker_sockets
from sidecar.settings import PostgresSettings
from sidecar.storage.administration import Rules, create_organization, create_team
from sidecar.storage.key_administration import create_key
from sidecar.storage.migrate import migrate
from sidecar.storage.pool import connect

PATH: Final = "/v1/chat/completions"
OWNER: Final = "bench"


@dataclass(frozen=True, slots=True)
class BenchStack:
    """A running stack: the address of each listener, and the processes to watch."""

    urls: Mapping[str, str]
    workers: Mapping[str, tuple[int, ...]]
    envoy_pid: int
    key: SecretStr
    dsn: SecretStr


@asynccontextmanager
async def running_bench_stack(
    engines: Sequence[str], *, workers: int, envoy_threads: int, run: RunDirectory
) -> AsyncIterator[BenchStack]:
    """Start everything, yield once requests are answered, stop in the opposite order.

    The key has no policy of its own: the default one holds. Egret exports no traces, and logs a
    line an exchange to a file, as it would in production.

    Raises:
        PartError: a part does not come up.
    """
    children = Children()
    async with AsyncExitStack() as parts:
        dsn = await parts.enter_async_context(
            running_postgres(children, directory=run.path / "postgres", logs=run.logs)
        )
        key = await _make_key(SecretStr(dsn))
        sockets: dict[str, tuple[Path, ...]] = {}
        processes: dict[str, tuple[int, ...]] = {}
        for engine in engines:
            place = run.path / engine
            place.mkdir()
            sockets[engine] = worker_sockets(place, workers=workers)
            supervisor = await parts.enter_async_context(
                running_workers(
                    children,
                    sockets=sockets[engine],
                    settings=_worker_settings(engine, sockets[engine], dsn, run),
                    logs=place,
                )
            )
            processes[engine] = children_of(supervisor)
        envoy_pid, ports = await parts.enter_async_context(
            running_bench_envoy(
                children,
                config=_envoy_config(run, sockets),
                directory=run.path,
                threads=envoy_threads,
            )
        )
        urls = {name: f"http://127.0.0.1:{port}{PATH}" for name, port in ports.items()}
        yield BenchStack(urls, processes, envoy_pid, key, SecretStr(dsn))


async def _make_key(dsn: SecretStr) -> SecretStr:
    settings = PostgresSettings(dsn=dsn)
    await migrate(settings)
    rules = Rules()
    key = generate(secrets.token_bytes)
    async with connect(settings) as connection:
        await create_organization(connection, OWNER, rules=rules)
        await create_team(connection, OWNER, organization=OWNER, rules=rules)
        owner = (f"{OWNER}/{OWNER}", OWNER)
        await create_key(connection, key, owner=owner, expires_at=None, rules=rules)
    return SecretStr(key.reveal())


def _worker_settings(
    engine: str, sockets: Sequence[Path], dsn: str, run: RunDirectory
) -> Mapping[str, str]:
    return {
        "TMPDIR": str(run.temporary),
        "EGRET_SERVER__ENGINE": engine,
        "EGRET_SERVER__WORKERS": str(len(sockets)),
        "EGRET_SERVER__SOCKET_DIRECTORY": str(sockets[0].parent),
        "EGRET_SERVER__DRAIN_DELAY_SECONDS": "0",
        "EGRET_SERVER__DRAIN_GRACE_SECONDS": "5",
        "EGRET_POSTGRES__DSN": dsn,
        "EGRET_TELEMETRY__METRICS_PORT": "0",
    }


def _envoy_config(run: RunDirectory, sockets: Mapping[str, Sequence[Path]]) -> str:
    sds = run.path / "sds"
    sds.mkdir(mode=0o700)
    for name, value in (("openai", "Bearer sk-bench"), ("anthropic", "sk-ant-bench")):
        write_credential(sds, name=name, header_value=SecretStr(value))
    paths = {engine: tuple(str(path) for path in of) for engine, of in sockets.items()}
    parameters = EnvoyParameters(
        worker_sockets=next(iter(paths.values())),
        sds_directory=str(sds),
        http_port=0,
        # Written as in production, kept nowhere: a run makes some hundred megabytes of it.
        access_log_path="/dev/null",
    )
    return bench_config(parameters, sockets=paths, provider_socket=str(run.path / "provider.sock"))
