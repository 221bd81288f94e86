from __future__ import annotations

import json

import pytest

from sidecar.apis.fragments import (
    MIN_BUNDLE_BYTES,
    Span,
    bundles,
    elements_of,
    ends_of_beginnings,
    list_start,
    top_values,
)
from sidecar.apis.vocabulary import COMMON
from tests.support.cpu_time import python_lines


def chat(count: int, size: int, **rest: object) -> bytes:
    messages = [{"role": "user", "content": f"{at}" + "x" * size} for at in range(count)]
    return json.dumps({"model": "m", "messages": messages, **rest}).encode()


def cut(body: bytes, span: Span) -> bytes:
    return body[span.start : span.end]


def test_the_values_of_an_object_are_found_where_they_stand() -> None:
    body = b' {"a" : [1, "}"], "b":"x\\"y" ,"c":{"a":2}, "d": 1.5e3\n}'
    values = {name: cut(body, span) for name, span in top_values(body).items()}
    assert values == {"a": b'[1, "}"]', "b": b'"x\\"y"', "c": b'{"a":2}', "d": b"1.5e3"}


@pytest.mark.parametrize(
    "body",
    [b"", b"[1]", b'{"a":1', b"\xff", b'{"\\u0061":1}', b"[" * 5_000],
)
def test_an_object_in_an_unusual_form_has_no_values(body: bytes) -> None:
    assert top_values(body) == {}


def test_ten_megabytes_of_blanks_are_gone_over_at_once() -> None:
    """One by one they held a worker, and all of its other requests, for most of a second."""
    blanks = b" \n\t\r" * 2_500
    one, other = b'{"role":"user"}', b'{"role":"tool"}'
    body = blanks.join((b'{"model":"m","messages":', b"[", one, b",", other, b"]", b"}"))

    def places() -> tuple[Span, Span | None, list[Span]]:
        value = top_values(body)["messages"]
        return value, elements_of(body, value), bundles(body, value)

    value, elements, (bundle,) = places()
    assert cut(body, value) == blanks.join((b"[", one, b",", other, b"]"))
    assert elements is not None
    assert cut(body, elements) == cut(body, bundle) == blanks.join((one, b",", other))
    assert python_lines(places) < 100


def test_bundles_are_the_elements_of_a_list_in_their_order() -> None:
    body = chat(60, 700)
    value = top_values(body)["messages"]
    found = bundles(body, value)
    together = b", ".join(cut(body, one) for one in found)
    assert json.loads(b"[" + together + b"]") == json.loads(body)["messages"]
    assert sum(one.elements for one in found) == 60
    assert all(one.end - one.start >= MIN_BUNDLE_BYTES for one in found[:-1])


def test_a_conversation_without_its_first_messages_soon_has_the_same_bundles() -> None:
    messages = [{"role": "user", "content": "x" * (300 + at % 7)} for at in range(400)]
    seen = []
    for dropped in (0, 1, 5):
        body = json.dumps({"messages": messages[dropped:]}).encode()
        seen.append({cut(body, one) for one in bundles(body, top_values(body)["messages"])})
    assert len(seen[0] & seen[1]) > len(seen[0]) / 2
    assert len(seen[0] & seen[2]) > len(seen[0]) / 2


def test_a_beginning_may_end_behind_each_of_the_last_messages() -> None:
    turn, body = chat(9, 50), chat(11, 50)
    place = list_start(body, COMMON.message_lists)
    assert place is not None
    field, start = place
    elements = elements_of(turn, top_values(turn)["messages"])
    assert elements is not None
    assert field == "messages"
    assert elements.start == start
    assert elements.end in ends_of_beginnings(body, field, start)


def test_a_beginning_may_end_before_an_answer_as_a_client_of_openai_returns_it() -> None:
    said = {"role": "user", "content": "x" * 50}
    answer = {"content": "y", "refusal": None, "role": "assistant", "tool_calls": [{"id": "c"}]}
    turn = json.dumps({"messages": [said]}).encode()
    body = json.dumps({"messages": [said, answer, said]}).encode()
    elements = elements_of(turn, top_values(turn)["messages"])
    assert elements is not None
    assert elements.end in ends_of_beginnings(body, "messages", elements.start)


def test_a_beginning_of_input_is_found_before_more_tools_than_ends_are_tried() -> None:
    said = [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}] * 3
    tools = [{"type": "function", "name": f"f{at}", "parameters": {}} for at in range(20)]
    turn = json.dumps({"input": said[:2]}).encode()
    body = json.dumps({"input": said, "tools": tools, "stream": True}).encode()
    elements = elements_of(turn, top_values(turn)["input"])
    assert elements is not None
    assert elements.end in ends_of_beginnings(body, "input", elements.start)


@pytest.mark.parametrize("body", [b'{"messages":[]}', b'{"messages":["a"]}', b'{"messages":{}}'])
def test_a_list_without_objects_has_no_place(body: bytes) -> None:
    assert list_start(body, COMMON.message_lists) is None
    assert elements_of(body, top_values(body)["messages"]) is None
