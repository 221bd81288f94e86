"""Models that would run beside the one that answers, or in its place."""

from __future__ import annotations

import json

import pytest

from sidecar.apis.request_text import read_request
from sidecar.domain.http import Headers
from sidecar.domain.subject import Malformed, Subject, Unreadable
from sidecar.jsontext.strict import JsonValue
from tests.support.routes import route_of

MESSAGES = "/v1/messages"
CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
CONVERSE = "/model/anthropic.claude-v2%3A1/converse"
INVOKE = "/model/anthropic.claude-v2%3A1/invoke"
AZURE = "/openai/deployments/our-gpt/chat/completions?api-version=2024-10-21"
ADVISOR: JsonValue = {"type": "advisor_20260301", "name": "advisor", "model": "other"}
DRAWING: JsonValue = {"type": "image_generation", "model": "other"}
DEFINED: JsonValue = {"type": "tool_definition", "definition": ADVISOR}
ADDITION: JsonValue = {"type": "tool_addition", "tool": DEFINED}
SCHEMA: JsonValue = {"type": "object", "examples": [{"model": "T"}], "properties": {"model": {}}}

BESIDE: list[tuple[str, JsonValue, str, tuple[str, ...]]] = [
    (MESSAGES, {"model": "m", "messages": [], "tools": [ADVISOR]}, "m", ("other",)),
    (MESSAGES, {"model": "m", "messages": [], "tools": [{"Model": "other"}]}, "m", ("other",)),
    (MESSAGES, {"model": "m", "messages": [], "fallbacks": [{"model": "o"}]}, "m", ("o",)),
    (MESSAGES, {"model": "m", "messages": [], "fallbacks": "default"}, "m", ("default",)),
    (
        MESSAGES,
        {"model": "m", "messages": [{"role": "user", "content": [ADDITION]}]},
        "m",
        ("other",),
    ),
    (
        CHAT,
        {"model": "m", "messages": [], "fallbacks": ["m", "a", "b", "a"]},
        "m",
        ("m", "a", "b"),
    ),
    (CHAT, {"model": "m", "messages": [], "models": [{"model": "o"}]}, "m", ("o",)),
    (CHAT, {"model": "m", "messages": [], "moderation": {"model": "o"}}, "m", ("o",)),
    (
        CHAT,
        {"model": "m", "messages": [], "tools": [{"function": {"parameters": SCHEMA}}]},
        "m",
        (),
    ),
    (RESPONSES, {"model": "m", "input": "a", "tools": [DRAWING]}, "m", ("other",)),
    (RESPONSES, {"model": "m", "input": "a", "tools": [{"svg": {"model": "o"}}]}, "m", ("o",)),
    (RESPONSES, {"model": "m", "input": "a", "moderation": {"model": "o"}}, "m", ("o",)),
    (
        RESPONSES,
        {"model": "m", "input": [{"type": "additional_tools", "tools": [DRAWING]}]},
        "m",
        ("other",),
    ),
    (
        RESPONSES,
        {"model": "m", "input": [{"type": "additional_tools", "Tools": [DRAWING]}]},
        "m",
        ("other",),
    ),
    (
        AZURE,
        {
            "messages": [],
            "data_sources": [
                {
                    "type": "azure_search",
                    "parameters": {
                        "embedding_dependency": {"type": "deployment_name", "deployment_name": "o"}
                    },
                }
            ],
        },
        "our-gpt",
        ("o",),
    ),
    (
        AZURE,
        {
            "messages": [],
            "data_sources": [
                {"Parameters": {"Embedding_Dependency": {"Deployment_Name": "o"}}},
                {"parameters": {"embeddinG_dependency": [{"deployment_namE": "p"}]}},
            ],
        },
        "our-gpt",
        ("o", "p"),
    ),
    ("/v1/images/generations", {"model": "m", "prompt": "a", "moderation": "low"}, "m", ()),
    (
        "/v1/images/generations",
        {"model": "m", "prompt": "a", "svg": {"model": "o"}},
        "m",
        ("o",),
    ),
    (AZURE, {"messages": [], "fallbacks": ["o"]}, "our-gpt", ("o",)),
    (
        CONVERSE,
        {"messages": [], "additionalModelRequestFields": {"model": "o", "tools": [ADVISOR]}},
        "anthropic.claude-v2:1",
        ("o", "other"),
    ),
    (INVOKE, {"messages": [], "tools": [ADVISOR]}, "anthropic.claude-v2:1", ("other",)),
]


def _read(body: JsonValue, path: str) -> Subject | Unreadable | Malformed:
    return read_request(route_of(path), Headers(), json.dumps(body).encode())


@pytest.mark.parametrize(("path", "body", "model", "others"), BESIDE)
def test_a_model_that_is_named_for_a_part_of_the_work_is_told(
    path: str, body: JsonValue, model: str, others: tuple[str, ...]
) -> None:
    """Tools, substitutes and moderators have models too; the schema of a tool's input has none."""
    subject = _read(body, path)
    assert isinstance(subject, Subject)
    assert (subject.model, subject.other_models) == (model, others)


def test_a_request_may_not_name_models_without_end() -> None:
    """Each is judged and priced, while others wait."""
    names: list[JsonValue] = [f"m{number}" for number in range(33)]
    malformed = _read({"model": "m", "messages": [], "models": names}, CHAT)
    assert isinstance(malformed, Malformed)
    assert "32" in malformed.problem
    assert isinstance(_read({"model": "m", "messages": [], "models": names[1:]}, CHAT), Subject)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (AZURE, {"messages": [], "Data_Sources": []}),
        (RESPONSES, {"model": "m", "Input": [{"type": "additional_tools", "tools": [DRAWING]}]}),
        (RESPONSES, {"model": "m", "input": "a", "INPUT": "b"}),
        ("/v1/conversations", {"Items": [{"type": "additional_tools", "tools": [DRAWING]}]}),
        (CHAT, {"model": "m", "messages": [], "Input": [[1, 2]]}),
        (CHAT, {"model": "m", "messages": [], "Moderation": {"model": "o"}}),
        ("/v1/images/generations", {"model": "m", "prompt": "a", "SVG": {"model": "o"}}),
    ],
)
def test_a_field_that_may_name_a_model_is_refused_in_another_case(
    path: str, body: JsonValue
) -> None:
    """A provider that reads names in any case would run a model that Egret has not judged."""
    malformed = _read(body, path)
    assert isinstance(malformed, Malformed)
    assert "only in case" in malformed.problem
