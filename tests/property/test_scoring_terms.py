from __future__ import annotations

import hyperscan
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.guardrails.detectors.prompt_injection.model import PHRASES, load_model
from sidecar.guardrails.detectors.prompt_injection.scoring import (
    INDEX_BITS,
    Hit,
    TermSearch,
    words,
)
from sidecar.guardrails.matching.database import compile_hyperscan
from training.occurrences import term_expressions

NAMES = tuple(term.name for term in load_model().terms)
SEARCH = TermSearch(NAMES)
ALL_IN_ONE = compile_hyperscan(term_expressions(NAMES), mode=hyperscan.HS_MODE_BLOCK)

PHRASE = st.sampled_from(PHRASES).flatmap(
    # Gaps of short words, so that few examples are thrown away.
    lambda one: st.from_regex(
        one.regex.replace("[0-9a-z\\x80-\\xff]+", "(?:x|to|model|unlock|z{90})"), fullmatch=True
    )
)
WORDS = st.sampled_from(NAMES).filter(lambda name: name[0] != "@")
FILLER = st.integers(min_value=0, max_value=60).map("zz ".__mul__)
LONG_FILLER = st.sampled_from(("z" * 9_000, "zz " * 3_000, "z" * 500 + " "))
TEXTS = st.lists(PHRASE | WORDS | FILLER, max_size=6).map(" ".join)


def _in_one(text: bytes) -> list[Hit]:
    found: list[Hit] = []

    def collect(index: int, _start: int, end: int, _flags: int, _context: object) -> None:
        found.append(end << INDEX_BITS | index)

    ALL_IN_ONE.scan(text, match_event_handler=collect)
    return sorted(found)


@given(text=TEXTS)
@settings(max_examples=300)
def test_terms_are_found_where_one_database_of_all_of_them_finds_them(text: str) -> None:
    """Searching for a phrase only around its anchor changes nothing."""
    read = words(text.encode())
    assert SEARCH.hits(read) == _in_one(read)


@given(texts=st.lists(TEXTS | LONG_FILLER, min_size=3, max_size=6))
def test_terms_of_a_long_text_are_found_in_its_slices(texts: list[str]) -> None:
    """Neither the cuts nor long words before them change anything."""
    content = " ".join([*texts, "zz " * 3_000]).encode()
    sliced = [one for hits in SEARCH.hits_in_slices(content) for one in hits]
    assert sliced == _in_one(words(content))
