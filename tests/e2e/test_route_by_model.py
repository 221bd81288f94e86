"""The model in a request's body chooses the provider: nothing else a client writes does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio
from egret_tools.devstack.envoy_config import UnknownModels
from multidict import CIMultiDict

from tests.support.clients import anthropic_client, ask_claude, ask_gpt, openai_client
from tests.support.routed_gateway import RoutedWorld, key_of, routed_world
from tests.support.second_gateway import (
    Adapt,
    Config,
    connection_managers,
    ext_proc_filters,
    judged_by,
    processing_mode,
)
from tests.support.stack import CHAT, MESSAGES, Stack, chat, message
from tests.support.stack_steps import recorded

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running_world(session_stack: Stack) -> AsyncIterator[RoutedWorld]:
    """Workers that name models, and a provider with a key of its own for each route."""
    async with routed_world(session_stack) as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gateway(running_world: RoutedWorld) -> AsyncIterator[Stack]:
    """The shipped configuration: a model that no route names is refused."""
    async with running_world.gateway() as gateway:
        yield gateway


@pytest_asyncio.fixture(loop_scope="session")
async def world(running_world: RoutedWorld) -> RoutedWorld:
    """Providers that have received nothing yet."""
    await running_world.forget()
    return running_world


def _gpt(stack: Stack, key: str) -> openai.AsyncOpenAI:
    return openai_client(stack, stack.keys[key])


def _claude(stack: Stack, key: str) -> anthropic.AsyncAnthropic:
    return anthropic_client(stack, stack.keys[key])


async def _reached(world: RoutedWorld) -> list[tuple[str, str | None, set[str]]]:
    """Return who received which model with which keys since the last time."""
    seen = [(one.provider, one.model, one.keys) for one in await world.seen()]
    await world.forget()
    return seen


def _own(provider: str, model: str) -> tuple[str, str, set[str]]:
    return provider, model, {key_of(provider)}


def _spoofed(model: str) -> list[tuple[str, str]]:
    return [("x-egret-model", model)]


@pytest.mark.parametrize("key", ["free", "redact"], ids=["not judged", "judged"])
async def test_each_provider_gets_its_own_models_with_its_own_key(
    world: RoutedWorld, gateway: Stack, key: str
) -> None:
    """Two official clients, three providers, one base URL; also where no policy needs the body."""
    async with _gpt(gateway, key) as gpt, _claude(gateway, key) as claude:
        for model in ("gpt-5-mini", LLAMA, "qwen3"):
            assert (await ask_gpt(gpt, model=model)).model == model
        chunks = [chunk async for chunk in await ask_gpt(gpt, model=LLAMA, stream=True)]
        assert (await ask_claude(claude, model="claude-mock")).model == "claude-mock"
    assert len(chunks) > 1
    headers = {name for one in await world.seen() for name in one.headers}
    assert not {name for name in headers if name.startswith("x-egret-")}
    assert await _reached(world) == [
        _own("openai", "gpt-5-mini"),
        _own("anthropic", "claude-mock"),
        _own("self_hosted", LLAMA),
        _own("self_hosted", "qwen3"),
        _own("self_hosted", LLAMA),
    ]


async def test_the_model_counts_and_not_the_path_it_is_asked_for_at(
    world: RoutedWorld, gateway: Stack
) -> None:
    """A model of another provider is not shown to the one whose path it is, nor is its key."""
    await gateway.post(message("x") | {"model": "gpt-5"}, path=MESSAGES, key="free")
    await gateway.post(chat("x", model="claude-mock"), key="free")
    assert await _reached(world) == [_own("openai", "gpt-5"), _own("anthropic", "claude-mock")]


async def test_the_model_counts_below_the_prefixes_of_litellm_too(
    world: RoutedWorld, gateway: Stack
) -> None:
    """Each provider receives the path of its own API; a model without a route reaches none."""
    openai_path, anthropic_path = f"/openai{CHAT}", f"/anthropic{MESSAGES}"
    await gateway.post(chat("x", model=LLAMA), path=openai_path, key="redact")
    await gateway.post(message("x") | {"model": "gpt-5"}, path=anthropic_path, key="redact")
    paths = {one.provider: one.path for one in await world.seen()}
    assert paths == {"self_hosted": CHAT, "openai": MESSAGES}
    assert await _reached(world) == [_own("openai", "gpt-5"), _own("self_hosted", LLAMA)]
    for path, body in ((openai_path, chat("x")), (anthropic_path, message("x"))):
        answer = await gateway.post(body | {"model": "mistral"}, path=path, key="redact")
        assert answer.status == 404
    assert await _reached(world) == []


@pytest.mark.parametrize(
    ("name", "more", "provider"),
    [
        ("authorization", [], "openai"),
        ("x-api-key", [("anthropic-version", "2023-06-01")], "anthropic"),
        ("x-goog-api-key", [], "gemini"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/upload/v1beta/files"])
async def test_a_request_without_a_model_reaches_the_provider_of_its_client(
    *,
    world: RoutedWorld,
    gateway: Stack,
    path: str,
    name: str,
    more: list[tuple[str, str]],
    provider: str,
) -> None:
    """Envoy chooses again when the key of the client is gone."""
    key = gateway.keys["free"]
    given = CIMultiDict([(name, f"Bearer {key}" if name == "authorization" else key), *more])
    await gateway.request("GET", path, headers=given)
    if path != "/v1/models":
        provider = "gemini"  # the path is of no other API
    assert await _reached(world) == [(provider, None, {key_of(provider)})]


async def test_a_model_that_no_route_names_is_answered_in_the_words_of_its_api(
    world: RoutedWorld, gateway: Stack
) -> None:
    """The official clients raise what they raise for their own provider's 404."""
    async with _gpt(gateway, "free") as gpt, _claude(gateway, "free") as claude:
        with pytest.raises(openai.NotFoundError) as of_openai:
            await ask_gpt(gpt, model="mistral-large")
        with pytest.raises(anthropic.NotFoundError) as of_anthropic:
            await ask_claude(claude, model="gpt5-without-a-dash")
    assert (of_openai.value.code, of_openai.value.param) == ("model_not_found", "model")
    assert of_openai.value.response.headers["x-egret-request-id"]
    body: Any = of_anthropic.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")
    assert await _reached(world) == []


@pytest.mark.parametrize(
    ("model", "status"),
    [
        pytest.param("g" * 10_240, 404, id="10 KB"),
        pytest.param("gpt-5\r\nx-api-key: 1", 404, id="a line's end"),
        pytest.param("gpt-5\u0000", 404, id="control character"),
        pytest.param(" gpt-5", 404, id="blank"),
        pytest.param(["gpt-5", LLAMA], 400, id="list"),
    ],
)
async def test_a_hostile_name_reaches_nobody(
    world: RoutedWorld, gateway: Stack, model: object, status: int
) -> None:
    """It is no 500 either; and a route that the client has written down does not count."""
    answer = await gateway.post(chat("x", model=model), key="free", headers=_spoofed("gpt-5"))
    assert (answer.status, await _reached(world)) == (status, [])


async def test_a_body_in_which_two_models_stand_reaches_nobody(
    world: RoutedWorld, gateway: Stack
) -> None:
    """Which of the two a provider takes, nobody knows: neither chooses a route."""
    body = b'{"model":"gpt-5","messages":[],"model":"claude-mock"}'
    answer = await gateway.post(body, key="free")
    assert (answer.status, await _reached(world)) == (400, [])


async def test_a_key_reaches_no_provider_of_models_that_it_may_not_use(
    world: RoutedWorld, gateway: Stack
) -> None:
    """Scopes are judged by the body before a route is chosen by it; the header helps nobody."""
    key = (await gateway.new_key("free", allowed_models=("gpt-*",))).reveal()
    for model in (LLAMA, "claude-mock"):
        answer = await gateway.post(chat("x", model=model), key=key, headers=_spoofed("gpt-5"))
        assert answer.openai_error == (403, "invalid_request_error", "model_not_allowed")
    answer = await gateway.post(chat("x", model="gpt-5"), key=key, headers=_spoofed(LLAMA))
    assert answer.status == 200
    assert await _reached(world) == [_own("openai", "gpt-5")]


def _without_early_removal(config: Config) -> None:
    """Leave the removal to Egret, as a gateway does that is configured by somebody else."""
    for manager in connection_managers(config):
        del manager["early_header_mutation_extensions"]


@pytest.mark.parametrize("mode", ["NONE", "FULL_DUPLEX_STREAMED", "BUFFERED"])
async def test_a_spoofed_header_chooses_no_route_in_any_mode(
    world: RoutedWorld, mode: str
) -> None:
    """Egret takes it away and has the route chosen anew, even where Envoy leaves it to Egret."""
    trailers = "SEND" if mode == "FULL_DUPLEX_STREAMED" else "SKIP"
    modes = processing_mode(request_body_mode=mode, request_trailer_mode=trailers)
    asked = [("gpt-5", LLAMA), (LLAMA, "gpt-5"), ("mistral", "gpt-5"), ("gpt-5", "mistral")]
    async with world.gateway(modes, _without_early_removal) as gateway:
        for key in ("free", "redact"):
            answers = [
                await gateway.post(
                    chat("mail ann@example.org", model=model), key=key, headers=_spoofed(spoofed)
                )
                for model, spoofed in asked
            ]
            assert [answer.status for answer in answers] == [200, 200, 404, 200]
            assert await _reached(world) == [
                _own("openai", "gpt-5"),
                _own("openai", "gpt-5"),
                _own("self_hosted", LLAMA),
            ]
        assert await _routing_faults(gateway) == 0


async def _routing_faults(gateway: Stack) -> int:
    """Return how often Envoy did not choose a route anew though it was told to."""
    url = f"{gateway.facts.admin_url}/stats?filter=clear_route_cache&format=json"
    async with gateway.client.get(url) as answer:
        stats = (await answer.json(content_type=None))["stats"]
    return sum(one["value"] for one in stats)


def _bypassed(config: Config) -> None:
    """Do not ask Egret, for any request."""
    kind = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"
    for manager in connection_managers(config):
        for host in manager["route_config"]["virtual_hosts"]:
            host["typed_per_filter_config"] = {
                "envoy.filters.http.ext_proc": {"@type": kind, "disabled": True}
            }


def _open(config: Config) -> None:
    """Let requests pass that Egret does not judge, and have nobody judge them."""
    judged_by(Path("/nowhere.sock"))(config)
    for settings in ext_proc_filters(config):
        settings["failure_mode_allow"] = True


@pytest.mark.parametrize("change", [_bypassed, _open], ids=["bypassed", "fails open"])
async def test_a_header_that_egret_never_saw_chooses_no_route(
    world: RoutedWorld, change: Adapt
) -> None:
    """Envoy itself takes it away before it looks for a route: the path's provider gets it."""
    async with world.gateway(change, unknown_models=UnknownModels.BY_PATH) as gateway:
        headers = _spoofed(LLAMA)
        answer = await gateway.post(chat("x", model=LLAMA), key="free", headers=headers)
    assert answer.status == 200
    assert await _reached(world) == [_own("openai", LLAMA)]


async def test_other_models_go_where_their_path_leads_by_choice(world: RoutedWorld) -> None:
    """The default provider of each API; what a route names goes its way all the same."""
    async with world.gateway(unknown_models=UnknownModels.BY_PATH) as gateway:
        for body, path in (
            (chat("x", model="mistral"), CHAT),
            (message("x") | {"model": "mistral"}, MESSAGES),
            (chat("x", model=LLAMA), CHAT),
        ):
            assert (await gateway.post(body, path=path, key="free")).status == 200
    assert await _reached(world) == [
        _own("openai", "mistral"),
        _own("anthropic", "mistral"),
        _own("self_hosted", LLAMA),
    ]


def _ext_proc(**values: object) -> Adapt:
    def change(config: Config) -> None:
        for settings in ext_proc_filters(config):
            settings.update(values)

    return change


@pytest.mark.parametrize(
    "change",
    [_ext_proc(disable_clear_route_cache=True), _ext_proc(route_cache_action="RETAIN")],
    ids=["disabled", "retained"],
)
async def test_without_a_second_choice_no_model_reaches_anybody(
    world: RoutedWorld, change: Adapt
) -> None:
    """What EGR130 warns of: every request stays with the route it had before it was read."""
    async with world.gateway(change) as gateway:
        answer = await gateway.post(chat("x", model=LLAMA), key="free")
        assert await _routing_faults(gateway) == 1
    assert (answer.status, await _reached(world)) == (404, [])


async def test_the_route_that_is_chosen_does_not_undo_that_egret_judges(
    world: RoutedWorld,
) -> None:
    """Envoy reads a route's settings of ext_proc once, from the route of the path."""

    def change(config: Config) -> None:
        kind = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"
        for manager in connection_managers(config):
            for route in manager["route_config"]["virtual_hosts"][-1]["routes"]:
                if any(
                    one["name"] == "x-egret-model" for one in route["match"].get("headers", [])
                ):
                    route["typed_per_filter_config"]["envoy.filters.http.ext_proc"] = {
                        "@type": kind,
                        "disabled": True,
                    }

    async with world.gateway(change) as gateway:
        answer = await gateway.post(chat("mail ann@example.org", model=LLAMA), key="redact")
    assert answer.status == 200
    (seen,) = await world.seen()
    assert (seen.provider, seen.keys) == ("self_hosted", {key_of("self_hosted")})
    assert (b"ann@example.org" in seen.body, b"[EMAIL_1]" in seen.body) == (False, True)


async def test_what_a_routed_request_used_is_recorded_as_its_provider_counted_it(
    gateway: Stack,
) -> None:
    """By the API of the route that was chosen; the access log says which provider it was."""
    answer = await gateway.post(chat("Count me.", model=LLAMA), key="free")
    assert (await gateway.log_line(answer.request_id))["upstream_cluster"] == "self_hosted"
    record = await recorded(gateway, answer.request_id)
    usage = answer.json["usage"]
    told = (record["input_tokens"], record["output_tokens"], record["is_estimated"])
    assert told == (usage["prompt_tokens"], usage["completion_tokens"], False)
    assert (record["request_model"], record["response_model"]) == (LLAMA, LLAMA)


async def test_a_fallback_of_a_routed_provider_gets_its_own_key(world: RoutedWorld) -> None:
    """A model of another provider is not asked for there when its own fails."""
    async with world.gateway(openai_fallback=world.fallback) as gateway:
        for name in ("openai", "self_hosted"):
            await world.debug[name].post("/status", json={"status": 503})
        statuses = [
            (await gateway.post(chat("x", model=model), key="free")).status
            for model in ("gpt-5", LLAMA)
        ]
    assert statuses == [200, 503]
    assert await _reached(world) == [
        _own("openai", "gpt-5"),
        _own("openai_fallback", "gpt-5"),
        _own("self_hosted", LLAMA),
    ]
