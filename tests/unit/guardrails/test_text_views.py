from __future__ import annotations

import pytest

from sidecar.guardrails.text_views import MAX_MAPPED_BYTES, Origins, View, pieces_of

CASES = {
    "invisible": ("a\u200bbc", "abc", "ab", "a\u200bb"),
    "ligature": ("oﬃce", "office", "ffi", "ﬃ"),
    "half_a_ligature": ("oﬃce", "office", "ff", "ﬃ"),
    "decomposed": ("xe\u0301y", "xéy", "é", "e\u0301"),
    "hangul": ("x\u1112\u1161\u11aby", "x한y", "한", "\u1112\u1161\u11ab"),
    "half_width_kana": ("xｶﾞy", "xガy", "ガ", "ｶﾞ"),
    "soft_hyphen": ("pass\u00adword é", "password é", "password", "pass\u00adword"),
    "trailing_invisible": ("é ab\u200b c", "é ab c", "ab", "ab\u200b"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_span_of_the_plain_view_comes_back_to_the_original(case: str) -> None:
    """What is replaced is what the reader sees, with everything hidden inside it."""
    original, plain, wanted, expected = CASES[case]
    content = original.encode()
    _, piece = pieces_of(0, content, folded=False)
    assert piece.content.decode() == plain
    start = piece.content.index(wanted.encode())
    first, last = Origins(piece).span(start, start + len(wanted.encode()))
    assert content[first:last].decode() == expected


def test_plain_text_has_one_view() -> None:
    """ASCII, most text there is, is searched once: it is its own plain and folded form."""
    (piece,) = pieces_of(3, b"Hello", folded=True)
    assert (piece.part, piece.content) == (3, b"Hello")
    assert piece.views == {View.RAW, View.FOLDED}


def test_text_too_long_to_map_back_is_found_as_a_whole() -> None:
    """Rather too much than too little."""
    content = ("é" * MAX_MAPPED_BYTES + "a\u200bb").encode()
    _, piece = pieces_of(0, content, folded=False)
    assert Origins(piece).span(0, 1) == (0, len(content))
