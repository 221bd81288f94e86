"""A policy's aliases of models, and its choice of a provider's credential by Envoy's routes."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
import yaml
from egret_tools.devstack.credentials import write_credential
from pydantic import SecretStr

from tests.support.engines import POLICY
from tests.support.second_gateway import Config, connection_managers, second_gateway
from tests.support.stack import Stack, chat

pytestmark = [pytest.mark.stack, POLICY, pytest.mark.asyncio(loop_scope="session")]

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "envoy.md"
TEAM_KEY = "Bearer team-key"


def documented_routes() -> list[dict[str, Any]]:
    """Return the routes of the page, as they stand there."""
    section = DOCUMENT.read_text(encoding="utf-8").partition("\n## Providers by policy\n")[2]
    block = section.partition("```yaml\n")[2].partition("```")[0]
    routes: list[dict[str, Any]] = yaml.safe_load(block)
    return routes


def with_a_credential_of_a_team(config: Config) -> None:
    """Add the page's routes, and a second cluster of the same provider with another secret."""
    clusters = config["static_resources"]["clusters"]
    (own,) = (one for one in clusters if one["name"] == "openai")
    second = yaml.safe_load(
        yaml.safe_dump(own)
        .replace("/openai.yaml", "/search-openai.yaml")
        .replace("name: openai\n", "name: search-openai\n")
    )
    second["name"], second["alt_stat_name"] = "openai_search", "openai_search"
    clusters.append(second)
    for manager in connection_managers(config):
        for host in manager["route_config"]["virtual_hosts"]:
            chosen, refused = copy.deepcopy(documented_routes())
            usual = copy.deepcopy(host["routes"][-1])
            usual["match"], usual["route"]["cluster"] = chosen["match"], "openai_search"
            host["routes"][:0] = [usual, refused]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def routed(session_stack: Stack) -> AsyncIterator[str]:
    """The address of an Envoy with these routes."""
    secrets = session_stack.run.path / "sds"
    write_credential(secrets, name="search-openai", header_value=SecretStr(TEAM_KEY))
    async with second_gateway(session_stack, with_a_credential_of_a_team) as gateway:
        yield gateway.https_url


async def test_a_policy_s_credential_is_the_one_that_the_provider_receives(
    stack: Stack, routed: str
) -> None:
    """Its name goes through Egret, the secret from Envoy's file to the provider."""
    statuses, received = [], []
    for key in ("search", "free"):
        answer = await stack.post(chat("hello"), key=key, url=routed)
        statuses.append(answer.status)
        received += (await stack.received())[-1].all("authorization")

    assert received[0] == TEAM_KEY != received[1]
    assert statuses == [401, 200]  # the provider of the tests takes its usual key alone


async def test_a_credential_that_envoy_does_not_have_fails_closed(
    stack: Stack, routed: str
) -> None:
    """With its reason, and without a request to any provider."""
    answer = await stack.post(chat("hello"), key="search-unknown", url=routed)

    assert answer.status == 503
    assert answer.json["error"]["code"] == "provider_credential_unavailable"
    assert await stack.received_count() == 0


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_an_alias_reaches_the_provider_as_its_model(stack: Stack, *, streamed: bool) -> None:
    """By OpenAI's own client, which sees the model that answered."""
    async with openai.AsyncOpenAI(
        base_url=f"{stack.facts.url}/v1", api_key=stack.keys["search"], max_retries=0
    ) as client:
        given = await client.chat.completions.create(
            model="gpt-best", messages=[{"role": "user", "content": "hello"}], stream=streamed
        )
        if isinstance(given, openai.AsyncStream):
            models = {chunk.model async for chunk in given}
        else:
            models = {given.model}
    assert models == {"gpt-5-mini"}
    assert b'"model":"gpt-5-mini"' in (await stack.received())[-1].body.replace(b": ", b":")


@pytest.mark.parametrize(
    ("path", "renamed"),
    [
        (
            "/openai/deployments/gpt-best/chat/completions?api-version=2024-10-21",
            "/openai/deployments/gpt-5-mini/chat/completions?api-version=2024-10-21",
        ),
        ("/v1beta/models/gpt-best:generateContent", "/v1beta/models/gpt-5-mini:generateContent"),
    ],
    ids=["azure", "gemini"],
)
async def test_an_alias_in_a_path_reaches_the_provider_as_its_model(
    stack: Stack, path: str, renamed: str
) -> None:
    """Envoy lets Egret change the path, and nothing else of a request's line."""
    body = {**chat("hello"), "contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
    answer = await stack.post(body, path=path, key="search")

    assert answer.status == 200
    assert (await stack.received())[-1].path == renamed
