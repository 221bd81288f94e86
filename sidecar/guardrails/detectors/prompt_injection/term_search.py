"""Finds the terms of the model of `prompt_injection` in the words of a text."""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

import hyperscan

from sidecar.guardrails.detectors.prompt_injection.model import (
    CONCEPT,
    CONCEPTS,
    EVERYDAY,
    EVERYDAY_WORDS,
)
from sidecar.guardrails.matching.database import (
    CompileError,
    compile_hyperscan,
    dump_hyperscan,
    load_hyperscan,
)
from sidecar.guardrails.matching.rule import Expression

SLICE_WORDS: Final = 8192
"""Bytes between two interruptions: 50 µs of harmless text, a millisecond of nothing but terms."""

BORDER: Final = b"\x00"
"""Between texts that are searched together, as a word that no text has; no term goes over it."""

_BORDER_WORD: Final = b" " + BORDER + b" "
_LOWER: Final = bytes(
    byte | 0x20 if chr(byte) in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    else byte if byte >= 0x80 or chr(byte).isalnum() or byte == BORDER[0]  # noqa: PLR2004 - ASCII
    else 0x20
    for byte in range(256)
)  # fmt: skip
_MARKS: Final = r"\u0900-\u0963\u0966-\u0dff\u0e31-\u0e3a\u0e47-\u0e4e"
"""Indic and Thai signs for vowels and the like, which are parts of words and no letters."""
_NOT_WORD: Final = re.compile(rf"[^ 0-9a-z\w{_MARKS}]+")
"""All between two words but spaces and underscores; letters of ASCII first, as most are."""
_TYPOGRAPHIC_APOSTROPHE: Final = "\u2019"
_ASCII: Final = bytes(range(0x80))
_RARELY: Final = 16
_FEW: Final = 16
"""If so few characters are beyond ASCII, and so seldom, each is replaced by itself: to go through
all of a text for them takes several times as long. Most European languages have so few."""


def words(content: bytes) -> bytes:
    """Return the words of *content*, already in its plain form (see `text_views`)."""
    if len(content) > SLICE_WORDS:
        return b"".join((b" ", *word_slices(content)))
    found = _words(content)
    return b" %b " % found if found else b" "


def words_of_joined(joined: bytes) -> bytes:
    """Return the words of short texts that have a `BORDER` between them."""
    if not joined.isascii():
        return BORDER.join(map(words, joined.split(BORDER)))
    return b" %b " % _plain_words(joined.replace(BORDER, _BORDER_WORD))


def word_slices(content: bytes) -> Iterator[bytes]:
    """Return the words of a long text in pieces, each with the space behind its last word."""
    start = 0
    while start < len(content):
        end = start + SLICE_WORDS
        if end < len(content):  # between two words, or at least between two characters
            space = content.rfind(b" ", start, end)
            if space > start:
                end = space
            else:
                while content[end] & 0xC0 == 0x80:  # noqa: PLR2004 - a continuation byte of UTF-8
                    end -= 1
        found = _words(content[start:end])
        if found:
            yield found + b" "
        start = end


def _words(content: bytes) -> bytes:
    if not content.isascii():
        text = content.decode()
        is_rare = (len(content) - len(text)) * _RARELY < len(content)
        characters = set(content.translate(None, _ASCII).decode()) if is_rare else set[str]()
        if not 0 < len(characters) <= _FEW:
            text = text.replace(_TYPOGRAPHIC_APOSTROPHE, "").casefold()
            text = text.replace("'", "").replace("_", " ")
            pieces = _NOT_WORD.sub(" ", text).strip().split("  ")  # as in `_plain_words`
            return " ".join(map(str.lstrip, filter(None, pieces))).encode()
        for one in characters:
            content = content.replace(one.encode(), _letters(one))
    return _plain_words(content.replace(BORDER, b" "))


@functools.lru_cache(maxsize=16_384)
def _letters(character: str) -> bytes:
    """Return a *character* beyond ASCII as words have it; a blank if it is no letter."""
    if character == _TYPOGRAPHIC_APOSTROPHE:
        return b""
    return _NOT_WORD.sub(" ", character.casefold()).encode()


def _plain_words(content: bytes) -> bytes:
    """Return the words of ASCII text, or of text whose other characters are letters already."""
    # Cut at two spaces only, which is two to three times faster than at each: most words have one
    # between them, and an object is built for each piece. Of three spaces one is left in front.
    pieces = content.translate(_LOWER, b"'").strip().split(b"  ")
    return b" ".join(map(bytes.lstrip, filter(None, pieces)))


Hit = int
"""Where in the words a term ends, and in the lower 17 bits its index.

A number and not a pair: garbage collection counts pairs, and a text of nothing but terms would
make it go through all of a worker's objects, again and again.
"""
INDEX_BITS: Final = 17
INDEX: Final = (1 << INDEX_BITS) - 1

FIRST_CONCEPT: Final = INDEX - 0xFF
"""From this index on hits are no terms, but words of a concept."""

REACH: Final = 96
"""Bytes of words within which concepts stand close together: some sixteen words.

Words against an attack, and everyday concepts, count so near to a rare word alone.
"""

CONCEPT_BITS: Final = 7
_ALONE: Final = 0
"""No concept; their numbers begin at one."""

_CUT_BYTES: Final = 64
"""No word of the model is longer; a stretch is cut at a blank, if there is one so near."""

_MOST_BEFORE: Final = 6 * REACH + _CUT_BYTES
"""Bytes of words before a slice in which all that reaches into it begins, with all around that."""

_PARTS: Final = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
"""Scripts that put no spaces between words, or endings behind them."""


def _expression(name: str) -> str:
    """Return the regular expression over words of a term or of a concept's word."""
    text = words(name.replace("_", " ").encode()).decode()
    is_part = _PARTS.search(text) is not None
    start = text.lstrip() if is_part or name.startswith("*") else text
    return start.rstrip() if is_part or name.endswith("*") else start


class TermSearch:
    """Finds the terms of a model. Bound to one thread, as its databases are.

    All words, those of terms and those of concepts, are literal texts of one database. Another has
    the rare ones: most texts have none, and of the others only the stretches around them are
    searched for all words, each of which takes a call of Python.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        against: Collection[str] = (),
        has_rare: bool = True,
        compiled: bytes = b"",
    ) -> None:
        """Compile the terms of these *names*. Hits have the index of a name.

        Those *against* an attack count only near rare ones, as everyday concepts do; without
        *has_rare* all count everywhere. What was *compiled* from the same terms is loaded.
        """
        concepts = {name: number for number, name in enumerate(CONCEPTS, 1)}
        # The terms of each concept by those near it, of two the nearer one in the upper bits.
        self._beside: list[dict[int, int]] = [{} for _ in range(len(concepts) + 1)]
        numbered: list[tuple[str, int]] = []
        used: set[int] = set()
        for index, name in enumerate(names):
            if parts := CONCEPT.findall(name):
                together = {concepts[one] for one in parts}
                for own, *near in itertools.permutations(together):
                    key = _ALONE
                    for one in near:
                        key = key << CONCEPT_BITS | one
                    self._beside[own][key] = index
                used |= together
            else:
                numbered.append((_expression(name), index))
        for name, number in concepts.items():
            if number in used:
                found = sorted({_expression(word) for word in CONCEPTS[name]})
                numbered += [
                    (one, FIRST_CONCEPT + number)
                    for one in found
                    if not any(other in one and other != one for other in found)  # found anyway
                ]
        common = {index for index, name in enumerate(names) if name in against}
        common |= {FIRST_CONCEPT + concepts[name] for name in EVERYDAY}
        everyday = {*map(_expression, EVERYDAY_WORDS)}
        rare = [one for one in numbered if one[1] not in common and one[0] not in everyday]
        self._digest = hashlib.sha256(repr((numbered, rare)).encode()).digest()
        try:
            loaded = load_hyperscan(compiled, digest=self._digest, mode=hyperscan.HS_MODE_BLOCK)
        except CompileError:  # of no or other terms, or of another engine
            loaded = [_compiled(numbered), *([_compiled(rare)] if has_rare else ())]
        self._database, *others = loaded
        self._rare = others[0] if others else None

    def dump(self) -> bytes:
        """Return the databases for the `compiled` of another process of this host."""
        databases = filter(None, (self._database, self._rare))
        return dump_hyperscan(databases, digest=self._digest)

    def hits(self, text: bytes) -> list[Hit]:
        """Return each occurrence of a term or concept in *text*, which is words, in its order."""
        hits: list[Hit] = []
        if self._rare is None:
            self._database.scan(text, _collect, 0, hits)  # keywords would take 0.2 µs
            hits.sort()
            return hits
        rare: list[Hit] = []
        self._rare.scan(text, _collect, 0, rare)
        rare.sort()
        places = [one >> INDEX_BITS for one in rare]
        first = 0
        # All terms are looked for in the stretches of text around rare words. Where one ends
        # depends on the words beside it alone, not on where a slice begins; none goes over a
        # border between texts.
        for number, place in enumerate(places, 1):
            following = places[number] if number < len(places) else place + 3 * REACH
            if following - place <= 2 * REACH and text.find(BORDER, place, following) < 0:
                continue
            start, end = max(0, places[first] - REACH), min(len(text), place + REACH)
            if (border := text.rfind(BORDER, start, places[first])) >= 0:
                start = border + 1
            elif start:
                start = _edge(text, text.find(b" ", start, start + _CUT_BYTES), start)
            if (border := text.find(BORDER, place, end)) >= 0:
                end = border
            elif end < len(text):
                end = _edge(text, text.rfind(b" ", end - _CUT_BYTES, end) + 1 or -1, end)
            found: list[Hit] = []
            self._database.scan(text[start:end], _collect, 0, found)
            hits += [one + (start << INDEX_BITS) for one in found]
            first = number
        hits.sort()
        return hits

    def combined(self, hits: Iterable[Hit]) -> list[Hit]:
        """Return *hits* with the terms of concepts that stand close together instead of these.

        Their order makes no difference, as it differs from language to language.
        """
        beside = self._beside
        first = second = third = _ALONE
        first_end = second_end = third_end = -REACH - 1
        found: list[Hit] = []
        for one in hits:
            own = (one & INDEX) - FIRST_CONCEPT
            if own < 0:
                found.append(one)
                continue
            end = one >> INDEX_BITS
            place, least = end << INDEX_BITS, end - REACH
            near: tuple[int, ...]
            if first_end < least:
                near = (_ALONE,)
            elif second_end < least:
                near = (_ALONE, first)
            elif third_end < least:
                near = (_ALONE, first, second, first << CONCEPT_BITS | second)
            else:
                near = (
                    _ALONE, first, second, third, first << CONCEPT_BITS | second,
                    first << CONCEPT_BITS | third, second << CONCEPT_BITS | third,
                )  # fmt: skip
            terms = beside[own]
            for key in near:
                if key in terms:
                    found.append(place | terms[key])  # noqa: PERF401 - mostly none
            if own != first:
                if own != second:
                    third, third_end = second, second_end
                second, second_end = first, first_end
                first = own
            first_end = end
        return found

    def hits_in_slices(self, content: bytes) -> Iterator[list[Hit]]:
        """Yield the terms in each slice of a long text, by where they end in all of its words.

        Those at the end of a slice come with the next one, in which a rare word may be near them.
        """
        text, base, done = b" ", 0, 1
        pieces = word_slices(content)
        piece = next(pieces, b"")
        while piece:
            following = next(pieces, b"")
            text += piece
            certain = max(done, len(text) - REACH) if following else len(text)
            hits = self.combined(self.hits(text))
            first, last = [bisect_left(hits, (end + 1) << INDEX_BITS) for end in (done, certain)]
            yield [one + (base << INDEX_BITS) for one in hits[first:last]]
            gone = max(0, len(text) - _MOST_BEFORE)
            text, base, done = text[gone:], base + gone, certain - gone
            piece = following


def _compiled(numbered: Sequence[tuple[str, int]]) -> hyperscan.Database:
    return compile_hyperscan(
        [Expression(regex, counted=True) for regex, _ in numbered],
        ids=[index for _, index in numbered],
        mode=hyperscan.HS_MODE_BLOCK,
    )


def _edge(text: bytes, blank: int, place: int) -> int:
    """Return the place of a *blank*; without one, *place* or the start of its character."""
    if blank >= 0:
        return blank
    while text[place] & 0xC0 == 0x80:  # noqa: PLR2004 - a continuation byte of UTF-8
        place -= 1
    return place


def _collect(index: int, _start: int, end: int, _flags: int, hits: object) -> None:
    # A named function: the binding keeps no reference to the one it is given.
    hits.append(end << INDEX_BITS | index)  # type: ignore[attr-defined]  # the stub has `object`; it is the list of a search
