from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.apis.response_text import BOUND as ANSWER_BOUND
from sidecar.apis.response_text import AnswerEvent, UnreadableEvent, read_answer
from sidecar.domain.subject import Malformed, UnscannedReason
from sidecar.jsontext.strict import (
    BOUND,
    TOO_MANY_VALUES,
    JsonBound,
    JsonValue,
    parse,
)
from tests.support.memory import peak_bytes


def items(item: bytes, count: int) -> bytes:
    """Return an object whose one field is a list of so many items."""
    return b'{"input":[' + b",".join([item] * count) + b"]}"


_JSON = st.recursive(
    st.none() | st.integers() | st.text('",\\{[é\n') | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('",\\{[a'), inner),
    max_leaves=12,
)


def structure(value: JsonValue) -> tuple[int, int]:
    """Return how many objects and arrays there are, and how many commas between values."""
    if not isinstance(value, (dict, list)):
        return 0, 0
    inside = [structure(one) for one in (value.values() if isinstance(value, dict) else value)]
    return (
        1 + sum(containers for containers, _ in inside),
        max(len(inside) - 1, 0) + sum(commas for _, commas in inside),
    )


@given(value=_JSON, indent=st.sampled_from([None, 1]), ascii_only=st.booleans())
def test_what_stands_between_values_is_counted_to_the_last(
    value: JsonValue, indent: int | None, *, ascii_only: bool
) -> None:
    """And nothing in strings, whatever quotes and backslashes they hold."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    containers, commas = structure(value)
    assert not JsonBound(containers, commas).is_exceeded_by(text)
    if containers:
        assert JsonBound(containers - 1, commas).is_exceeded_by(text)
    if commas:
        assert JsonBound(containers, commas - 1).is_exceeded_by(text)


@pytest.mark.parametrize(
    "item", [b"0", b"null", b'""', b'","', b'"\\n"', b"{}", b"[]", b'{"file":{}}', b'{"a":0}']
)
def test_a_body_of_millions_of_values_is_refused_before_it_is_read(item: bytes) -> None:
    """It would keep a worker busy for seconds, and take ten times its size."""
    body = items(item, 1_000_000)
    assert parse(body) == TOO_MANY_VALUES
    assert peak_bytes(lambda: parse(body)) < 5 * len(body) + 30_000_000


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(items(b"12345", 500_000), id="a batch of tokens"),
        pytest.param(items(b"[" + b",".join([b"1"] * 200) + b"]", 2_048), id="2048 inputs"),
        pytest.param(items(b'{"text":""}', 99_998), id="objects"),
        pytest.param(items(b'"' + b"1,{[2]}\\n" * 900_000 + b'"', 1), id="CSV in a text"),
        pytest.param(items(b'"' + b'{\\"a\\":[\\\\],' * 600_000 + b'"', 1), id="JSON in a text"),
    ],
)
def test_a_large_body_of_everyday_is_read(body: bytes) -> None:
    """Many tokens, many parts, and whatever a text holds."""
    assert not isinstance(parse(body), Malformed)


def test_an_answer_of_millions_of_values_is_unreadable() -> None:
    """A held answer is read in one turn, as a request is."""
    unreadable = UnreadableEvent(UnscannedReason.MALFORMED_ANSWER)
    assert read_answer(items(b"{}", 400_000)) == unreadable
    assert read_answer(items(b"0", 1_500_002)) == unreadable


def test_the_probabilities_of_all_tokens_of_an_answer_are_read() -> None:
    """The largest answers there are: twenty alternatives to each token."""
    token = b'{"token":"\\n, {","logprob":-0.0123,"bytes":[32,116,104,101]'
    alternatives = b"[" + b",".join([token + b"}"] * 20) + b"]"
    position = token + b',"top_logprobs":' + alternatives + b"}"
    answer = items(position, 4_000).replace(b"input", b"content", 1)
    read = read_answer(b'{"choices":[{"logprobs":' + answer + b"}]}")
    assert isinstance(read, AnswerEvent)
    assert read.has_logprobs


def test_an_answer_may_hold_more_than_a_request() -> None:
    """It has what a request never has: probabilities."""
    assert ANSWER_BOUND.containers > BOUND.containers
    assert ANSWER_BOUND.commas > BOUND.commas
