"""What is told of an expression before it is compiled backwards."""

from __future__ import annotations

import pytest

from sidecar.guardrails.detectors.secrets import SECRET_RULES
from sidecar.guardrails.matching.database import author_expression
from sidecar.guardrails.matching.partial_match import PartialMatcher, UnknownSyntaxError, has_gap
from sidecar.guardrails.matching.rule import Rule, rule
from tests.support.cpu_time import python_calls


@pytest.mark.parametrize(
    "regex",
    [
        r"\bpassport\b[^0-9\n]{0,24}?\b([0-9]{9})",
        r"from.{1,80}to",
        r"(?i:key|secret)(?:\s|\S{0,12})=",
        r"a(?:b|(?:c\W{2,9}d)+)e",
    ],
)
def test_a_counted_run_of_nearly_anything_is_a_gap(regex: str) -> None:
    """Wherever it stands in the expression."""
    assert has_gap(regex)


@pytest.mark.parametrize(
    "regex",
    [
        r"\bsk-[A-Za-z0-9]{20,48}\b",
        r"[^@]+@[^@]+",
        r"a.?b",
        r"(?:[0-9][ -]?){13,19}",
        "",
    ],
)
def test_what_is_not_counted_or_of_few_kinds_is_none(regex: str) -> None:
    """An endless run has one state, an optional character two; digits do not stand anywhere."""
    assert not has_gap(regex)


def test_what_cannot_be_read_is_said() -> None:
    """The caller has to suppose the worst."""
    with pytest.raises(UnknownSyntaxError):
        has_gap(r"(a")


@pytest.mark.parametrize(
    "text",
    ["AKIA\u00a0Q3ZT", "AKIA\u2028Q3ZT", "AK\u0301IAQ3ZT", "A\u20e3KIAQ3ZT",
     "".join(chr(0xE0000 + ord(one)) for one in "AKIAQ3")],
    ids=["no-break space", "line separator", "combining mark", "keycap", "tag characters"],
)  # fmt: skip
def test_the_beginning_of_a_hidden_token_is_held(text: str) -> None:
    """The scan of the whole would find it; its first half must not have left by then."""
    content = f"use {text}".encode()
    assert PartialMatcher(SECRET_RULES).begins_at(content) <= 4


def test_each_kind_of_hidden_character_is_looked_at_once() -> None:
    """Each event of a stream of tags took a tenth of a second, as eight kilobytes are held."""
    matcher = PartialMatcher([rule("A", "z{9}")])
    text = b"abc " + "\U000e007a\u200b".encode() * 4_000
    assert matcher.begins_at(text) == len(b"abc ")
    assert python_calls(lambda: matcher.begins_at(text)) < 100


def test_a_rule_with_a_gap_is_held_from_its_opening() -> None:
    """Its words alone, then all of it; words of which no match can come any more are let go."""
    matcher = PartialMatcher([rule("X", r"(?:passport|visa)[^0-9]{0,24}?[0-9]{9}")])
    assert matcher.begins_at(b"my passp") == 3
    assert matcher.begins_at(b"my passport, which is ") == 3
    assert matcher.begins_at(b"my visa 1 is ") == len(b"my visa 1 is ")


def test_a_gap_that_may_come_first_is_always_searched() -> None:
    """No word in front of it could be waited for."""
    matcher = PartialMatcher([rule("X", r"(?:no\.)?[^0-9]{2,8}[0-9]{9}")])
    assert matcher.begins_at(b"12 and so") == 2


def test_an_opening_may_have_letters_of_any_script() -> None:
    """An author's expression is of code points."""
    matcher = PartialMatcher([Rule(type="X", expression=author_expression("[ж-я]{2}.{1,9}№"))])
    assert matcher.begins_at("12 ок и ".encode()) == 3


def test_braces_that_are_meant_are_no_repeat_when_read_backwards() -> None:
    """The front of a match would leave before its end is here."""
    matcher = PartialMatcher([Rule(type="X", expression=author_expression("(?:}2{a|b)+x"))])
    assert matcher.begins_at(b"no }2{a}2{a") == 3
