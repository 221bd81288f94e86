"""Policies of many rules, as security teams write them: codes, phrases, tokens, plain words."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
RULES_A_GUARDRAIL: Final = 1_000


def many_rules(count: int, *, name: str, seed: int = 1) -> str:
    """Return a policy with secrets, pii and *count* expressions, the same for equal seeds.

    Rule `CODE_0` finds `marker_code(seed)`; ordinary prompts hold none of the rest either.
    """
    lines = [
        f"name: {name}",
        "guardrails:",
        "  - {name: secrets, type: secrets}",
        "  - {name: pii, type: pii, action: redact}",
    ]
    for number, regex in enumerate(_expressions(count, seed)):
        if number % RULES_A_GUARDRAIL == 0:
            lines += [
                f"  - name: rules-{number // RULES_A_GUARDRAIL}",
                "    type: denied_patterns",
                "    patterns:",
            ]
        lines.append(f"      - {{name: CODE_{number}, regex: '{regex}'}}")
    return "\n".join(lines) + "\n"


def marker_code(seed: int) -> str:
    """Return what the first rule of a policy of *seed* is for."""
    return f"MARKER-{seed}-0000"


def _expressions(count: int, seed: int) -> Iterator[str]:
    yield rf"MARKER-{seed}-[0-9]{{4}}"
    made = random.Random(seed)  # noqa: S311 - must be the same in every run
    for number in range(1, count):
        first, second = (_word(made) for _ in range(2))
        yield (
            rf"{first.upper()}-[0-9]{{4,8}}",
            rf"(?i)\b{first}\b.{{0,40}}\b{second}\b",
            rf"\b{first}_[A-Za-z0-9]{{16,32}}\b",
            rf"(?i){first}\s+(is|was|has)\s+{second}",
            f"{first}{second}",
        )[number % 5]


def _word(made: random.Random) -> str:
    return "".join(made.choices(_LETTERS, k=made.randint(6, 10)))
