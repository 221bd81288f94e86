"""Views of a text in which rules search, with maps back to offsets in the original."""

from __future__ import annotations

import codecs
import enum
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple, Protocol

from typing_extensions import override

from sidecar.guardrails.cooperative import SLICE_BYTES, Cooperative
from sidecar.guardrails.matching.database import CONTROLS

ByteSpan = tuple[int, int]


class OffsetMap(Protocol):
    """Knows where the bytes of a reading come from."""

    def span(self, start: int, end: int) -> ByteSpan:
        """Return where bytes *start* to *end* come from; rather too much than too little."""
        ...


class IdentityMap(OffsetMap):
    """A reading that is the text itself, byte for byte."""

    @override
    def span(self, start: int, end: int) -> ByteSpan:
        return start, end


IDENTITY: Final = IdentityMap()


class TableMap(OffsetMap):
    """A reading in units: where each ends there, and where in the original."""

    def __init__(self, changed: Sequence[int], original: Sequence[int]) -> None:
        """Take the lengths in bytes of each unit, changed and in the original."""
        self._changed_ends = list(accumulate(changed))
        self._original_ends = list(accumulate(original))

    @override
    def span(self, start: int, end: int) -> ByteSpan:
        first = bisect_right(self._changed_ends, start)
        last = bisect_left(self._changed_ends, end)
        if self._changed_ends[last] == end:  # with what stands unseen behind it
            last = bisect_right(self._changed_ends, end) - 1
        return (self._original_ends[first - 1] if first else 0), self._original_ends[last]


MAX_CACHED_MAPS: Final = 64
"""Chunks whose way back is kept: rules go through a text in order."""


class ChunkedMap(OffsetMap):
    """A reading made chunk by chunk, of which only those with findings are looked at closely."""

    def __init__(
        self,
        original: bytes,
        table: Callable[[str], TableMap],
        *,
        changed: Sequence[bytes],
        lengths: Sequence[int],
    ) -> None:
        """Take each chunk as changed, and its length in bytes in the original."""
        self._original = original
        self._table = table
        self._changed_ends = list(accumulate(map(len, changed)))
        self._original_ends = list(accumulate(lengths))
        self._tables: dict[int, TableMap] = {}

    @override
    def span(self, start: int, end: int) -> ByteSpan:
        first = bisect_right(self._changed_ends, start)
        last = bisect_left(self._changed_ends, end)
        begin, _ = self._within(first, start, start + 1)
        _, stop = self._within(last, end - 1, end)
        return begin, stop

    def _within(self, chunk: int, start: int, end: int) -> ByteSpan:
        changed_start = self._changed_ends[chunk - 1] if chunk else 0
        original_start = self._original_ends[chunk - 1] if chunk else 0
        table = self._tables.get(chunk)
        if table is None:
            if len(self._tables) >= MAX_CACHED_MAPS:
                self._tables.clear()
            original = self._original[original_start : self._original_ends[chunk]].decode()
            table = self._tables[chunk] = self._table(original)
        begin, stop = table.span(start - changed_start, end - changed_start)
        return original_start + begin, original_start + stop


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


class ViewKind(enum.Enum):
    """A reading of a text."""

    RAW = "raw"
    PLAIN = "plain"  # without invisible characters, compatibility forms resolved
    FOLDED = "folded"  # plain, and without differences of case
    UNESCAPED = "unescaped"
    DECODED = "decoded"
    UNSPACED = "unspaced"
    LOOK_ALIKE = "look_alike"
    LEET = "leet"


class TextView(NamedTuple):
    """One part of a request in one kind of view or, for ASCII text, in two that are the same.

    `length` is the part's own, in bytes; `offsets` leads back to it. `accepts` decides which spans
    may be findings, if not all of them may. A tuple, since every part of a request has one.
    """

    part: int
    kinds: frozenset[ViewKind]
    content: bytes
    length: int
    offsets: OffsetMap = IDENTITY
    accepts: Callable[[int, int], bool] | None = None


CHUNK_CHARACTERS: Final = 512
"""Text is normalised in chunks, so that the way back from a finding is through a short one.

A long run of combining marks is sorted in quadratic time: 64 KB of them held a worker for 1.4 s.
"""
MAX_RUN_CHARACTERS: Final = 64
"""A chunk grows by so many at most to end where nothing composes (UAX 15 allows 30 marks)."""

ASCII_VIEWS: Final = frozenset({ViewKind.RAW, ViewKind.FOLDED})
"""Of ASCII text, in which both are the same."""

_RAW: Final = frozenset({ViewKind.RAW})
_PLAIN: Final = frozenset({ViewKind.PLAIN})
_FOLDED: Final = frozenset({ViewKind.FOLDED})


def views_of(part: int, content: bytes, *, folded: bool) -> Cooperative[tuple[TextView, ...]]:
    """Return the views of *content* that are worth searching.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    if content.isascii() and content.translate(None, CONTROLS) == content:
        return (TextView(part, ASCII_VIEWS, content, len(content)),)
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
    views = [TextView(part, _RAW, content, len(content))]
    if not is_plain:
        offsets = ChunkedMap(content, _plain_map, changed=plains, lengths=originals)
        views.append(TextView(part, _PLAIN, b"".join(plains), len(content), offsets))
    if folded:
        offsets = ChunkedMap(content, _folded_map, changed=foldeds, lengths=originals)
        views.append(TextView(part, _FOLDED, b"".join(foldeds), len(content), offsets))
    return tuple(views)


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


def _plain_map(text: str) -> TableMap:
    return _table(text, folded=False)


def _folded_map(text: str) -> TableMap:
    return _table(text, folded=True)


def _table(text: str, *, folded: bool) -> TableMap:
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
    return TableMap([changed_lengths[unit] for unit in units], [lengths[unit] for unit in units])


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
