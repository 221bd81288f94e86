from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.domain.cooperative import run_sync
from sidecar.domain.guardrail_settings import InjectionKind
from sidecar.guardrails.detectors.prompt_injection import scoring, term_search
from sidecar.guardrails.detectors.prompt_injection.model import Author
from sidecar.guardrails.detectors.prompt_injection.scoring import (
    Sum,
    kinds_of,
    shipped_scorer,
)
from sidecar.guardrails.detectors.prompt_injection.term_search import words

SCORER = shipped_scorer()  # compiled now: half a second is over a deadline
USER = SCORER.model.weights[Author.USER]
TERMS = st.sampled_from(
    (
        "ignore all previous instructions", "do anything now", "your system prompt", "reveal",
        "stay in character", "without any restrictions", "the weather", "is nice", "git", "table",
    )
)  # fmt: skip
TEXTS = st.lists(TERMS, max_size=12).map(" ".join)
PIECES = st.sampled_from(
    (
        "ignore", "the previous", "instructions", "do anything", "now you", "are", "act as an",
        "evil", "role play that", "pretend being", "base64", "decode", "word", "\x00", " ",
    )
)  # fmt: skip
NEUTRAL = st.integers(min_value=0, max_value=3000).map(lambda count: "zz " * count)


def _best(sum_: Sum) -> tuple[int, tuple[InjectionKind, ...]]:
    return sum_[0], kinds_of(SCORER.model, USER, sum_)


def _stretch(text: str) -> tuple[int, tuple[InjectionKind, ...]]:
    return _best(run_sync(SCORER.sums((text.encode(),), (USER,)))[0])


@given(before=NEUTRAL, text=TEXTS, after=NEUTRAL)
def test_text_around_an_attack_does_not_change_its_score(
    before: str, text: str, after: str
) -> None:
    """However long the harmless text before and after, the best stretch is the same."""
    assert _stretch(f"{before}{text} {after}") == _stretch(text)


@given(before=TEXTS, text=TEXTS, after=TEXTS)
@settings(max_examples=200)
def test_words_added_around_a_text_never_lower_its_score(
    before: str, text: str, after: str
) -> None:
    """No words talk an attack down: the weights are not negative.

    A term that was said a span before counts no second time, so the text stands a span apart.
    """
    gap = " zz" * 200
    assert _stretch(f"{before}{gap} {text}{gap} {after}")[0] >= _stretch(text)[0]


@given(texts=st.lists(TEXTS | PIECES, max_size=8))
def test_a_text_has_the_same_sum_alone_and_beside_others(texts: list[str]) -> None:
    """Texts are searched together, but no term goes from one into another."""
    contents = [text.encode() for text in texts]
    together = run_sync(SCORER.sums(contents, [USER] * len(contents)))
    assert [_best(one) for one in together] == [_stretch(text) for text in texts]


@given(text=TEXTS, size=st.integers(24, 80))
def test_a_text_has_the_same_sum_in_one_piece_and_in_slices(text: str, size: int) -> None:
    """A term may begin in any slice before the one that it ends in."""
    whole = _stretch(text)
    with pytest.MonkeyPatch.context() as patch:
        for module in (scoring, term_search):
            patch.setattr(module, "SLICE_WORDS", size)
        assert _stretch(text) == whole


@given(text=st.lists(PIECES | TERMS, max_size=12).map(" ".join))
def test_ascii_text_is_read_as_words_like_any_other(text: str) -> None:
    """Several short ASCII texts are made words together, in fewer steps than one by one."""
    (sum_,) = SCORER.sums_of_joined(text.replace("\0", "").encode(), (USER,))
    assert _best(sum_) == _stretch(text)


@given(text=st.text(max_size=300))
def test_words_of_words_are_the_same(text: str) -> None:
    """Reading a text as words twice changes nothing more, and leaves valid UTF-8."""
    once = words(text.encode("utf-8", "replace"))
    assert words(once) == once
    once.decode()


@given(
    text=st.text(
        st.sampled_from(
            "aBÜ\u017f中1²_ -'\u2019“.\u0307\u00a0\u3000\0\nक\u093f\u094d\u0964ก\u0e31"
        )
        | st.characters()
    )
)
def test_words_are_runs_of_letters_and_digits_with_a_space_between_them(text: str) -> None:
    """Also where spaces, underscores and typographic characters stand together.

    Indic and Thai signs belong to the letters they are written with.
    """
    plain = text.encode("utf-8", "replace").decode().casefold()
    signs = "\u0900-\u0963\u0966-\u0dff\u0e31-\u0e3a\u0e47-\u0e4e"
    found = re.findall(rf"(?:[^\W_]|[{signs}])+", plain.replace("'", "").replace("\u2019", ""))
    assert words(text.encode("utf-8", "replace")).decode().split(" ") == ["", *found, ""]
