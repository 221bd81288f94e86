"""Certificates on both sides: a client's towards Envoy, Envoy's towards an Egret elsewhere."""

from __future__ import annotations

import asyncio
import copy
import json
import secrets
import shutil
import ssl
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import aiohttp
import pytest
import yaml
from egret_tools.devstack.credentials import (
    ServerCertificate,
    write_authority,
    write_certificate,
    write_certificates,
    write_credential,
)
from egret_tools.devstack.envoy import EnvoyRun, running_envoy
from egret_tools.devstack.envoy_config import (
    EgretService,
    EnvoyParameters,
    Provider,
    render_envoy_config,
)
from egret_tools.devstack.processes import Children, free_port
from egret_tools.mock_llm.server import MockSettings, running_mock
from pydantic import SecretStr

from sidecar.extproc.stream import Budgets, Call, StreamEnd
from sidecar.server.grpc_server import GrpcServer
from sidecar.server.options import NetworkAddress, ServerOptions, TlsFiles
from sidecar.settings.serving import ServerSettings
from sidecar.telemetry.logs import configure_logs
from tests.support.authority import Authority
from tests.support.conversation import cleared
from tests.support.scripted import ScriptedHandler, at_once, scripted

pytestmark = pytest.mark.stack

KEY = SecretStr("sk-made-up")
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}


@dataclass
class Egret:
    """Passes every request, and counts them."""

    passed: int = 0

    async def converse(self, stream: Call, metadata: Mapping[str, str]) -> StreamEnd:
        """Hold one conversation."""
        self.passed += 1
        budgets = Budgets(
            authorize_seconds=5, body_seconds=5, body_idle_seconds=5, inspect_seconds=5
        )
        handler = ScriptedHandler(headers=at_once(cleared()), body=at_once(cleared()))
        return await scripted(handler, budgets, max_body_bytes=1 << 20)(stream, metadata)


@dataclass
class Parties:
    """Who vouches for whom, with their files."""

    place: Path
    servers: Authority = field(init=False)
    envoys: Authority = field(init=False)
    clients: Authority = field(init=False)

    def __post_init__(self) -> None:
        self.servers, self.envoys, self.clients = (
            Authority(self.place / name) for name in ("servers", "envoys", "clients")
        )

    def client_context(self, gateway_ca: Path, *, identity: bool) -> ssl.SSLContext:
        """Return what a client trusts, and shows if it has an *identity*."""
        context = ssl.create_default_context(cafile=str(gateway_ca))
        if identity:
            own = self.clients.identity("client")
            context.load_cert_chain(own["cert_file"], own["key_file"])
        return context


@pytest.fixture
def parties() -> Iterator[Parties]:
    place = Path(tempfile.mkdtemp(prefix="egret-mutual-"))
    yield Parties(place)
    shutil.rmtree(place)


@asynccontextmanager
async def _egret(
    parties: Parties,
    *,
    port: int | None = None,
    drain_delay_seconds: float = 0,
    not_after: datetime | None = None,
) -> AsyncIterator[tuple[Egret, int]]:
    """Serve on *port*, or any, as one pod does."""
    port = port or free_port()
    own = parties.servers.identity("localhost", file=f"{port}", not_after=not_after)
    tls = TlsFiles(own["cert_file"], own["key_file"], parties.envoys.ca_file)
    options = ServerOptions(
        socket_path=parties.place / f"{port}" / "worker-0.sock",
        socket_mode=0o600,
        max_message_bytes=1 << 20,
        drain_delay_seconds=drain_delay_seconds,
        drain_grace_seconds=1,
        network=NetworkAddress("127.0.0.1", port, tls),
    )
    egret = Egret()
    server = GrpcServer(options, egret.converse)
    await server.start()
    server.set_ready(is_ready=True)
    yield egret, port
    await server.drain()


@dataclass(frozen=True)
class Gateway:
    """Where Envoy listens, whom to trust for it, and what the provider has seen."""

    port: int
    ca_file: Path
    debug_url: str
    admin_url: str

    async def stat(self, name: str) -> int:
        """Return one of Envoy's counters or gauges."""
        async with (
            aiohttp.ClientSession(self.admin_url) as client,
            client.get("/stats", params={"filter": f"^{name}$", "format": "json"}) as answer,
        ):
            (found,) = (await answer.json(content_type=None))["stats"]
            return int(found["value"])

    async def statuses(self, context: ssl.SSLContext, until: asyncio.Event) -> Counter[int]:
        """Ask again and again on one connection, as clients do; return how often it was what."""
        url = f"https://localhost:{self.port}/v1/chat/completions"
        found: Counter[int] = Counter()
        async with aiohttp.ClientSession() as client:
            while not until.is_set():
                async with client.post(url, json=CHAT, ssl=context) as answer:
                    found[answer.status] += 1
        return found

    async def status(self, context: ssl.SSLContext) -> int:
        """Return the status of one request, on a connection of its own."""
        url = f"https://localhost:{self.port}/v1/chat/completions"
        async with (
            aiohttp.ClientSession() as client,
            client.post(url, json=CHAT, ssl=context) as answer,
        ):
            return answer.status

    async def reached(self) -> int:
        """Return how many requests reached the provider."""
        async with (
            aiohttp.ClientSession(self.debug_url) as client,
            client.get("/count") as answer,
        ):
            return int((await answer.json())["count"])


@asynccontextmanager
async def _gateway(
    parties: Parties,
    port: int,
    *further: int,
    envoys: Authority,
    not_after: datetime | None = None,
) -> AsyncIterator[Gateway]:
    """Run Envoy before an Egret on each port, with a certificate of *envoys*."""
    certificates = write_certificates(parties.place / "certificates")
    sds = parties.place / "sds"
    sds.mkdir()
    gateway = certificates.gateway
    write_certificate(sds, name="server_certificate", certificate=gateway)
    _write_identity(sds, envoys, not_after)
    write_authority(sds, name="egret_ca", ca_file=parties.servers.ca_file)
    write_authority(sds, name="client_ca", ca_file=parties.clients.ca_file)
    for provider in ("openai", "anthropic"):
        write_credential(sds, name=provider, header_value=SecretStr("Bearer sk-made-up"))
    settings = MockSettings(
        certificate_chain=certificates.provider.chain,
        private_key=certificates.provider.private_key,
        openai_key=KEY, anthropic_key=KEY, azure_key=KEY, gemini_key=KEY, bedrock_key=KEY,
    )  # fmt: skip
    async with running_mock(settings) as mock:
        upstream = Provider(
            host="localhost", address="127.0.0.1", port=mock.port,
            ca_file=str(certificates.provider_ca), credential_header="authorization",
        )  # fmt: skip
        parameters = EnvoyParameters(
            egret_service=EgretService("localhost", port, address="127.0.0.1"),
            wants_client_certificates=True,
            sds_directory=str(sds), openai=upstream, anthropic=upstream,
            https_address="127.0.0.1", https_port=0, sends_usage=False,
            access_log_path=str(parties.place / "access.jsonl"),
        )  # fmt: skip
        run = EnvoyRun(parties.place, parties.place)
        config = _with_ports(render_envoy_config(parameters), further)
        async with running_envoy(Children(), run=run, config=config) as address:
            yield Gateway(
                address.https_port, certificates.gateway_ca, mock.debug_url, address.admin_url
            )


def _write_identity(sds: Path, envoys: Authority, not_after: datetime | None = None) -> None:
    """Write what Envoy shows to Egret, in the place of what it had."""
    own = envoys.identity("envoy", file=secrets.token_hex(4), not_after=not_after)
    write_certificate(
        sds, name="egret_client", certificate=ServerCertificate(own["cert_file"], own["key_file"])
    )


def _with_ports(text: str, ports: Sequence[int]) -> str:
    """Put more endpoints into Egret's cluster: here pods have ports, not addresses."""
    config = yaml.safe_load(text)
    (cluster,) = (one for one in config["static_resources"]["clusters"] if one["name"] == "egret")
    endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    for port in ports:
        further = copy.deepcopy(endpoints[0])
        further["endpoint"]["address"]["socket_address"]["port_value"] = port
        endpoints.append(further)
    return yaml.safe_dump(config)


async def test_a_pod_of_egret_is_replaced_under_load_without_a_failed_request(
    parties: Parties,
) -> None:
    """It drains as a pod that is taken away; the other judges alone, then the new one with it."""
    delay = ServerSettings().drain_delay_seconds
    one, two = free_port(), free_port()
    done = asyncio.Event()
    async with AsyncExitStack() as pods, AsyncExitStack() as old, asyncio.TaskGroup() as group:
        await old.enter_async_context(_egret(parties, port=one, drain_delay_seconds=delay))
        (second, _) = await pods.enter_async_context(_egret(parties, port=two))
        gateway = await pods.enter_async_context(
            _gateway(parties, one, two, envoys=parties.envoys)
        )
        context = parties.client_context(gateway.ca_file, identity=True)
        load = [group.create_task(gateway.statuses(context, done)) for _ in range(4)]
        await old.aclose()
        alone = second.passed
        (replacement, _) = await pods.enter_async_context(_egret(parties, port=one))
        async with asyncio.timeout(60):
            while not replacement.passed:  # noqa: ASYNC110 - Envoy finds it by itself
                await asyncio.sleep(0.05)
        done.set()
        found = [await one_client for one_client in load]
    total = sum(found, Counter[int]())
    assert alone > 0
    assert set(total) == {200}


async def test_with_certificates_on_all_sides_requests_pass(parties: Parties) -> None:
    """Client to Envoy, Envoy to Egret: one request, judged once, at the provider once."""
    async with (
        _egret(parties) as (egret, port),
        _gateway(parties, port, envoys=parties.envoys) as gateway,
    ):
        context = parties.client_context(gateway.ca_file, identity=True)
        assert await gateway.status(context) == 200
        assert (egret.passed, await gateway.reached()) == (1, 1)


async def test_a_client_without_a_certificate_gets_nowhere(parties: Parties) -> None:
    """Its key, good or not, is not even looked at."""
    async with (
        _egret(parties) as (egret, port),
        _gateway(parties, port, envoys=parties.envoys) as gateway,
    ):
        context = parties.client_context(gateway.ca_file, identity=False)
        with pytest.raises(aiohttp.ClientError):
            await gateway.status(context)
        assert (egret.passed, await gateway.reached()) == (0, 0)


async def test_an_envoy_that_egret_does_not_know_lets_nothing_pass(parties: Parties) -> None:
    """Without a verdict a request fails; the provider sees none."""
    async with (
        _egret(parties) as (egret, port),
        _gateway(parties, port, envoys=parties.clients) as gateway,
    ):
        context = parties.client_context(gateway.ca_file, identity=True)
        assert await gateway.status(context) == 500
        assert (egret.passed, await gateway.reached()) == (0, 0)


@pytest.fixture
def lines() -> BytesIO:
    """The log of Egret."""
    stream = BytesIO()
    configure_logs("warning", stream)
    return stream


YESTERDAY = datetime.now(UTC) - timedelta(days=1)
NOT_AFTER = "cluster.egret.ssl.certificate.egret_client.expiration_unix_time_seconds"


async def test_an_egret_whose_certificate_has_expired_is_told_nothing(
    parties: Parties, lines: BytesIO
) -> None:
    """Envoy answers 500 and says why; a new certificate fixes it, and nothing is restarted."""
    async with (
        _egret(parties, not_after=YESTERDAY) as (egret, port),
        _gateway(parties, port, envoys=parties.envoys) as gateway,
    ):
        context = parties.client_context(gateway.ca_file, identity=True)
        assert await _is_refused_by_envoy(gateway, context)
        assert (egret.passed, await gateway.reached()) == (0, 0)
        assert await gateway.stat("cluster.egret.ssl.fail_verify_error") > 0
        assert b"SSLV3_ALERT_CERTIFICATE_EXPIRED" in lines.getvalue()
        parties.servers.identity("localhost", file=f"{port}")
        await _until_served(gateway, context)
    assert "certificate_has_expired" in _details(parties)[0]


async def test_an_envoy_whose_certificate_has_expired_lets_nothing_pass(
    parties: Parties, lines: BytesIO
) -> None:
    """Egret refuses it and says why; Envoy tells since when. Fixed in the same way."""
    async with (
        _egret(parties) as (egret, port),
        _gateway(parties, port, envoys=parties.envoys, not_after=YESTERDAY) as gateway,
    ):
        context = parties.client_context(gateway.ca_file, identity=True)
        assert await _is_refused_by_envoy(gateway, context)
        assert (egret.passed, await gateway.reached()) == (0, 0)
        assert await gateway.stat("cluster.egret.upstream_cx_connect_fail") > 0
        assert await gateway.stat(NOT_AFTER) == int(YESTERDAY.timestamp())
        assert b"certificate has expired" in lines.getvalue()
        _write_identity(parties.place / "sds", parties.envoys)
        await _until_served(gateway, context)
    assert "remote_connection_failure" in _details(parties)[0]


async def _is_refused_by_envoy(gateway: Gateway, context: ssl.SSLContext) -> bool:
    """Ask once: no verdict, Envoy's own 500, and a stream that is counted as failed."""
    url = f"https://localhost:{gateway.port}/v1/chat/completions"
    async with (
        aiohttp.ClientSession() as client,
        client.post(url, json=CHAT, ssl=context) as answer,
    ):
        found = (answer.status, (await answer.json())["error"]["code"])
    failed = await gateway.stat("http.https.ext_proc.egret.streams_failed")
    return (found, failed) == ((500, "gateway_unavailable"), 1)


async def _until_served(gateway: Gateway, context: ssl.SSLContext) -> None:
    async with asyncio.timeout(60):
        while await gateway.status(context) != 200:  # noqa: ASYNC110 - Envoy tries by itself
            await asyncio.sleep(0.05)


def _details(parties: Parties) -> list[str]:
    """Return why each request ended as it did, once Envoy has ended and written all of it."""
    lines = (parties.place / "access.jsonl").read_text().splitlines()
    return [json.loads(line)["details"] for line in lines]
