"""Typing habits of people: case, punctuation, slips of the fingers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Final

Habit = Callable[[str, random.Random], str]
MIN_LETTERS: Final = 5
"""Slips of shorter words make other words."""


def as_typed(text: str, chance: random.Random) -> str:
    """Return *text* as one of many people would type it; half of them type it as it is."""
    habit = chance.choices(tuple(HABITS), tuple(HABITS.values()))[0]
    return habit(text, chance)


def _slip(text: str, chance: random.Random) -> str:
    """Swap, lose or double a letter of a word, behind its first."""
    words = text.split(" ")
    long = [at for at, word in enumerate(words) if word.isalpha() and len(word) >= MIN_LETTERS]
    if not long:
        return text
    at = chance.choice(long)
    word = words[at]
    letter = chance.randrange(1, len(word) - 1)
    head, one, two, tail = word[:letter], word[letter], word[letter + 1], word[letter + 2 :]
    words[at] = head + chance.choice((two + one, two, one + one + two)) + tail
    return " ".join(words)


HABITS: Final[Mapping[Habit, float]] = {
    lambda text, _: text: 50,
    lambda text, _: text.lower(): 14,
    lambda text, _: text.rstrip(".!?。\uff01\uff1f"): 8,
    lambda text, _: text.lower().rstrip(".!?").replace(",", "").replace("'", ""): 6,
    lambda text, _: text.upper(): 4,
    lambda text, _: text.rstrip(".") + "!!!": 3,
    lambda text, _: f'"{text}"': 2,
    lambda text, _: text.replace(" ", "  "): 1,
    lambda text, _: text.replace(". ", ".\n"): 4,
    _slip: 8,
}  # fmt: skip
