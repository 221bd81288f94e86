"""The parts a measurement runs on: PostgreSQL, the workers of each engine, one Envoy."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
from egret_tools.devstack.child import Children, PartError
from egret_tools.devstack.envoy_config import EnvoyParameters
from egret_tools.devstack.envoy_secrets import write_credential
from egret_tools.devstack.postgres import running_postgres
from egret_tools.devstack.run_directory import RunDirectory
from egret_tools.devstack.workers import running_workers, worker_sockets
from pydantic import SecretStr

from loadtest.bench_envoy import (
    Config,
    bench_config,
    running_bench_envoy,
    socket_address,
)
from loadtest.processes import children_of
from loadtest.texts import MODEL
from sidecar.admin.keys import create_key
from sidecar.admin.owners import Rules, create_organization, create_team
from sidecar.keys.credentials import generate
from sidecar.policy.parse import parse_documents
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.migrate import migrate
from sidecar.storage.pool import connect
from sidecar.storage.postgres_policies import apply_policy

PATH: Final = "/v1/chat/completions"
OWNER: Final = "bench"
READY_SECONDS: Final = 120.0
ANSWERS_IN_A_ROW: Final = 20


@dataclass(frozen=True, slots=True)
class BenchStack:
    """A running stack: the address of each listener, and the processes to watch.

    `keys` has one for each policy, by its name; `key` is the one without a policy of its own.
    """

    urls: Mapping[str, str]
    workers: Mapping[str, tuple[int, ...]]
    envoy_pid: int
    key: SecretStr
    dsn: SecretStr
    keys: Mapping[str, SecretStr]


@asynccontextmanager
async def running_bench_stack(
    engines: Sequence[str],
    *,
    workers: int,
    envoy_threads: int,
    run: RunDirectory,
    policies: str = "",
    provider: Config | None = None,
) -> AsyncIterator[BenchStack]:
    """Start everything, yield once requests are answered, stop in the opposite order.

    The key has no policy of its own: the default one holds. Egret exports no traces, logs a line
    an exchange to a file, and records what was used, as it would in production. Without a
    *provider*, the address of a server over HTTP/1.1, Envoy answers itself.

    Raises:
        PartError: a part does not come up.
    """
    children = Children()
    async with AsyncExitStack() as parts:
        dsn = await parts.enter_async_context(
            running_postgres(children, directory=run.path / "postgres", logs=run.logs)
        )
        keys = await _make_keys(SecretStr(dsn), policies)
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
                config=_envoy_config(run, sockets, provider),
                directory=run.path,
                threads=envoy_threads,
            )
        )
        urls = {name: f"http://127.0.0.1:{port}{PATH}" for name, port in ports.items()}
        yield BenchStack(urls, processes, envoy_pid, keys.pop(""), SecretStr(dsn), keys)


async def until_compiled(url: str, keys: Mapping[str, SecretStr]) -> None:
    """Wait until workers judge by every policy: until then its key is answered 503."""
    deadline, chat = time.monotonic() + READY_SECONDS, {"model": MODEL, "messages": []}
    async with aiohttp.ClientSession() as client:
        for key in keys.values():
            headers, in_a_row = {"authorization": f"Bearer {key.get_secret_value()}"}, 0
            while in_a_row < ANSWERS_IN_A_ROW:
                if time.monotonic() > deadline:
                    raise PartError("Policies", "were not compiled", hint="look at workers.log")
                async with client.post(url, json=chat, headers=headers) as answer:
                    in_a_row = in_a_row + 1 if answer.ok else 0
                await asyncio.sleep(0 if in_a_row else 0.1)


async def _make_keys(dsn: SecretStr, policies: str) -> dict[str, SecretStr]:
    """Return a key for each policy by its name, and one without a policy by none."""
    settings = PostgresSettings(dsn=dsn)
    await migrate(settings)
    keys: dict[str, SecretStr] = {}
    async with connect(settings) as connection:
        await create_organization(connection, OWNER, rules=Rules())
        await create_team(connection, OWNER, organization=OWNER, rules=Rules())
        documents = parse_documents(policies) if policies else ()
        for document in documents:
            name, text = document.policy.name, document.text
            async with connection.transaction():
                await apply_policy(connection, name, document=text, expected_version=0)
        for name in ("", *(document.policy.name for document in documents)):
            key = generate(secrets.token_bytes)
            owner = (f"{OWNER}/{OWNER}", f"{OWNER}-{name}".rstrip("-"))
            rules = Rules(policy=name or None)
            await create_key(connection, key, owner=owner, expires_at=None, rules=rules)
            keys[name] = SecretStr(key.reveal())
    return keys


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
        "EGRET_USAGE__SPOOL_DIRECTORY": str(run.path / "usage" / engine),
    }


def _envoy_config(
    run: RunDirectory,
    sockets: Mapping[str, Sequence[Path]],
    provider: Config | None,
) -> str:
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
    return bench_config(
        parameters,
        sockets=paths,
        provider=provider or socket_address(str(run.path / "provider.sock")),
        answers=provider is None,
    )
