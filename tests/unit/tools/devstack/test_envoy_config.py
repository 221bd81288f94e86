from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from egret_tools.devstack.envoy_config import (
    EnvoyConfigError,
    EnvoyParameters,
    ModelRoute,
    Provider,
    SelfHosted,
    UnknownModels,
    render_envoy_config,
)
from hypothesis import given
from hypothesis import strategies as st

from sidecar.apis.routes import recognise
from sidecar.domain.subject import Operation, Route
from sidecar.keys.credentials import is_model_allowed

OWN = SelfHosted("models.internal", Provider(host="vllm", credential_header="authorization"))


def rendered(*routes: ModelRoute, **more: Any) -> Any:
    """Return the connection manager of a configuration with these routes."""
    parameters = EnvoyParameters(
        worker_sockets=("/w.sock",), sds_directory="s", model_routes=routes, **more
    )
    config = yaml.safe_load(render_envoy_config(parameters))
    (chain,) = config["static_resources"]["listeners"][0]["filter_chains"]
    return chain["filters"][0]["typed_config"]


def routes_of(manager: Any) -> list[Any]:
    """Return the routes of the host that all providers share."""
    routes: list[Any] = manager["route_config"]["virtual_hosts"][-1]["routes"]
    return routes


def matches(matcher: Any, text: str) -> bool:
    """Tell whether Envoy's string matcher takes a text."""
    (kind, value) = next(iter(matcher.items()))
    match kind:
        case "exact":
            return bool(text == value)
        case "prefix":
            return text.startswith(value)
        case _:
            return re.fullmatch(value["regex"], text) is not None


globs = st.text("ab*?.:/+-", min_size=1, max_size=6).filter(lambda glob: glob[0] in "ab*?")


@given(glob=globs, model=st.text("ab.:/+-", min_size=1, max_size=6))
def test_a_glob_means_what_it_means_in_a_keys_list(glob: str, model: str) -> None:
    """Whoever may use a model by one is led by the other, but for its case."""
    route = ModelRoute(models=(glob,), provider="openai")
    assert route.problem is None
    for _, match in route.matches():
        found: Any = match["headers"]
        assert [matches(one["string_match"], model) for one in found] == [
            is_model_allowed(model, (glob,))
        ]


def test_routes_by_model_hold_on_every_path_whose_body_names_a_model() -> None:
    """What Egret reads a model in and several providers serve; no other path."""
    route = ModelRoute(models=("gpt-*",), provider="openai")
    regexes = [match["safe_regex"]["regex"] for _, match in route.matches()]  # type: ignore[index]
    known = [
        *("chat/completions", "completions", "responses", "responses/input_tokens"),
        *("responses/compact", "embeddings", "moderations", "images/generations"),
        *("images/edits", "images/variations", "audio/speech", "audio/transcriptions"),
        *("audio/translations", "messages", "messages/count_tokens"),
    ]
    for path in known:
        found = recognise("POST", f"/v1/{path}")
        assert isinstance(found, Route)
        assert found.has_body
        assert sum(re.fullmatch(regex, f"/v1/{path}") is not None for regex in regexes) == 1
    for method, path in (
        ("GET", "/v1/models"),
        ("GET", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("POST", "/v1beta/models/gemini-2.5-pro:generateContent"),
        ("POST", "/model/anthropic.claude-v2:0/converse"),
        ("POST", "/openai/deployments/gpt/chat/completions"),
    ):
        found = recognise(method, path)
        assert isinstance(found, Route)
        names_it_elsewhere = found.model is not None or not found.has_body
        assert names_it_elsewhere or found.operation is Operation.STORED_RESPONSE
        assert not any(re.fullmatch(regex, path) for regex in regexes)


def test_the_first_route_that_names_a_model_wins_and_leads_to_its_provider() -> None:
    """In the order they are given, before everything that goes by path."""
    manager = rendered(
        ModelRoute(models=("gpt-oss-*",), provider="self_hosted"),
        ModelRoute(models=("gpt-*",), provider="openai"),
        self_hosted=OWN,
        unknown_models=UnknownModels.BY_PATH,
    )
    routes = routes_of(manager)
    assert [route["route"]["cluster"] for route in routes[:6]] == [
        *["self_hosted"] * 3,
        *["openai"] * 3,
    ]
    by_name = [
        route
        for route in routes
        if route["match"].get("headers", [{}])[0].get("name") == "x-egret-model"
    ]
    assert by_name == routes[:6]
    assert {route["route"]["host_rewrite_literal"] for route in routes[:3]} == {"vllm"}


@pytest.mark.parametrize(
    ("unknown", "answers"), [(UnknownModels.REFUSE, 3), (UnknownModels.BY_PATH, 0)]
)
def test_what_no_route_names_is_refused_or_goes_by_path(
    unknown: UnknownModels, answers: int
) -> None:
    """By choice; refused unless told."""
    routes = routes_of(
        rendered(ModelRoute(models=("gpt-*",), provider="openai"), unknown_models=unknown)
    )
    direct = [route for route in routes[3:] if route.get("direct_response", {}).get("body")]
    assert len(direct) == answers
    assert direct == routes[3 : 3 + answers]


def test_only_egret_may_write_the_header_that_routes_go_by() -> None:
    """Taken from the client before any route is chosen; without such routes nothing is touched."""
    (extension,) = rendered(ModelRoute(models=("a",), provider="openai"))[
        "early_header_mutation_extensions"
    ]
    assert extension["typed_config"]["mutations"] == [{"remove": "x-egret-model"}]
    assert "early_header_mutation_extensions" not in rendered()


@pytest.mark.parametrize(
    "route",
    [
        ModelRoute(models=(), provider="openai"),
        ModelRoute(models=("gpt 5",), provider="openai"),
        ModelRoute(
            models=(
                "gpt-5",
                "",
            ),
            provider="openai",
        ),
        ModelRoute(models=("gpt-[45]",), provider="openai"),
        ModelRoute(models=("gpt-5",), provider="self_hosted"),
        ModelRoute(models=("gpt-5",), provider="azure"),
        ModelRoute(models=("gpt-5",), provider="opneai"),
    ],
    ids=["none", "blank", "empty", "class", "not there", "no such paths", "misspelt"],
)
def test_a_route_that_could_never_be_taken_is_refused(route: ModelRoute) -> None:
    """Said when it is rendered, not when a request ends somewhere else."""
    with pytest.raises(EnvoyConfigError, match="model"):
        rendered(route)
