"""The same records through every way of reaching a Valkey."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from egret_tools.devstack.processes import (
    Children,
    Program,
    free_port,
    until_ready,
    valkey_program,
)
from pydantic import SecretStr
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import AuthenticationError, RedisError

from sidecar.guardrails.message_table import Entry
from sidecar.keys.ports import SharedRecord
from sidecar.settings.process import Settings
from sidecar.settings.sections import inherited_environment
from sidecar.settings.stores import CacheSettings, Invalidation, ValkeyMode, ValkeySettings
from sidecar.storage.postgres_keys import ChangeCallbacks
from sidecar.storage.valkey import SharedTimes, open_valkey
from sidecar.storage.valkey_keys import (
    SharedRecordCodec,
    ValkeyChangeListener,
    ValkeyKeys,
    ValkeyNotPublishedError,
    publish_key_change,
)
from sidecar.storage.valkey_messages import ValkeyMessages
from sidecar.telemetry.key_metrics import SharedOutcome
from tests.support.keys import record_of

pytestmark = pytest.mark.stack

SHARED = SharedRecord(record_of("AAAAAAAAAAA1"), timeline=1, horizon=2, settled=2, read_at=3.0)
LOCKED = ("--requirepass", "hunter2")
ENTRY = Entry(1, 20_000, 2, 3, (), "user", "user")
CODEC = SharedRecordCodec("a secret of thirty-two characters")


async def test_a_further_node_may_have_an_ipv6_address() -> None:
    """In brackets, as in a URL, which no look-up of a host takes."""
    url, nodes = SecretStr("redis://[::1]:6379"), ("[2001:db8::1]:6380", "cache:6381")
    settings = ValkeySettings(url=url, mode=ValkeyMode.CLUSTER, nodes=nodes)
    async with open_valkey(settings) as client:
        assert isinstance(client, RedisCluster)
        found = {(one.host, one.port) for one in client.nodes_manager.startup_nodes.values()}
    assert found == {("::1", 6379), ("2001:db8::1", 6380), ("cache", 6381)}


@asynccontextmanager
async def valkey(directory: Path, *arguments: str, port: int) -> AsyncIterator[None]:
    program = Program(
        part="Valkey",
        command=(
            str(valkey_program()),
            *arguments,
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)),
        ),
        log=directory / f"valkey-{port}.log",
        environment=inherited_environment(),
    )
    async with Children().running(program) as child:
        await until_ready(child, lambda: answers(port))
        yield


async def answers(port: int) -> bool:
    async with Redis(port=port) as client:
        try:
            await client.ping()
        except AuthenticationError:
            return True
        except (RedisError, OSError):
            return False
        return True


def password_file(directory: Path) -> Path:
    file = directory / "password"
    file.write_text("hunter2\n")
    return file


@asynccontextmanager
async def standalone(directory: Path) -> AsyncIterator[ValkeySettings]:
    port = free_port()
    async with valkey(directory, *LOCKED, port=port):
        yield ValkeySettings(url=SecretStr(f"redis://:hunter2@127.0.0.1:{port}/1"))


@asynccontextmanager
async def cluster(directory: Path) -> AsyncIterator[ValkeySettings]:
    port, bus = free_port(), free_port()
    arguments = ("--cluster-enabled", "yes", "--cluster-port", str(bus), *LOCKED)
    async with (
        valkey(directory, *arguments, port=port),
        Redis(port=port, password="hunter2") as client,
    ):
        command: Any = client.execute_command  # has no types (redis 8.1)
        await command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while b"cluster_state:ok" not in await command("CLUSTER", "INFO"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        yield ValkeySettings(
            url=SecretStr(f"redis://127.0.0.1:{free_port()}"),
            password_file=password_file(directory),
            nodes=(f"127.0.0.1:{port}",),
            mode=ValkeyMode.CLUSTER,
        )


@asynccontextmanager
async def sentinel(directory: Path) -> AsyncIterator[ValkeySettings]:
    port, sentinel_port = free_port(), free_port()
    config = directory / "sentinel.conf"
    config.write_text(
        f"sentinel monitor egret 127.0.0.1 {port} 1\nsentinel auth-pass egret hunter2\n",
        encoding="ascii",
    )
    async with (
        valkey(directory, *LOCKED, port=port),
        valkey(directory, str(config), "--sentinel", port=sentinel_port),
    ):
        yield ValkeySettings(
            url=SecretStr(f"redis://127.0.0.1:{sentinel_port}/1"),
            password_file=password_file(directory),
            mode=ValkeyMode.SENTINEL,
            sentinel_master="egret",
        )


@asynccontextmanager
async def tls(directory: Path) -> AsyncIterator[ValkeySettings]:
    """TLS ends just before the server: the wheel's is built without it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(directory / "ca.pem")
    port, plain_port = free_port(), free_port()

    endpoint = Endpoint(plain_port)

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(valkey(directory, port=plain_port))
        server = await asyncio.start_server(endpoint.open, "127.0.0.1", port, ssl=context)
        stack.callback(server.close)
        yield ValkeySettings(
            url=SecretStr(f"rediss://localhost:{port}/0"), ca_file=directory / "ca.pem"
        )


WAYS = {"standalone": standalone, "cluster": cluster, "sentinel": sentinel, "tls": tls}


@pytest.mark.parametrize("way", list(WAYS))
async def test_records_and_a_change_go_through(tmp_path: Path, way: str) -> None:
    """Write, read, discard; share a conversation; publish, hear."""
    heard: asyncio.Queue[str | SharedOutcome] = asyncio.Queue()
    callbacks = ChangeCallbacks(
        on_key=heard.put_nowait,
        on_scope=lambda scope: heard.put_nowait(f"scope {scope}"),
        on_listening=lambda: heard.put_nowait("listening"),
        on_lost=lambda: None,
        on_policies=lambda: None,
    )
    async with WAYS[way](tmp_path) as settings, open_valkey(wide(settings)) as client:
        keys = ValkeyKeys(
            client,
            CODEC,
            times=SharedTimes(keep_seconds=600, operation_seconds=5),
            count=lambda _outcome: None,
        )
        await keys.put("AAAAAAAAAAA1", SHARED)
        found = await keys.get("AAAAAAAAAAA1")
        await keys.discard("AAAAAAAAAAA1")
        gone = await keys.get("AAAAAAAAAAA1")

        messages = ValkeyMessages(
            client,
            bytes(32),
            times=SharedTimes(keep_seconds=600, operation_seconds=5),
            count=heard.put_nowait,
        )
        digests = [bytes([number]) * 32 for number in range(3)]
        messages.put(digests[1], ENTRY)
        outcomes = [await heard.get()]
        shared = await messages.last_of(digests)
        outcomes.append(await heard.get())

        listening = asyncio.ensure_future(ValkeyChangeListener(settings, callbacks).run())
        began = await heard.get()
        await publish_key_change(publishing(settings), "AAAAAAAAAAA1", "team:t")
        told = [await heard.get(), await heard.get()]
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)

    assert (found, gone) == (SHARED, None)
    assert shared == (1, ENTRY)
    assert outcomes == [SharedOutcome.WRITTEN, SharedOutcome.HIT]
    assert (began, told) == ("listening", ["AAAAAAAAAAA1", "scope team:t"])


@pytest.mark.parametrize("way", list(WAYS))
async def test_more_calls_at_once_than_connections_all_get_their_answer(
    tmp_path: Path, way: str
) -> None:
    outcomes: list[SharedOutcome] = []
    times = SharedTimes(keep_seconds=600, operation_seconds=5)
    async with WAYS[way](tmp_path) as settings:
        few = wide(settings).model_copy(update={"pool_size": 4})
        async with open_valkey(few) as client:
            keys = ValkeyKeys(client, CODEC, times=times, count=outcomes.append)
            await keys.put("AAAAAAAAAAA1", SHARED)
            found = await asyncio.gather(*[keys.get("AAAAAAAAAAA1") for _ in range(120)])
            messages = ValkeyMessages(client, bytes(32), times=times, count=outcomes.append)
            await asyncio.gather(*[messages.last_of([bytes(32)]) for _ in range(120)])

    assert found == [SHARED] * 120
    assert SharedOutcome.UNAVAILABLE not in outcomes


@dataclass
class Endpoint:
    """A name of the primary: whichever it leads to now gets the connections made from now on."""

    leads_to: int

    async def open(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection."""
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self.leads_to)
        await asyncio.gather(
            copied(reader, inner_writer), copied(inner_reader, writer), return_exceptions=True
        )


async def copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy bytes until the end of the stream."""
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()
    writer.close()


@pytest.mark.parametrize("call", ["record", "conversation", "script"])
async def test_a_primary_that_has_become_a_replica_is_left_at_its_first_answer(
    tmp_path: Path, call: str
) -> None:
    """It keeps its connections open, while its name leads to another server."""
    primary, other = free_port(), free_port()
    endpoint = Endpoint(primary)
    outcomes: list[SharedOutcome] = []
    times = SharedTimes(keep_seconds=600, operation_seconds=5)
    async with AsyncExitStack() as stack:
        for port in (primary, other):
            await stack.enter_async_context(valkey(tmp_path, port=port))
        server = await asyncio.start_server(endpoint.open, "127.0.0.1", 0)
        stack.callback(server.close)
        url = SecretStr(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        client = await stack.enter_async_context(open_valkey(wide(ValkeySettings(url=url))))
        keys = ValkeyKeys(client, CODEC, times=times, count=outcomes.append)
        script = client.register_script("return redis.call('SET', KEYS[1], 'a')")

        async def write() -> None:
            if call == "record":
                await keys.put("AAAAAAAAAAA1", SHARED)
            elif call == "conversation":
                pipeline: Any  # typed only in part (redis 8.1)
                async with client.pipeline(transaction=False) as pipeline:
                    await pipeline.set("a", 1).set("b", 2).execute()
            else:
                await script(keys=["a"])

        for _ in range(2):
            await asyncio.gather(*[keys.put("AAAAAAAAAAA1", SHARED) for _ in range(4)])
        async with Redis(port=primary) as demoted:
            await demoted.replicaof("127.0.0.1", str(other))
        endpoint.leads_to = other
        outcomes.clear()
        with suppress(RedisError):
            await write()
        await asyncio.gather(*[write() for _ in range(4)])

    assert outcomes.count(SharedOutcome.UNAVAILABLE) == (call == "record")


def wide(settings: ValkeySettings) -> ValkeySettings:
    """What a test waits for must not depend on how busy the machine is."""
    return settings.model_copy(update={"operation_seconds": 5.0})


def publishing(settings: ValkeySettings) -> Settings:
    return Settings(valkey=settings, cache=CacheSettings(invalidation=Invalidation.BOTH))


async def test_a_change_that_cannot_be_published_is_an_error_that_says_so() -> None:
    """The command line tells its user that workers were not told."""
    settings = ValkeySettings(url=SecretStr(f"redis://:hunter2@127.0.0.1:{free_port()}"))

    with pytest.raises(ValkeyNotPublishedError) as caught:
        await publish_key_change(publishing(settings), "AAAAAAAAAAA1")

    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"
