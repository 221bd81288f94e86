"""Paths of other gateways, of APIs without a provider, and with escaped slashes: a real Envoy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import boto3
import botocore.config
import pytest
import pytest_asyncio
import yaml
from egret_tools.devstack.envoy_config import EnvoyParameters, render_envoy_config
from multidict import CIMultiDict

from tests.support.second_gateway import Config, connection_managers, second_gateway
from tests.support.stack import Stack, chat, message

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

EMAIL = "bob.builder@example.com"
CONVERSE = {"messages": [{"role": "user", "content": [{"text": EMAIL}]}]}
CONTENTS = {"contents": [{"parts": [{"text": EMAIL}]}]}
CLAUDE = "anthropic.claude-mock-v1:0"


def _without_further_providers(config: Config) -> None:
    """Take the routes of a configuration that has OpenAI and Anthropic alone."""
    parameters = EnvoyParameters(worker_sockets=("w",), sds_directory="s")
    (rendered, *_) = connection_managers(yaml.safe_load(render_envoy_config(parameters)))
    for manager in connection_managers(config):
        manager["route_config"]["virtual_hosts"][-1]["routes"] = rendered["route_config"][
            "virtual_hosts"
        ][-1]["routes"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bare_url(session_stack: Stack) -> AsyncIterator[str]:
    """The shipped configuration, in which no further provider is named."""
    async with second_gateway(session_stack, _without_further_providers) as gateway:
        yield gateway.https_url


@pytest.mark.parametrize(
    ("path", "body", "reached"),
    [
        ("/anthropic/v1/messages?beta=true", message(EMAIL), "/v1/messages?beta=true"),
        ("/openai/v1/chat/completions", chat(EMAIL), "/v1/chat/completions"),
        ("/openai/v1/responses", {"model": "gpt-4o", "input": EMAIL}, "/v1/responses"),
    ],
)
async def test_without_azure_the_prefixes_of_its_paths_lead_to_openai_and_anthropic(
    stack: Stack, bare_url: str, path: str, body: Any, reached: str
) -> None:
    """The provider receives its own path, and the judged body."""
    answer = await stack.post(body, path=path, key="redact", url=bare_url)
    assert answer.status == 200
    (one,) = await stack.received()
    assert one.path == reached
    assert EMAIL.encode() not in one.body
    assert one.all("x-envoy-original-path") == []


@pytest.mark.parametrize(
    ("below", "path", "body"),
    [
        ("/gemini", "/v1beta/models/gemini-mock:generateContent", CONTENTS),
        ("/gemini", "/v1beta/openai/chat/completions", chat(EMAIL)),
        ("/bedrock", f"/model/{CLAUDE}/converse", CONVERSE),
        ("/azure", "/openai/deployments/gpt-4o/chat/completions?api-version=1", chat(EMAIL)),
        ("/azure", "/openai/v1/responses", {"model": "gpt-4o", "input": EMAIL}),
    ],
)
async def test_a_prefix_of_litellm_is_removed_after_the_request_was_judged(
    stack: Stack, below: str, path: str, body: Any
) -> None:
    """Each provider receives the path of its own API."""
    answer = await stack.post(body, path=f"{below}{path}", key="redact")
    assert answer.status == 200
    (one,) = await stack.received()
    assert one.path == path
    assert EMAIL.encode() not in one.body


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1beta/models/gemini-mock:generateContent", CONTENTS),
        ("/gemini/v1beta/models/gemini-mock:generateContent", CONTENTS),
        (f"/model/{CLAUDE}/converse", CONVERSE),
        (f"/bedrock/model/{CLAUDE}/converse", CONVERSE),
        ("/openai/deployments/gpt-4o/chat/completions", chat("x")),
        ("/azure/openai/deployments/gpt-4o/chat/completions", chat("x")),
        ("/v1/projects/p/locations/l/publishers/google/models/g:generateContent", CONTENTS),
    ],
)
async def test_an_api_without_a_provider_is_answered_with_the_apis_that_may_have_one(
    stack: Stack, bare_url: str, path: str, body: Any
) -> None:
    """Not with an empty body, and no other provider receives the request."""
    answer = await stack.post(body, path=path, key="redact", url=bare_url)
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/json"
    document = answer.json
    assert (document["error"]["code"], document["error"]["status"]) == ("no_provider", "NOT_FOUND")
    assert "/v1/messages (Anthropic)" in document["error"]["message"]
    assert document["request_id"] == answer.headers["x-request-id"]
    assert document["request_id"] in document["message"]
    assert await stack.received_count() == 0


async def test_awss_client_shows_the_message_of_an_api_without_a_provider(
    stack: Stack, bare_url: str
) -> None:
    """It reads the outer message alone."""
    client = boto3.client(
        "bedrock-runtime", region_name="eu-central-1", endpoint_url=bare_url,
        verify=str(stack.facts.ca_file),
        config=botocore.config.Config(signature_version=botocore.UNSIGNED),
    )  # fmt: skip
    key = stack.keys["redact"]
    client.meta.events.register(
        "before-send.bedrock-runtime",
        lambda request, **_: request.headers.__setitem__("x-api-key", key),
    )
    with pytest.raises(client.exceptions.ClientError, match="No provider of this API"):
        await asyncio.to_thread(client.converse, modelId=CLAUDE, **CONVERSE)
    client.close()


@pytest.mark.parametrize(
    ("path", "sent", "received"),
    [
        ("/v1/files", "x-api-key", "x-api-key"),
        ("/v1/messages/batches", "x-api-key", "x-api-key"),
        ("/v1/files", "x-goog-api-key", "x-goog-api-key"),
        ("/upload/v1/files", "x-goog-api-key", "x-goog-api-key"),
        ("/upload/v1beta/files", "x-goog-api-key", "x-goog-api-key"),
        ("/v1alpha/auth_tokens", "x-goog-api-key", "x-goog-api-key"),
        ("/v1/interactions", "x-goog-api-key", "x-goog-api-key"),
        ("/v1/conversations", "x-goog-api-key", "authorization"),
        ("/v1/files", "authorization", "authorization"),
        ("/v1/chat/completions", "x-api-key", "authorization"),
        ("/v1/chat/completions?a=b", "x-goog-api-key", "authorization"),
    ],
)
async def test_an_unknown_path_that_a_policy_lets_pass_reaches_the_provider_of_its_client(
    stack: Stack, path: str, sent: str, received: str
) -> None:
    """A file for one provider is not uploaded to another; a known path ignores the header."""
    given = [
        (sent, f"Bearer {stack.keys['free']}" if sent == "authorization" else stack.keys["free"])
    ]
    if sent == "x-api-key":
        given.append(("anthropic-version", "2023-06-01"))
    await stack.post(chat("x"), path=path, headers=given)
    (one,) = await stack.received()
    names = ("authorization", "x-api-key", "x-goog-api-key")
    assert [name for name, _ in one.headers if name in names] == [received]


@pytest.mark.parametrize(
    "path",
    [
        "/v1%2Fchat/completions",
        "/v1/chat%5ccompletions",
        "/v1beta/models/x%2f..%2fy:generateContent",
        "/model/arn:aws:bedrock:eu-central-1:123456789012:inference-profile%2F..%2Fx/converse",
        "/model/arn:aws:bedrock:eu-central-1:123456789012:inference-profile%5Cx/converse",
    ],
)
async def test_a_slash_is_escaped_in_the_arn_of_a_model_alone(stack: Stack, path: str) -> None:
    """No provider can read another path than Egret, whatever the policy says of unknown ones."""
    answer = await stack.post(chat("x"), path=path, key="free")
    assert (answer.status, answer.json["error"]["code"]) == (400, "invalid_path")
    assert await stack.received_count() == 0


async def test_an_arn_reaches_bedrock_with_its_slash_escaped(stack: Stack) -> None:
    """AWS's client escapes all of a model's name."""
    profile = "arn%3Aaws%3Abedrock%3Aeu-central-1%3A123456789012%3Ainference-profile%2Feu.x-v1%3A0"
    answer = await stack.post(CONVERSE, path=f"/model/{profile}/converse", key="redact")
    assert answer.status == 200
    (one,) = await stack.received()
    assert one.path == f"/model/{profile.replace('%3A', ':')}/converse"  # Envoy decodes colons
    assert EMAIL.encode() not in one.body


def _with_upgrades(config: Config) -> None:
    """Allow WebSockets, as other gateways do by default."""
    for manager in connection_managers(config):
        manager["upgrade_configs"] = [{"upgrade_type": "websocket"}]


@pytest.mark.parametrize(
    ("path", "refusal"),
    [
        ("/v1/models", (403, "unscanned_content")),
        ("/v1/responses/resp_1", (403, "unscanned_content")),
        ("/v1/realtime", (404, "unknown_url")),
    ],
)
async def test_where_a_gateway_allows_upgrades_egret_refuses_them(
    stack: Stack, path: str, refusal: tuple[int, str]
) -> None:
    """The paths of a known `GET` included: behind the handshake nothing is judged."""
    upgrade = CIMultiDict(
        {
            "authorization": f"Bearer {stack.keys['block']}",
            "connection": "upgrade",
            "upgrade": "websocket",
            "sec-websocket-version": "13",
            "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
    )
    async with second_gateway(stack, _with_upgrades) as gateway, stack.counting() as counted:
        url = gateway.url
        answer = await stack.request("GET", path, headers=upgrade, url=url)
    assert (answer.status, answer.json["error"]["code"]) == refusal
    assert "such as to a WebSocket" in answer.json["error"]["message"]
    assert {(one[0], one[2]) for one in counted.outcomes} == {("refused", refusal[1])}
    assert await stack.received_count() == 0
