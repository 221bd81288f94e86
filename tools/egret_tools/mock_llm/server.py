"""The two servers of the mock: the provider, and the one that shows its received requests."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from egret_tools.mock_llm.behaviour import Behaviour
from egret_tools.mock_llm.debug import debug_app
from egret_tools.mock_llm.produced import ProducedTokens
from egret_tools.mock_llm.provider import ProviderKeys, provider_app
from egret_tools.mock_llm.received import ReceivedRequests

LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class MockAddress:
    """Where the mock listens; both ports are on loopback."""

    port: int
    debug_port: int

    @property
    def url(self) -> str:
        """The provider's root, over TLS."""
        return f"https://localhost:{self.port}"

    @property
    def debug_url(self) -> str:
        """The debug endpoint's root."""
        return f"http://{LOOPBACK}:{self.debug_port}"


@asynccontextmanager
async def running_mock(settings: MockSettings) -> AsyncIterator[MockAddress]:
    """Serve until the block ends.

    Raises:
        OSError: a port is taken, or the certificate cannot be read.
    """
    received, produced, behaviour = ReceivedRequests(), ProducedTokens(), Behaviour()
    keys = ProviderKeys(
        openai=settings.openai_key.get_secret_value(),
        anthropic=settings.anthropic_key.get_secret_value(),
        azure=settings.azure_key.get_secret_value(),
        gemini=settings.gemini_key.get_secret_value(),
        bedrock=settings.bedrock_key.get_secret_value(),
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.load_cert_chain(settings.certificate_chain, settings.private_key)
    provider = _runner(
        provider_app(keys, received=received, produced=produced, behaviour=behaviour)
    )
    debug = _runner(debug_app(received=received, produced=produced, behaviour=behaviour))
    try:
        yield MockAddress(
            port=await _listen(provider, port=settings.port, tls=tls),
            debug_port=await _listen(debug, port=settings.debug_port, tls=None),
        )
    finally:
        await provider.cleanup()
        await debug.cleanup()


def _runner(app: web.Application) -> web.AppRunner:
    return web.AppRunner(
        app, access_log=None, shutdown_timeout=1, keepalive_timeout=300, handler_cancellation=True
    )


async def _listen(runner: web.AppRunner, *, port: int, tls: ssl.SSLContext | None) -> int:
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, port, ssl_context=tls, backlog=1024).start()
    host_and_port: tuple[str, int] = runner.addresses[0]
    return host_and_port[1]


class MockSettings(BaseModel):
    """Ports of 0 are free ones, named in the ready line. Keys are those of the provider."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    certificate_chain: Path
    private_key: Path
    openai_key: SecretStr
    anthropic_key: SecretStr
    azure_key: SecretStr
    gemini_key: SecretStr
    bedrock_key: SecretStr
    port: int = Field(default=0, ge=0, le=65535)
    debug_port: int = Field(default=0, ge=0, le=65535)
