from __future__ import annotations

import pytest

from sidecar.dialects import json_text


@pytest.mark.parametrize(
    ("raw", "content"),
    [
        pytest.param(rb"plain", b"plain", id="no escape"),
        pytest.param(rb"\n\/\"\\", b'\n/"\\', id="short escapes"),
        pytest.param(rb"\u00e9\u20AC", "é€".encode(), id="u escapes"),
        pytest.param(rb"\ud83d\ude00", "😀".encode(), id="pair"),
        pytest.param(rb"a\ud83db\ude00", b"a?b?", id="unpaired surrogates"),
        pytest.param(rb"\x41\u0041", rb"\x41A", id="an unknown escape stands for itself"),
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


def test_numbers_in_strings_are_not_number_tokens() -> None:
    """Only what stands outside quotes is counted."""
    text = rb'{"1":[-2.5E+3,"\"4",true],"x":60}'
    assert [text[t.start : t.end] for t in json_text.number_tokens(text)] == [b"-2.5E+3", b"60"]
