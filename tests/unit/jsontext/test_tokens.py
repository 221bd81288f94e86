from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.domain.cooperative import run_sync
from sidecar.jsontext import tokens as json_text
from tests.support.cpu_time import least_seconds, python_lines
from tests.support.memory import peak_bytes


@pytest.mark.parametrize(
    ("raw", "content"),
    [
        pytest.param(rb"plain", b"plain", id="no escape"),
        pytest.param(rb"\n\/\"\\", b'\n/"\\', id="short escapes"),
        pytest.param(rb"\u00e9\u20AC", "é€".encode(), id="u escapes"),
        pytest.param(rb"\ud83d\ude00", "😀".encode(), id="pair"),
        pytest.param(rb"a\ud83db\ude00", b"a?b?", id="unpaired surrogates"),
        pytest.param(rb"\x41\u0041", rb"\x41A", id="an unknown escape stands for itself"),
        pytest.param(rb"\x\b\f\n\r\t\"\/\\", b'\\x\b\f\n\r\t"/\\', id="short ones beside it"),
        pytest.param(rb"\x\ud83d\ude00\ud800", "\\x😀?".encode(), id="a pair beside it"),
        pytest.param(rb"\u00zz\u0041", rb"\u00zzA", id="bad hex stands for itself"),
        pytest.param(b"raw\nline\\t", b"raw\nline\t", id="raw control character"),
    ],
)
def test_a_token_is_decoded_even_where_it_is_not_json(raw: bytes, content: bytes) -> None:
    """What JSON leaves open in a model's own text is settled here, once for all."""
    assert json_text.decode(raw) == content


def test_a_string_that_never_ends_is_a_token_too() -> None:
    """Cut-off tool arguments are looked into like whole ones."""
    text = rb'{"a":"b\"c\u0041'
    tokens = [text[token.start : token.end] for token in json_text.string_tokens(text)]
    assert tokens == [b"a", rb"b\"c\u0041"]


def test_a_hostile_text_is_tokenised_in_one_pass() -> None:
    """Escaped quotes without an end make one token, not a new search from each of them."""
    text = b'"' + b'\\"' * 200_000
    assert [token.end for token in json_text.string_tokens(text)] == [len(text)]


@given(st.text('"\\\\a[n', max_size=20))
@example('"\\')
@example('"a\\n\\')
@example('["a", "\\n')
def test_strings_with_an_escape_are_those_of_all_strings(text: str) -> None:
    """Others are skipped, and counted: the index of each is its own."""
    content = text.encode()
    raws = [content[one.start : one.end] for one in json_text.string_tokens(content)]
    expected = [(index, raw) for index, raw in enumerate(raws) if b"\\" in raw]
    assert list(json_text.escaped_strings(content)) == expected


def test_strings_without_an_escape_are_skipped_at_little_cost() -> None:
    """A text of two million of them held a worker for a second."""
    content = b'[""' + b'""' * 100_000 + b"\\"

    def read_all() -> None:
        assert len(list(json_text.string_tokens(content))) == 100_001

    def read_escaped() -> None:
        assert not list(json_text.escaped_strings(content))

    assert 2 * least_seconds(read_escaped) < least_seconds(read_all)


def test_numbers_in_strings_are_not_number_tokens() -> None:
    """Only what stands outside quotes is counted."""
    text = rb'{"1":[-2.5E+3,"\"4",true],"x":60}'
    picked = run_sync(json_text.pick_tokens(text, {0, 1}, are_numbers=True)).values()
    assert [text[t.start : t.end] for t in picked] == [b"-2.5E+3", b"60"]
    with pytest.raises(json_text.SpliceError):
        run_sync(json_text.pick_tokens(text, {2}, are_numbers=True))


@pytest.mark.parametrize("code", ["007f", "0080", "07FF", "0800", "d7ff", "D800", "dfff", "E000"])
def test_an_escape_is_as_long_as_its_character(code: str) -> None:
    """Offsets count the bytes of UTF-8 at each of its borders; an unpaired surrogate is one."""
    raw = f"a\\u{code}b".encode()
    offsets = json_text.RawOffsets(raw)
    content = run_sync(offsets.decoded())
    length = len(json_text.decode(raw))
    assert len(content) == length
    assert offsets.raw_range(length - 1, length) == (7, 8)
    assert offsets.raw_range(1, 2) == (1, 7)


UNITS = (
    rb"\n",
    rb"\u00e9",
    "é".encode(),
    rb"\ud83d\ude00",
    rb"\u20AC",
    "€".encode(),
    b"ab",
    rb"\x",
)


def test_offsets_are_found_in_strings_of_any_length() -> None:
    """In order and out of it, and to the last escape."""
    units = UNITS * 300
    offsets = json_text.RawOffsets(b"".join(units))
    content = run_sync(offsets.decoded())
    spans: list[tuple[tuple[int, int], tuple[int, int]]] = []
    at = decoded = 0
    for unit in units:
        length = len(json_text.decode(unit))
        # A range within characters that stand for themselves may begin and end between them.
        if unit[:1] != b"a" and unit != rb"\x":
            spans.append(((decoded, decoded + length), (at, at + len(unit))))
            spans.append(((decoded + length - 1, decoded + 1), (at, at + len(unit))))
        at, decoded = at + len(unit), decoded + length
    assert len(content) == decoded
    for order in (spans, spans[::-1], spans[::7] + spans[::5]):
        assert [offsets.raw_range(*span) for span, _ in order] == [raw for _, raw in order]
    assert offsets.raw_range(0, decoded) == (0, at)


@pytest.mark.parametrize("unit", [rb"\n", rb"\u00e9", rb"a\n", rb"\x"])
def test_offsets_take_no_memory_for_each_escape(unit: bytes) -> None:
    """A text may be ten megabytes of escapes: some five million."""
    raw = unit * 100_000
    content = json_text.decode(raw)

    def look_up() -> None:
        offsets = json_text.RawOffsets(raw)
        run_sync(offsets.decoded())
        offsets.raw_range(9, 99_999)

    assert peak_bytes(look_up) < len(raw) + 2 * len(content)


@pytest.mark.parametrize(
    ("span", "whole"),
    [
        pytest.param((0, 1), (0, 1), id="before"),
        pytest.param((2, 4), (1, 7), id="inside a u escape"),
        pytest.param((6, 8), (1, 8), id="at its last digit"),
        pytest.param((7, 8), (7, 8), id="behind it"),
        pytest.param((10, 11), (8, 12), id="inside a run of backslashes"),
        pytest.param((0, 11), (0, 12), id="up to inside a run"),
        pytest.param((12, 13), (12, 13), id="behind the run"),
    ],
)
def test_a_range_takes_inner_escapes_whole(span: tuple[int, int], whole: tuple[int, int]) -> None:
    """Neither end of a range is left inside an escape of the inner text."""
    assert json_text.whole_units(rb"a\u0041b\\\nc", *span) == whole


def test_backslashes_before_what_none_can_escape_stand_for_themselves() -> None:
    """A path in the arguments of a tool call has lost its last backslash to a placeholder."""
    assert json_text.whole_units(rb"C:\\[A_1]x", 4, 9) == (4, 9)
    assert json_text.whole_units(rb"C:\\nina", 4, 8) == (2, 8)  # at some depth a line break
    assert json_text.whole_units(rb"C:\[A_1]", 3, 8) == (2, 8)  # no JSON, but read by some


def test_a_long_run_of_backslashes_is_gone_over_in_few_steps() -> None:
    """Four megabytes of them before a value held a worker for a quarter of a second."""
    text = b"ab" + b"\\" * 8_001 + b"nbob"
    start = text.index(b"nbob")
    assert json_text.whole_units(text, start, len(text)) == (2, len(text))
    assert python_lines(lambda: json_text.whole_units(text, start, len(text))) < 60


def test_a_range_costs_nothing_of_the_text_behind_it() -> None:
    """One escape, and thousands of values far before the next: no search to the end for each."""

    def seconds(text: bytes) -> float:
        began = time.process_time()
        for at in range(20, 4_020):
            json_text.whole_units(text, at, at + 1)
        return time.process_time() - began

    short = b'{"a":"\\n","b":"' + b"x " * 5_000
    assert seconds(short + b"x " * 500_000) < 10 * seconds(short)
