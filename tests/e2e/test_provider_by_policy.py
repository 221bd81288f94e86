"""A policy's aliases of models, and its choice of a provider's credential by Envoy's routes."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
import pytest_asyncio
import yaml
from egret_tools.devstack.credentials import write_credential
from pydantic import SecretStr

from tests.support.second_gateway import (
    Config,
    Gateway,
    connection_managers,
    second_gateway,
)
from tests.support.stack import Stack, chat

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

ROUTES = Path(__file__).resolve().parents[2] / "examples" / "providers-by-policy" / "routes.yaml"
TEAM_KEY = "Bearer team-key"
OVERRIDE = "x-aigw-api-key"
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
MUTATION = "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"


def with_the_example_s_routes(config: Config) -> None:
    """Add its routes, and its clusters: the same provider, one of them with another secret."""
    clusters = config["static_resources"]["clusters"]
    own = yaml.safe_dump(next(one for one in clusters if one["name"] == "openai"))
    for name, secret in (
        ("openai_search", "search-openai"),
        ("openai_reserved", "openai"),
        ("openai_eu", "openai"),
    ):
        text = own.replace("/openai.yaml", f"/{secret}.yaml")
        text = text.replace("name: openai\n", f"name: {secret}\n")
        clusters.append(yaml.safe_load(text) | {"name": name, "alt_stat_name": name})
    clusters.append(ai_gateway(yaml.safe_load(own)))
    routes = yaml.safe_load(ROUTES.read_text(encoding="utf-8"))
    behind = copy.deepcopy(routes[0])
    behind["match"]["dynamic_metadata"][0]["value"]["string_match"]["exact"] = "search-behind"
    behind["route"]["cluster"] = "ai_gateway"
    for manager in connection_managers(config):
        for host in manager["route_config"]["virtual_hosts"]:
            host["routes"][:0] = [behind, *routes]
            host["request_headers_to_remove"].append(OVERRIDE)


def ai_gateway(cluster: Config) -> Config:
    """Return a cluster with a secret for Envoy AI Gateway, which stands in it as well.

    By the source of its version 1.1 (`internal/backendauth/credential_override.go`): it takes the
    header of `credentialOverride` away, and writes the credential where the provider wants it.
    """
    filters = cluster["typed_extension_protocol_options"][HTTP_OPTIONS]["http_filters"]
    generic = filters[0]["typed_config"]["credential"]["typed_config"]
    generic["header"] = OVERRIDE
    secret = generic["credential"]["sds_config"]["path_config_source"]
    secret["path"] = secret["path"].replace("/openai.yaml", "/search-behind.yaml")
    generic["credential"]["name"] = "search-behind"
    written = {"key": "authorization", "value": f"Bearer %REQ({OVERRIDE})%"}
    overwrite = {"append_action": "OVERWRITE_IF_EXISTS_OR_ADD", "header": written}
    mutations = {"request_mutations": [{"append": overwrite}, {"remove": OVERRIDE}]}
    filters.insert(
        1, {"name": "gateway", "typed_config": {"@type": MUTATION} | {"mutations": mutations}}
    )
    return cluster | {"name": "ai_gateway", "alt_stat_name": "ai_gateway"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def routed(session_stack: Stack) -> AsyncIterator[Gateway]:
    """An Envoy with these routes."""
    secrets = session_stack.run.path / "sds"
    write_credential(secrets, name="search-openai", header_value=SecretStr(TEAM_KEY))
    bare = SecretStr(TEAM_KEY.removeprefix("Bearer "))
    write_credential(secrets, name="search-behind", header_value=bare)
    async with second_gateway(session_stack, with_the_example_s_routes) as gateway:
        yield gateway


async def test_a_policy_s_credential_is_the_one_that_the_provider_receives(
    stack: Stack, routed: Gateway
) -> None:
    """Its name goes through Egret, the secret from Envoy's file to the provider."""
    statuses, received = [], []
    for key in ("search", "free"):
        answer = await stack.post(chat("hello"), key=key, url=routed.https_url)
        statuses.append(answer.status)
        received += (await stack.received())[-1].all("authorization")

    assert received[0] == TEAM_KEY != received[1]
    assert statuses == [401, 200]  # the provider of the tests takes its usual key alone


async def test_a_policy_s_credential_reaches_the_provider_of_an_ai_gateway_behind(
    stack: Stack, routed: Gateway
) -> None:
    """In the header of its `credentialOverride`; a client's own header of that name does not."""
    received = []
    for key in ("search-behind", "free"):
        headers = [(OVERRIDE, "of-a-client")]
        await stack.post(chat("hello"), key=key, url=routed.https_url, headers=headers)
        received.append((await stack.received())[-1])

    assert received[0].all("authorization") == [TEAM_KEY]
    assert [one.all(OVERRIDE) for one in received] == [[], []]


async def sent_to(routed: Gateway, stack: Stack) -> list[int]:
    """Return how many requests each cluster was sent: of the region, the first, the second."""
    counts = []
    for cluster in ("openai_eu", "openai_reserved", "openai"):
        name = f"cluster.{cluster}.upstream_rq_total"
        async with stack.client.get(
            f"{routed.admin_url}/stats", params={"filter": f"^{name}$"}
        ) as page:
            counts.append(int((await page.text()).removeprefix(f"{name}: ")))
    return counts


@pytest.mark.parametrize(
    ("key", "status", "sent"),
    [
        pytest.param("eu-only", 503, [1, 0, 0], id="a region: nothing is tried elsewhere"),
        pytest.param("reserved-capacity", 200, [0, 1, 1], id="an order: the next provider"),
    ],
)
async def test_where_a_request_goes_that_its_provider_did_not_begin(
    stack: Stack, routed: Gateway, key: str, status: int, sent: list[int]
) -> None:
    """With capacity the first provider of the policy answers; without, its policy decides."""
    assert (await stack.post(chat("hello"), key=key, url=routed.https_url)).status == 200
    before = await sent_to(routed, stack)
    await stack.tell_provider("status", status=503, count=1)
    answer = await stack.post(chat("hello"), key=key, url=routed.https_url)
    since = [new - old for new, old in zip(await sent_to(routed, stack), before, strict=True)]

    assert (answer.status, since) == (status, sent)


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("search-unknown", "provider_credential_unavailable"),
        ("region-unknown", "provider_region_unavailable"),
        ("order-unknown", "provider_order_unavailable"),
        # A route for the credential alone would let the request leave its region.
        ("credential-and-region", "provider_region_unavailable"),
    ],
)
async def test_a_choice_that_envoy_has_no_route_for_fails_closed(
    stack: Stack, routed: Gateway, key: str, code: str
) -> None:
    """With its reason, and without a request to any provider."""
    answer = await stack.post(chat("hello"), key=key, url=routed.https_url)

    assert answer.openai_error == (503, "server_error", code)
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
