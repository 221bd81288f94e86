from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.apis.response_structure import MAX_ITEMS, MAX_TEXTS, AnswerStructure
from sidecar.domain.guardrail_settings import AnswerPart

CONTENT, ARGUMENTS = AnswerPart.CONTENT, AnswerPart.ARGUMENTS
Read = tuple[AnswerPart, str, str, str | None]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def read(*events: Any) -> list[Read]:
    structure = AnswerStructure()
    for event in events:
        structure.take(event)
    assert structure.is_known
    return [(one.of, one.text.decode(), one.place, one.tool) for one in structure.pieces()]


def said(text: str, place: str) -> list[Read]:
    return [(CONTENT, text, place, None)]


def message(content: Any, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": content} | more}]}


WHOLE: dict[str, tuple[dict[str, Any], list[Read]]] = {
    "chat": (message("{}"), said("{}", "choices[0]")),
    "chat in parts": (
        message([{"type": "text", "text": '{"a":'}, {"type": "text", "text": "1}"},
                 {"type": "thinking", "thinking": "so"}]),
        said('{"a":1}', "choices[0]"),
    ),
    "two choices": (
        {"choices": [{"index": 0, "message": {"content": "1"}},
                     {"index": 0, "message": {"content": "2"}}]},
        [*said("1", "choices[0]"), *said("2", "choices[1]")],
    ),
    "call": (
        message(None, tool_calls=[CALL]),
        [(ARGUMENTS, '{"a": 1}', "choices[0].tool_calls[0]", "f")],
    ),
    "legacy call": (
        message("", function_call={"name": "f", "arguments": "{}"}),
        [(ARGUMENTS, "{}", "choices[0].function_call", "f")],
    ),
    "empty": (message(""), said("", "choices[0]")),
    "no content": (message(None), []),
    "refusal": (message("", refusal="I cannot"), []),
    "prose beside a call": (
        message("Let me see", tool_calls=[CALL]),
        [*said("Let me see", "choices[0]"),
         (ARGUMENTS, '{"a": 1}', "choices[0].tool_calls[0]", "f")],
    ),
    "completion": ({"choices": [{"index": 0, "text": "{}"}]}, said("{}", "choices[0]")),
    "messages": (
        {"type": "message", "content": [
            {"type": "thinking", "thinking": "so", "signature": "x"},
            {"type": "text", "text": "{}"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"b": [1]}},
            {"type": "server_tool_use", "id": "t", "name": "web_search", "input": {"q": "x"}}]},
        [*said("{}", "content[1]"), (ARGUMENTS, '{"b":[1]}', "content[2]", "f")],
    ),
    "gemini": (
        {"candidates": [{"content": {"parts": [
            {"text": "so", "thought": True}, {"text": '{"a"'}, {"text": ":1}"},
            {"functionCall": {"name": "f", "args": {}}},
            {"functionCall": {"name": "g", "args": {"b": 2}}}]}}]},
        [*said('{"a":1}', "candidates[0]"), (ARGUMENTS, "{}", "candidates[0].calls[1]", "f"),
         (ARGUMENTS, '{"b":2}', "candidates[0].calls[2]", "g")],
    ),
    "converse": (
        {"output": {"message": {"role": "assistant", "content": [
            {"reasoningContent": {"reasoningText": {"text": "so"}}},
            {"text": "{}"}, {"toolUse": {"toolUseId": "t", "name": "f", "input": {"b": 1}}}]}}},
        [*said("{}", "message.content[1]"), (ARGUMENTS, '{"b":1}', "message.content[2]", "f")],
    ),
    "responses": (
        {"object": "response", "output": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}],
             "content": [{"type": "reasoning_text", "text": "so"}]},
            {"type": "message", "content": [{"type": "output_text", "text": "{}"}]},
            {"type": "function_call", "name": "f", "arguments": '{"a": 1}'}]},
        [*said("{}", "output[1].content[0]"), (ARGUMENTS, '{"a": 1}', "output[2]", "f")],
    ),
    "responses refusing": (
        {"output": [{"type": "message", "content": [{"type": "refusal", "refusal": "no"},
                                                    {"type": "output_text", "text": ""}]}]},
        [],
    ),
    "error": ({"error": {"message": "overloaded"}}, []),
}  # fmt: skip


@pytest.mark.parametrize("api", WHOLE)
def test_a_whole_answer_has_what_its_choices_say_and_the_arguments_of_calls(api: str) -> None:
    """Thoughts, refusals, names and tools that the server runs itself are not among them."""
    document, expected = WHOLE[api]

    assert read(document) == expected


def delta(index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": fields}]}


def block(index: int, kind: str = "content_block_delta", **fields: Any) -> dict[str, Any]:
    return {"type": kind, "index": index} | fields


def response(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "output_index": 0} | fields


FUNCTION = {"type": "function_call", "name": "f", "arguments": ""}
STREAMED: dict[str, tuple[list[dict[str, Any]], list[Read]]] = {
    "chat": (
        [delta(role="assistant", content=""), delta(content='{"a'), delta(content='":1}'),
         {"choices": [], "usage": {}}],
        said('{"a":1}', "choices[0]"),
    ),
    "chat, interleaved": (
        [delta(1, content="[1"), delta(0, content="{"), delta(1, content="]"),
         delta(0, content="}")],
        [*said("[1]", "choices[1]"), *said("{}", "choices[0]")],
    ),
    "calls": (
        [delta(content=""),
         delta(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": ""}}]),
         delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a"'}}]),
         delta(tool_calls=[{"index": 1, "function": {"name": "g", "arguments": "{}"}}]),
         delta(tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}])],
        [(ARGUMENTS, '{"a":1}', "choices[0].tool_calls[0]", "f"),
         (ARGUMENTS, "{}", "choices[0].tool_calls[1]", "g")],
    ),
    "messages": (
        [{"type": "message_start", "message": {"content": []}},
         block(0, "content_block_start", content_block={"type": "text", "text": ""}),
         {"type": "ping"},
         block(0, delta={"type": "text_delta", "text": '{"a":'}),
         block(0, delta={"type": "text_delta", "text": "1}"}),
         block(0, "content_block_stop"),
         block(1, "content_block_start",
               content_block={"type": "tool_use", "name": "f", "input": {}}),
         block(1, delta={"type": "input_json_delta", "partial_json": ""}),
         block(1, delta={"type": "input_json_delta", "partial_json": '{"b":2}'}),
         block(2, "content_block_start",
               content_block={"type": "tool_use", "name": "g", "input": {}}),
         block(2, delta={"type": "input_json_delta", "partial_json": ""}),
         block(3, "content_block_start",
               content_block={"type": "server_tool_use", "name": "web", "input": {}}),
         block(3, delta={"type": "input_json_delta", "partial_json": '{"q":1}'})],
        [*said('{"a":1}', "content[0]"), (ARGUMENTS, '{"b":2}', "content[1]", "f"),
         (ARGUMENTS, "{}", "content[2]", "g")],
    ),
    "converse": (
        [{"role": "assistant", "p": "ab"},
         {"contentBlockIndex": 0, "delta": {"text": "{"}},
         {"contentBlockIndex": 0, "delta": {"text": "}"}},
         {"contentBlockIndex": 1, "start": {"toolUse": {"name": "f", "toolUseId": "t"}}},
         {"contentBlockIndex": 1, "delta": {"toolUse": {"input": '{"a"'}}},
         {"contentBlockIndex": 1, "delta": {"toolUse": {"input": ":1}"}}}],
        [*said("{}", "content[0]"), (ARGUMENTS, '{"a":1}', "content[1]", "f")],
    ),
    "gemini": (
        [{"candidates": [{"content": {"parts": [{"text": "{"}]}}]},
         {"candidates": [{"content": {"parts": [{"text": "}"}]}, "finishReason": "STOP"}]}],
        said("{}", "candidates[0]"),
    ),
    "responses": (
        [response("created", response={"output": []}),
         response("output_text.delta", content_index=0, delta="{"),
         response("output_text.delta", content_index=0, delta="}"),
         response("output_text.done", content_index=0, text="{}"),
         response("content_part.done", content_index=0,
                  part={"type": "output_text", "text": "{}"}),
         response("completed", response={"output": [
             {"type": "message", "content": [{"type": "output_text", "text": "{}"}]}]})],
        said("{}", "output[0].content[0]"),
    ),
    "responses that end in another text": (
        [response("output_text.delta", content_index=0, delta="{}"),
         response("completed", response={"output": [
             {"type": "message", "content": [{"type": "output_text", "text": "[]"}]}]})],
        [*said("{}", "output[0].content[0]"), *said("[]", "response.output[0].content[0]")],
    ),
    "responses with a call": (
        [response("output_item.added", item=FUNCTION),
         response("function_call_arguments.delta", delta='{"a"'),
         response("function_call_arguments.delta", delta=":1}"),
         response("function_call_arguments.done", arguments='{"a":1}'),
         response("output_item.done", item=FUNCTION | {"arguments": '{"a":1}'})],
        [(ARGUMENTS, '{"a":1}', "output[0]", "f")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("api", STREAMED)
def test_the_pieces_of_a_stream_are_joined_as_its_client_joins_them(api: str) -> None:
    """A text that is repeated at the end is there once; one that differs is judged as well."""
    events, expected = STREAMED[api]

    assert read(*events) == expected


def test_a_character_cut_between_two_events_is_one_again() -> None:
    """Providers that count in UTF-16 leave half of an emoji in each."""
    halves = json.loads('["\\ud83d", "\\ude00"]')

    assert read(
        *(delta(content=f'"{half}' if half < "\ude00" else f'{half}"') for half in halves)
    ) == said('"😀"', "choices[0]")


@pytest.mark.parametrize(
    "document",
    [None, [], "text", {}, {"data": [{"b64_json": "x"}]}, {"outputs": [{"text": "{}"}]},
     {"generation": "{}"}, {"output": "text"}, {"choices": "none"},
     {"type": ["string", "null"]}],
)  # fmt: skip
def test_an_answer_of_no_shape_we_know_says_so(document: Any) -> None:
    """Nothing is found in it, which must not be taken for nothing to find."""
    structure = AnswerStructure()
    structure.take(document)

    assert structure.pieces() == ()
    assert not structure.is_known


def test_an_answer_of_more_texts_than_anybody_asks_for_says_so() -> None:
    """What is left out must not be taken for nothing to find; what goes on is still joined."""
    structure = AnswerStructure()
    for index in range(MAX_TEXTS):
        structure.take(delta(index, content=str(index)))
    structure.take(delta(0, content="0"))
    before = structure.is_overfull

    structure.take(delta(MAX_TEXTS, content="{}"))

    assert (before, structure.is_overfull) == (False, True)
    assert [one.text for one in structure.pieces()][:2] == [b"00", b"1"]


def test_an_answer_of_more_items_than_anybody_asks_for_is_not_gone_through() -> None:
    """A hundred thousand choices held a worker for half a second."""
    for most, is_overfull in ((MAX_ITEMS // 2, False), (MAX_ITEMS, True)):
        structure = AnswerStructure()
        structure.take({"choices": [{"message": {"refusal": "no"}}] * most})  # gone through twice
        assert structure.is_overfull is is_overfull
        structure.take(delta(0, content="{}"))  # each event is looked at by itself
        assert [one.text for one in structure.pieces()] == [b"{}"]


@pytest.mark.parametrize(
    "value", ["\ud83d", json.loads("[" * 300 + "]" * 300)], ids=["half", "deep"]
)
def test_arguments_that_cannot_be_written_are_left_out(value: Any) -> None:
    """The answer is of unknown shape then; it was a fault of the worker."""
    call: dict[str, Any] = {"functionCall": {"name": "f", "args": {"a": value}}}
    structure = AnswerStructure()
    structure.take({"candidates": [{"content": {"parts": [call]}}]})
    assert structure.is_overfull
