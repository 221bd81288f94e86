"""Models by a name of the policy's own: everything judges the model, the provider receives it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.domain.usage import JudgedRequest
from sidecar.guardrails.message_table import MessageTable
from sidecar.settings.serving import RouteByModel
from tests.support.events import BodyRequired, RequestCleared, RequestRefused
from tests.support.pipeline import KEY, World, chat, headers

ALIASES = "name: default\naliases: {gpt-best: gpt-5-mini}\n"
REDACTS = "guardrails: [{name: pii, type: pii, action: redact}]\n"


async def sent(
    world: World, body: bytes, path: str = "/v1/chat/completions"
) -> RequestCleared | RequestRefused:
    """Return the verdict on a request with this body."""
    exchange = world.exchange()
    assert isinstance(await exchange.judge_headers(headers(path), has_body=True), BodyRequired)
    verdict = await exchange.judge_body(body)
    assert isinstance(verdict, RequestCleared | RequestRefused)
    await exchange.end()
    return verdict


def world_allowing(models: tuple[str, ...], policy: str = ALIASES) -> World:
    """Return a world with this policy, whose key may use *models* alone."""
    world = World(policy)
    record = world.store.records[KEY.key_id]
    world.store.records[KEY.key_id] = replace(record, allowed_models=models)
    return world


def judged(world: World) -> JudgedRequest:
    (request,) = world.usage.noted
    return request


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(chat(model="gpt-best"), chat(model="gpt-5-mini"), id="an alias"),
        pytest.param(
            b'{"model" : "gpt\\u002dbest", "messages": []}',
            b'{"model" : "gpt-5-mini", "messages": []}',
            id="escaped",
        ),
        pytest.param(
            chat(model="gpt-best", metadata={"model": "gpt-best"}),
            chat(model="gpt-5-mini", metadata={"model": "gpt-best"}),
            id="a name elsewhere stays",
        ),
        pytest.param(
            b'{"user":"gpt-best","model":"gpt-best","messages":[]}',
            b'{"user":"gpt-best","model":"gpt-5-mini","messages":[]}',
            id="a user of that name stays",
        ),
        pytest.param(chat(model="gpt-4o"), None, id="a model"),
        pytest.param(chat(model="GPT-BEST"), None, id="another name"),
    ],
)
async def test_the_model_is_named_in_place_of_its_alias(
    body: bytes, expected: bytes | None
) -> None:
    """No other byte of the body changes."""
    verdict = await sent(World(ALIASES), body)
    assert isinstance(verdict, RequestCleared)
    assert verdict.mutations.body == expected


async def test_a_redacted_body_names_the_model_too() -> None:
    """Both changes are in one body, whatever their order."""
    verdict = await sent(World(ALIASES + REDACTS), chat("mail ann@example.org", model="gpt-best"))
    assert isinstance(verdict, RequestCleared)
    assert verdict.mutations.body == chat("mail [EMAIL_1]", model="gpt-5-mini")


@pytest.mark.parametrize(
    ("allowed", "passes"), [(("gpt-5*",), True), (("gpt-best",), False), (("gpt-4o",), False)]
)
async def test_the_model_must_be_allowed_and_not_its_alias(
    allowed: tuple[str, ...], *, passes: bool
) -> None:
    """An alias is no way around a list of models."""
    world = world_allowing(allowed)
    assert isinstance(await sent(world, chat(model="gpt-best")), RequestCleared) is passes


@pytest.mark.parametrize(
    ("allowed", "passes"), [(("gpt-5*",), False), (("gpt-5*", "gpt-best"), True)]
)
async def test_an_alias_among_the_models_to_fall_back_to_is_a_model_of_that_name(
    allowed: tuple[str, ...], *, passes: bool
) -> None:
    """It is sent as it stands, so that a provider may use the model that the alias replaces."""
    world = world_allowing(allowed)
    body = chat(model="gpt-best", models=["gpt-best"])
    assert isinstance(await sent(world, body), RequestCleared) is passes


async def test_a_model_that_is_named_twice_is_one_model() -> None:
    """Guardrails for another one do not judge it, as they do where two models are named."""
    policy = (
        "name: default\nguardrails: [{name: a, type: max_input, max_characters: 3, models: [z]}]\n"
    )
    for models, passes in ((["m", "m"], True), (["m", "n"], False)):
        verdict = await sent(World(policy), chat("four", model="m", models=models))
        assert isinstance(verdict, RequestCleared) is passes


async def test_a_cache_of_google_s_is_made_for_the_model_in_place_of_its_alias() -> None:
    """Its clients write `models/` before the name, and at Vertex AI the project before that."""
    for place, path in (
        (b"models/", "/v1beta/cachedContents"),
        (
            b"projects/p/locations/eu/publishers/google/models/",
            "/v1/projects/p/locations/eu/cachedContents",
        ),
    ):
        body = b'{"model": "' + place + b'gpt-best", "contents": []}'
        verdict = await sent(World(ALIASES), body, path)
        assert isinstance(verdict, RequestCleared)
        assert verdict.mutations.body == body.replace(b"gpt-best", b"gpt-5-mini")


@pytest.mark.parametrize("place", [b"", b"models/"])
async def test_an_alias_is_known_at_googles_paths_for_clients_of_openai(place: bytes) -> None:
    """They take a model's name with its place before it, or without."""
    body = b'{"model": "' + place + b'gpt-best", "messages": []}'
    world = World(ALIASES)
    verdict = await sent(world, body, "/v1beta/openai/chat/completions")
    assert isinstance(verdict, RequestCleared)
    assert verdict.mutations.body == body.replace(b"gpt-best", b"gpt-5-mini")
    assert judged(world).model == "gpt-5-mini"


@pytest.mark.parametrize("target", ["google/gemini-pro", "models/gemini-pro", "gemini-pro"])
@pytest.mark.parametrize("place", ["", "google/", "models/"])
async def test_a_place_before_the_model_of_an_alias_is_sent_once_and_no_part_of_its_name(
    place: str, target: str
) -> None:
    """Limits, prices and usage know a model of Google's by one name, however it is written."""
    world = World(f"name: default\naliases: {{best: {target}}}\n")
    verdict = await sent(world, chat(model=f"{place}best"), "/v1beta/openai/chat/completions")
    assert isinstance(verdict, RequestCleared)
    expected = f"{place}gemini-pro" if place else target
    assert verdict.mutations.body == chat(model=expected)
    assert judged(world).model == dict(verdict.mutations.metadata)["model"] == "gemini-pro"


@pytest.mark.parametrize(
    "path",
    [
        "/v1beta/openai/chat/completions",
        "/v1/projects/p/locations/eu/endpoints/openapi/chat/completions",
    ],
)
@pytest.mark.parametrize(
    ("sent_name", "target", "expected"),
    [
        pytest.param("google/best", "google/gemini-pro", "gemini-pro", id="as it is written"),
        pytest.param("best", "gemini-mini", "gemini-mini", id="without a place"),
        pytest.param("models/best", "models/gemini-mini", "gemini-mini", id="of another place"),
    ],
)
async def test_an_alias_with_googles_place_in_it_is_known_at_googles_paths_for_clients_of_openai(
    path: str, sent_name: str, target: str, expected: str
) -> None:
    """The name as the client has written it comes first, then the name without its place."""
    world = world_allowing(
        (expected,),
        policy="name: default\naliases: {google/best: google/gemini-pro, best: gemini-mini}\n",
    )
    verdict = await sent(world, chat(model=sent_name), path)
    assert isinstance(verdict, RequestCleared)
    assert verdict.mutations.body == chat(model=target)
    assert judged(world).model == dict(verdict.mutations.metadata)["model"] == expected


async def test_a_place_is_part_of_a_model_s_name_where_the_provider_is_not_google() -> None:
    """A gateway may have two models that differ in it alone."""
    world = World("name: default\naliases: {best: google/gemini-pro}\n")
    verdict = await sent(world, chat(model="best"))
    assert isinstance(verdict, RequestCleared)
    assert verdict.mutations.body == chat(model="google/gemini-pro")
    assert judged(world).model == "google/gemini-pro"


async def test_usage_and_routes_have_the_model() -> None:
    """Its price and its route are the model's."""
    world = World(ALIASES, route_by_model=RouteByModel.ON)
    verdict = await sent(world, chat(model="gpt-best"))
    assert isinstance(verdict, RequestCleared)
    assert dict(verdict.mutations.headers.set_headers)["x-egret-model"] == b"gpt-5-mini"
    assert dict(verdict.mutations.metadata)["model"] == "gpt-5-mini"
    assert judged(world).model == "gpt-5-mini"


async def test_guardrails_for_some_models_are_those_of_the_model() -> None:
    """In long conversations as well, whose known turns are not searched again."""
    scoped = (
        "guardrails: [{name: words, type: denied_terms, terms: [Bluebird], models: [gpt-5-*]}]\n"
    )
    world = World(ALIASES + scoped, messages=MessageTable(max_bytes=1 << 22, secret=b"s" * 32))
    long = chat("Bluebird " + "word " * 4_000, model="gpt-best")
    for body in (chat("Bluebird", model="gpt-best"), long, long):
        assert isinstance(await sent(world, body), RequestRefused)
    assert isinstance(await sent(world, chat("Bluebird", model="gpt-4o")), RequestCleared)


async def test_the_choice_of_a_provider_is_metadata_and_chooses_the_route_again() -> None:
    """Envoy reads it there; the names of secrets, never a secret."""
    world = World("name: default\nprovider: {credential: search, order: [openai, azure]}\n")
    exchange = world.exchange()
    verdict = await exchange.judge_headers(headers(), has_body=True)
    assert isinstance(verdict, RequestCleared)
    metadata = dict(verdict.mutations.metadata)
    assert (metadata["provider_credential"], metadata["provider_order"]) == (
        "search", "openai,azure",
    )  # fmt: skip
    assert "provider_region" not in metadata
    assert verdict.mutations.clear_route_cache
    await exchange.end()


@pytest.mark.parametrize(
    ("path", "renamed"),
    [
        pytest.param(
            "/openai/deployments/gpt-best/chat/completions?api-version=1",
            b"/openai/deployments/gpt-5-mini/chat/completions?api-version=1",
            id="Azure",
        ),
        pytest.param(
            "/v1beta/models/gpt-best:generateContent",
            b"/v1beta/models/gpt-5-mini:generateContent",
            id="Gemini",
        ),
        pytest.param(
            "/v1/projects/gpt-best/locations/eu/publishers/google/models/gpt-best:countTokens",
            b"/v1/projects/gpt-best/locations/eu/publishers/google/models/gpt-5-mini:countTokens",
            id="Vertex AI, a project of the alias's name",
        ),
        pytest.param(
            "/v1/projects/models/locations/eu/publishers/anthropic/models/claude:rawPredict",
            b"/v1/projects/models/locations/eu/publishers/anthropic/models"
            b"/claude-5@20270101:rawPredict",
            id="Claude on Vertex AI, a project called models",
        ),
        pytest.param("/model/nova/converse", b"/model/eu.nova-v1%3A0/converse", id="Bedrock"),
        pytest.param(
            "/model/profile/converse",
            b"/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A123456789012%3Ainference-profile"
            b"%2Feu.nova-v1%3A0/converse",
            id="Bedrock, an ARN",
        ),
        pytest.param("/v1beta/models/gemini-2:generateContent", None, id="a model"),
    ],
)
async def test_a_model_in_the_path_is_named_in_place_of_its_alias(
    path: str, renamed: bytes | None
) -> None:
    """Egret reads the new path as the provider does."""
    world = World(
        "name: default\n"
        "aliases: {gpt-best: gpt-5-mini, nova: 'eu.nova-v1:0', claude: claude-5@20270101,"
        " profile: 'arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.nova-v1:0'}\n"
    )
    exchange = world.exchange()
    body = b'{"contents":[{"parts":[{"text":"Hello."}]}],"messages":[]}'
    assert isinstance(await exchange.judge_headers(headers(path), has_body=True), BodyRequired)
    verdict = await exchange.judge_body(body)
    assert isinstance(verdict, RequestCleared)
    assert dict(verdict.mutations.headers.set_headers).get(":path") == renamed
    assert verdict.mutations.body is None
    await exchange.end()
    if renamed is not None:
        assert judged(world).model in {"gpt-5-mini", "eu.nova-v1:0", "claude-5@20270101"}


@pytest.mark.parametrize("model", ["a/b", "x:y", "+"])
async def test_a_model_that_a_path_cannot_name_is_refused(model: str) -> None:
    """A slash in it would name another place, were it read unescaped."""
    world = World(f"name: default\naliases: {{best: '{model}'}}\n")
    exchange = world.exchange()
    path = "/v1beta/models/best:generateContent"
    verdict = await exchange.judge_headers(headers(path), has_body=True)
    assert isinstance(verdict, RequestRefused)
    assert verdict.refusal.status == 403
    await exchange.end()


async def test_a_model_that_the_path_names_must_be_allowed() -> None:
    """By its own name, as one in a body."""
    world = World(ALIASES + "allowed_models: [gpt-best]\n")
    exchange = world.exchange()
    path = "/v1beta/models/gpt-best:generateContent"
    assert isinstance(await exchange.judge_headers(headers(path), has_body=True), BodyRequired)
    verdict = await exchange.judge_body(b'{"contents":[{"parts":[{"text":"Hello."}]}]}')
    assert isinstance(verdict, RequestRefused)
    await exchange.end()
