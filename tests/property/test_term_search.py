from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.guardrails.detectors.prompt_injection.model import CONCEPT, CONCEPTS, load_model
from sidecar.guardrails.detectors.prompt_injection.term_search import TermSearch, words

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
TEXTS = st.lists(MEANINGS | WORDS | FILLER, max_size=12).map(" ".join)


@given(texts=st.lists(TEXTS | LONG_FILLER, min_size=3, max_size=6))
@settings(max_examples=200)
def test_terms_of_a_long_text_are_found_in_its_slices(texts: list[str]) -> None:
    """Neither cuts nor long words before them change anything; concepts reach over cuts."""
    content = " ".join([*texts, "zz " * 3_000]).encode()
    sliced = [one for hits in SEARCH.hits_in_slices(content) for one in hits]
    assert sliced == SEARCH.combined(SEARCH.hits(words(content)))
