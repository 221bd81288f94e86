from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.guardrails.detectors.prompt_injection.model import CONCEPT, CONCEPTS, load_model
from sidecar.guardrails.detectors.prompt_injection.term_search import (
    _MARKS,
    TermSearch,
    words,
)

NAMES = tuple(term.name for term in load_model().terms)
SEARCH = TermSearch(NAMES)

WORDS = st.sampled_from([name for name in NAMES if not CONCEPT.search(name)])
MEANINGS = st.sampled_from(sorted(CONCEPTS)).flatmap(
    lambda name: st.sampled_from(CONCEPTS[name]).map(
        lambda word: word.strip("*").replace("_", " ")
    )
)
FILLER = st.integers(min_value=0, max_value=60).map("zz ".__mul__)
LONG_FILLER = st.sampled_from(("z" * 9_000, "zz " * 3_000, "z" * 500 + " "))
LETTERS = "aB9_'\u2019\u2013\u201c\u2026 \t\n\x00.éßİ中กุहिन्दी한"
TEXTS = st.lists(MEANINGS | WORDS | FILLER, max_size=12).map(" ".join)


@given(texts=st.lists(TEXTS | LONG_FILLER, min_size=3, max_size=6))
@settings(max_examples=200)
def test_terms_of_a_long_text_are_found_in_its_slices(texts: list[str]) -> None:
    """Neither cuts nor long words before them change anything; concepts reach over cuts."""
    content = " ".join([*texts, "zz " * 3_000]).encode()
    sliced = [one for hits in SEARCH.hits_in_slices(content) for one in hits]
    assert sliced == SEARCH.combined(SEARCH.hits(words(content)))


@given(text=st.text() | st.text(LETTERS, max_size=60))
def test_words_are_runs_of_letters_digits_and_their_marks(text: str) -> None:
    """Whatever stands between them, one space does."""
    plain = text.casefold().replace("'", "").replace("\u2019", "")
    expected = " ".join(re.findall(rf"(?:[^\W_]|[{_MARKS}])+", plain))
    assert words(text.encode()).decode() == (f" {expected} " if expected else " ")


@given(text=st.text() | st.text(LETTERS, max_size=60))
def test_letters_beyond_ascii_are_read_alike_in_a_text_of_few_and_of_many(text: str) -> None:
    """Few are replaced one by one, which takes a fraction of the time."""
    padding = "zz " * 2_000
    padded = words(f"{text} {padding}".encode())
    assert padded.split() == [*words(text.encode()).split(), *padding.encode().split()]
