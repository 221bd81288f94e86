"""Rules: how long a match can be, and which group is the candidate."""

from __future__ import annotations

import pytest

from sidecar.guardrails.matching.rule import (
    BUILT_IN_REACH,
    CALL_BYTES,
    SPARE_BYTES,
    Expression,
    Rule,
    candidates,
    rule,
    where,
)


def author_rule(regex: str) -> Rule:
    return Rule("X", Expression(regex, unicode=True), by_author=True)


@pytest.mark.parametrize(("regex", "longest"), [("a{3}b?", 4), ("(?:ab|cde)", 3), (r"a\+b", 3)])
def test_the_reach_of_an_author_s_rule_covers_its_longest_match(regex: str, longest: int) -> None:
    """RE2 writes counted repeats out, so the program is no shorter than a match."""
    reach = author_rule(regex).reach
    assert reach is not None
    assert reach >= longest


@pytest.mark.parametrize("regex", ["a+b", "[a-z]*", "a{2,}"])
def test_the_reach_of_a_rule_with_a_loop_is_unknown(regex: str) -> None:
    """Such a rule is searched in one go."""
    assert author_rule(regex).reach is None


def test_a_built_in_rule_has_the_common_reach() -> None:
    """Loops or not: none of their matches is longer."""
    assert rule("X", "a+").reach == BUILT_IN_REACH


def test_only_a_built_in_rule_s_group_is_the_candidate() -> None:
    """An author's own groups have no meaning."""
    assert rule("X", "key=([a-z]+)").group == 1
    assert rule("X", "[a-z]+").group == 0
    assert author_rule("key=([a-z]+)").group == 0


def test_a_predicate_decides_on_the_whole_candidate() -> None:
    """The candidate is a finding as it is, or not at all."""
    locate = where(lambda candidate: candidate == b"yes")
    assert tuple(locate(b"say yes", 4, 7)) == ((4, 7),)
    assert not tuple(locate(b"say no!", 4, 7))


@pytest.mark.parametrize("unlikely", [0, 1, SPARE_BYTES // CALL_BYTES + 1, SPARE_BYTES])
def test_a_text_full_of_unlikely_places_is_searched_to_its_end(unlikely: int) -> None:
    """A text may look like matches everywhere; its own ones are found all the same."""
    before = b"a1 " * unlikely
    numbers = rule("X", "[0-9]", finder="(?<![a-z])[0-9]", likely="[0-9]")
    found = list(candidates(numbers, before + b"2 a3 4"))
    assert found == [(len(before), len(before) + 1), (len(before) + 5, len(before) + 6)]
