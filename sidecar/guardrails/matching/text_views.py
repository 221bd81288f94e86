"""Views of a text in which rules search, with maps back to offsets in the original.

A model reads full-width letters, or a word with zero-width characters in it, as plain text. So
rules search normalised views of a text: without invisible characters, in Unicode's compatibility
form (NFKC), and case-folded for words. Text is normalised in short chunks, and an offset map leads
from a span of a view back to the bytes of the original.
"""

from __future__ import annotations

import codecs
import enum
import functools
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple, Protocol

import re2
from typing_extensions import override

from sidecar.domain.cooperative import SLICE_BYTES, Cooperative

CONTROLS: Final = bytes((*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F))
"""All of ASCII's but for tab, line feed and carriage return."""

ByteSpan = tuple[int, int]


class OffsetMap(Protocol):
    """Maps spans of a view to spans of the original."""

    def span(self, start: int, end: int) -> ByteSpan:
        """Return the origin of bytes *start* to *end*; rather too much than too little."""
        ...


class IdentityMap(OffsetMap):
    """The map of a view that is the original itself, byte for byte."""

    @override
    def span(self, start: int, end: int) -> ByteSpan:
        return start, end


IDENTITY: Final = IdentityMap()


class ComposedMap(OffsetMap):
    """The map of a view that was made of another view."""

    def __init__(self, above: OffsetMap, below: OffsetMap) -> None:
        self._above = above
        self._below = below

    @override
    def span(self, start: int, end: int) -> ByteSpan:
        return self._below.span(*self._above.span(start, end))


class TableMap(OffsetMap):
    """A map by units, such as characters: their ends in the view and in the original."""

    def __init__(self, changed: Sequence[int], original: Sequence[int]) -> None:
        """Take the lengths in bytes of each unit, changed and in the original."""
        self._changed_ends = list(accumulate(changed))
        self._original_ends = list(accumulate(original))

    @override
    def span(self, start: int, end: int) -> ByteSpan:
        first = bisect_right(self._changed_ends, start)
        last = bisect_left(self._changed_ends, end)
        if self._changed_ends[last] == end:  # with the invisible characters behind it
            last = bisect_right(self._changed_ends, end) - 1
        return (self._original_ends[first - 1] if first else 0), self._original_ends[last]


MAX_CACHED_MAPS: Final = 64
"""Chunks whose map is kept: rules go through a text in order."""


class ChunkedMap(OffsetMap):
    """A map by chunks; those with findings get a map of their own."""

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


class ViewKind(enum.Enum):
    """How a view differs from the text as it stands."""

    # An enumeration's own hash is a function in Python, called for each view several times.
    __hash__ = object.__hash__

    RAW = "raw"
    PLAIN = "plain"  # without invisible characters, compatibility forms resolved
    FOLDED = "folded"  # plain, and without differences of case
    UNESCAPED = "unescaped"
    DECODED = "decoded"
    UNSPACED = "unspaced"
    LOOK_ALIKE = "look_alike"
    LEET = "leet"
    TAGS = "tags"
    JOINED = "joined"  # plain, and without blanks and marks of other scripts within words


class TextView(NamedTuple):
    """One part of a request in one kind of view or, for most text, in two that are the same.

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
"""Text is normalised in chunks, so that an offset is mapped back through a short one.

A long run of combining marks is sorted in quadratic time: 64 KB of them held a worker for 1.4 s.
"""
MAX_RUN_CHARACTERS: Final = 64
"""A chunk grows by so many at most to end where nothing composes (UAX 15 allows 30 marks)."""

ONE_VIEW: Final = frozenset({ViewKind.RAW, ViewKind.FOLDED})
"""Of text in which both are the same to every rule, as they are in ASCII; see `has_one_view`."""

JOINED_VIEW: Final = frozenset({ViewKind.JOINED})
"""Searched for tokens alone: other rules would find words that were two."""

_RAW: Final = frozenset({ViewKind.RAW})
_TAGS: Final = frozenset({ViewKind.TAGS, ViewKind.FOLDED})
_PLAIN: Final = frozenset({ViewKind.PLAIN})
_FOLDED: Final = frozenset({ViewKind.FOLDED})

_COLOUR: Final = r"\x1b\[[0-?]{0,32}[@-~]"
"""A control sequence of terminals (ECMA-48 section 5.4), as tools colour their output with."""
_CUT_COLOUR: Final = re.compile(r"\x1b(?:\[[0-?]{0,32})?\Z")
_UNITS: Final = re.compile(f"{_COLOUR}|.", re.DOTALL)

_INVISIBLE: Final = re.compile(
    # Control characters but for tab, line feed and carriage return (C0, DEL, C1).
    "[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f"
    # Default_Ignorable_Code_Point (Unicode Character Database, DerivedCoreProperties.txt):
    # fillers, zero-width and directional marks, variation selectors, shorthand, music, tags.
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    # Marks around annotations, which are not for display by themselves either.
    "\ufff9-\ufffb]+"
    rf"|{_COLOUR}|\x1b"
)

_BYTES: Final = re2.Options()
_BYTES.encoding = re2.Options.Encoding.LATIN1
_INVISIBLE_BYTES: Final = re2.compile(
    # The same in UTF-8, for a search that takes a fifth of the time.
    rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f\xad]|\xcd\x8f|\xd8\x9c"
    rb"|\xe1(?:\x85[\x9f\xa0]|\x9e[\xb4\xb5]|\xa0[\x8b-\x8f])"
    rb"|\xe2(?:\x80[\x8b-\x8f\xaa-\xae]|\x81[\xa0-\xaf])|\xe3\x85\xa4"
    rb"|\xef(?:\xb8[\x80-\x8f]|\xbb\xbf|\xbe\xa0|\xbf[\xb0-\xbb])"
    rb"|\xf0(?:\x9b\xb2[\xa0-\xa3]|\x9d\x85[\xb3-\xba])|\xf3\xa0",
    _BYTES,
)

_TAG_BYTES: Final = re.compile(rb"\xf3\xa0[\x80\x81]")
_TAGS_WITHIN: Final = re.compile("[\U000e0020-\U000e007e]")
_TAG_LETTERS: Final = {0xE0000 + code: chr(code) for code in range(0x20, 0x7F)}
"""A model reads tag characters (Unicode 23.9) as the letters that they stand for."""

_JOINT: Final = re.compile(
    # Marks on the letter before, also those that enclose it; blanks, breaks, empty cells, dots.
    "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
    "\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u2800\u3000\u00b7\u2022\u2219\u22c5]+"
)
_LEAST_JOINED: Final = 14
"""Characters of a word with joints in it: most pairs of words and groups of digits have fewer."""
_JOINED_WORDS: Final = re2.compile(
    rb"[0-9A-Za-z_+/=.-]+(?:(?:\xcc[\x80-\xbf]|\xcd[\x80-\xaf]|\xd2[\x83-\x89]"
    rb"|\xe1(?:\xaa[\xb0-\xbf]|\xab[\x80-\xbf]|\xb7[\x80-\xbf]|\x9a\x80)"
    rb"|\xe2(?:\x83[\x90-\xbf]|\x80[\x80-\x8a\xa2\xa8\xa9\xaf]|\x81\x9f|\xa0\x80|\x88\x99|\x8b\x85)"
    rb"|\xef\xb8[\xa0-\xaf]|\xc2[\xa0\xb7]|\xe3\x80\x80)+[0-9A-Za-z_+/=.-]+)+",
    _BYTES,
)


_ASCII: Final = bytes(range(0x80))
_UNCHANGED: Final = frozenset("LNPSZ")
"""Categories of characters that may stay as they are; marks may join the letter before them."""
_BASIC_PLANE: Final = "\uffff"
_RARELY: Final = 8
_FEW_BYTES: Final = 256
"""In text of other scripts more than one byte in so many, and more than so few in all, goes on
with a character. Looking at each of its characters spares no time."""


@functools.lru_cache(maxsize=16_384)
def _is_plain(character: str) -> bool:
    """Return whether the plain form leaves *character*, whatever stands beside it.

    Of the characters beyond the basic plane only symbols count: there letters may compose too.
    """
    category = unicodedata.category(character)
    return (
        category[0] in _UNCHANGED
        and (character <= _BASIC_PLANE or category == "So")
        and not _composes(character)
        and unicodedata.normalize("NFKC", character) == character
    )


def has_one_view(content: bytes, *, grows: bool = False) -> bool:
    """Return whether all views of short text without control characters are the same to rules.

    A few letters with accents, dashes, bullets or emoji make no other view of a text: all that
    a view changes in it is the case of ASCII, which makes no difference to rules. In a text that
    *grows* each joint may become one of a long word.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    more = len(content) - len(content.decode())
    if more > _FEW_BYTES and more * _RARELY > len(content):
        return False  # perhaps it has one; in other scripts capitals and marks are likely
    characters = set(content.translate(None, _ASCII).decode())
    return (
        all(map(_is_plain, characters))
        and not (grows and _JOINT.search("".join(characters)))
        and _have_one_view(characters, content)
    )


def _have_one_view(characters: set[str], content: bytes) -> bool:
    found = "".join(characters)
    return _folded(found) == found and not (_JOINT.search(found) and _has_joint(content))


def _has_joint(content: bytes) -> bool:
    return any(
        len(_JOINT.sub("", found.group().decode("utf-8", "ignore"))) >= _LEAST_JOINED
        for found in _JOINED_WORDS.finditer(content)
    )


def _characters(content: bytes) -> Cooperative[set[str] | None]:
    """Return the characters beyond ASCII if they are few, and no view without case changes any."""
    if content.translate(None, CONTROLS) != content:
        return None
    characters: set[str] = set()
    decoder = codecs.getincrementaldecoder("utf-8")()
    for at in range(0, len(content), SLICE_BYTES):
        if at:
            yield
        piece = content[at : at + SLICE_BYTES]
        text = decoder.decode(piece, at + SLICE_BYTES >= len(content))
        if (len(piece) - len(text)) * _RARELY > len(piece):
            return None
        characters.update(text.encode().translate(None, _ASCII).decode())
        if not all(map(_is_plain, characters)):
            return None
    return characters


def views_of(part: int, content: bytes, *, folded: bool) -> Cooperative[tuple[TextView, ...]]:
    """Return the views of *content* that are worth searching.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    characters = yield from _characters(content)
    if characters is not None and _have_one_view(characters, content):
        return (TextView(part, ONE_VIEW, content, len(content)),)
    lengths: list[int] = []
    plains: list[bytes] = []
    foldeds: list[bytes] = []
    is_plain = True
    for chunks in chunks_of(content):
        for chunk in chunks:
            if lengths:
                yield
            encoded = chunk.encode()
            lengths.append(len(encoded))
            has_invisible = characters is None and _INVISIBLE_BYTES.search(encoded) is not None
            form = plain if has_invisible else _compatible
            plain_chunk = chunk if characters is not None else form(chunk)
            if plain_chunk != chunk:
                is_plain = False
                encoded = plain_chunk.encode()
            plains.append(encoded)
            if folded:
                foldeds.append(_folded(plain_chunk).encode())
    more = [(_TAGS, with_tags)] if _TAG_BYTES.search(content) else []
    more += [(JOINED_VIEW, joined)] if _has_joint(content) else []
    if folded and is_plain and not more and b"".join(foldeds) == content.lower():
        # As in scripts without capitals.
        return (TextView(part, ONE_VIEW, content, len(content)),)
    views = [TextView(part, _RAW, content, len(content))]
    changes = [] if is_plain else [(_PLAIN, plain, plains)]
    if folded:
        changes.append((_FOLDED, fold, foldeds))
    for kinds, form in more:
        changed: list[bytes] = []
        for chunks in chunks_of(content):
            changed += [form(chunk).encode() for chunk in chunks]
            yield
        changes.append((kinds, form, changed))
    for kinds, form, changed in changes:
        table = functools.partial(_table, change=form)
        offsets = ChunkedMap(content, table, changed=changed, lengths=lengths)
        views.append(TextView(part, kinds, b"".join(changed), len(content), offsets))
    return tuple(views)


def plain(text: str) -> str:
    """Return *text* without invisible characters and compatibility forms."""
    return _compatible(_INVISIBLE.sub("", text))


_LONGEST_FORM: Final = "\ufdfa"
"""An Arabic phrase as one character, which stays: NFKC makes 11 times its bytes of it, and six
times as many of any other character at most. Ten megabytes of it took 600 of memory."""


def _compatible(text: str) -> str:
    if _LONGEST_FORM not in text:
        return unicodedata.normalize("NFKC", text)
    pieces = text.split(_LONGEST_FORM)
    return _LONGEST_FORM.join([unicodedata.normalize("NFKC", piece) for piece in pieces])


def forms_of(text: str) -> Iterator[Callable[[str], str]]:
    """Yield the changes of case-sensitive text that may find more in *text*."""
    yield plain
    if _TAGS_WITHIN.search(text):
        yield with_tags
    if _JOINT.search(text):
        yield joined


def with_tags(text: str) -> str:
    """Return the plain form of *text* with tag characters as the letters that they stand for."""
    return plain(text.translate(_TAG_LETTERS))


def joined(text: str) -> str:
    """Return the plain form of *text* without blanks, breaks and marks of other scripts."""
    return plain(_JOINT.sub("", text))


def fold(text: str) -> str:
    """Return the plain form of *text* without differences of case."""
    return _folded(plain(text))


def _folded(text: str) -> str:
    # The Turkish capital of `i` has a dot (U+0130), which case folding leaves behind the letter.
    text = text.casefold().replace("i\u0307", "i")
    # Blanks and ends of lines without a compatibility form: RE2's white space is ASCII's.
    return text.replace("\u1680", " ").replace("\u2028", " ").replace("\u2029", " ")


def chunks_of(content: bytes) -> Iterator[list[str]]:
    """Yield chunks of the text, a slice's worth at a time; nothing composes over their ends."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    rest = ""
    for at in range(0, len(content), SLICE_BYTES):
        is_last = at + SLICE_BYTES >= len(content)
        text = rest + decoder.decode(content[at : at + SLICE_BYTES], is_last)
        chunks: list[str] = []
        is_coloured = "\x1b" in text
        start = 0
        while len(text) - start > CHUNK_CHARACTERS + MAX_RUN_CHARACTERS:
            earliest = end = start + CHUNK_CHARACTERS
            while end < earliest + MAX_RUN_CHARACTERS and (
                _melts(text, end)
                # A sequence has 34 characters before its end.
                or (is_coloured and _CUT_COLOUR.search(text, end - 34, end))
            ):
                end += 1
            if end == earliest + MAX_RUN_CHARACTERS:
                end = earliest
            chunks.append(text[start:end])
            start = end
        rest = text[start:]
        if is_last:
            chunks.append(rest)
        yield chunks


def _melts(text: str, at: int) -> bool:
    """Return whether normalisation may join the characters before and behind *at*."""
    before, after = text[at - 1], text[at]
    if " " <= after <= "~":  # nearly every character: none of these joins the one before it
        return False
    normalize = unicodedata.normalize
    return _composes(after) or (
        not after.isascii()
        and normalize("NFKC", before + after)
        != normalize("NFKC", before) + normalize("NFKC", after)
    )


def _composes(character: str) -> bool:
    """Return whether *character* may melt into the one before it, or is invisible behind it."""
    return bool(
        _INVISIBLE.match(character)
        or unicodedata.combining(character)
        or "\u1160" <= character <= "\u11ff"  # medial and final Hangul jamo
        or character in "\uff9e\uff9f"  # half-width kana voicing marks
    )


def _table(text: str, *, change: Callable[[str], str]) -> TableMap:
    """Map by characters or, if some melt together, by bases with all that composes with them."""
    single: list[str] = _UNITS.findall(text) if "\x1b" in text else list(text)
    units = single
    changed = {unit: change(unit) for unit in set(units)}
    whole = change(text)
    if "".join([changed[unit] for unit in units]) != whole:
        units = []
        for character in single:
            if units and _composes(character):
                units[-1] += character
            else:
                units.append(character)
        changed = {unit: change(unit) for unit in set(units)}
    if "".join([changed[unit] for unit in units]) != whole:
        units, changed = [text], {text: whole}  # all of the chunk counts as found
    changed_lengths = {unit: len(result.encode()) for unit, result in changed.items()}
    lengths = {unit: len(unit.encode()) for unit in changed}
    return TableMap([changed_lengths[unit] for unit in units], [lengths[unit] for unit in units])
