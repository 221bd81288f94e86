"""Rules for denied terms, and the list of toxic words."""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections.abc import Iterable
from functools import cache
from typing import Final

from sidecar.guardrails.matching.rule import Expression, Rank, Rule, Span
from sidecar.guardrails.matching.text_views import fold

TERM_TYPE: Final = "DENIED_TERM"

_UNSPACED: Final = re.compile(
    # Scripts written without spaces have no word boundaries to look at: Thai, Lao, Myanmar,
    # Khmer, kana, Han, and their extensions. Korean puts particles right behind its words.
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
_META: Final = re.compile(r"([\\.+*?()|\[\]{}^$/-])")
_REACH: Final = 8
"""Bytes on either side: a character, and the three underscores that emphasis may have."""
_APOSTROPHE: Final = re.compile("['\u2018\u2019\u02bc]")
"""As typed, and as word processors and models write it: each stands for all of them."""


@functools.lru_cache(maxsize=16_384)
def term_rule(term: str, *, type_: str = TERM_TYPE) -> Rule:
    """Return the rule for one term; it searches case-folded text."""
    words = fold(term).split()
    regex = r"\s+".join(
        _APOSTROPHE.sub(_APOSTROPHE.pattern, _META.sub(r"\\\1", word)) for word in words
    )
    return Rule(
        type=type_,
        expression=Expression(f"(?i){regex}", unicode=True),
        locate=_on_word_boundaries,
        rank=Rank.AUTHOR,
        folded=True,
    )


def _on_word_boundaries(content: bytes, start: int, end: int) -> Iterable[Span]:
    """Take the candidate unless it goes on into a longer word on either side.

    Underscores go on into one if a letter follows them: `_term_` is emphasis of Markdown.
    """
    before = content[max(0, start - _REACH) : start].decode("utf-8", "ignore").rstrip("_")[-1:]
    after = content[end : end + _REACH].decode("utf-8", "ignore").lstrip("_")[:1]
    first = content[start : start + 4].decode("utf-8", "ignore")[:1]
    last = content[max(start, end - 4) : end].decode("utf-8", "ignore")[-1:]
    if _joined(before, first) or _joined(last, after):
        return ()
    return ((start, end),)


def _joined(left: str, right: str) -> bool:
    return _is_word(left) and _is_word(right)


def _is_word(character: str) -> bool:
    return character.isalnum() and not _UNSPACED.match(character)


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
    package = importlib.resources.files("sidecar.guardrails.detectors")
    lines = package.joinpath("toxic_words.txt").read_text(encoding="utf-8").splitlines()
    return tuple(fold(line.strip()) for line in lines if line.strip() and line[0] != "#")
