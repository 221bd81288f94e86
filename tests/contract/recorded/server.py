"""A worker under test: real PostgreSQL and Valkey, fixed rows, `egret serve` as a process."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import sys
import tempfile
import urllib.request
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import grpc
import grpc.aio
import orjson
import yaml
from aiohttp import web
from egret_tools.devstack.databases import running_postgres, running_valkey
from egret_tools.devstack.processes import Children
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from sidecar.settings.sections import inherited_environment
from tests.contract.recorded.keys import KEYS, ORGANIZATIONS, TEAMS, KeyRow
from tests.contract.recorded.observe import counts_in_files
from tests.support.otlp import OtlpReceiver, otlp_receiver
from tests.support.webhook_server import webhook_server

POLICIES: Final = Path(__file__).with_name("policies.yaml")
EXPORT: Final = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
START_SECONDS: Final = 300.0
POLL_SECONDS: Final = 0.005

PRICES: Final = (("gpt-4o*", 2.5, 10, 1.25), ("claude*", 3, 15, 0.3), ("gemini*", 1.25, 10, None))

SETTINGS: Final = {
    "CACHE__TTL_SECONDS": "3600",
    "CACHE__NEGATIVE_TTL_SECONDS": "3600",
    "EXCHANGE__AUTHORIZE_SECONDS": "10",
    "EXCHANGE__INSPECT_SECONDS": "30",
    "POSTGRES__ACQUIRE_SECONDS": "5",
    "POSTGRES__QUERY_SECONDS": "5",
    "REDACTION__HASH_KEY": "a key of the recorded conversations, 32+",
    "SERVER__DRAIN_DELAY_SECONDS": "0",
    "TELEMETRY__METRICS_PORT": "0",
    "TELEMETRY__SLOW_REQUEST_MS": "60000",
    "VALKEY__OPERATION_SECONDS": "2",
}
"""Wide budgets: how a conversation goes must not depend on how busy the machine is."""


def presented(key_id: str, secret: str = "") -> str:
    """Return the whole key with this id; its secret is the id, repeated, unless given."""
    checked = f"egk_{key_id}_{secret or secret_of(key_id)}"
    number = zlib.crc32(checked.encode())
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    check = ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        check = alphabet[digit] + check
    return checked + check


def secret_of(key_id: str) -> str:
    """Return the secret of a key."""
    return (key_id * 4)[:43]


@dataclass(frozen=True, slots=True)
class Rooms:
    """Databases that one worker has for itself."""

    dsn: str
    valkey: str


@dataclass
class Stores:
    """A PostgreSQL with a migrated and filled template, and a Valkey; one database a server."""

    dsn: str
    valkey: str
    place: Path
    webhook: str
    _count: int = field(default=0)

    async def new_rooms(self, policies: frozenset[str], keys: frozenset[str]) -> Rooms:
        """Make a database with these policies and keys, and choose a free one of Valkey's."""
        self._count += 1
        number = self._count
        name = f"recorded_{number}"
        connection = await asyncpg.connect(self.dsn.replace("/egret?", "/postgres?"))
        try:
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE egret")
        finally:
            await connection.close()
        dsn = self.dsn.replace("/egret?", f"/{name}?")
        connection = await asyncpg.connect(dsn)
        try:
            async with connection.transaction():
                await _fill(connection, self._documents(policies), keys)
        finally:
            await connection.close()
        return Rooms(dsn, f"{self.valkey}?db={number}")

    def _documents(self, policies: frozenset[str]) -> dict[str, str]:
        text = POLICIES.read_text().replace("HOOK", self.webhook)
        documents = [part.strip() + "\n" for part in text.split("\n---\n")]
        named = {str(yaml.safe_load(one)["name"]): one for one in documents}
        return {name: named[name] for name in sorted(policies)}


async def _fill(
    connection: asyncpg.Connection[asyncpg.Record],
    documents: Mapping[str, str],
    keys: frozenset[str],
) -> None:
    for name, document in documents.items():
        await connection.execute("INSERT INTO policies (name, version) VALUES ($1, 1)", name)
        await connection.execute(
            "INSERT INTO policy_versions (policy_name, version, document) VALUES ($1, 1, $2)",
            name, document,
        )  # fmt: skip
    for row in ORGANIZATIONS:
        policy = row["policy"] if row["policy"] in documents else None
        await connection.execute(
            "INSERT INTO organizations (id, name, enabled, policy_name) VALUES ($1, $2, $3, $4)",
            f"org_{row['name']}", row["name"], row["enabled"], policy,
        )  # fmt: skip
    for row in TEAMS:
        policy = row["policy"] if row["policy"] in documents else None
        await connection.execute(
            "INSERT INTO teams (id, organization_id, name, enabled, policy_name, allowed_models,"
            " limits) VALUES ($1, $2, $3, $4, $5, $6, $7)",
            f"team_{row['name']}", f"org_{row['organization']}", row["name"], row["enabled"],
            policy, row["allowed_models"], orjson.dumps(row["limits"]).decode(),
        )  # fmt: skip
    for name in sorted(keys):
        await _add_key(connection, name, KEYS[name])
    for model, *price in PRICES:
        await connection.execute(
            "INSERT INTO prices (model, valid_from, input_per_million, output_per_million,"
            " cached_input_per_million) VALUES ($1, '2020-01-01T00:00:00Z', $2, $3, $4)",
            model, *price,
        )  # fmt: skip


async def _add_key(connection: asyncpg.Connection[asyncpg.Record], name: str, row: KeyRow) -> None:
    await connection.execute(
        "INSERT INTO api_keys (public_id, secret_sha256, team_id, name, policy_name, enabled,"
        " not_before, expires_at, revoked_at, allowed_models, allowed_operations,"
        " allowed_sources, limits, priority)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7::text::timestamptz, $8::text::timestamptz,"
        " $9::text::timestamptz, $10, $11, $12::text[]::cidr[], $13, $14)",
        row.key_id, hashlib.sha256(secret_of(row.key_id).encode()).digest(),
        f"team_{row.team}", name, row.policy, row.enabled, row.not_before, row.expires_at,
        row.revoked_at, row.allowed_models, row.allowed_operations, row.allowed_sources,
        orjson.dumps(row.limits).decode(), row.priority,
    )  # fmt: skip


@asynccontextmanager
async def running_stores() -> AsyncIterator[Stores]:
    """Start PostgreSQL, Valkey and the server of remote guardrails."""
    # Not pytest's directory: its parents are closed to the user that PostgreSQL runs as.
    place = Path(tempfile.mkdtemp(prefix="egret-rec-"))
    try:
        async with AsyncExitStack() as stack:
            children = Children()
            logs = place / "logs"
            logs.mkdir()
            dsn = await stack.enter_async_context(
                running_postgres(children, directory=place / "pg", logs=logs)
            )
            valkey = await stack.enter_async_context(
                running_valkey(children, directory=place / "vk", logs=logs)
            )
            hooks = await stack.enter_async_context(webhook_server(_webhook))
            await _run("migrate", environment={"EGRET_POSTGRES__DSN": dsn})
            yield Stores(dsn, valkey, place, hooks.url.removesuffix("/check"))
    finally:
        shutil.rmtree(place, ignore_errors=True)


async def _webhook(request: web.Request) -> web.StreamResponse:
    finding = {"text": 1, "start": 0, "end": 5, "type": "GREETING"}
    match request.path:
        case "/pass" | "/block" | "/flag":
            return web.json_response({"verdict": request.path[1:]})
        case "/redact":
            return web.json_response({"verdict": "redact", "findings": [finding]})
        case "/slow":
            await asyncio.sleep(0.5)
            return web.json_response({"verdict": "pass"})
        case "/hang":
            await asyncio.sleep(600)
            return web.Response(status=500)
        case "/rubbish":
            return web.json_response({"verdict": "perhaps"})
        case _:
            return web.Response(status=500)


async def _run(*arguments: str, environment: Mapping[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidecar", *arguments,
        env={**inherited_environment(), **environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{arguments} failed: {output.decode()}")


@dataclass
class Served:
    """One worker, ready: its socket, its log, its metrics, its spans and its database."""

    channel: grpc.aio.Channel
    calls: grpc.Channel
    """For conversations."""
    dsn: str
    otlp: OtlpReceiver
    _log: Path
    _metrics_port: str
    _process: asyncio.subprocess.Process
    _read_bytes: int = 0

    async def export(self, message: bytes) -> None:
        """Send a message of the access log; it is on the worker's disk once this returns."""
        await self.channel.unary_unary(EXPORT, bytes, bytes)(message, timeout=20)

    def new_lines(self) -> list[dict[str, Any]]:
        """Return the log lines that were written since the last call."""
        with self._log.open("rb") as log:
            log.seek(self._read_bytes)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        return [orjson.loads(line) for line in whole.splitlines() if line.startswith(b"{")]

    def counts(self) -> Counter[str]:
        """Return what the worker's files of metrics count."""
        (directory,) = self._log.parent.glob("egret-metrics-*")
        return counts_in_files(directory)

    async def metrics(self) -> str:
        """Return the exposition of all metrics."""
        return await asyncio.to_thread(self._fetch)

    def _fetch(self) -> str:
        url = f"http://127.0.0.1:{self._metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=60) as response:
            return str(response.read(), "utf-8")

    async def run_sql(self, statement: str) -> None:
        """Run a statement as an administrator, and give the worker time to notice."""
        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()
        await asyncio.sleep(0.5)

    async def rows(self, query: str) -> list[dict[str, Any]]:
        """Return what a query finds."""
        connection = await asyncpg.connect(self.dsn)
        try:
            return [dict(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    async def stop(self) -> None:
        """Let the worker drain, write what is left and send its last spans."""
        if self._process.returncode is None:
            self._process.terminate()
            async with asyncio.timeout(START_SECONDS):
                await self._process.wait()

    def spans(self) -> list[Span]:
        """Return every span that came."""
        return [
            span
            for request in self.otlp.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@asynccontextmanager
async def serving(
    stores: Stores, rooms: Rooms, settings: Mapping[str, str]
) -> AsyncIterator[Served]:
    """Run `egret serve` with one worker until the block ends."""
    place = Path(tempfile.mkdtemp(prefix="w", dir=stores.place))
    log = place / "log"
    with ExitStack() as stack, otlp_receiver() as otlp, log.open("ab") as output:
        given = {
            **SETTINGS,
            "POSTGRES__DSN": rooms.dsn,
            "SERVER__SOCKET_DIRECTORY": str(place / "s"),
            "TELEMETRY__OTLP_ENDPOINT": otlp.endpoint,
            "USAGE__SPOOL_DIRECTORY": str(place / "usage"),
            "VALKEY__URL": rooms.valkey,
            **settings,
        }
        environment = inherited_environment() | {"TMPDIR": str(place)}
        environment |= {f"EGRET_{name}": value for name, value in given.items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sidecar", "serve", "--workers", "1",
            env=environment, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            options = [("grpc.max_receive_message_length", -1)]
            target = f"unix:{place / 's' / 'worker-0.sock'}"
            async with grpc.aio.insecure_channel(target, options=options) as channel:
                await _until_ready(channel, process, log)
                calls = stack.enter_context(grpc.insecure_channel(target, options=options))
                served = Served(channel, calls, rooms.dsn, otlp, log, _metrics_port(log), process)
                served.new_lines()
                yield served
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()


async def _until_ready(
    channel: grpc.aio.Channel, process: asyncio.subprocess.Process, log: Path
) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    async with asyncio.timeout(START_SECONDS):
        while True:
            if process.returncode is not None:
                raise RuntimeError(f"egret serve ended; its log is {log}")
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
                continue
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
            await asyncio.sleep(0.05)


def _metrics_port(log: Path) -> str:
    lines = [line for line in log.read_text().splitlines() if "supervisor.started" in line]
    return str(orjson.loads(lines[0])["metrics_port"])
