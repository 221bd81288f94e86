"""Every configuration that we ship serves the official clients; only its addresses are others."""

from __future__ import annotations

import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import anthropic
import httpx2
import openai
import pytest
import pytest_asyncio
import yaml
from egret_tools.devstack.credentials import (
    ServerCertificate,
    write_authority,
    write_certificate,
    write_credential,
)
from egret_tools.devstack.envoy_config import render_envoy_config
from egret_tools.devstack.processes import free_port
from pydantic import SecretStr

from tests.support.at_home import LOOPBACK, Home, at_home
from tests.support.authority import Authority
from tests.support.clients import ask_claude, ask_gpt
from tests.support.deployments import DEPLOYMENTS
from tests.support.helm import CASES, CHART, one, render
from tests.support.routed_gateway import RoutedWorld, key_of, routed_world
from tests.support.second_gateway import Config, ext_proc_filters
from tests.support.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.asyncio(loop_scope="session")]

DEPLOY = CHART.parents[1]
EGRET = "egret.egret.svc"
"""What our configurations call an Egret elsewhere."""
SELF_HOSTED = "models.internal"
WORDS = "The mock model was given 27 characters."
BAD_KEY = "egk_AAAAAAAAAAAA_" + 49 * "A"


def _of_template(name: str) -> Callable[[Path], Config]:
    return lambda sds: yaml.safe_load(render_envoy_config(DEPLOYMENTS[name](sds)))


def _of_file(path: Path) -> Callable[[Path], Config]:
    return lambda sds: yaml.safe_load(path.read_text())  # noqa: ARG005 - it has its own


def _of_chart(case: str) -> Callable[[Path], Config]:
    def config(sds: Path) -> Config:
        del sds
        resources = render("helm4", case=case)
        name = one(resources, "Deployment")["metadata"]["name"]
        loaded: Config = json.loads(
            one(resources, "ConfigMap", f"{name}-envoy")["data"]["envoy.json"]
        )
        return loaded

    return config


def _with_the_filter_of_istios_example(sds: Path) -> Config:
    """The rest is Istio's own and of the user's routes; here it is our plain Envoy's."""
    config = _of_file(DEPLOY / "gateways" / "envoy" / "standalone.yaml")(sds)
    resources = yaml.safe_load_all(
        (DEPLOY / "gateways" / "istio" / "envoy-filter.yaml").read_text()
    )
    (patched,) = (each for each in resources if each["kind"] == "EnvoyFilter")
    theirs = patched["spec"]["configPatches"][0]["patch"]["value"]["typed_config"]
    theirs["grpc_service"]["envoy_grpc"]["cluster_name"] = "egret"
    for settings in ext_proc_filters(config):
        settings.clear()
        settings.update(theirs)
    return config


CONFIGURATIONS: Mapping[str, Callable[[Path], Config]] = {
    **{f"template: {name}": _of_template(name) for name in DEPLOYMENTS},
    "deploy/gateways/envoy": _of_file(DEPLOY / "gateways" / "envoy" / "standalone.yaml"),
    "deploy/gateways/istio": _with_the_filter_of_istios_example,
    "deploy/compose": _of_file(DEPLOY / "compose" / "envoy.yaml"),
    **{f"chart: {case}": _of_chart(case) for case in CASES if case.startswith("sidecar")},
}


@dataclass(frozen=True, slots=True)
class Homestead:
    """The world of one worker, and where all of it is."""

    world: RoutedWorld
    home: Home
    identity: Mapping[str, Path]
    """What clients show where their certificate is wanted."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def homestead(session_stack: Stack) -> AsyncIterator[Homestead]:
    """One worker behind a socket and behind a port with mutual TLS, and a mock a provider."""
    async with AsyncExitStack() as parts:
        place = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="egret-home-")))
        servers, envoys, clients = (
            Authority(place / name) for name in ("servers", "envoys", "clients")
        )
        own, port = servers.identity(EGRET), free_port()
        settings = {
            "EGRET_LISTEN__HOST": LOOPBACK,
            "EGRET_LISTEN__PORT": str(port),
            "EGRET_LISTEN__CERTIFICATE_FILE": str(own["cert_file"]),
            "EGRET_LISTEN__KEY_FILE": str(own["key_file"]),
            "EGRET_LISTEN__CLIENT_CA_FILE": str(envoys.ca_file),
        }
        world = await parts.enter_async_context(routed_world(session_stack, settings=settings))
        sds = Path(world.parameters.sds_directory)
        _write_secrets(sds, servers=servers, envoys=envoys, clients=clients)
        elsewhere = dict.fromkeys(("azure", "gemini", "bedrock"), world.ports["openai"])
        home = Home(
            sds=sds,
            provider_ca=Path(world.parameters.openai.ca_file),
            providers={**elsewhere, **world.ports},
            worker_socket=Path(world.parameters.worker_sockets[0]),
            worker_port=port,
            collector_port=session_stack.collector.grpc_port,
        )
        yield Homestead(world, home, clients.identity("client"))


def _write_secrets(
    sds: Path, *, servers: Authority, envoys: Authority, clients: Authority
) -> None:
    own = envoys.identity("envoy")
    write_certificate(
        sds, name="egret_client", certificate=ServerCertificate(own["cert_file"], own["key_file"])
    )
    write_authority(sds, name="egret_ca", ca_file=servers.ca_file)
    write_authority(sds, name="client_ca", ca_file=clients.ca_file)
    for provider in ("azure", "gemini", "bedrock"):
        write_credential(sds, name=provider, header_value=SecretStr("made up"))
    (sds.parent / "aws").write_text("[default]\naws_access_key_id=a\naws_secret_access_key=b\n")


@dataclass(frozen=True, slots=True)
class Clients:
    """The official clients of one gateway."""

    url: str
    tls: ssl.SSLContext

    def gpt(self, key: str, *, host: str | None = None) -> openai.AsyncOpenAI:
        """Return OpenAI's, which may ask for another host of the same address."""
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key=key,
            default_headers={"host": host} if host else None,
            http_client=httpx2.AsyncClient(verify=self.tls),
            max_retries=0,
        )

    def claude(self, key: str) -> anthropic.AsyncAnthropic:
        """Return Anthropic's."""
        return anthropic.AsyncAnthropic(
            base_url=self.url,
            api_key=key,
            http_client=httpx2.AsyncClient(verify=self.tls),
            max_retries=0,
        )


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway with one of the configurations."""

    config: Config
    clients: Clients
    world: RoutedWorld
    key: str

    @property
    def clusters(self) -> set[str]:
        """The names of those it has."""
        return {cluster["name"] for cluster in self.config["static_resources"]["clusters"]}

    async def reached(self) -> list[tuple[str, set[str]]]:
        """Return which provider got a request, with which keys."""
        return [(one.provider, one.keys) for one in await self.world.seen()]


@pytest_asyncio.fixture(
    scope="module", loop_scope="session", params=CONFIGURATIONS.values(), ids=CONFIGURATIONS
)
async def gateway(homestead: Homestead, request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """Each of the configurations, run by a real Envoy."""
    world = homestead.world
    config = at_home(request.param(homestead.home.sds), homestead.home)
    tls = ssl.create_default_context(cafile=str(world.stack.facts.ca_file))
    tls.load_cert_chain(homestead.identity["cert_file"], homestead.identity["key_file"])
    with tempfile.TemporaryDirectory(prefix="egret-served-") as place:
        async with world.envoy(config, Path(place)) as envoy:
            clients = Clients(envoy.facts.https_url, tls)
            yield Served(config, clients, world, world.stack.keys["redact"])


@pytest_asyncio.fixture(loop_scope="session")
async def served(gateway: Served) -> Served:
    """It, before providers that have received nothing yet."""
    await gateway.world.forget()
    return gateway


async def test_openais_client_is_answered_whole_and_word_by_word(served: Served) -> None:
    """By its provider, with the key that Envoy has for it."""
    async with served.clients.gpt(served.key) as gpt:
        whole = await ask_gpt(gpt)
        chunks = [chunk async for chunk in await ask_gpt(gpt, stream=True)]
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert whole.choices[0].message.content == WORDS
    assert "".join(texts) == WORDS
    assert sum(map(bool, texts)) > 1
    assert await served.reached() == 2 * [("openai", {key_of("openai")})]


async def test_anthropics_client_is_answered_whole_and_word_by_word(served: Served) -> None:
    """The same; without such a provider it is told so, and nobody is asked."""
    async with served.clients.claude(served.key) as claude:
        if "anthropic" not in served.clusters:
            with pytest.raises(anthropic.NotFoundError):
                await ask_claude(claude)
            assert await served.reached() == []
            return
        whole = await ask_claude(claude)
        events = [event async for event in await ask_claude(claude, stream=True)]
    texts = [event.delta.text for event in events if event.type == "content_block_delta"]
    assert whole.content[0].text == WORDS
    assert "".join(texts) == WORDS
    assert len(texts) > 1
    assert await served.reached() == 2 * [("anthropic", {key_of("anthropic")})]


async def test_both_official_clients_raise_their_own_error_for_a_bad_key(served: Served) -> None:
    """Egret judges here, and not only Envoy serves."""
    async with served.clients.gpt(BAD_KEY) as gpt, served.clients.claude(BAD_KEY) as claude:
        with pytest.raises(openai.AuthenticationError):
            await ask_gpt(gpt)
        with pytest.raises(anthropic.AuthenticationError):
            await ask_claude(claude)
    assert await served.reached() == []


async def test_models_of_ones_own_are_asked_for_by_openais_client(served: Served) -> None:
    """By their host, where the configuration has some; nowhere is another provider asked."""
    async with served.clients.gpt(served.key, host=SELF_HOSTED) as gpt:
        answer = await ask_gpt(gpt)
        chunks = [chunk async for chunk in await ask_gpt(gpt, stream=True)]
    assert answer.choices[0].message.content == WORDS
    assert len(chunks) > 1
    provider = "self_hosted" if "self_hosted" in served.clusters else "openai"
    assert await served.reached() == 2 * [(provider, {key_of(provider)})]
