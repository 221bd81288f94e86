"""Other readings of a text that a model would understand as the same.

Zero-width characters and compatibility forms (full-width letters, ligatures, enclosed digits)
hide content from a byte pattern and not from a model. Views are for matching only: spans come
back to the original's bytes.
"""

from __future__ import annotations

import codecs
import enum
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from sidecar.guardrails.controls import CONTROLS
from sidecar.guardrails.origins import SAME, Chunked, Origin, Table
from sidecar.guardrails.slices import SLICE_BYTES, Steps

_INVISIBLE: Final = re.compile(
    # Control characters but for tab, line feed and carriage return (C0, DEL, C1).
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
    # Default_Ignorable_Code_Point (Unicode Character Database, DerivedCoreProperties.txt):
    # fillers, zero-width and directional marks, variation selectors, shorthand, music, tags.
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    # Marks around annotations, which are not for display by themselves either.
    "\ufff9-\ufffb]+"
)


class View(enum.Enum):
    """A reading of a text."""

    RAW = "raw"
    PLAIN = "plain"  # without invisible characters, compatibility forms resolved
    FOLDED = "folded"  # plain, and without differences of case
    UNESCAPED = "unescaped"
    DECODED = "decoded"
    UNSPACED = "unspaced"
    LOOK_ALIKE = "look_alike"
    LEET = "leet"


@dataclass(frozen=True, slots=True)
class Piece:
    """What is searched: one part in one view or, for ASCII text, in two that are the same.

    `length` is the part's own, in bytes; `origin` leads back to it. `accepts` tells which spans
    may be findings, where not all of them may.
    """

    part: int
    views: frozenset[View]
    content: bytes
    length: int
    origin: Origin = SAME
    accepts: Callable[[int, int], bool] | None = None


CHUNK_CHARACTERS: Final = 512
"""Text is normalised in chunks, so that the way back from a finding is through a short one.

A long run of combining marks is sorted in quadratic time: 64 KB of them held a worker for 1.4 s.
"""
MAX_RUN_CHARACTERS: Final = 64
"""A chunk grows by so many at most to end where nothing composes (UAX 15 allows 30 marks)."""

ASCII_VIEWS: Final = frozenset({View.RAW, View.FOLDED})
"""Of ASCII text, in which both are the same."""

_RAW: Final = frozenset({View.RAW})
_PLAIN: Final = frozenset({View.PLAIN})
_FOLDED: Final = frozenset({View.FOLDED})


def pieces_of(part: int, content: bytes, *, folded: bool) -> Steps[tuple[Piece, ...]]:
    """Return the views of *content* that are worth searching.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    if is_plain_ascii(content):
        return (as_is(part, content),)
    originals: list[int] = []
    plains: list[bytes] = []
    foldeds: list[bytes] = []
    is_plain = True
    for index, chunks in enumerate(chunks_of(content)):
        if index:
            yield
        for chunk in chunks:
            plain_chunk = plain(chunk)
            is_plain = is_plain and plain_chunk == chunk
            originals.append(len(chunk.encode()))
            plains.append(plain_chunk.encode())
            if folded:
                foldeds.append(plain_chunk.casefold().encode())
    pieces = [Piece(part, _RAW, content, len(content))]
    if not is_plain:
        origin = Chunked(content, _plain_table, changed=plains, lengths=originals)
        pieces.append(Piece(part, _PLAIN, b"".join(plains), len(content), origin))
    if folded:
        origin = Chunked(content, _folded_table, changed=foldeds, lengths=originals)
        pieces.append(Piece(part, _FOLDED, b"".join(foldeds), len(content), origin))
    return tuple(pieces)


def is_plain_ascii(content: bytes) -> bool:
    """Tell whether every view of *content* is the same."""
    return content.isascii() and content.translate(None, CONTROLS) == content


def as_is(part: int, content: bytes) -> Piece:
    """Return ASCII text, which is the same in every view that is not further read."""
    return Piece(part, ASCII_VIEWS, content, len(content))


def plain(text: str) -> str:
    """Return *text* without invisible characters and compatibility forms."""
    return unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))


def fold(text: str) -> str:
    """Return the plain form of *text* without differences of case."""
    return plain(text).casefold()


def chunks_of(content: bytes) -> Iterator[list[str]]:
    """Yield chunks of the text, a slice's worth at a time; nothing composes over their ends."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    rest = ""
    for at in range(0, len(content), SLICE_BYTES):
        is_last = at + SLICE_BYTES >= len(content)
        text = rest + decoder.decode(content[at : at + SLICE_BYTES], is_last)
        chunks: list[str] = []
        start = 0
        while len(text) - start > CHUNK_CHARACTERS + MAX_RUN_CHARACTERS:
            end = _safe_end(text, start + CHUNK_CHARACTERS)
            chunks.append(text[start:end])
            start = end
        rest = text[start:]
        if is_last:
            chunks.append(rest)
        yield chunks


def _safe_end(text: str, at: int) -> int:
    """Return where to cut at or soon after *at*: before what never melts into what is before."""
    for end in range(at, at + MAX_RUN_CHARACTERS):
        after = text[end]
        if not (
            _composes(after)
            or (
                not after.isascii()
                and unicodedata.normalize("NFKC", text[end - 1 : end + 1])
                != unicodedata.normalize("NFKC", text[end - 1])
                + unicodedata.normalize("NFKC", after)
            )
        ):
            return end
    return at


def _plain_table(text: str) -> Table:
    return _table(text, folded=False)


def _folded_table(text: str) -> Table:
    return _table(text, folded=True)


def _table(text: str, *, folded: bool) -> Table:
    """Go character by character or, where some melt together, cluster by cluster."""
    change = fold if folded else plain
    units: list[str] = list(text)
    changed = {unit: change(unit) for unit in set(units)}
    whole = change(text)
    if "".join([changed[unit] for unit in units]) != whole:
        units = _clusters(text)
        changed = {unit: change(unit) for unit in set(units)}
    if "".join([changed[unit] for unit in units]) != whole:
        units, changed = [text], {text: whole}  # all of the chunk counts as found
    changed_lengths = {unit: len(result.encode()) for unit, result in changed.items()}
    lengths = {unit: len(unit.encode()) for unit in changed}
    return Table([changed_lengths[unit] for unit in units], [lengths[unit] for unit in units])


def _clusters(text: str) -> list[str]:
    """Split into bases, each with what composes with it."""
    clusters: list[str] = []
    for character in text:
        if clusters and _composes(character):
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
