"""Documents that carry a text of another author: mails, pages, results of tools, code.

A file of `carriers/` has documents divided by lines of `%%`. `@HERE` is the place of the text,
`@FILL` a harmless sentence of its language, `@NAME`, `@WHEN` and the like come from
`carriers/words.txt`.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import Final

from training.generated.grammar import FOLDER

PLACE: Final = "@HERE"
MAX_FILL: Final = 12
_DIVIDER: Final = "\n%%\n"
_WORD: Final = re.compile(r"@([A-Z]+)")
_JSON: Final = re.compile(r"\[?\{")


def placed(text: str, fill: Sequence[str], variant: str, chance: random.Random) -> str:
    """Return a document of *variant* with *text* in its place and *fill* around it."""
    carrier = chance.choice(read_carriers(variant))
    is_json = _JSON.match(carrier) is not None

    def word(match: re.Match[str]) -> str:
        match match[1]:
            case "HERE":
                chosen = _among(text, fill, chance)
            case "FILL":
                chosen = " ".join(chance.choices(fill, k=chance.choice((1, 1, 2, 3, 5))))
            case name:
                return chance.choice(read_words()[name])
        return json.dumps(chosen, ensure_ascii=False)[1:-1] if is_json else chosen

    return _WORD.sub(word, carrier)


def _among(text: str, fill: Sequence[str], chance: random.Random) -> str:
    """Put *text* before, between or behind harmless sentences, or alone."""
    before = chance.choices(fill, k=chance.choice((0, 0, 1, 2, MAX_FILL)))
    behind = chance.choices(fill, k=chance.choice((0, 0, 1, 2, MAX_FILL)))
    return chance.choice((" ", " ", "\n", "\n\n")).join([*before, text, *behind])


@functools.cache
def read_carriers(variant: str) -> tuple[str, ...]:
    """Return the documents of a variant."""
    text = (FOLDER / "carriers" / f"{variant}.txt").read_text(encoding="utf-8")
    return tuple(text.strip("\n").split(_DIVIDER))


@functools.cache
def read_words() -> Mapping[str, Sequence[str]]:
    """Return the words of documents by name."""
    lines = (FOLDER / "carriers" / "words.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(" = ", 1) for line in lines if line)
    return {name: value.split(" | ") for name, value in pairs}
