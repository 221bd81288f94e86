from __future__ import annotations

import json
import time

import pytest

from sidecar.domain.cooperative import run_sync
from sidecar.jsontext import tokens
from sidecar.jsontext.tokens import Replacement, SpliceError

MARK = b"[X_1]"


def splice(body: bytes, replacements: list[Replacement]) -> bytes:
    return run_sync(tokens.splice(body, replacements))[0]


@pytest.mark.parametrize(
    ("body", "span", "expected"),
    [
        pytest.param(b'{"a":"one two"}', (4, 7), b'{"a":"one [X_1]"}', id="plain"),
        pytest.param(b'{"a" :\n"one two" }', (0, 3), b'{"a" :\n"[X_1] two" }', id="white space"),
        pytest.param(rb'{"a":"l\n\"x\" y"}', (6, 7), rb'{"a":"l\n\"x\" [X_1]"}', id="escapes"),
        pytest.param(rb'{"a":"\u0041\u0042C"}', (1, 2), rb'{"a":"\u0041[X_1]C"}', id="u escape"),
        pytest.param(
            rb'{"a":"\ud83d\ude00b"}', (4, 5), rb'{"a":"\ud83d\ude00[X_1]"}', id="after a pair"
        ),
        pytest.param(rb'{"a":"\ud83d\ude00b"}', (1, 2), b'{"a":"[X_1]b"}', id="inside a pair"),
        pytest.param('{"a":"é€b"}'.encode(), (3, 4), '{"a":"é[X_1]b"}'.encode(), id="inside €"),
        pytest.param(
            '{"a":"é€b"}'.encode(), (1, 2), b'{"a":"[X_1]\xe2\x82\xacb"}', id="half of é"
        ),
        pytest.param(b'{"a":"bc"}', (1, 1), b'{"a":"b[X_1]c"}', id="empty span inserts"),
        pytest.param(b'{"a":""}', (0, 0), b'{"a":"[X_1]"}', id="empty string"),
        pytest.param(rb'{"a":"\\u0041"}', (1, 6), rb'{"a":"\\[X_1]"}', id="escaped backslash"),
    ],
)
def test_a_span_is_replaced_through_escapes(
    body: bytes, span: tuple[int, int], expected: bytes
) -> None:
    """Offsets into the decoded text find their bytes; a cut escape or character goes whole."""
    assert splice(body, [Replacement((1,), *span, MARK)]) == expected


def test_a_key_is_replaced_like_a_value() -> None:
    """Keys count among the string tokens."""
    body = b'{"a":"x","me@example.com":"y"}'
    assert splice(body, [Replacement((2,), 0, 14, MARK)]) == b'{"a":"x","[X_1]":"y"}'


def test_a_number_becomes_a_string() -> None:
    """A number has no text to replace: the whole token gives way to a string."""
    body = b'{"1":"2 3", "n":[-1.5e3, 4111111111111111]}'
    spliced = splice(body, [Replacement((-2,), 2, 4, MARK)])
    assert spliced == b'{"1":"2 3", "n":[-1.5e3, "[X_1]"]}'


@pytest.mark.parametrize(
    ("content", "found", "expected"),
    [
        pytest.param('{"n": 4111}', "4111", '{"n": "[X_1]"}', id="value"),
        pytest.param("[1,4111 ,2]", "4111", '[1,"[X_1]" ,2]', id="element"),
        pytest.param('{"n":-4111.5}', "4111", '{"n":"[X_1]"}', id="part of a number"),
        pytest.param('{"n":"4111"}', "4111", '{"n":"[X_1]"}', id="string of digits"),
        pytest.param('{"n":"a: 4111, b"}', "4111", '{"n":"a: [X_1], b"}', id="within a string"),
        pytest.param('{"\\"":4111}', "4111", '{"\\"":"[X_1]"}', id="behind an escaped quote"),
        pytest.param(
            '{"s":"\\ud83d","n":4111}', "4111", '{"s":"\\ud83d","n":"[X_1]"}', id="emoji"
        ),
        pytest.param('{"n":4111}', '"n":4111', "{[X_1]}", id="more than the number"),
        pytest.param("[a]: 4111, b", "4111", "[a]: [X_1], b", id="prose"),
        pytest.param("4111", "4111", "[X_1]", id="a number alone"),
        pytest.param('{"i":"[4111,\\"\\"]"}', "4111", '{"i":"[[X_1],\\"\\"]"}', id="outer view"),
    ],
)
def test_a_number_in_a_json_string_becomes_a_string(
    content: str, found: str, expected: str
) -> None:
    """Tool arguments stay JSON: the text gets quotes, as deep as it stands. Prose gets none."""
    body = json.dumps({"a": content})
    start = content.index(found)
    spliced = splice(body.encode(), [Replacement((1,), start, start + len(found), MARK)])
    assert spliced == json.dumps({"a": expected}).encode()


def test_a_number_in_a_json_string_in_a_json_string_becomes_a_string() -> None:
    """Its quotes are escaped twice, and the inner view of it stands for the outer one."""
    inner = '{"n": 4111, "s": ""}'
    content = json.dumps({"i": inner})
    body = json.dumps({"a": content}).encode()
    outer = content.index("4111")
    replacements = [
        Replacement((1,), outer, outer + 4, MARK),
        Replacement((1, 1), inner.index("4111"), inner.index("4111") + 4, MARK),
    ]
    spliced = splice(body, replacements)
    assert json.loads(json.loads(json.loads(spliced)["a"])["i"]) == {"n": "[X_1]", "s": ""}


@pytest.mark.parametrize("row", ['"4111",4111,', '": 4111, ",', '"\\\\",4111,'])
def test_many_numbers_in_a_json_string_cost_one_pass(row: str) -> None:
    """Whether a number stands in a string is not asked from the begin for each."""

    def seconds(rows: int) -> float:
        content = "[" + row * rows + "0]"
        found = [at for at in range(0, len(content), 2) if content.startswith("4111", at)]
        body = json.dumps({"a": content}).encode()
        replacements = [Replacement((1,), at, at + 4, MARK) for at in found]
        began = time.process_time()
        splice(body, replacements)
        return time.process_time() - began

    seconds(10)
    assert seconds(32_000) < 64 * seconds(2_000)


def test_json_in_a_string_in_a_string_is_replaced_at_its_own_depth() -> None:
    """Each number of a location goes one level of quoting down."""
    body = rb'{"a":"{\"b\":\"[\\\"\\\\u0041B\\\"]\"}"}'
    assert splice(body, [Replacement((1, 1, 0), 0, 1, MARK)]) == (
        rb'{"a":"{\"b\":\"[\\\"[X_1]B\\\"]\"}"}'
    )


def test_the_outer_view_of_a_json_string_does_not_cut_its_escapes() -> None:
    """A match that begins inside an inner escape takes all of it, so that it stays JSON text."""
    body = rb'{"a":"{\"b\":\"x\\u0041KIA\"}"}'
    content = rb'{"b":"x\u0041KIA"}'
    span = (content.index(b"0041"), content.index(b'"}'))
    assert splice(body, [Replacement((1,), *span, MARK)]) == rb'{"a":"{\"b\":\"x[X_1]\"}"}'


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        pytest.param([(1, 3), (1, 3)], b'{"a":"0[A]3456"}', id="same twice"),
        pytest.param([(1, 4), (2, 6)], b'{"a":"0[A]6"}', id="overlap"),
        pytest.param([(2, 6), (1, 4)], b'{"a":"0[B]6"}', id="overlap, given in reverse"),
        pytest.param([(1, 6), (2, 3)], b'{"a":"0[A]6"}', id="one in the other"),
        pytest.param([(1, 2), (1, 4)], b'{"a":"0[B]456"}', id="same start, the longer wins"),
        pytest.param([(1, 3), (3, 5)], b'{"a":"0[A][B]56"}', id="side by side"),
        pytest.param([(4, 5), (0, 1)], b'{"a":"[B]123[A]56"}', id="apart, out of order"),
    ],
)
def test_overlapping_spans_become_one(spans: list[tuple[int, int]], expected: bytes) -> None:
    """The union is replaced by the text of the span that begins first."""
    replacements = [
        Replacement((1,), *span, mark) for span, mark in zip(spans, (b"[A]", b"[B]"), strict=True)
    ]
    assert splice(b'{"a":"0123456"}', replacements) == expected


def test_the_same_find_in_outer_and_inner_view_is_replaced_once() -> None:
    """Tool arguments are judged as a string and as JSON text; both finds are the same bytes."""
    body = rb'{"a":"{\"b\":\"l\\nme@example.com\"}"}'
    outer = rb'{"b":"l\nme@example.com"}'.index(b"me@")
    replacements = [
        Replacement((1,), outer, outer + 14, MARK),
        Replacement((1, 1), 2, 16, MARK),
    ]
    assert splice(body, replacements) == rb'{"a":"{\"b\":\"l\\n[X_1]\"}"}'


@pytest.mark.parametrize(
    "replacement",
    [
        pytest.param(Replacement((1,), 0, 1, b'"'), id="quote"),
        pytest.param(Replacement((1,), 0, 1, b"\\"), id="backslash"),
        pytest.param(Replacement((1,), 0, 1, b"\n"), id="control character"),
        pytest.param(Replacement((1,), 0, 1, "é".encode()), id="not ASCII"),
        pytest.param(Replacement((2,), 0, 1, MARK), id="no such token"),
        pytest.param(Replacement((-1,), 0, 1, MARK), id="no such number"),
        pytest.param(Replacement((1, 0), 0, 1, MARK), id="no such inner token"),
        pytest.param(Replacement((), 0, 1, MARK), id="no location"),
        pytest.param(Replacement((1,), 0, 9, MARK), id="past the end"),
        pytest.param(Replacement((1,), 2, 1, MARK), id="backwards"),
        pytest.param(Replacement((1,), -1, 1, MARK), id="before the start"),
    ],
)
def test_a_replacement_that_does_not_fit_raises(replacement: Replacement) -> None:
    """A body is never sent on half redacted or broken."""
    with pytest.raises(SpliceError):
        splice(b'{"a":"bcd"}', [replacement])
