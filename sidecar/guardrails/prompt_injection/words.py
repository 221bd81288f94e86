"""A text as its words: what phrases and the model's terms are looked for in.

Lower case, one space around each word, no punctuation, so that neither case nor layout hides an
attack and a term is a plain literal. Training and the guardrail read texts through this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

SLICE_WORDS: Final = 8192
"""Bytes between two interruptions: 0.1 ms of harmless text, some 3 ms of nothing but terms."""

_LOWER: Final = bytes(
    byte | 0x20 if chr(byte) in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    else byte if chr(byte).isalnum() and byte < 0x80  # noqa: PLR2004 - ASCII ends there
    else 0x20
    for byte in range(256)
)  # fmt: skip
BORDER: Final = b"\x00"
"""Between texts that are searched together, as a word that no text has, with two spaces behind it.

No term goes over it: a gap may take it for a word, but nothing begins with a space there.
"""
_BORDER_AND_SPACE: Final = BORDER + b" "
_APART: Final = b" " + BORDER + b" "
_LOWER_AND_BORDER: Final = BORDER + _LOWER[1:]
_NOT_WORD: Final = re.compile(r"(?:[^\w]|_)+")
_APOSTROPHES: Final = dict.fromkeys(map(ord, "'’"))  # noqa: RUF001 - the typographic one


def words(content: bytes) -> bytes:
    """Return the words of *content*, already in its plain form (see `text_views`)."""
    if len(content) > SLICE_WORDS:
        return b"".join(word_slices(content))
    found = _words(content)
    return b" %b " % found if found else b" "


def words_of_each(contents: Sequence[bytes]) -> bytes:
    """Return the words of each of some short texts, with `BORDER` between them."""
    if all(map(bytes.isascii, contents)):
        # All in one go, which takes little longer than one of them.
        found = b" ".join(_APART.join(contents).translate(_LOWER_AND_BORDER, b"'").split())
        if found.count(BORDER) == len(contents) - 1:
            return b" %b " % found.replace(BORDER, _BORDER_AND_SPACE)
    return _BORDER_AND_SPACE.join(map(words, contents))


def word_slices(content: bytes) -> Iterator[bytes]:
    """Return what `words` does in pieces, each from the space before a word on.

    The last one has the space that ends the text: most texts are one piece, searched in one call.
    """
    start, piece = 0, b""
    while start < len(content):
        end = _slice_end(content, start)
        found = _words(content[start:end])
        if found:
            if piece:
                yield piece
            piece = b" " + found
        start = end
    yield piece + b" "


def _slice_end(content: bytes, start: int) -> int:
    """Return an end between two words, or at least between two characters."""
    end = start + SLICE_WORDS
    if end >= len(content):
        return len(content)
    space = content.rfind(b" ", start, end)
    if space > start:
        return space
    while content[end] & 0xC0 == 0x80:  # noqa: PLR2004 - a continuation byte of UTF-8
        end -= 1
    return end


def _words(content: bytes) -> bytes:
    if content.isascii():
        return b" ".join(content.translate(_LOWER, b"'").split())
    text = content.decode().casefold().translate(_APOSTROPHES)
    return _NOT_WORD.sub(" ", text).strip().encode()
