"""Other readings of a text that a model would understand as the same, and the way back.

Zero-width characters and compatibility forms (full-width letters, ligatures, enclosed digits)
hide content from a byte pattern and not from a model. Views are for matching only: spans come
back to the original's bytes.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

_INVISIBLE: Final = re.compile(
    # Soft hyphen, combining grapheme joiner, Mongolian vowel separator, zero-width and
    # directional marks, word joiner, invisible operators, variation selectors, BOM, tags.
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    "\U000e0000-\U000e01ef]+"
)


class View(enum.Enum):
    """A reading of a text."""

    RAW = "raw"
    PLAIN = "plain"  # without invisible characters, compatibility forms resolved
    FOLDED = "folded"  # plain, and without differences of case


@dataclass(frozen=True, slots=True)
class Piece:
    """What is searched: one part in one view or, for ASCII text, in two that are the same."""

    part: int
    views: frozenset[View]
    content: bytes
    original: bytes


MAX_MAPPED_BYTES: Final = 262_144
"""A longer text that is found in another view only is found as a whole: the way back is slow."""

_ASCII: Final = frozenset({View.RAW, View.FOLDED})
_RAW: Final = frozenset({View.RAW})
_PLAIN: Final = frozenset({View.PLAIN})
_FOLDED: Final = frozenset({View.FOLDED})


def pieces_of(part: int, content: bytes, *, folded: bool) -> tuple[Piece, ...]:
    """Return the views of *content* that are worth searching.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    if content.isascii():
        return (Piece(part, _ASCII, content, content),)
    text = content.decode()
    pieces = [Piece(part, _RAW, content, content)]
    if (plain_text := plain(text)) != text:
        pieces.append(Piece(part, _PLAIN, plain_text.encode(), content))
    if folded:
        pieces.append(Piece(part, _FOLDED, plain_text.casefold().encode(), content))
    return tuple(pieces)


def plain(text: str) -> str:
    """Return *text* without invisible characters and compatibility forms."""
    return unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))


def fold(text: str) -> str:
    """Return the plain form of *text* without differences of case."""
    return plain(text).casefold()


class Origins:
    """The way back from one piece to its original; built once, for a piece with findings."""

    def __init__(self, piece: Piece) -> None:
        self._whole = len(piece.original)
        self._changed_ends: list[int] = []
        self._original_ends: list[int] = []
        self._is_same = piece.content is piece.original
        if not self._is_same and self._whole <= MAX_MAPPED_BYTES:
            self._map(piece)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return where bytes *start* to *end* come from; rather too much than too little."""
        if self._is_same:
            return start, end
        if not self._changed_ends:
            return 0, self._whole
        first = bisect_right(self._changed_ends, start)
        last = bisect_left(self._changed_ends, end)
        return (self._original_ends[first - 1] if first else 0), self._original_ends[last]

    def _map(self, piece: Piece) -> None:
        """Go cluster by cluster: a base and what composes with it."""
        clusters = _clusters(piece.original.decode())
        change = fold if View.FOLDED in piece.views else plain
        changed = [change(cluster).encode() for cluster in clusters]
        if b"".join(changed) == piece.content:  # else all of the text counts as found
            self._changed_ends = list(accumulate(len(cluster) for cluster in changed))
            self._original_ends = list(accumulate(len(cluster.encode()) for cluster in clusters))


def _clusters(text: str) -> list[str]:
    clusters: list[str] = []
    for character in text:
        if clusters and not character.isascii() and _composes(character):
            clusters[-1] += character
        else:
            clusters.append(character)
    return clusters


def _composes(character: str) -> bool:
    """Tell what may melt into the character before it or stand unseen between the two."""
    return bool(
        unicodedata.combining(character)
        or "\u1160" <= character <= "\u11ff"  # medial and final Hangul jamo
        or character in "\uff9e\uff9f"  # half-width kana voicing marks
        or _INVISIBLE.match(character)
    )
