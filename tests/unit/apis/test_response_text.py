from __future__ import annotations

import json

import pytest

from sidecar.apis.response_text import (
    MAX_TEXTS,
    SHORT_LIST,
    SLICE_ITEMS,
    AnswerEvent,
    AnswerText,
    UnreadableEvent,
    read_answer,
    read_in_slices,
)
from sidecar.domain.subject import UnscannedReason
from sidecar.jsontext.strict import MAX_DEPTH

MANY = [0.5, 3, -1, None, True, 1e300, 4111111111111111] * SHORT_LIST
NUMBERS = sum(type(one) in {int, float} for one in MANY)
CARD = 4111111111111111


@pytest.mark.parametrize("field", ["embedding", "usage", "annotations"])
def test_a_long_list_of_numbers_is_counted_as_a_whole(field: str) -> None:
    """An answer of ten megabytes of embeddings held a worker for a third of a second."""
    document = {field: MANY, "args": {"n": CARD}}
    read = read_answer(json.dumps(document).encode())
    assert isinstance(read, AnswerEvent)
    key, number = (one for one in read.texts if one.content != field.encode())
    assert (key.content, number.content) == (b"n", b"4111111111111111")
    assert number.location == -1 - NUMBERS


def test_a_long_list_of_strings_is_counted_where_it_is_no_text() -> None:
    """Elsewhere each is a text of its own, with its place."""
    words = ["word"] * (SHORT_LIST + 1)
    read = read_answer(json.dumps({"usage": words, "content": "said"}).encode())
    assert read == AnswerEvent((AnswerText(b"said", len(words) + 2, ("content",), (), False),))  # noqa: FBT003 - `is_json`
    read = read_answer(json.dumps({"content": [*words, 1]}).encode())
    assert isinstance(read, AnswerEvent)
    assert [one.location for one in read.texts] == [at + 1 for at in range(len(words))]


def test_long_numbers_of_a_long_list_of_arguments_are_text() -> None:
    """A card number may be one of them."""
    read = read_answer(json.dumps({"args": MANY}).encode())
    assert isinstance(read, AnswerEvent)
    cards = [one for one in read.texts if one.content == b"4111111111111111"]
    assert len(cards) == SHORT_LIST
    assert read.unscanned == tuple[UnscannedReason]()


@pytest.mark.parametrize("form", ["converse", "stream"])
def test_the_trace_of_bedrocks_guardrails_is_text(form: str) -> None:
    """It has the text of the model from before those guardrails replaced it."""
    trace = {"guardrail": {"modelOutput": ["said"]}}
    document = (
        {"trace": trace, "usage": {}} if form == "stream" else {"output": {}, "trace": trace}
    )
    read = read_answer(json.dumps(document).encode(), event="metadata")
    assert isinstance(read, AnswerEvent)
    (said,) = (one for one in read.texts if one.content == b"said")
    assert said.channel is None


def test_a_delta_is_text_in_an_event_of_any_type() -> None:
    """A client may join the pieces of events that are new to us."""
    read = read_answer(b'{"type": "response.output_text.piece", "delta": "said"}')
    assert isinstance(read, AnswerEvent)
    assert [one.content for one in read.texts] == [b"said"]


FOUND = {"user": "said", "metadata": {"id": "said"}, "type": "redacted_thinking", "number": CARD}


@pytest.mark.parametrize(
    "answer",
    [
        {"candidates": [{"content": {"parts": [{"functionResponse": {"response": FOUND}}]}}]},
        {"candidates": [{"content": {"parts": [{"tool_response": {"response": FOUND}}]}}]},
        {"steps": [{"type": "mcp_server_tool_result", "result": FOUND}]},
        {"steps": [{"type": "function_result", "result": [FOUND]}]},
        {"output": [{"type": "file_search_call", "results": [{"attributes": FOUND}]}]},
    ],
    ids=["function", "tool", "server", "list", "attributes"],
)
def test_every_string_and_long_number_of_a_tools_result_is_text(answer: object) -> None:
    """Its names are the tool's own, whatever they mean elsewhere in an answer."""
    read = read_answer(json.dumps(answer).encode())
    assert isinstance(read, AnswerEvent)
    contents = [one.content for one in read.texts]
    assert contents.count(b"said") == 2
    assert b"4111111111111111" in contents


def test_parts_in_a_tools_result_of_bedrock_are_text_and_their_names_are_none() -> None:
    """A policy may deny a word that is also a field of the API."""
    parts = [
        {"document": {"name": "1", "source": {"text": "2"}, "context": "3"}},
        {"document": {"source": {"content": [{"text": "4"}]}}},
        {"searchResult": {"source": "5", "title": "6", "content": [{"text": "7"}]}},
    ]
    result = {"toolResult": {"toolUseId": "t", "status": "success", "content": parts}}
    for event in (
        {"output": {"message": {"role": "assistant", "content": [result]}}},
        {"contentBlockIndex": 0, "delta": {"toolResult": parts}},
    ):
        read = read_answer(json.dumps(event).encode())
        assert isinstance(read, AnswerEvent)
        assert [one.content for one in read.texts] == [b"%d" % number for number in range(1, 8)]


def test_a_medium_in_a_tools_result_is_no_text() -> None:
    """It is unscanned there as elsewhere."""
    part = {"type": "image", "data": "iVBORw0KGgo" + "A" * 100, "text": "said"}
    answer = {"steps": [{"type": "function_result", "result": [part]}]}
    read = read_answer(json.dumps(answer).encode())
    assert isinstance(read, AnswerEvent)
    assert read.unscanned == (UnscannedReason.FILE,)
    assert b"said" in [one.content for one in read.texts]


def test_the_response_of_an_event_is_an_answer() -> None:
    """Not the result of a tool, which has the same name at Google's."""
    event = {"type": "response.completed", "response": {"id": "r", "status": "completed"}}
    assert read_answer(json.dumps(event).encode()) == AnswerEvent(ended=(("output", 0),))


def turns(payload: bytes) -> int:
    """Return how often others get their turn while an answer is read."""
    return sum(1 for _ in read_in_slices(payload))


@pytest.mark.parametrize(
    "document",
    [
        {"args": [[1, 2]] * 10_000},
        {"args": {str(number): number for number in range(20_000)}},
        {"usage": {str(number): number for number in range(20_000)}},
        {"content": [{"text": "a"}] * 10_000},
        {"embedding": [0.5] * 20 * SLICE_ITEMS},
        {"type": "response.output_item.done", "item": {"content": [{"text": "a"}] * 10_000}},
    ],
    ids=["lists", "arguments", "counted", "texts", "numbers", "typed"],
)
def test_a_long_answer_is_read_in_slices(document: object) -> None:
    """Four megabytes of numbers held a worker for a second."""
    assert turns(json.dumps(document).encode()) >= 20


def test_more_long_numbers_than_texts_are_read_are_not_read() -> None:
    """Each was a text of its own: a million of them took a worker ten seconds."""
    most = json.dumps({"args": [CARD] * (MAX_TEXTS - 1)}).encode()
    assert isinstance(read_answer(most), AnswerEvent)
    beyond = json.dumps({"args": [CARD] * (MAX_TEXTS + 1)}).encode()
    assert read_answer(beyond) == UnreadableEvent(UnscannedReason.MALFORMED_ANSWER)


def test_text_that_is_nested_too_deep_is_not_read() -> None:
    """The place of each of its texts is as long as it is deep."""

    def nested(depth: int) -> bytes:
        return b'{"a":' * depth + b'"said"' + b"}" * depth

    assert isinstance(read_answer(nested(MAX_DEPTH)), AnswerEvent)
    assert isinstance(read_answer(nested(MAX_DEPTH + 2)), UnreadableEvent)


@pytest.mark.parametrize("said", ['a\\"b', "a\\\\", '\\\\\\"', '"\\', "\\n\\\\n"])
def test_a_key_that_stands_twice_is_found_beside_every_escape(said: str) -> None:
    """The strings of the text are compared with those that were read, escapes or not."""
    text = json.dumps(said)
    assert isinstance(read_answer(b'{"a":%b,"b":"c"}' % text.encode()), AnswerEvent)
    assert isinstance(read_answer(b'{"a":%b,"a":"c"}' % text.encode()), UnreadableEvent)
