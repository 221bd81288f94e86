from __future__ import annotations

import contextlib
import sys
import unicodedata
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.cooperative import run_sync
from sidecar.guardrails.matching import text_views
from sidecar.guardrails.matching.text_views import TextView, ViewKind, fold, plain
from tests.support.cpu_time import least_seconds

CASES = {
    "invisible": ("a\u200bbc", "abc", "ab", "a\u200bb"),
    "ligature": ("oﬃce", "office", "ffi", "ﬃ"),
    "half_a_ligature": ("oﬃce", "office", "ff", "ﬃ"),
    "decomposed": ("xe\u0301y", "xéy", "é", "e\u0301"),
    "hangul": ("x\u1112\u1161\u11aby", "x한y", "한", "\u1112\u1161\u11ab"),
    "half_width_kana": ("xｶﾞy", "xガy", "ガ", "ｶﾞ"),
    "soft_hyphen": ("pass\u00adword é", "password é", "password", "pass\u00adword"),
    "control": ("pass\x00wo\x7frd", "password", "password", "pass\x00wo\x7frd"),
    "control_before_a_mark": ("xe\x07\u0301y", "x\u00e9y", "\u00e9", "e\x07\u0301"),
    "colour": ("a\x1b[38;5;200mb\x1b[0mc", "abc", "ab", "a\x1b[38;5;200mb\x1b[0m"),
    "colour_before_a_mark": ("xe\x1b[1m\u0301y", "x\u00e9y", "\u00e9", "e\x1b[1m\u0301"),
    "filler": ("a\u3164bc", "abc", "ab", "a\u3164b"),
    "trailing_invisible": ("é ab\u200b c", "é ab c", "ab", "ab\u200b"),
}


def views_of(content: bytes, *, folded: bool = False) -> tuple[TextView, ...]:
    return run_sync(text_views.views_of(3, content, folded=folded))


def original_of(view: TextView, wanted: str, content: bytes) -> str:
    start = view.content.index(wanted.encode())
    first, last = view.offsets.span(start, start + len(wanted.encode()))
    return content[first:last].decode()


@pytest.mark.parametrize("padding", ["", "x" * 5_000, "ñ " * 3_000, "字" * 5_000])
@pytest.mark.parametrize("case", CASES)
def test_a_span_of_the_plain_view_comes_back_to_the_original(case: str, padding: str) -> None:
    """What is replaced is what the reader sees, with everything hidden inside it."""
    original, plain_text, wanted, expected = CASES[case]
    content = f"{padding}.{original}.{padding}".encode()
    _, view, *_ = views_of(content)
    assert view.content.decode() == f"{padding}.{plain_text}.{padding}"
    assert original_of(view, wanted, content) == expected


def test_plain_text_has_one_view() -> None:
    """ASCII, most text there is, is searched once: it is its own plain and folded form."""
    (view,) = views_of(b"Hello", folded=True)
    assert (view.part, view.content) == (3, b"Hello")
    assert view.kinds == {ViewKind.RAW, ViewKind.FOLDED}


@pytest.mark.parametrize(
    "text", ["café", "— “so it\u2019s”", "5 € § 3", "• a\n• b", "日本", "\U0001f600 ok", "schön"]
)
def test_text_whose_letters_have_no_other_form_has_one_view(text: str) -> None:
    """Few texts are ASCII alone: what a view would not change is not searched twice."""
    content = f"{text} {'x' * 400}".encode()
    (view,) = views_of(content, folded=True)
    assert (view.kinds, view.content) == (text_views.ONE_VIEW, content)
    assert text_views.has_one_view(content)


@pytest.mark.parametrize("text", ["机密文件", "بلوبيرد", "नीलकंठ", "סודי Top"])
def test_long_text_without_capitals_of_its_script_has_one_view(text: str) -> None:
    """Its folded form is the text itself, so that no finding is mapped back."""
    content = f"{text} ".encode() * 2_000
    (view,) = views_of(content, folded=True)
    assert (view.kinds, view.content) == (text_views.ONE_VIEW, content)


@pytest.mark.parametrize(
    "text",
    [
        "É",
        "…",
        "e\u0301",
        "\u212a",
        "\u017f",
        "a\u200bb",
        "k\u0301\u0328",
        "p·a·s·s·w·o·r·d·1·2·3·4·5·6",
    ],
)
def test_text_that_a_view_changes_has_more_than_one(text: str) -> None:
    """Another case, form or order of marks, an invisible character, and joints within a word."""
    content = f"{text} {'x' * 400}".encode()
    assert len(views_of(content, folded=True)) > 1
    assert not text_views.has_one_view(content)


printable = st.characters(codec="utf-8", exclude_categories=["Cc"])


@given(st.text(printable | st.sampled_from("aB •é\u2019\u0301\u0bbe\u0bc6가"), max_size=12))
def test_text_with_one_view_is_its_own_form_in_lower_case(text: str) -> None:
    """All that changes in it is the case of ASCII."""
    if text_views.has_one_view(text.encode()):
        lower = "".join([one.lower() if one.isascii() else one for one in text])
        assert (plain(f"x{text}x"), fold(text)) == (f"x{text}x", lower)


def test_no_two_characters_of_text_with_one_view_become_another() -> None:
    """Canonical compositions (Unicode 5.18) of two characters that each stay by themselves."""
    for code in range(sys.maxunicode + 1):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            pair = "".join(chr(int(one, 16)) for one in parts)
            if unicodedata.normalize("NFC", pair) != pair:
                assert not text_views.has_one_view(pair.encode()), pair


letters = st.text(
    "ab [1m\x1b\x07\x85\u3164\u00e9\u200b\ufb03\uff14\u1112\u1161\u11ab\u0301\u00df", max_size=60
)


@given(letters, st.integers(1, 9))
def test_the_pieces_of_a_long_text_are_those_of_the_whole(text: str, chunk: int) -> None:
    """Cutting into chunks changes neither view: nothing melts together over a cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_views, "CHUNK_CHARACTERS", chunk)
        patch.setattr(text_views, "SLICE_BYTES", 2 * chunk)
        views = views_of(f"é{text}".encode(), folded=True)
    whole = {
        ViewKind.RAW: f"é{text}",
        ViewKind.PLAIN: plain(f"é{text}"),
        ViewKind.FOLDED: fold(f"é{text}"),
    }
    for view in views:
        if view.kinds is text_views.ONE_VIEW:  # the folded form differs in the case of ASCII
            assert (view.content.lower(), len(views)) == (fold(f"é{text}").encode(), 1)
            continue
        (kind,) = view.kinds
        assert view.content.decode() == whole[kind]
        for start in range(len(view.content)):
            first, last = view.offsets.span(start, start + 1)
            assert 0 <= first < last <= view.length


def test_a_long_run_of_marks_is_read_in_linear_time() -> None:
    """Sorting marks is quadratic in Python's NFKC: 64 KB in one go took over a second."""
    short, long = (("a" + "\u0316\u0300" * marks).encode() for marks in (4_000, 16_000))
    seconds = [least_seconds(partial(views_of, one, folded=True)) for one in (short, long)]
    assert seconds[1] < 10 * seconds[0]


def test_no_character_makes_a_text_more_than_six_times_as_long() -> None:
    """One would make it eleven times as long: the words it stands for stay one character."""
    content = ("\ufdfae\u0301\ufb03" * 1_000).encode()
    raw, view, folded = views_of(content, folded=True)
    assert view.content.decode() == "\ufdfa\u00e9ffi" * 1_000
    assert folded.content == view.content
    assert raw.content == content
    assert original_of(view, "\u00e9", content) == "e\u0301"
    for code in range(sys.maxunicode + 1):
        if not "\ud800" <= (one := chr(code)) <= "\udfff":
            assert len(plain(one).encode()) <= 6 * len(one.encode())


def test_a_text_is_normalised_in_turns_of_one_chunk() -> None:
    """A slice of characters that stand for words makes six times as much text as it has."""
    work = text_views.views_of(0, "\u3316".encode() * 20_000, folded=True)
    turns = 0
    with contextlib.suppress(StopIteration):
        while True:
            next(work)
            turns += 1
    assert turns > 20_000 / (text_views.CHUNK_CHARACTERS + text_views.MAX_RUN_CHARACTERS)


def test_every_invisible_character_is_left_out() -> None:
    """The search in UTF-8 for any of them overlooks none."""
    invisible = [one for code in range(sys.maxunicode + 1) if not plain(one := chr(code))]
    assert len(invisible) > 4_000
    for one in invisible:
        assert views_of(f"é{one}b".encode())[1].content == "éb".encode(), one
