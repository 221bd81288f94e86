"""A second provider for what the first one has not begun, on a real Envoy."""

from __future__ import annotations

import base64
import io
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from egret_tools.devstack.credentials import (
    write_certificate,
    write_certificates,
    write_credential,
)
from egret_tools.devstack.envoy import EnvoyRun, running_envoy
from egret_tools.devstack.envoy_config import EnvoyParameters, Provider, render_envoy_config
from egret_tools.devstack.processes import Children, free_port
from egret_tools.mock_llm.server import MockSettings, running_mock
from pydantic import SecretStr

from tests.support.placeholder_processor import allow, running_processor

pytestmark = pytest.mark.stack

KEYS = {"openai": "sk-of-the-first", "openai_fallback": "sk-of-the-second", "anthropic": "x"}
NOBODYS = SecretStr("x")
PATH = "/v1/chat/completions"


def chat(words: int = 1) -> dict[str, Any]:
    """Return a request of about so many words."""
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello " * words}]}


@dataclass
class Providers:
    """Envoy's client, and what each provider has seen."""

    http: aiohttp.ClientSession
    first: aiohttp.ClientSession
    second: aiohttp.ClientSession
    run: Path

    async def counts(self) -> tuple[int, int]:
        """Return how many requests reached each."""
        counts = []
        for debug in (self.first, self.second):
            async with debug.get("/count") as answer:
                counts.append(int((await answer.json())["count"]))
        return counts[0], counts[1]


@asynccontextmanager
async def providers(*, first_is_there: bool = True) -> AsyncIterator[Providers]:
    """Run two mocks with a key each, and Envoy before them."""
    run = Path(tempfile.mkdtemp(prefix="egret-fallback-"))
    certificates = write_certificates(run / "certificates")
    sds = run / "sds"
    sds.mkdir()
    gateway = certificates.gateway
    write_certificate(sds, name="server_certificate", certificate=gateway)
    for name, key in KEYS.items():
        write_credential(sds, name=name, header_value=SecretStr(f"Bearer {key}"))

    def settings(name: str) -> MockSettings:
        return MockSettings(
            certificate_chain=certificates.provider.chain,
            private_key=certificates.provider.private_key,
            openai_key=SecretStr(KEYS[name]),
            anthropic_key=NOBODYS, azure_key=NOBODYS, gemini_key=NOBODYS, bedrock_key=NOBODYS,
        )  # fmt: skip

    def provider(port: int, host: str) -> Provider:
        return Provider(
            host=host, address="127.0.0.1", port=port, ca_file=str(certificates.provider_ca),
            credential_header="authorization",
        )  # fmt: skip

    try:
        async with (
            running_mock(settings("openai")) as first,
            running_mock(settings("openai_fallback")) as second,
            running_processor(allow(remove=("authorization",)), socket=run / "worker.sock"),
        ):
            port = first.port if first_is_there else free_port()
            parameters = EnvoyParameters(
                worker_sockets=(str(run / "worker.sock"),), sds_directory=str(sds),
                openai=provider(port, "localhost"),
                openai_fallback=provider(second.port, "127.0.0.1"),
                anthropic=provider(port, "localhost"),
                https_address="127.0.0.1", https_port=0, http_port=0,
                access_log_path=str(run / "access.jsonl"), sends_usage=False,
            )  # fmt: skip
            async with (
                running_envoy(
                    Children(), run=EnvoyRun(run, run), config=render_envoy_config(parameters)
                ) as envoy,
                aiohttp.ClientSession(f"http://127.0.0.1:{envoy.http_port}") as http,
                aiohttp.ClientSession(first.debug_url) as first_debug,
                aiohttp.ClientSession(second.debug_url) as second_debug,
            ):
                yield Providers(http, first_debug, second_debug, run)
    finally:
        shutil.rmtree(run)


async def test_the_first_provider_has_all_requests_while_it_takes_them() -> None:
    """The second costs, or is slower: that is why it is second."""
    async with providers() as both:
        for _ in range(3):
            async with both.http.post(PATH, json=chat()) as answer:
                assert answer.status == 200
        assert await both.counts() == (3, 0)


@pytest.mark.parametrize("status", [429, 503])
async def test_what_the_first_has_no_room_for_goes_to_the_second_with_its_own_key(
    status: int,
) -> None:
    """Once, with the credential and the name of the one it goes to, and the whole body."""
    async with providers() as both:
        await both.first.post("/status", json={"status": status})
        request = chat(words=30_000)
        async with both.http.post(PATH, json=request) as answer:
            assert answer.status == 200
        assert await both.counts() == (1, 1)
        async with both.second.get("/last") as answer:
            last = await answer.json()
    assert last["headers"]["authorization"] == f"Bearer {KEYS['openai_fallback']}"
    assert last["headers"]["host"].startswith("127.0.0.1")
    assert int(last["headers"]["content-length"]) == len(json.dumps(request))


async def test_a_body_that_is_too_large_to_keep_has_one_try() -> None:
    """It passes whole; where there is no room for it, the client hears that."""
    async with providers() as both:
        body = json.dumps(chat(words=900_000)).encode()
        headers = {"content-type": "application/json"}
        async with both.http.post(PATH, data=io.BytesIO(body), headers=headers) as answer:
            assert answer.status == 200
        await both.first.post("/status", json={"status": 429})
        async with both.http.post(PATH, data=io.BytesIO(body), headers=headers) as answer:
            assert answer.status == 429
        assert await both.counts() == (2, 0)


async def test_a_provider_that_is_gone_is_passed_over() -> None:
    """Nothing was sent to it."""
    async with providers(first_is_there=False) as both:
        async with both.http.post(PATH, json=chat()) as answer:
            assert answer.status == 200
        assert await both.counts() == (0, 1)


@pytest.mark.parametrize("status", [400, 500])
async def test_what_the_first_may_have_begun_is_not_asked_for_again(status: int) -> None:
    """A completion that is asked for twice is billed twice."""
    async with providers() as both:
        await both.first.post("/status", json={"status": status})
        async with both.http.post(PATH, json=chat()) as answer:
            assert answer.status == status
        assert await both.counts() == (1, 0)


async def test_a_stream_that_breaks_off_is_not_started_over() -> None:
    """Its client has seen the beginning: it breaks off for the client as well."""
    event = base64.b64encode(b'data: {"choices": []}\n\n').decode()
    raw = {"headers": {"content-type": "text/event-stream"}, "chunks": [event], "is_cut": True}
    async with providers() as both:
        await both.first.post("/raw", json=raw)
        async with both.http.post(PATH, json=chat() | {"stream": True}) as answer:
            assert answer.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        assert await both.counts() == (1, 0)
