"""Swear words, insults and slurs, as words: a list of our own, short on purpose.

It tells rude language, not harm: threats and hatred in polite words pass.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable
from functools import cache
from typing import Final

from sidecar.guardrails.rules.rule import Rule
from sidecar.guardrails.rules.terms import term_rule
from sidecar.guardrails.text_views import fold

TOXICITY_TYPE: Final = "TOXICITY"


def toxicity_rules(allowed: Iterable[str]) -> tuple[Rule, ...]:
    """Return the rules for all words of the list but those *allowed*."""
    exempt = {fold(word) for word in allowed}
    return tuple(
        term_rule(word, type_=TOXICITY_TYPE) for word in toxic_words() if word not in exempt
    )


@cache
def toxic_words() -> tuple[str, ...]:
    """Return the list, case-folded."""
    package = importlib.resources.files("sidecar.guardrails.rules")
    lines = package.joinpath("toxic_words.txt").read_text(encoding="utf-8").splitlines()
    return tuple(fold(line.strip()) for line in lines if line.strip() and line[0] != "#")
