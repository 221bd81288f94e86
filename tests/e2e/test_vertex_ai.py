"""Gemini and Claude on Vertex AI: the example's Envoy, with a metadata server of Google's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from aiohttp import web
from anthropic import AsyncAnthropicVertex, BadRequestError
from google import genai
from google.genai import errors, types
from google.oauth2.credentials import Credentials

from tests.support.clients import tls_client
from tests.support.second_gateway import Config, connection_managers, second_gateway
from tests.support.stack import Stack
from tests.support.stack_steps import EMAIL, TOKENS, recorded, says, told
from tests.support.webhook_server import webhook_server

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "vertex-ai" / "envoy.yaml"
PROJECT = "/v1/projects/my-project/locations/europe-west1"
MODELS = f"{PROJECT}/publishers/google/models"
GOOGLE = {"Metadata-Flavor": "Google"}


def contents(text: str) -> dict[str, Any]:
    """Return a request in Google's terms."""
    return {"contents": [{"role": "user", "parts": [{"text": text}]}]}


class Metadata:
    """A metadata server's tokens: the key that the mock accepts, or none."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.is_down = False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer as Google documents it, to requests with its header alone."""
        is_asked_rightly = request.headers.get("metadata-flavor") == "Google"
        if self.is_down or not is_asked_rightly or not request.path.endswith("/default/token"):
            return web.Response(status=403)
        token = {"access_token": self.token, "expires_in": 3599, "token_type": "Bearer"}
        return web.json_response(token, headers=GOOGLE)


def with_vertex_ai(config: Config, *, own: Config, metadata_port: int) -> None:
    """Add the example's parts; the mock stands in for Vertex AI."""
    parts = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    clusters = {one["name"]: one for one in config["static_resources"]["clusters"]}
    vertex, metadata = parts["clusters"]
    for part in ("transport_socket", "load_assignment"):
        vertex[part] = clusters["gemini"][part]
    (endpoint,) = metadata["load_assignment"]["endpoints"][0]["lb_endpoints"]
    endpoint["endpoint"]["address"]["socket_address"] = {
        "address": "127.0.0.1",
        "port_value": metadata_port,
    }
    config["static_resources"]["clusters"] += [vertex, metadata]
    for manager, usual in zip(connection_managers(config), connection_managers(own), strict=True):
        manager["access_log"] = [
            one for one in usual["access_log"] if "open_telemetry" in one["name"]
        ]
        names = [one["name"] for one in manager["http_filters"]]
        place = names.index("envoy.filters.http.ext_proc") + 1
        manager["http_filters"][place:place] = parts["http_filters"]
        for one in parts["http_filters"]:
            one["typed_config"].pop("cache_config", None)  # each request asks for a token
        for host in manager["route_config"]["virtual_hosts"]:
            host["routes"][:0] = parts["routes"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def vertex(session_stack: Stack) -> AsyncIterator[tuple[str, Metadata]]:
    """The gateway's address, and the metadata server beside it."""
    run = session_stack.run.path
    (secret,) = yaml.safe_load((run / "sds" / "gemini.yaml").read_text())["resources"]
    metadata = Metadata(secret["generic_secret"]["secret"]["inline_string"])
    own = yaml.safe_load((run / "envoy.yaml").read_text())
    async with webhook_server(metadata.answer) as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])

        def adapt(config: Config) -> None:
            with_vertex_ai(config, own=own, metadata_port=port)

        async with second_gateway(session_stack, adapt) as gateway:
            yield gateway.https_url, metadata


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent?alt=sse"])
async def test_an_alias_reaches_vertex_ai_as_its_model_and_is_counted(
    stack: Stack, vertex: tuple[str, Metadata], method: str
) -> None:
    """With the machine's token in place of the client's key, and the provider's own counts."""
    url, metadata = vertex
    path = f"{MODELS}/gpt-best:{method}"
    answer = await stack.post(contents("Count me."), path=path, key="search", url=url)
    (received,) = await stack.received()
    record = await recorded(stack, answer.request_id)

    assert answer.status == 200
    assert received.path == path.replace("gpt-best", "gpt-5-mini")
    assert received.all("authorization") == [f"Bearer {metadata.token}"]
    assert told(record, *TOKENS) == (3, 7, False, "completed", 200)
    assert told(record, "provider", "request_model") == ("gcp.vertex_ai", "gpt-5-mini")


async def test_guardrails_judge_vertex_ai_s_requests_and_streams(
    stack: Stack, vertex: tuple[str, Metadata]
) -> None:
    """Google's own client reads its own errors."""
    url, _ = vertex
    credentials: Any = Credentials(token=stack.keys["block"])  # type: ignore[no-untyped-call] # theirs
    async with tls_client(stack) as https:
        client = genai.Client(
            vertexai=True,
            project="my-project",
            location="europe-west1",
            credentials=credentials,
            http_options=types.HttpOptions(base_url=url, httpx_async_client=https),
        )
        generate: Any = client.aio.models.generate_content
        with pytest.raises(errors.ClientError) as refused:
            await generate(model="gemini-mock", contents="Bluebird")
        client.close()
    await says(stack, f"Write to {EMAIL}.")
    path = f"{MODELS}/gemini-mock:streamGenerateContent?alt=sse"
    answer = await stack.post(contents("hi"), path=path, key="answers-redact", url=url)

    assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")
    assert answer.status == 200
    assert b"[EMAIL_1]" in answer.body
    assert EMAIL.encode() not in answer.body


async def test_claude_on_vertex_ai_is_judged_and_counted_by_the_model_of_its_path(
    stack: Stack, vertex: tuple[str, Metadata]
) -> None:
    """Anthropic's own client for Vertex AI: whole, as a stream, and refused."""
    url, metadata = vertex
    says_hi: Any = {
        "model": "claude-sonnet-4-5@20250929",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "hi"}],
    }

    def client(https: Any, key: str) -> AsyncAnthropicVertex:
        return AsyncAnthropicVertex(
            project_id="my-project",
            region="europe-west1",
            access_token=stack.keys[key],
            base_url=f"{url}/v1",
            http_client=https,
            max_retries=0,
        )

    async with tls_client(stack) as https:
        whole = await client(https, "search").messages.with_raw_response.create(**says_hi)
        (received,) = await stack.received()
        record = await recorded(stack, whole.headers["x-egret-request-id"])
        counted = await client(https, "search").messages.count_tokens(
            model="claude-mock", messages=says_hi["messages"]
        )
        await says(stack, f"Write to {EMAIL}.")
        async with client(https, "answers-redact").messages.stream(**says_hi) as stream:
            text = (await stream.get_final_message()).content[0]
        says_hi["messages"][0]["content"] = "Bluebird"
        with pytest.raises(BadRequestError) as refused:
            await client(https, "block").messages.create(**says_hi)

    assert received.path == (
        f"{PROJECT}/publishers/anthropic/models/claude-sonnet-4-5@20250929:rawPredict"
    )
    assert received.all("authorization") == [f"Bearer {metadata.token}"]
    assert told(record, "provider", "request_model") == (
        "anthropic", "claude-sonnet-4-5@20250929"
    )  # fmt: skip
    assert told(record, *TOKENS)[2:] == (False, "completed", 200)
    assert counted.input_tokens > 0
    assert text.type == "text"
    assert "[EMAIL_1]" in text.text
    assert EMAIL not in text.text
    assert refused.value.body is not None
    assert "Bluebird" not in str(refused.value.body)


@pytest.mark.parametrize(
    ("path", "status", "sent"),
    [
        pytest.param(f"{MODELS}/gemini-mock:generateContent", 401, 1, id="no token"),
        pytest.param(
            f"{MODELS}/gemini-mock:generateContent".replace("my-", "other-"), 404, 0, id="project"
        ),
    ],
)
async def test_without_a_token_or_a_route_nothing_of_the_client_s_key_leaves(
    stack: Stack, vertex: tuple[str, Metadata], path: str, status: int, sent: int
) -> None:
    """The provider refuses the first, Envoy the second."""
    url, metadata = vertex
    metadata.is_down = True
    try:
        answer = await stack.post(contents("hi"), path=path, key="free", url=url)
    finally:
        metadata.is_down = False
    received = await stack.received()

    assert (answer.status, len(received)) == (status, sent)
    assert stack.keys["free"] not in str([one.headers for one in received])
