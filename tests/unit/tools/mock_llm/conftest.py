from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import httpx2
import openai
import pytest
import trustme
from egret_tools.mock_llm.server import MockAddress, MockSettings, running_mock
from pydantic import SecretStr

OPENAI_KEY = "sk-mock-openai"
ANTHROPIC_KEY = "sk-mock-anthropic"
AZURE_KEY = "mock-azure"
GEMINI_KEY = "mock-gemini"
BEDROCK_KEY = "mock-bedrock"


@dataclass(frozen=True, slots=True)
class Mock:
    """A running mock, and clients that trust it."""

    address: MockAddress
    tls: ssl.SSLContext
    debug: aiohttp.ClientSession

    def https(self) -> httpx2.AsyncClient:
        """Return a client for the provider side."""
        return httpx2.AsyncClient(verify=self.tls, base_url=self.address.url)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def mock(authority: trustme.CA, tmp_path: Path) -> AsyncIterator[Mock]:
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(tmp_path / "chain.pem", append=True)
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    settings = MockSettings(
        certificate_chain=tmp_path / "chain.pem",
        private_key=tmp_path / "key.pem",
        openai_key=SecretStr(OPENAI_KEY),
        anthropic_key=SecretStr(ANTHROPIC_KEY),
        azure_key=SecretStr(AZURE_KEY),
        gemini_key=SecretStr(GEMINI_KEY),
        bedrock_key=SecretStr(BEDROCK_KEY),
    )
    async with (
        running_mock(settings) as address,
        aiohttp.ClientSession(address.debug_url) as debug,
    ):
        yield Mock(address=address, tls=tls, debug=debug)


@pytest.fixture
async def client(mock: Mock) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's own."""
    async with openai.AsyncOpenAI(
        api_key=OPENAI_KEY,
        base_url=f"{mock.address.url}/v1",
        http_client=mock.https(),
        max_retries=0,
    ) as opened:
        yield opened
