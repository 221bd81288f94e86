"""Finds the terms of the model in texts: reads a text as words, and searches the words."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final

import hyperscan

from sidecar.guardrails.detectors.prompt_injection.model import PHRASE_MARK, PHRASES
from sidecar.guardrails.matching.database import compile_hyperscan
from sidecar.guardrails.matching.rule import Expression

SLICE_WORDS: Final = 8192
"""Bytes between two interruptions: 30 µs of harmless text, some 3 ms of nothing but terms."""

BORDER: Final = b"\x00"
"""Between texts that are searched together, as a word that no text has; no term goes over it."""

_BORDER_WORD: Final = b" " + BORDER + b" "
_LOWER: Final = bytes(
    byte | 0x20 if chr(byte) in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    else byte if byte < 0x80 and (chr(byte).isalnum() or byte == BORDER[0])  # noqa: PLR2004 - ASCII
    else 0x20
    for byte in range(256)
)  # fmt: skip
_NOT_WORD: Final = re.compile(r"(?:[^\w]|_)+")
_APOSTROPHES: Final = dict.fromkeys(map(ord, "'’"))  # noqa: RUF001 - the typographic one


def words(content: bytes) -> bytes:
    """Return the words of *content*, already in its plain form (see `text_views`)."""
    if len(content) > SLICE_WORDS:
        return b"".join((b" ", *word_slices(content)))
    found = _words(content)
    return b" %b " % found if found else b" "


def words_of_joined(joined: bytes) -> bytes:
    """Return the words of short ASCII texts that have a `BORDER` between them."""
    return b" %b " % _ascii_words(joined.replace(BORDER, _BORDER_WORD))


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
    if content.isascii():
        return _ascii_words(content.replace(BORDER, b" "))
    text = content.decode().casefold().translate(_APOSTROPHES)
    return _NOT_WORD.sub(" ", text).strip().encode()


def _ascii_words(content: bytes) -> bytes:
    # Cut at two spaces only, which is two to three times faster than at each: most words have one
    # between them, and an object is built for each piece. Of three spaces one is left in front.
    pieces = content.translate(_LOWER, b"'").strip().split(b"  ")
    return b" ".join(map(bytes.lstrip, filter(None, pieces)))


Hit = int
"""Where in the words a term ends, and in the lower 16 bits its index.

A number and not a pair: garbage collection counts pairs, and a text of nothing but terms would
make it go through all of a worker's objects, again and again.
"""
INDEX_BITS: Final = 16
INDEX: Final = (1 << INDEX_BITS) - 1

_ANCHOR: Final = INDEX
"""The index of hits that are no term, but the anchor of a phrase."""

_REACH_BYTES: Final = 128
"""Text on either side of an anchor that is searched; all of it if that has too few words."""

_LONG_WORDS: Final = 1024
_END_OF_WORD: Final = re.compile(rb"([^ ]{64})[^ ]+")
"""No term has so long a word."""


class TermSearch:
    """Finds the terms of a model. Bound to one thread, as its databases are.

    Three databases take a third of the time of one: literal texts, phrases with gaps, and those
    with an anchor, a part that is rare in harmless text. Anchors are searched for among the
    literal texts, and their phrases only around them. The result is the same: every match of the
    phrase has its anchor in it, and an expression looks at nothing outside of its match.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """Compile the terms of these *names*, in half a second. Hits have the index of a name."""
        phrases = {PHRASE_MARK + phrase.name: phrase for phrase in PHRASES}
        literal: list[_Numbered] = []
        common: list[_Numbered] = []
        anchored: list[_Numbered] = []
        self._most_words = self._most_anchored_words = 0
        for index, name in enumerate(names):
            phrase = phrases.get(name)
            words_ = name.count(" ") + 1 if phrase is None else phrase.most_words
            self._most_words = max(self._most_words, words_)
            if phrase is None:
                literal.append((f" {name} ", index))
            elif not phrase.has_gaps:
                literal.append((phrase.regex, index))
            elif phrase.anchor is None:
                common += [(regex, index) for regex in phrase.split]
            else:
                literal.append((phrase.anchor, _ANCHOR))
                anchored.append((phrase.regex, index))
                self._most_anchored_words = max(self._most_anchored_words, words_)
        self._always = tuple(_compiled(one) for one in (literal, common) if one)
        self._anchored = _compiled(anchored) if anchored else None

    def hits(self, text: bytes) -> list[Hit]:
        """Return each occurrence of a term in *text*, which is words, in its order."""
        hits: list[Hit] = []
        for database in self._always:
            database.scan(text, _collect, 0, hits)  # keywords would take 0.2 µs
        if not hits:
            return hits
        anchors = [one >> INDEX_BITS for one in hits if one & INDEX == _ANCHOR]
        if anchors and self._anchored is not None:
            hits = [one for one in hits if one & INDEX != _ANCHOR]
            for start, end in self._around(text, sorted(anchors)):
                found: list[Hit] = []
                self._anchored.scan(text[start:end], _collect, 0, found)
                hits += [one + (start << INDEX_BITS) for one in found]
        hits.sort()
        return hits

    def _around(self, text: bytes, anchors: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield the spans of *text* that hold all phrases whose anchors end there."""
        if len(anchors) * 2 * _REACH_BYTES > len(text):
            yield 0, len(text)  # faster, however many there are
            return
        start = end = 0
        for anchor in anchors:
            before, after = max(anchor - _REACH_BYTES, 0), anchor + _REACH_BYTES
            if text.count(b" ", before, anchor) <= self._most_anchored_words:
                before = 0  # long words
            if text.count(b" ", anchor, after) <= self._most_anchored_words:
                after = len(text)
            if before > end:
                if end:
                    yield start, end
                start = before
            end = max(end, after)
        yield start, end

    def hits_in_slices(self, content: bytes) -> Iterator[list[Hit]]:
        """Yield the hits in each slice of a long text, by where they end in all of its words."""
        before, base = b" ", 0
        for piece in word_slices(content):
            text = before + piece
            hits = self.hits(text)
            new = bisect_left(hits, (len(before) + 1) << INDEX_BITS)
            yield [one + (base << INDEX_BITS) for one in hits[new:]]
            # A term that ends in the next slice may begin so many words before it. Long ones can
            # only be in a gap of a phrase, where their length makes no difference.
            before = text[len(text.rsplit(b" ", self._most_words)[0]) :]
            base += len(text)
            if len(before) > _LONG_WORDS:
                before = _END_OF_WORD.sub(rb"\1", before)
            base -= len(before)


_Numbered = tuple[str, int]
"""A regular expression over words, and the index of its hits."""


def _compiled(expressions: Sequence[_Numbered]) -> hyperscan.Database:
    return compile_hyperscan(
        [Expression(regex, counted=True) for regex, _ in expressions],
        ids=[index for _, index in expressions],
        mode=hyperscan.HS_MODE_BLOCK,
    )


def _collect(index: int, _start: int, end: int, _flags: int, hits: object) -> None:
    # A named function: the binding keeps no reference to the one it is given.
    hits.append(end << INDEX_BITS | index)  # type: ignore[attr-defined]  # the stub has `object`; it is the list of a search
