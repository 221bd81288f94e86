"""Counts of tokens as providers state them, in one form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.apis.answer_usage import AnswerUsage
from sidecar.apis.response_text import BOUND
from sidecar.domain.usage import MAX_COUNT, TokenCounts


def counted(*documents: object) -> TokenCounts | None:
    """Return the counts of an answer with these events."""
    usage = AnswerUsage()
    for document in documents:
        usage.read(json.dumps(document).encode())
    return usage.tokens


OPENAI: dict[str, Any] = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
RESPONSES: dict[str, Any] = {
    "input_tokens": 10,
    "output_tokens": 5,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens_details": {"reasoning_tokens": 2},
}
INTERACTION = {
    "total_input_tokens": 10,
    "total_output_tokens": 5,
    "total_thought_tokens": 3,
    "total_tool_use_tokens": 7,
    "total_cached_tokens": 4,
    "total_tokens": 25,
}
ANTHROPIC_START: dict[str, Any] = {
    "type": "message_start",
    "message": {
        "model": "claude-x",
        "usage": {
            "input_tokens": 3,
            "cache_read_input_tokens": 4,
            "cache_creation_input_tokens": 2,
            "output_tokens": 1,
        },
    },
}
ANTHROPIC_HOUR = {
    "type": "message_start",
    "message": {
        "usage": {
            **ANTHROPIC_START["message"]["usage"],
            "cache_creation": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 1},
        }
    },
}
METRICS = {
    "inputTokenCount": 3,
    "outputTokenCount": 5,
    "cacheReadInputTokenCount": 4,
    "cacheWriteInputTokenCount": 2,
}
KEPT = {"inputTokens": 1, "ttl": "1h"}
ANTHROPIC_END = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 7}}
ANTHROPIC_REST = {
    "type": "message_delta",
    "delta": {},
    "usage": {
        "input_tokens": None,
        "cache_read_input_tokens": None,
        "cache_creation_input_tokens": None,
        "output_tokens": 7,
    },
}
ANTHROPIC_STEPS = {
    "input_tokens": 3,
    "output_tokens": 7,
    "output_tokens_details": {"thinking_tokens": 3},
    "iterations": [
        {"type": "compaction", "input_tokens": 2_000, "output_tokens": 20},
        {"type": "message", "input_tokens": 3, "output_tokens": 7},
        {
            "type": "advisor_message",
            "input_tokens": 100,
            "output_tokens": 60,
            "cache_read_input_tokens": 400,
        },
    ],
}
GEMINI = {
    "promptTokenCount": 10,
    "candidatesTokenCount": 3,
    "thoughtsTokenCount": 2,
    "cachedContentTokenCount": 4,
}
CONVERSE = {
    "inputTokens": 3,
    "outputTokens": 5,
    "totalTokens": 14,
    "cacheReadInputTokens": 4,
    "cacheWriteInputTokens": 2,
}


@pytest.mark.parametrize(
    ("events", "tokens"),
    [
        pytest.param([{"usage": OPENAI}], TokenCounts(10, 5, 4, 0, 2), id="chat"),
        pytest.param(
            [{"choices": [], "usage": None}, {"choices": [], "usage": OPENAI}],
            TokenCounts(10, 5, 4, 0, 2),
            id="stream of chat",
        ),
        pytest.param(
            [
                {"type": "response.created", "response": {"usage": None}},
                {"type": "response.completed", "response": {"usage": RESPONSES}},
            ],
            TokenCounts(10, 5, 4, 0, 2),
            id="stream of responses",
        ),
        pytest.param(
            [{"data": [], "usage": {"prompt_tokens": 8, "total_tokens": 8}}],
            TokenCounts(8),
            id="embeddings",
        ),
        pytest.param(
            [ANTHROPIC_START, ANTHROPIC_END], TokenCounts(9, 7, 4, 2, 0), id="stream of messages"
        ),
        pytest.param(
            [ANTHROPIC_START, ANTHROPIC_REST],
            TokenCounts(9, 7, 4, 2, 0),
            id="stream of messages whose end leaves out the counts of its start",
        ),
        pytest.param(
            [{"usageMetadata": {"promptTokenCount": 10}}, {"usageMetadata": GEMINI}],
            TokenCounts(10, 5, 4, 0, 2),
            id="stream of Gemini",
        ),
        pytest.param([{"usage": CONVERSE}], TokenCounts(9, 5, 4, 2, 0), id="converse"),
        pytest.param(
            [ANTHROPIC_HOUR, ANTHROPIC_END],
            TokenCounts(9, 7, 4, 2, 0, 1),
            id="what Anthropic's cache keeps for an hour",
        ),
        pytest.param(
            [{"usage": {**CONVERSE, "cacheDetails": [KEPT, {**KEPT, "ttl": "5m"}, None]}}],
            TokenCounts(9, 5, 4, 2, 0, 1),
            id="what Bedrock's cache keeps for an hour",
        ),
        pytest.param(
            [{"usage": {**CONVERSE, "cacheDetails": [{**KEPT, "inputTokens": 50}]}}],
            TokenCounts(9, 5, 4, 2, 0, 2),
            id="a part that is larger than its sum",
        ),
        pytest.param(
            [{"usage": {**CONVERSE, "totalTokens": 8}}],
            TokenCounts(9, 5, 4, 2, 0),
            id="converse with a sum without cached input",
        ),
        pytest.param(
            [{"usage": OPENAI | {"prompt_tokens_details": {"cache_write_tokens": 3}}}],
            TokenCounts(10, 5, 0, 3, 2),
            id="what OpenAI's cache took",
        ),
        pytest.param(
            [{"usage": OPENAI | {"total_tokens": 115}}],
            TokenCounts(10, 105, 4, 0, 2),
            id="reasoning beside the output of a server for OpenAI's API",
        ),
        pytest.param(
            [
                {"outputText": "Hi."},
                {"outputText": "", "amazon-bedrock-invocationMetrics": METRICS},
            ],
            TokenCounts(9, 5, 4, 2, 0),
            id="stream of a model of Bedrock with a form of its own",
        ),
        pytest.param(
            [ANTHROPIC_START, ANTHROPIC_END, {"amazon-bedrock-invocationMetrics": METRICS}],
            TokenCounts(9, 7, 4, 2, 0),
            id="stream of Claude at Bedrock, whose counts are stated twice",
        ),
        pytest.param([{"usage": {"total_tokens": 8}}], TokenCounts(8), id="a sum alone"),
        pytest.param(
            [{"event_type": "interaction.completed", "interaction": {"usage": INTERACTION}}],
            TokenCounts(17, 8, 4, 0, 3),
            id="Google's interactions, with results of tools in the input and thoughts behind it",
        ),
        pytest.param(
            [{"usage": ANTHROPIC_STEPS}],
            TokenCounts(2_003 + 500, 27 + 60, 400, 0, 3),
            id="steps that the counts of a message leave out",
        ),
        pytest.param(
            [{"usage": OPENAI | {"cache_read_input_tokens": 4}}],
            TokenCounts(10, 5, 4, 0, 2),
            id="both forms of cached input are one",
        ),
    ],
)
def test_counts_of_each_api_have_one_form(events: list[object], tokens: TokenCounts) -> None:
    """Input includes cached input, output includes reasoning."""
    assert counted(*events) == tokens


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([ANTHROPIC_START], id="the end never came"),
        pytest.param([{"choices": [{"message": {"content": '"usage": 7'}}]}], id="none stated"),
        pytest.param([{"content": [{"input": {"usage": OPENAI}}]}], id="in the model's own text"),
        pytest.param([["usage"]], id="no object"),
        pytest.param([{"usage": "7"}], id="no counts"),
        pytest.param([{"usage": {"type": "duration", "seconds": 27}}], id="seconds"),
        pytest.param([{"usage": {"prompt_tokens": 9, "completion_tokens": -1}}], id="below zero"),
        pytest.param([{"usage": {"prompt_tokens": None, "total_tokens": None}}], id="null"),
    ],
)
def test_an_answer_without_counts_of_all_of_it_has_none(events: list[object]) -> None:
    """A model's own JSON is text of the model, not the provider's count."""
    assert counted(*events) is None


def test_a_payload_that_is_no_json_states_nothing() -> None:
    """Such as the end of OpenAI's streams, or a broken event."""
    usage = AnswerUsage()
    for payload in (None, b"[DONE]", b'{"usage": ', b'\xff"usage"'):
        usage.read(payload)
    assert usage.tokens is None


def test_a_count_in_another_form_is_one_and_a_large_one_fits_the_database() -> None:
    """A provider's bug must not stop the record of its request."""
    odd = {"prompt_tokens": 9.0, "completion_tokens": "5", "prompt_tokens_details": 7}
    assert counted({"usage": odd}) == TokenCounts(9, 5)
    assert counted({"usage": {"prompt_tokens": 1 << 60}}) == TokenCounts(MAX_COUNT)


def test_the_model_that_served_is_read_beside_the_counts() -> None:
    """It is the one whose price counts."""
    usage = AnswerUsage()
    usage.read(json.dumps(ANTHROPIC_START).encode())
    assert usage.model == "claude-x"


@pytest.mark.parametrize(
    ("events", "tier"),
    [
        ([{"usage": OPENAI}], None),
        ([{"usage": OPENAI, "service_tier": None}], None),
        ([{"usage": OPENAI, "service_tier": "priority"}], "priority"),
        ([{"usage": OPENAI, "service_tier": "default"}], ""),
        (
            [
                {"response": {"usage": None, "service_tier": "auto"}},
                {"response": {"usage": RESPONSES, "service_tier": "flex"}},
            ],
            "flex",
        ),
        ([{"usage": CONVERSE, "serviceTier": {"type": "flex"}}], "flex"),
        ([ANTHROPIC_START, {**ANTHROPIC_END, "usage": {"speed": "fast"}}], "priority"),
        ([{"usage": {**ANTHROPIC_STEPS, "speed": "standard", "service_tier": "priority"}}], ""),
    ],
)
def test_the_tier_that_served_is_read_beside_the_counts(
    events: list[object], tier: str | None
) -> None:
    """Anthropic's own `service_tier` is of capacity that was bought before, and has no price."""
    usage = AnswerUsage()
    for event in events:
        usage.read(json.dumps(event).encode())
    assert usage.tier == tier


def test_an_answer_with_more_values_than_are_read_states_nothing() -> None:
    """Ten megabytes of empty lists became three hundred, in one step."""
    assert counted({"usage": {"prompt_tokens": 1}, "data": [{}] * 100}) == TokenCounts(1)
    assert counted({"usage": {"prompt_tokens": 1}, "data": [{}] * BOUND.containers}) is None
