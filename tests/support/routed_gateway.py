"""Workers that name models to Envoy, and an Envoy that chooses among providers by them.

Beside a stack: its keys and policies, and providers of its own, each with another credential.
"""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml
from egret_tools.devstack.credentials import write_credential
from egret_tools.devstack.envoy import EnvoyRun, running_envoy
from egret_tools.devstack.envoy_config import (
    EnvoyParameters,
    ModelRoute,
    Provider,
    SelfHosted,
    render_envoy_config,
)
from egret_tools.devstack.processes import Children, free_port
from egret_tools.devstack.workers import running_workers, worker_sockets
from egret_tools.mock_llm.server import MockAddress, MockSettings, running_mock
from pydantic import SecretStr

from tests.support.second_gateway import Adapt, Config
from tests.support.stack import COMPILE_PATIENCE_SECONDS, Stack, logged

LOOPBACK: Final = "127.0.0.1"
HEADERS: Final = {
    "openai": "authorization",
    "openai_fallback": "authorization",
    "anthropic": "x-api-key",
    "gemini": "x-goog-api-key",
    "self_hosted": "authorization",
}
"""Where each provider wants its key."""
ROUTES: Final = (
    ModelRoute(models=("gpt-*",), provider="openai"),
    ModelRoute(models=("claude-*",), provider="anthropic"),
    ModelRoute(models=("meta-llama/Llama-?.1-*", "qwen3"), provider="self_hosted"),
)
SELF_HOSTED: Final = "models.internal"


def key_of(provider: str) -> str:
    """Return a provider's own key."""
    return f"key-of-{provider}"


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as one of the providers received it."""

    provider: str
    path: str
    headers: Mapping[str, str]
    model: str | None
    body: bytes

    @property
    def keys(self) -> set[str]:
        """Whatever it holds in a header that credentials are read from."""
        names = ("authorization", "x-api-key", "api-key", "x-goog-api-key")
        given = {self.headers[name] for name in names if name in self.headers}
        return {value.removeprefix("Bearer ") for value in given}


@dataclass(frozen=True, slots=True)
class RoutedWorld:
    """Workers and providers; gateways come and go."""

    stack: Stack
    parameters: EnvoyParameters
    fallback: Provider
    debug: Mapping[str, aiohttp.ClientSession]
    ports: Mapping[str, int]
    """Where each provider listens."""

    async def forget(self) -> None:
        """Make every provider forget what it has received and how it was told to behave."""
        for client in self.debug.values():
            await client.delete("/requests")
            await client.delete("/behaviour")

    async def seen(self) -> list[Seen]:
        """Return what the providers have received since, provider by provider."""
        return [
            _as_seen(name, one)
            for name, client in self.debug.items()
            for one in await (await client.get("/requests", params={"limit": "256"})).json()
        ]

    @asynccontextmanager
    async def gateway(self, *changes: Adapt, **parameters: Any) -> AsyncIterator[Stack]:
        """Run an Envoy; yield the stack as its clients see it."""
        given = replace(self.parameters, **parameters)
        with tempfile.TemporaryDirectory(prefix="egret-rg-") as place:
            given = replace(given, access_log_path=f"{place}/access.jsonl")
            config = yaml.safe_load(render_envoy_config(given))
            for change in changes:
                change(config)
            async with self.envoy(config, Path(place)) as stack:
                facts = replace(stack.facts, access_log=Path(given.access_log_path))
                yield replace(stack, facts=facts)

    @asynccontextmanager
    async def envoy(self, config: Config, place: Path) -> AsyncIterator[Stack]:
        """Run an Envoy with a configuration that is written already, its files in *place*."""
        run = EnvoyRun(place, place, threads=1)
        text = yaml.safe_dump(config, sort_keys=False)
        async with running_envoy(Children(), run=run, config=text) as address:
            facts = replace(
                self.stack.facts,
                url=f"http://{LOOPBACK}:{address.http_port}",
                https_url=f"https://localhost:{address.https_port}",
                admin_url=address.admin_url,
            )
            yield replace(self.stack, facts=facts)


def _as_seen(provider: str, one: Mapping[str, Any]) -> Seen:
    body = base64.b64decode(one["body_base64"])
    model = json.loads(body).get("model") if body.startswith(b"{") else None
    return Seen(provider, one["path"], one["headers"], model, body)


@asynccontextmanager
async def routed_world(
    stack: Stack, *, settings: Mapping[str, str] | None = None
) -> AsyncIterator[RoutedWorld]:
    """Run a worker that names models, with *settings* beside, and a mock for each provider."""
    async with AsyncExitStack() as parts:
        place = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="egret-rw-")))
        sds = place / "sds"
        shutil.copytree(stack.run.path / "sds", sds)
        mocks = {name: await parts.enter_async_context(_mock(stack, name)) for name in HEADERS}
        for name, header in HEADERS.items():
            scheme = "Bearer " if header == "authorization" else ""
            value = SecretStr(f"{scheme}{key_of(name)}")
            write_credential(sds, name=name, header_value=value)
        sockets = worker_sockets(place, workers=1)
        environment = {
            "TMPDIR": str(place),
            "EGRET_SERVER__WORKERS": "1",
            "EGRET_SERVER__SOCKET_DIRECTORY": str(place),
            "EGRET_USAGE__SPOOL_DIRECTORY": str(place / "usage"),
            "EGRET_POSTGRES__DSN": stack.facts.postgres_dsn,
            "EGRET_TELEMETRY__METRICS_PORT": str(free_port()),
            "EGRET_EXCHANGE__ROUTE_BY_MODEL": "on",
            **(settings or {}),
        }
        await parts.enter_async_context(
            running_workers(Children(), sockets=sockets, settings=environment, logs=place)
        )
        # Ready before that, and every key refused.
        await logged(place / "workers.log", "policies.loaded", patience=COMPILE_PATIENCE_SECONDS)
        debug = {
            name: await parts.enter_async_context(aiohttp.ClientSession(mock.debug_url))
            for name, mock in mocks.items()
        }
        parameters = _parameters(stack, sds, sockets=sockets, mocks=mocks)
        fallback = replace(parameters.openai, port=mocks["openai_fallback"].port)
        ports = {name: mock.port for name, mock in mocks.items()}
        yield RoutedWorld(stack, parameters, fallback, debug, ports)


@asynccontextmanager
async def _mock(stack: Stack, name: str) -> AsyncIterator[MockAddress]:
    certificates = stack.run.path / "certificates" / "provider"
    key = SecretStr(key_of(name))
    settings = MockSettings(
        certificate_chain=certificates / "certificate.pem",
        private_key=certificates / "private-key.pem",
        openai_key=key, anthropic_key=key, azure_key=key, gemini_key=key, bedrock_key=key,
    )  # fmt: skip
    async with running_mock(settings) as address:
        yield address


def _parameters(
    stack: Stack, sds: Path, *, sockets: tuple[Path, ...], mocks: Mapping[str, MockAddress]
) -> EnvoyParameters:
    def provider(name: str) -> Provider:
        return Provider(
            host="localhost",
            address=LOOPBACK,
            port=mocks[name].port,
            ca_file=str(stack.run.path / "certificates" / "provider-ca.pem"),
            credential_header=HEADERS[name],
        )

    return EnvoyParameters(
        worker_sockets=tuple(map(str, sockets)),
        sds_directory=str(sds),
        openai=provider("openai"),
        anthropic=provider("anthropic"),
        gemini=provider("gemini"),
        self_hosted=SelfHosted(SELF_HOSTED, replace(provider("self_hosted"), is_many=True)),
        model_routes=ROUTES,
        https_address=LOOPBACK,
        https_port=0,
        http_port=0,
    )
