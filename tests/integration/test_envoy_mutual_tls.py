"""Certificates on both sides: a client's towards Envoy, Envoy's towards an Egret elsewhere."""

from __future__ import annotations

import shutil
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from pydantic import SecretStr

from sidecar.embedded.certificates import write_certificates
from sidecar.embedded.child import Children
from sidecar.embedded.envoy import EnvoyRun, running_envoy
from sidecar.embedded.envoy_config import EgretService, EnvoyParameters, Provider
from sidecar.embedded.envoy_secrets import write_authority, write_certificate, write_credential
from sidecar.exchange.machine import Exchange
from sidecar.mock_llm.server import running_mock
from sidecar.mock_llm.settings import MockSettings
from sidecar.transport.conversation import Budgets, Conversation, Stream
from sidecar.transport.engine import EngineOptions, NetworkAddress, TlsFiles
from sidecar.transport.engines.grpcio import GrpcioEngine
from sidecar.transport.judge import Ending
from tests.support.authority import Authority
from tests.support.conversation import cleared
from tests.support.judge import FakeJudge, at_once, roomy

pytestmark = pytest.mark.stack

KEY = SecretStr("sk-made-up")
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}


@dataclass
class Egret:
    """Passes every request, and counts them."""

    passed: int = 0

    async def converse(self, stream: Stream, metadata: Mapping[str, str]) -> Ending:
        """Hold one conversation."""
        del metadata
        self.passed += 1
        exchange = Exchange(max_body_bytes=1 << 20, wants_response_headers=False)
        budgets = Budgets(
            authorize_seconds=5, body_seconds=5, body_idle_seconds=5, inspect_seconds=5
        )
        judge = FakeJudge(headers=at_once(cleared()), body=at_once(cleared()))
        return await Conversation(
            stream=stream, exchange=exchange, judge=judge, budgets=budgets, load=roomy()
        ).run()


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
async def _egret(parties: Parties) -> AsyncIterator[tuple[Egret, int]]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    own = parties.servers.identity("localhost")
    tls = TlsFiles(own["cert_file"], own["key_file"], parties.envoys.ca_file)
    options = EngineOptions(
        socket_path=parties.place / "worker-0.sock",
        socket_mode=0o600,
        max_message_bytes=1 << 20,
        drain_delay_seconds=0,
        drain_grace_seconds=1,
        network=NetworkAddress("127.0.0.1", port, tls),
    )
    egret = Egret()
    engine = GrpcioEngine(options, egret.converse)
    await engine.start()
    await engine.set_ready(is_ready=True)
    yield egret, port
    await engine.drain()


@dataclass(frozen=True)
class Gateway:
    """Where Envoy listens, whom to trust for it, and what the provider has seen."""

    port: int
    ca_file: Path
    debug_url: str

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
async def _gateway(parties: Parties, port: int, *, envoys: Authority) -> AsyncIterator[Gateway]:
    """Run Envoy before an Egret on *port*, with a certificate of *envoys*."""
    certificates = write_certificates(parties.place / "certificates")
    sds = parties.place / "sds"
    sds.mkdir()
    gateway = certificates.gateway
    write_certificate(
        sds, name="server_certificate", chain=gateway.chain, private_key=gateway.private_key
    )
    own = envoys.identity("envoy", file="envoy")
    write_certificate(
        sds, name="egret_client", chain=own["cert_file"], private_key=own["key_file"]
    )
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
            https_address="127.0.0.1", https_port=0, access_log_path="/dev/null",
            sends_usage=False,
        )  # fmt: skip
        run = EnvoyRun(parties.place, parties.place)
        async with running_envoy(Children(), run=run, parameters=parameters) as address:
            yield Gateway(address.https_port, certificates.gateway_ca, mock.debug_url)


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
