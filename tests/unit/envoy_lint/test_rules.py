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


@pytest.mark.parametrize("rule", MISTAKES)
def test_a_mistake_breaks_its_rule_and_no_other(rule: str) -> None:
    """One thing wrong is one thing said."""
    assert found(with_mistake(MISTAKES[rule])) == {rule}
