from __future__ import annotations

import json

import pytest

from sidecar.apis.response_text import SHORT_LIST, AnswerEvent, AnswerText, read_answer
from sidecar.domain.subject import UnscannedReason

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
