"""Words beside a number that decide its meaning: «phone», «card», «invoice», «version»."""

from __future__ import annotations

import importlib.resources
import itertools
import re
from dataclasses import dataclass
from functools import cache
from typing import Final

REACH_BYTES: Final = 48
"""Text looked at on either side; a stream keeps 64 bytes of text that has left."""

_MAX_FILLERS: Final = 5
_MAX_WORDS: Final = 3
_LETTER: Final = re.compile(r"[^\W\d_]")
_TOKEN: Final = re.compile(r"[^\W\d_]+[0-9]{0,2}|[0-9]+")

_HUMPS: Final = re.compile(r"[A-Z]?[^A-Z]+|[A-Z]+(?![a-z])")
_NAMES: Final = frozenset({"whatsapp", "mastercard", "unionpay", "rupay"})
_UNSPACED: Final = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


@dataclass(frozen=True, slots=True)
class WordList:
    """Words of one kind: whole ones, ends of compounds, and those of scripts without spaces."""

    whole: frozenset[str]
    ends: tuple[str, ...]
    unspaced: tuple[str, ...]

    def has(self, token: str) -> bool:
        """Return whether *token*, in lower case, is one of the words."""
        if token in self.whole:
            return True
        if token.isascii():
            return (
                token.endswith(self.ends)  # most end otherwise, which takes one call
                and " " not in token
                and any(token.endswith(end) and token != end for end in self.ends)
            )
        return any(word in token for word in self.unspaced)


@cache
def words_of(kind: str) -> tuple[str, ...]:
    """Return the words of one heading of `number_words.txt`, the longest first."""
    package = importlib.resources.files("sidecar.guardrails.detectors")
    text = package.joinpath("number_words.txt").read_text(encoding="utf-8")
    section = text.partition(f"== {kind}\n")[2].partition("\n== ")[0]
    words = {word.strip() for line in section.splitlines() for word in line.split(",")}
    return tuple(sorted(words - {""}, key=lambda word: (-len(word), word)))


@cache
def word_list(*kinds: str) -> WordList:
    """Return the words of headings, to look tokens up in: one look-up rules most tokens out."""
    words = [word for kind in kinds for word in words_of(kind)]
    return WordList(
        frozenset(" ".join(_tokens(word)) or word for word in words if word[0] != "*"),
        tuple(word[1:] for word in words if word[0] == "*"),
        tuple(word for word in words if _UNSPACED.match(word)),
    )


@cache
def expression_of(kind: str, *, edge: str = r"\b") -> str:
    """Return the expression of bytes for any of the words, for RE2, Hyperscan and `re`.

    *edge* is before and behind words of Latin letters.
    """
    latin: list[str] = []
    others: list[str] = []
    for word in words_of(kind):
        if word.isascii():
            latin.append(_escaped(word))
        else:  # engines fold the case of ASCII alone
            is_latin = word[0].isascii() and word[-1].isascii()
            spellings = dict.fromkeys((word, word.capitalize(), word.upper()))
            (latin if is_latin else others).extend(map(_escaped, spellings))
    parts = [rf"{edge}(?i:{'|'.join(latin)}){edge}"] if latin else []
    return f"(?:{'|'.join([*parts, *others])})"


def kind_before(content: bytes, end: int, *kinds: str) -> str:
    """Return which of *kinds* the word before *end* is of, «no.» and «is» aside; empty if of none.

    The nearest word counts, and of a word of several kinds the first of *kinds*.
    """
    before = _before(content, end)
    if not _LETTER.search(before):
        return ""  # in a list of numbers
    tokens = _tokens(before[before.rfind("\n") + 1 :])
    telephone, fillers = word_list("telephone"), word_list("filler").whole
    known = word_list("telephone", *kinds)
    for until in range(len(tokens), max(len(tokens) - _MAX_FILLERS, 0), -1):
        for start in range(max(until - _MAX_WORDS, 0), until):
            phrase = " ".join(tokens[start:until])
            if not known.has(phrase):
                continue
            if telephone.has(phrase):
                return ""
            for kind in kinds:
                if word_list(kind).has(phrase):
                    return kind
        if tokens[until - 1] not in fillers:
            break
    return ""


def starts_with(kind: str, content: bytes, start: int) -> bool:
    """Return whether the first word or sign behind *start* is one of the words."""
    behind = content[start : start + 16].decode("utf-8", "ignore").lstrip(" \u00a0")
    first = _TOKEN.match(behind)
    return word_list(kind).has((first[0] if first else behind[:1]).lower())


def is_near(kind: str, content: bytes, start: int, end: int) -> bool:
    """Return whether one of the words stands within reach of *start* to *end*."""
    known = word_list(kind)
    for text in (
        _before(content, start),
        content[end : end + REACH_BYTES].decode("utf-8", "ignore"),
    ):
        if not _LETTER.search(text):
            continue
        tokens = _tokens(text)
        words = [token for token in tokens if not token.isdecimal()]
        if (
            not known.whole.isdisjoint(words)
            or any(map(known.has, words))
            or any(f"{left} {right}" in known.whole for left, right in itertools.pairwise(tokens))
        ):
            return True
    return False


def _before(content: bytes, end: int) -> str:
    return content[max(end - REACH_BYTES, 0) : end].decode("utf-8", "ignore")


def _tokens(text: str) -> list[str]:
    """Return words in lower case; one in camel case is several, but for names such as WhatsApp."""
    words: list[str] = _TOKEN.findall(text)
    if text == text.lower():  # nearly every text; and no word of it is in camel case
        return words
    tokens: list[str] = []
    for word in words:
        lower = word.lower()
        humps = [] if word == lower or lower in _NAMES else _HUMPS.findall(word)
        tokens += [hump.lower() for hump in humps] if len(humps) > 1 else [lower]
    return tokens


def _escaped(word: str) -> str:
    """Return the expression for the bytes of *word*, with any sign or none in place of a space."""
    escaped = "".join(
        re.escape(chr(byte)) if byte < 0x80 else f"\\x{byte:02x}"  # noqa: PLR2004 - ASCII
        for byte in word.encode()
    )
    return escaped.replace(r"\ ", "[ _.-]{1,2}")
