"""Secrets that are replaced as Kubernetes does it, under load; certificates that have expired."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web
from egret_tools.devstack.credentials import TYPE_URL
from egret_tools.devstack.envoy import EnvoyRun, running_envoy
from egret_tools.devstack.envoy_config import EnvoyParameters, Provider, render_envoy_config
from egret_tools.devstack.processes import Children

from tests.support.placeholder_processor import allow, running_processor
from tests.support.web_app import served

pytestmark = pytest.mark.stack

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
PATIENCE_SECONDS = 60


@dataclass
class Volume:
    """A folder as a kubelet fills it: all of its files change at once, by one rename."""

    folder: Path
    versions: int = 0

    def write(self, files: Mapping[str, bytes]) -> None:
        """Replace the content."""
        self.versions += 1
        version = self.folder / f"..{self.versions}"
        version.mkdir(parents=True)
        for name, content in files.items():
            (version / name).write_bytes(content)
            link = self.folder / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        new = self.folder / "..data_tmp"
        new.symlink_to(version.name)
        new.replace(self.folder / "..data")


def _credential(name: str, value: str) -> bytes:
    return _secret(name, {"generic_secret": {"secret": {"inline_string": value}}})


def _secret(name: str, secret: Mapping[str, object]) -> bytes:
    return json.dumps({"resources": [{"@type": TYPE_URL, "name": name, **secret}]}).encode()


def _pair(issued: trustme.LeafCert) -> dict[str, bytes]:
    chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
    return {"tls.crt": chain, "tls.key": issued.private_key_pem.bytes()}


@dataclass
class LlmProvider:
    """Answers with whatever key it is asked, and counts them."""

    authority: trustme.CA = field(default_factory=trustme.CA)
    port: int = 0
    keys: Counter[str] = field(default_factory=Counter)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer once the request is whole."""
        await request.read()
        self.keys[request.headers.get("authorization", "")] += 1
        return web.json_response({})


@asynccontextmanager
async def running_provider(*, not_after: datetime | None = None) -> AsyncIterator[LlmProvider]:
    """Serve over TLS, with a certificate that may be over."""
    provider = LlmProvider()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    provider.authority.issue_cert("localhost", not_after=not_after).configure_cert(tls)
    app = web.Application()
    app.router.add_post("/{path:.*}", provider.answer)
    async with served(app, tls=tls, access_log=None, shutdown_timeout=1) as provider.port:
        yield provider


@dataclass
class Gateway:
    """Envoy, its secrets, and what its clients saw."""

    place: Path
    servers: tuple[trustme.CA, trustme.CA] = field(
        default_factory=lambda: (trustme.CA(), trustme.CA())
    )
    clients: trustme.CA = field(default_factory=trustme.CA)
    port: int = 0
    statuses: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.sds = Volume(self.place / "sds")
        self.certificate = Volume(self.place / "certificate")
        self.certificate.write(_pair(self.servers[0].issue_cert("localhost")))

    def write_key(self, key: str | None) -> None:
        """Replace the folder of secrets, with this provider's key in it, or without one."""
        folder = self.place / "certificate"
        pair = {
            "certificate_chain": {"filename": str(folder / "tls.crt")},
            "private_key": {"filename": str(folder / "tls.key")},
            "watched_directory": {"path": str(folder)},
        }
        clients = {"trusted_ca": {"inline_string": self.clients.cert_pem.bytes().decode()}}
        self.sds.write(
            {
                "openai.yaml": _credential("openai", f"Bearer {key}" if key else ""),
                "anthropic.yaml": _credential("anthropic", "unused"),
                "server_certificate.yaml": _secret(
                    "server_certificate", {"tls_certificate": pair}
                ),
                "client_ca.yaml": _secret("client_ca", {"validation_context": clients}),
            }
        )

    def context(self, client: trustme.LeafCert | None = None) -> ssl.SSLContext:
        """Return what a client trusts: the old authority and the new."""
        made = ssl.create_default_context()
        for server in self.servers:
            server.configure_trust(made)
        if client is not None:
            client.configure_cert(made)
        return made

    async def ask(self, client: aiohttp.ClientSession, context: ssl.SSLContext) -> int:
        """Send one request and return its status."""
        url = f"https://localhost:{self.port}/v1/chat/completions"
        async with client.post(url, json=CHAT, ssl=context) as answer:
            return answer.status

    async def ask_until(self, done: asyncio.Event, *, keeps: bool) -> None:
        """Send requests, on one connection or on a new one each."""
        context = self.context()
        connector = aiohttp.TCPConnector(force_close=not keeps)
        async with aiohttp.ClientSession(connector=connector) as client:
            while not done.is_set():
                self.statuses[await self.ask(client, context)] += 1

    async def is_vouched_for_by(self, server: trustme.CA) -> bool:
        """Tell whether who trusts this authority alone can connect."""
        context = ssl.create_default_context()
        server.configure_trust(context)
        try:
            _, writer = await asyncio.open_connection("localhost", self.port, ssl=context)
        except ssl.SSLError:
            return False
        writer.close()
        return True

    async def until_vouched_for_by(self, server: trustme.CA, *, is_it: bool = True) -> None:
        """Wait until it is so, or not so any more."""
        while await self.is_vouched_for_by(server) is not is_it:  # noqa: ASYNC110 - of Envoy
            await asyncio.sleep(0.02)


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder with a path short enough for Unix sockets."""
    made = Path(tempfile.mkdtemp(prefix="egret-rot-"))
    yield made
    shutil.rmtree(made)


@asynccontextmanager
async def running_gateway(
    place: Path,
    provider: LlmProvider,
    *,
    wants_client_certificates: bool = False,
    key: str | None = "first",
) -> AsyncIterator[Gateway]:
    """Run Envoy as the template has it, before this provider."""
    gateway = Gateway(place)
    gateway.write_key(key)
    ca_file = place / "provider-ca.pem"
    provider.authority.cert_pem.write_to_path(ca_file)
    upstream = Provider(
        host="localhost", address="127.0.0.1", port=provider.port, ca_file=str(ca_file),
        credential_header="authorization",
    )  # fmt: skip
    parameters = EnvoyParameters(
        worker_sockets=(str(place / "w.sock"),), sds_directory=str(place / "sds"),
        openai=upstream, anthropic=upstream, https_address="127.0.0.1", https_port=0,
        access_log_path=str(place / "access.log"), sends_usage=False,
        wants_client_certificates=wants_client_certificates,
    )  # fmt: skip
    run = EnvoyRun(place, place)
    async with (
        running_processor(allow(remove=("authorization",)), socket=place / "w.sock"),
        running_envoy(Children(), run=run, config=render_envoy_config(parameters)) as address,
    ):
        gateway.port = address.https_port
        yield gateway


async def test_key_and_certificate_are_replaced_under_load_without_a_failed_request(
    place: Path,
) -> None:
    """Requests on old connections and on new ones; in the end all go by what is new."""
    done = asyncio.Event()
    async with (
        running_provider() as provider,
        running_gateway(place, provider) as gateway,
        asyncio.timeout(PATIENCE_SECONDS),
        asyncio.TaskGroup() as group,
    ):
        for keeps in (True, True, False, False):
            group.create_task(gateway.ask_until(done, keeps=keeps))
        await _until_seen(provider, "Bearer first")
        assert await gateway.is_vouched_for_by(gateway.servers[0])
        gateway.certificate.write(_pair(gateway.servers[1].issue_cert("localhost")))
        gateway.write_key("second")
        await gateway.until_vouched_for_by(gateway.servers[1])
        await _until_seen(provider, "Bearer second")
        done.set()
    assert set(gateway.statuses) == {200}
    assert set(provider.keys) == {"Bearer first", "Bearer second"}


async def _until_seen(provider: LlmProvider, key: str) -> None:
    while provider.keys[key] < 50:  # noqa: ASYNC110 - by many
        await asyncio.sleep(0.02)


async def test_a_provider_without_a_credential_is_asked_nothing(place: Path) -> None:
    """Envoy answers 401 itself, for as long as the secret is empty."""
    async with (
        running_provider() as provider,
        running_gateway(place, provider, key=None) as gateway,
        aiohttp.ClientSession() as client,
    ):
        assert await gateway.ask(client, gateway.context()) == 401
        assert not provider.keys
        gateway.write_key("first")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await gateway.ask(client, gateway.context()) != 200:  # noqa: ASYNC110 - Envoy reads it
                await asyncio.sleep(0.02)
    assert set(provider.keys) == {"Bearer first"}


YESTERDAY = datetime.now(UTC) - timedelta(days=1)


async def test_a_provider_whose_certificate_has_expired_gets_nothing(place: Path) -> None:
    """503, and Envoy's log says why."""
    async with (
        running_provider(not_after=YESTERDAY) as provider,
        running_gateway(place, provider) as gateway,
        aiohttp.ClientSession() as client,
    ):
        assert await gateway.ask(client, gateway.context()) == 503
        assert not provider.keys
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (written := (place / "access.log").read_text()):  # noqa: ASYNC110 - Envoy's
                await asyncio.sleep(0.02)
    assert "certificate_has_expired" in json.loads(written)["upstream_failure"]


@pytest.mark.parametrize(
    ("not_after", "is_served"), [(None, True), (YESTERDAY, False)], ids=["good", "expired"]
)
async def test_a_client_whose_certificate_has_expired_gets_nowhere(
    place: Path, *, not_after: datetime | None, is_served: bool
) -> None:
    """Whatever key it has; with a good one it is served."""
    async with (
        running_provider() as provider,
        running_gateway(place, provider, wants_client_certificates=True) as gateway,
        aiohttp.ClientSession() as client,
    ):
        own = gateway.clients.issue_cert("client", not_after=not_after)
        with nullcontext() if is_served else pytest.raises(aiohttp.ClientError):
            assert await gateway.ask(client, gateway.context(own)) == 200
        assert bool(provider.keys) is is_served


async def test_a_client_does_not_talk_to_an_envoy_whose_certificate_has_expired(
    place: Path,
) -> None:
    """Nothing is sent; with a new certificate all is well, without a restart."""
    async with (
        running_provider() as provider,
        running_gateway(place, provider) as gateway,
        aiohttp.ClientSession() as client,
    ):
        old, new = gateway.servers
        gateway.certificate.write(_pair(new.issue_cert("localhost", not_after=YESTERDAY)))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await gateway.until_vouched_for_by(old, is_it=False)
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await gateway.ask(client, gateway.context())
            assert not provider.keys
            gateway.certificate.write(_pair(new.issue_cert("localhost")))
            await gateway.until_vouched_for_by(new)
        assert await gateway.ask(client, gateway.context()) == 200
