from __future__ import annotations

import json
from typing import Any

import pytest
from egret_tools.mock_llm.tool_calls import (
    anthropic_call,
    converse_call,
    gemini_call,
    openai_call,
)

from tests.unit.tools.mock_llm.conftest import (
    ANTHROPIC_KEY,
    BEDROCK_KEY,
    GEMINI_KEY,
    OPENAI_KEY,
    Mock,
)

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"enum": ["C", "F"]},
        "days": {"type": "integer"},
        "near": {"type": "object", "properties": {"km": {"type": "number"}}, "required": ["km"]},
        "optional": {"type": "string"},
    },
    "required": ["city", "unit", "days", "near"],
}
ARGUMENTS = {"city": "mock", "unit": "C", "days": 1, "near": {"km": 1.5}}
SAID = [{"role": "user", "content": "Hi"}]
FUNCTION = {"name": "weather", "parameters": SCHEMA}
CHAT_TOOLS = [{"type": "function", "function": FUNCTION}]
CONVERSED = [{"role": "user", "content": [{"text": "Hi"}]}]
SPEC = {"toolSpec": {"name": "weather", "inputSchema": {"json": SCHEMA}}}
CONTENTS = [{"role": "user", "parts": [{"text": "Hi"}]}]
OPENAI = ("/v1/chat/completions", {"authorization": f"Bearer {OPENAI_KEY}"})


def _chat(**more: object) -> dict[str, object]:
    return {"model": "gpt-4o", "messages": SAID, "tools": CHAT_TOOLS, **more}


async def _posted(mock: Mock, path: str, body: object, headers: dict[str, str]) -> Any:
    async with mock.https() as https:
        return await https.post(path, json=body, headers=headers)


def test_the_first_tool_is_called_with_arguments_of_its_schema() -> None:
    """In each API's own form of tools; the required properties alone."""
    calls = [
        openai_call(_chat(), SAID),
        openai_call({"tools": [{"type": "function", **FUNCTION}]}, "Hi"),
        anthropic_call({"messages": SAID, "tools": [{"name": "weather", "input_schema": SCHEMA}]}),
        gemini_call({"contents": CONTENTS, "tools": [{"functionDeclarations": [FUNCTION]}]}),
        converse_call({"messages": CONVERSED, "toolConfig": {"tools": [SPEC]}}),
    ]
    assert [(call.name, dict(call.arguments)) for call in calls if call is not None] == [
        ("weather", ARGUMENTS)
    ] * len(calls)


@pytest.mark.parametrize(
    "call",
    [
        openai_call(_chat(tool_choice="none"), SAID),
        openai_call(_chat(), [*SAID, {"role": "tool", "content": "12"}]),
        openai_call(_chat(), [{"type": "function_call_output", "output": "12"}]),
        openai_call({"messages": SAID}, SAID),
        anthropic_call(
            {
                "messages": [{"role": "user", "content": [{"type": "tool_result"}]}],
                "tools": [{"name": "weather", "input_schema": SCHEMA}],
            }
        ),
        gemini_call({"contents": [{"parts": [{"functionResponse": {}}]}]}),
        converse_call({"messages": [{"role": "user", "content": [{"toolResult": {}}]}]}),
    ],
    ids=["forbidden", "chat", "responses", "no tools", "anthropic", "gemini", "converse"],
)
def test_a_result_or_no_tools_are_answered_in_words(call: object) -> None:
    """So that a conversation with tools ends."""
    assert call is None


async def test_openai_chat_calls_a_tool_whole_and_streamed(mock: Mock) -> None:
    """The pieces of the streamed arguments are those of the whole."""
    whole = (await _posted(mock, OPENAI[0], _chat(), OPENAI[1])).json()["choices"][0]
    streamed = await _posted(mock, OPENAI[0], _chat(stream=True), OPENAI[1])
    assert whole["finish_reason"] == "tool_calls"
    assert json.loads(whole["message"]["tool_calls"][0]["function"]["arguments"]) == ARGUMENTS
    deltas = [
        json.loads(line[6:])["choices"][0]["delta"]
        for line in streamed.text.splitlines()
        if line.startswith("data: {")
    ]
    functions = [one["tool_calls"][0]["function"] for one in deltas if "tool_calls" in one]
    assert functions[0]["name"] == "weather"
    assert json.loads("".join(one["arguments"] for one in functions)) == ARGUMENTS


async def test_anthropic_and_bedrock_call_the_same_tool(mock: Mock) -> None:
    """InvokeModel streams Anthropic's events in chunks of Amazon's frames."""
    body = {
        "model": "claude-mock",
        "max_tokens": 9,
        "messages": SAID,
        "tools": [{"name": "weather", "input_schema": SCHEMA}],
    }
    bearer = {"authorization": f"Bearer {BEDROCK_KEY}"}
    told = await _posted(mock, "/v1/messages", body, {"x-api-key": ANTHROPIC_KEY})
    invoked = await _posted(mock, "/model/m/invoke", body, bearer)
    for message in (told.json(), invoked.json()):
        assert message["stop_reason"] == "tool_use"
        assert message["content"][0]["input"] == ARGUMENTS
    chunks = await _posted(mock, "/model/m/invoke-with-response-stream", body, bearer)
    assert chunks.headers["content-type"] == "application/vnd.amazon.eventstream"
    assert chunks.content.count(b":event-type\x07\x00\x05chunk") == 8


async def test_gemini_and_converse_call_the_same_tool(mock: Mock) -> None:
    """As parts and blocks of their own; streamed as well."""
    google = {"contents": CONTENTS, "tools": [{"functionDeclarations": [FUNCTION]}]}
    path, key = "/v1beta/models/gemini-mock", {"x-goog-api-key": GEMINI_KEY}
    for method in ("generateContent", "streamGenerateContent"):
        answer = (await _posted(mock, f"{path}:{method}", google, key)).json()
        (first, *_) = answer if isinstance(answer, list) else [answer]
        part = first["candidates"][0]["content"]["parts"][0]
        assert part["functionCall"] == {"name": "weather", "args": ARGUMENTS}
    body = {"messages": CONVERSED, "toolConfig": {"tools": [SPEC]}}
    bearer = {"authorization": f"Bearer {BEDROCK_KEY}"}
    whole = (await _posted(mock, "/model/m/converse", body, bearer)).json()
    assert whole["output"]["message"]["content"][0]["toolUse"]["input"] == ARGUMENTS
    frames = await _posted(mock, "/model/m/converse-stream", body, bearer)
    assert b"contentBlockStart" in frames.content


async def test_the_responses_api_calls_a_tool_whole_and_streamed(mock: Mock) -> None:
    """As an item of type `function_call`."""
    body = {"model": "gpt-4o", "input": "Hi", "tools": [{"type": "function", **FUNCTION}]}
    whole = (await _posted(mock, "/v1/responses", body, OPENAI[1])).json()
    assert json.loads(whole["output"][0]["arguments"]) == ARGUMENTS
    streamed = await _posted(mock, "/v1/responses", {**body, "stream": True}, OPENAI[1])
    assert "response.function_call_arguments.done" in streamed.text


@pytest.mark.parametrize("status", [429, 503])
async def test_a_model_of_that_name_fails_with_its_status(mock: Mock, status: int) -> None:
    """In the body, and in the path of the APIs that have it there; in the API's own words."""
    model = f"mock-status-{status}"
    chat = await _posted(mock, OPENAI[0], {"model": model, "messages": SAID}, OPENAI[1])
    bearer = {"authorization": f"Bearer {BEDROCK_KEY}"}
    converse = await _posted(mock, f"/model/{model}/converse", {"messages": CONVERSED}, bearer)
    assert (chat.status_code, converse.status_code) == (status, status)
    assert converse.headers["x-amzn-errortype"]


@pytest.mark.parametrize("expected", ["100-continue", "200-ok"])
async def test_a_header_expect_of_any_value_is_answered(mock: Mock, expected: str) -> None:
    """An unknown expectation is ignored, as providers do."""
    answer = await _posted(
        mock, OPENAI[0], {"model": "gpt-4o", "messages": SAID}, {**OPENAI[1], "expect": expected}
    )
    assert answer.status_code == 200
