"""Whatever may become a finding is held back from its first byte on."""

from __future__ import annotations

from itertools import cycle

import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.guardrails.detectors.pii import PII_RULES
from sidecar.guardrails.detectors.secrets import SECRET_RULES
from sidecar.guardrails.detectors.terms import term_rule
from sidecar.guardrails.matching.database import author_expression
from sidecar.guardrails.matching.partial_match import PartialMatcher, reversed_prefixes
from sidecar.guardrails.matching.rule import Rule

RULES = (*PII_RULES, *SECRET_RULES)
ALL = PartialMatcher(RULES)

ATOMS = st.sampled_from(["a", "b", "[ab]", r"\d", "[^a]", "[^a]{1,3}", ".", r"\.", " "])


def _combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda some: f"(?:{'|'.join(some)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
        inner.map(lambda one: f"({one})"),
        inner.map(lambda one: f"(?i:{one})"),
        inner.map(lambda one: rf"\b{one}"),
        inner.map(lambda one: rf"{one}\b"),
    )


EXPRESSIONS = st.recursive(ATOMS, _combined, max_leaves=8)
TEXTS = st.text(alphabet="abAB01 .x", max_size=14)


@settings(max_examples=500, deadline=None)
@given(regex=EXPRESSIONS, text=TEXTS)
def test_every_beginning_of_a_match_is_held(regex: str, text: str) -> None:
    """However the expression is built: no match that is still coming has begun to leave."""
    unfinished = PartialMatcher([Rule(type="X", expression=author_expression(regex))])
    pattern = re2.compile(regex.encode())
    for match in pattern.finditer(text.encode()):
        start, end = match.span()
        for cut in range(start + 1, end + 1):
            assert unfinished.begins_at(text[:cut].encode()) <= start


@given(regex=EXPRESSIONS, text=st.text(alphabet="abB1 é—字", max_size=10))
def test_letters_beyond_ascii_begin_matches_too(regex: str, text: str) -> None:
    """Where all of them are their own form, the text is searched as one of ASCII is."""
    unfinished = PartialMatcher([Rule(type="X", expression=author_expression(regex))])
    content = text.encode()
    for match in re2.compile(regex.encode()).finditer(content):
        start, end = match.span()
        for cut in range(start + 1, end + 1):
            if content[cut : cut + 1] < b"\x80" or content[cut] >= 0xC0:
                assert unfinished.begins_at(content[:cut]) <= start


@given(regex=EXPRESSIONS)
def test_what_is_made_of_an_expression_is_one(regex: str) -> None:
    """RE2 takes it, and it matches the empty end of any text."""
    assert re2.compile(reversed_prefixes(regex)).match("") is not None


LONGEST = re2.Options()
LONGEST.longest_match = True


@settings(max_examples=500, deadline=None)
@given(regex=EXPRESSIONS, text=TEXTS)
def test_waiting_for_an_opening_misses_no_beginning(regex: str, text: str) -> None:
    """With the part before a gap looked for first, as much is held as by all of the expression."""
    unfinished = PartialMatcher([Rule(type="X", expression=author_expression(regex))])
    whole = re2.compile(f"(?:{reversed_prefixes(regex)})?", LONGEST)
    assert unfinished.begins_at(text.encode()) == len(text) - whole.match(text[::-1]).end()


@settings(max_examples=500, deadline=None)
@given(regex=EXPRESSIONS, text=TEXTS, cut=st.integers(0, 14))
def test_a_beginning_that_is_ruled_out_is_none_again(regex: str, text: str, cut: int) -> None:
    """So a stream need not look before the place that its last search has returned."""
    unfinished = PartialMatcher([Rule(type="X", expression=author_expression(regex))])
    earlier = unfinished.begins_at(text[:cut].encode())
    whole = unfinished.begins_at(text.encode())
    assert unfinished.begins_at(text.encode(), since=earlier) == whole


EXAMPLES = (
    "bob@example.com", "4111 1111 1111 1111", "4111111111111111", "DE89 3704 0044 0532 0130 00",
    "536-22-8726", "social security number: 536228726", "203.0.113.40", "2001:db8::ff00:42:8329",
    "+49 30 901820", "call me at (212) 555-0123", "AKIAIOSFODNN7EXAMPLA",
    "ghp_0123456789abcdefghijABCDEFGHIJ012345", "egk_abcdefghijkl_" + "S" * 49,
    "postgres://bob:hunter2secret@db/x", "api_key = 'q8Zt1xW4vB7nM2kP'",
    "-----BEGIN PRIVATE KEY-----\nMIIEowIBAAKC4x9Qz7Wvq8Zt1xW4vB7n\n-----END PRIVATE KEY-----",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
)  # fmt: skip


@given(
    example=st.sampled_from(EXAMPLES),
    before=st.text(alphabet="ab .,:\n", max_size=6).map(lambda text: text + " "),
)
def test_a_finding_of_the_built_in_rules_is_held_from_its_first_byte(
    example: str, before: str
) -> None:
    """Keywords in front of a value and what a validator reads on behind a match included."""
    text = (before + example).encode()
    spans = [
        (found[0], max(found[1], match.end()))
        for rule in RULES
        for match in rule.pattern.finditer(text)
        for start, end in [match.span(rule.group)]
        for found in ([(start, end)] if rule.locate is None else rule.locate(text, start, end))
        if found is not None
    ]
    assert spans
    for start, end in spans:
        for cut in range(start + 1, end + 1):
            assert ALL.begins_at(text[:cut]) <= start, text[:cut]


@given(
    pieces=st.lists(
        st.sampled_from([*EXAMPLES, "call", "my address is", "born on", " "]), min_size=1
    ),
    sizes=st.lists(st.integers(1, 12), min_size=1),
)
def test_a_stream_of_the_built_in_rules_holds_the_same_piece_by_piece(
    pieces: list[str], sizes: list[int]
) -> None:
    """Each search begins where the last one has ended, however the text was cut."""
    text = " ".join(pieces).encode()
    since = end = 0
    for size in cycle(sizes):
        end += size
        whole = ALL.begins_at(text[:end])
        since = ALL.begins_at(text[:end], since=since)
        assert since == whole, text[:end]
        if end >= len(text):
            return


@given(
    term=st.sampled_from(["Bluebird", "top secret", "机密", "straße"]),
    spelling=st.sampled_from(["{}", "\uff22luebird", "b\u200bluebird", "TOP  Secret", "STRASSE"]),
)
def test_other_spellings_are_held_as_well(term: str, spelling: str) -> None:
    """Full-width letters, zero-width characters, other case."""
    text = spelling.format(term)
    unfinished = PartialMatcher(
        [term_rule(one) for one in ("Bluebird", "top secret", "机密", "straße")]
    )
    for cut in range(1, len(text) + 1):
        assert unfinished.begins_at(text[:cut].encode()) == 0, text[:cut]


@given(text=st.text(alphabet="。、「」—…“” ", max_size=20))
def test_what_cannot_become_a_finding_is_not_held(text: str) -> None:
    """Other scripts' punctuation begins no card, key or address."""
    assert ALL.begins_at(text.rstrip(" ").encode()) == len(text.rstrip(" ").encode())
