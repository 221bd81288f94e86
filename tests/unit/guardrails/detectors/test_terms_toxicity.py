from __future__ import annotations

import pytest

from sidecar.guardrails.detectors.terms import toxic_words
from sidecar.guardrails.matching.text_views import fold
from tests.support.guardrails import effective, parts_of, policy

POLICY = effective(policy("  - {name: rude, type: toxicity}"))
DENIED = effective(
    policy(
        "  - {name: denied, type: denied_terms,"
        " terms: [대외비, café, Straße, can't say, l\u2019école, O'Brien-Smith]}"
    )
)
LENIENT = effective(policy("  - {name: rude, type: toxicity, allowed: [Bollocks, shit]}"))


def found(text: str, *, lenient: bool = False) -> list[str]:
    parts = parts_of([text])
    (outcome,) = (LENIENT if lenient else POLICY).local.scan(parts)
    assert outcome.failure is None
    assert {one.type for one in outcome.findings} <= {"TOXICITY"}
    return [parts[0].content[one.start : one.end].decode() for one in outcome.findings]


@pytest.mark.parametrize(
    "text", ["what BULLSHIT", "you mo\u200bron", "du Arschloch!", "f.u.c.k.i.n.g", "a55hole"]
)
def test_a_swear_word_is_found_however_it_is_written(text: str) -> None:
    """In any case, in several languages, with the usual disguises."""
    assert len(found(text)) == 1


@pytest.mark.parametrize(
    "text",
    ["the Scunthorpe assessment", "shitake mushrooms in Essex", "a cockpit, a raccoon, a titmouse",
     "Dickens was a classic", "that is 5 and 1 and 3", "niggling doubts"],
)  # fmt: skip
def test_an_innocent_word_that_contains_one_passes(text: str) -> None:
    """Words count whole."""
    assert found(text) == []


def test_an_allowed_word_is_no_finding() -> None:
    """What one team minds, another says all day."""
    assert found("Bollocks! Shit! Wanker!", lenient=True) == ["Wanker"]


def test_toxic_words_are_folded_and_unique() -> None:
    """Folded, without doubles: a word twice would be two rules."""
    words = toxic_words()
    assert len(set(words)) == len(words)
    assert all(word == fold(word) for word in words)


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("이것은 대외비입니다", "대외비"),
        ("CAFE\u0301 open", "CAFE\u0301"),
        ("in der STRASSE", "STRASSE"),
        ("cafés, cafe and Straßen", None),
        ("I can\u2019t\u00a0say", "can\u2019t\u00a0say"),
        ("I CAN\u2018T say", "CAN\u2018T say"),
        ("à l'école", "l'école"),
        ("Mr O\u02bcBrien\u2011Smith", "O\u02bcBrien\u2011Smith"),
        ("_CAFÉ_, __init__", "CAFÉ"),
        ("___Straße___", "Straße"),
        ("_can't say_ so", "can't say"),
        ("my_café, café_name, __Straße__2, _é_café", None),
        ("I cant say, I can't, I can\u2019ts say", None),
    ],
)
def test_a_term_ends_as_words_of_its_script_do(text: str, term: str | None) -> None:
    """Korean puts particles right behind a word; elsewhere a longer word is another one."""
    parts = parts_of([text])
    (outcome,) = DENIED.local.scan(parts)
    found = [parts[0].content[one.start : one.end].decode() for one in outcome.findings]
    assert found == ([] if term is None else [term])
