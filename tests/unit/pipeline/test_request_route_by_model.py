"""What Envoy is told to choose a request's route by."""

from __future__ import annotations

import json

import pytest

from sidecar.domain.http import HeaderMutation, Headers
from sidecar.settings.serving import RouteByModel
from tests.support.events import BodyRequired, RequestCleared, RequestRefused
from tests.support.pipeline import KEY, World, headers

FREE = "{name: default, guardrails: []}"
PASSING = "{name: default, guardrails: [], unscanned: allow}"
REDACTING = "{name: default, guardrails: [{name: pii, type: pii, action: redact}]}"
SCOPED = '{name: default, guardrails: [], allowed_models: ["gpt-*"]}'
CREDENTIAL = ("authorization",)
CHAT = "/v1/chat/completions"
Verdict = BodyRequired | RequestCleared | RequestRefused


async def judged(
    body: bytes,
    *more: tuple[str, bytes],
    path: str = CHAT,
    policy: str = FREE,
    mode: RouteByModel = RouteByModel.ON,
) -> Verdict:
    """Return the last verdict on a request."""
    checks = World(policy, route_by_model=mode).exchange()
    verdict: Verdict = await checks.judge_headers(headers(path, *more), has_body=True)
    if isinstance(verdict, BodyRequired):
        verdict = await checks.judge_body(body)
    return verdict


def routed(verdict: Verdict) -> tuple[HeaderMutation, bool]:
    """Return the changes of the headers, and whether the route is chosen anew."""
    assert isinstance(verdict, RequestCleared)
    return verdict.mutations.headers, verdict.mutations.clear_route_cache


def names(model: bytes | None, *removed: str) -> tuple[HeaderMutation, bool]:
    """Return the changes that name a model, or none, and have the route chosen anew."""
    written = () if model is None else (("x-egret-model", model),)
    return HeaderMutation(written, (*CREDENTIAL, *removed)), True


def chat(model: object = "gpt-5", **more: object) -> bytes:
    """Return a body that asks for a model."""
    return json.dumps({"model": model, "messages": [], **more}).encode()


async def test_the_model_of_the_body_is_named_and_the_route_chosen_anew() -> None:
    """Also where the policy has nothing to judge: the body is read for its model alone."""
    assert routed(await judged(chat())) == names(b"gpt-5")


async def test_nothing_is_read_or_said_where_routes_go_by_paths() -> None:
    """The default: a request whose policy needs no body costs no body."""
    verdict = await judged(b"never read", mode=RouteByModel.OFF)
    assert routed(verdict) == (HeaderMutation(remove_headers=CREDENTIAL), False)


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1beta/models/gemini-2.5-pro:generateContent", b"gemini-2.5-pro"),
        ("/openai/deployments/gpt-5-eu/chat/completions", b"gpt-5-eu"),
        ("/model/anthropic.claude-v2%3A0/converse", b"anthropic.claude-v2:0"),
    ],
)
async def test_a_model_in_the_path_is_named_without_the_body(path: str, model: bytes) -> None:
    """It is the one that the provider runs, whatever a body says."""
    assert routed(await judged(b"never read", path=path)) == names(model)


async def test_a_path_counts_where_the_body_is_read_as_well() -> None:
    """A body that names another allowed model does not choose the route."""
    body = json.dumps({"model": "gpt-5", "messages": []}).encode()
    path = "/openai/deployments/gpt-5-eu/chat/completions"
    assert routed(await judged(body, path=path, policy=REDACTING)) == names(b"gpt-5-eu")


@pytest.mark.parametrize("mode", list(RouteByModel))
async def test_a_clients_own_word_is_taken_away_in_every_mode(mode: RouteByModel) -> None:
    """Once or twice, before ours is written: Envoy removes first."""
    spoofed = (("x-egret-model", b"claude-x"), ("x-egret-model", b"claude-y"))
    mutation, _ = routed(await judged(chat(), *spoofed, mode=mode))
    assert mutation.remove_headers == (*CREDENTIAL, "x-egret-model")
    assert (b"claude" in b"".join(value for _, value in mutation.set_headers)) is False


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(json.dumps({"messages": []}).encode(), id="none"),
        pytest.param(chat("gpt-5\r\nx-api-key: 1"), id="line's end"),
        pytest.param(chat("gpt-5\u0000"), id="control character"),
        pytest.param(chat(" gpt-5"), id="blank"),
        pytest.param(chat("gpt-5\u200b"), id="zero width"),
        pytest.param(chat("\uff47pt-5"), id="full width"),
        pytest.param(chat("g" * 10_240), id="10 KB"),
        pytest.param(chat(""), id="empty"),
    ],
)
async def test_a_model_that_no_header_can_tell_is_not_told_in_part(body: bytes) -> None:
    """No name chooses a route then, and a client's own does not either."""
    verdict = await judged(body, ("x-egret-model", b"claude-x"))
    assert routed(verdict) == names(None, "x-egret-model")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"model":"gpt-5","messages":[],"model":"claude-x"}', id="twice"),
        pytest.param(b'{"model":"gpt-5","messages":[],"Model":"claude-x"}', id="other case"),
        pytest.param(b'{"model":["gpt-5","claude-x"],"messages":[]}', id="list"),
        pytest.param(b'{"model":null,"messages":[]}', id="null"),
        pytest.param(b'{"model":5,"messages":[]}', id="number"),
        pytest.param(b'{"model":"gpt-5","messages":[]', id="cut"),
        pytest.param(b"", id="empty"),
    ],
)
async def test_a_body_that_two_could_read_in_two_ways_goes_nowhere(body: bytes) -> None:
    """Also where the policy has nothing to judge: the route would be chosen by our reading."""
    verdict = await judged(body)
    assert isinstance(verdict, RequestRefused)
    assert verdict.refusal.status == 400


async def test_a_model_that_the_key_may_not_use_chooses_no_route() -> None:
    """It is refused before anything is said to Envoy."""
    verdict = await judged(chat("claude-x"), policy=SCOPED)
    assert isinstance(verdict, RequestRefused)
    assert verdict.refusal.status == 403


@pytest.mark.parametrize(
    ("policy", "status"), [(FREE, 403), (PASSING, None)], ids=["refused", "allowed"]
)
async def test_a_body_that_cannot_be_read_is_a_matter_of_the_policy(
    policy: str, status: int | None
) -> None:
    """Where it may pass, no model chooses its route."""
    verdict = await judged(b"\x1f\x8b", ("content-encoding", b"gzip"), policy=policy)
    if status is None:
        assert routed(verdict) == names(None)
    else:
        assert isinstance(verdict, RequestRefused)
        assert verdict.refusal.status == status


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/models"), ("GET", "/v1/responses/r1")])
async def test_a_request_without_a_model_keeps_the_route_of_its_path(
    method: str, path: str
) -> None:
    """Chosen anew all the same: a client's own word may have chosen the first."""
    checks = World(FREE, route_by_model=RouteByModel.ON).exchange()
    given = headers(path, ("x-egret-model", b"claude-x"), method=method)
    verdict: Verdict = await checks.judge_headers(given, has_body=False)
    assert routed(verdict) == names(None, "x-egret-model")


@pytest.mark.parametrize(
    ("path", "model"),
    [
        (CHAT, "ann@example.org"),
        ("/v1beta/openai/chat/completions", "models/ann@example.org"),
    ],
)
async def test_a_model_that_is_redacted_is_named_no_more(path: str, model: str) -> None:
    """The provider reads a placeholder; another address in the text changes nothing."""
    verdict = await judged(chat(model), path=path, policy=REDACTING)
    assert isinstance(verdict, RequestCleared)
    assert b"EMAIL_1" in (verdict.mutations.body or b"")
    mutation, _ = routed(verdict)
    assert [name for name, _ in mutation.set_headers] == []


async def test_a_model_stays_named_where_something_else_is_redacted() -> None:
    """Its name is still what the provider reads."""
    body = chat(messages=[{"role": "user", "content": "mail ann@example.org"}])
    mutation, _ = routed(await judged(body, policy=REDACTING))
    assert dict(mutation.set_headers)["x-egret-model"] == b"gpt-5"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/gemini-2.5-pro"])
async def test_a_list_of_models_stays_with_the_provider_of_its_client(path: str) -> None:
    """Envoy chooses by the name of the header in which Google's clients send their key."""
    checks = World(FREE, route_by_model=RouteByModel.ON).exchange()
    headers_of_google = Headers((
        (":method", b"GET"),
        (":path", path.encode()),
        ("x-goog-api-key", KEY.reveal().encode()),
    ))  # fmt: skip
    mutation, clears_route = routed(await checks.judge_headers(headers_of_google, has_body=False))
    assert clears_route
    assert mutation.set_headers == (("x-goog-api-key", b"removed"),)
