from __future__ import annotations

import pytest

from sidecar.envoy_lint.lint import CONFIG_RULES, lint
from tests.support.envoy_mistakes import MISTAKES, own_text, with_mistake


def found(text: str) -> set[str]:
    """Return the ids of the rules that *text* breaks."""
    return {finding.rule.id for finding in lint("envoy.yaml", text).findings}


def test_our_own_configuration_breaks_no_rule() -> None:
    """What we ship is what we ask for."""
    assert found(own_text()) == set()


def test_every_rule_has_its_mistake() -> None:
    """A rule that nothing breaks is no rule."""
    assert set(MISTAKES) == {rule.id for rule in CONFIG_RULES}


TRAPS = {
    "a body that leaves before its verdict": "EGR105",
    "a length that is not that of the body": "EGR127",
    "streams that end in resets": "EGR214",
    "a parent that is never exported": "EGR112",
    "a socket for several workers": "EGR210",
    "a dead worker that looks least busy": "EGR117",
    "metadata that is dropped": "EGR109",
    "a timeout of 200 ms": "EGR102",
    "a full-duplex body without its trailers": "EGR106",
    "the only timer, switched off": "EGR510",
    "a retry where Envoy does not look for it": "EGR119",
    "headers that are kept without a word": "EGR110",
}
"""What bites in ext_proc and a configuration can cause, with the rule that finds it."""


@pytest.mark.parametrize("rule", TRAPS.values(), ids=TRAPS)
def test_what_bites_in_ext_proc_is_found(rule: str) -> None:
    """By a rule of its own, in a configuration that has nothing else wrong."""
    assert found(with_mistake(MISTAKES[rule])) == {rule}


def test_the_table_has_more_than_forty_mistakes() -> None:
    """Each is found alone, by the test below; what we ship has none."""
    assert len(MISTAKES) > 40


@pytest.mark.parametrize("rule", MISTAKES)
def test_a_mistake_breaks_its_rule_and_no_other(rule: str) -> None:
    """One thing wrong is one thing said."""
    assert found(with_mistake(MISTAKES[rule])) == {rule}
