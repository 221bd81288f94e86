"""JSON text that is cut at any place: the strings left open, and the numbers between them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from sidecar.jsontext.tokens import LOOKED_BACK_BYTES, OUTSIDE_STRINGS, decode, match_end, quoted

_BLANKS: Final = rb"(?:[ \t\r\n]|\\++[nrt])*+"
"""Also as the escapes of JSON text within a string, at any depth."""
_UP_TO_VALUE: Final = re.compile(rb"[:,\[]" + _BLANKS + rb"\Z")
_BEHIND_NUMBER: Final = re.compile(_BLANKS + rb"(?:[,\]}]|\Z)")
_WHOLE_NUMBER: Final = re.compile(rb"-?[0-9][0-9.eE+-]*+")


def depths_of_numbers(
    text: bytes, spans: Iterable[tuple[int, int]], opened: bytes = b""
) -> dict[int, int]:
    """Return, by start, the strings around each of *spans* that is a number without quotes.

    JSON text within a string has numbers of its own. *opened* is the result of `opened_after` for
    the text before. It takes one pass.
    """
    found: dict[int, int] = {}
    at = 0
    for start, end in sorted(spans):
        if (
            _WHOLE_NUMBER.fullmatch(text, start, end)
            and _UP_TO_VALUE.search(text[max(start - LOOKED_BACK_BYTES, 0) : start])
            and _BEHIND_NUMBER.match(text, end)
        ):
            opened, at = opened_after(text[at:start], opened), start
            if not opened or opened.endswith(_OPEN_DOCUMENT):
                found[start] = opened.count(b'"')
    return found


_DOCUMENT: Final = re.compile(rb'[ \t\r\n]*+(?:\{[ \t\r\n]*+"|\[[ \t\r\n]*+["\[{])')
_UNDECIDED: Final = re.compile(rb"[ \t\r\n]*+[\[{]?[ \t\r\n]*+\Z")
_CUT_ESCAPE: Final = re.compile(rb"(?<!\\)(?:\\\\)*+(\\(?:u[0-9a-fA-F]{0,3})?)\Z")
_OPEN_DOCUMENT: Final = b"[["
"""How a prefix ends that reopens JSON text outside of its strings."""
_MAX_OPEN: Final = 4
"""Strings within strings that are distinguished; each has twice as many backslashes."""


def begins_document(text: bytes) -> bool:
    """Return whether *text* begins as an object or list; prose may begin with its bracket."""
    return _DOCUMENT.match(text) is not None


def opened_after(text: bytes, opened: bytes = b"", *, most: int = _MAX_OPEN) -> bytes:
    r"""Return a short prefix that reopens the strings left open, with a quote for each of them.

    It is empty, or `"` and all that decides how the string goes on: half of an escape, and the
    same again for JSON text within it.
    """
    joined = opened + text
    at = match_end(OUTSIDE_STRINGS, joined, 0, len(joined))
    if at == len(joined):
        return b""
    cut = _CUT_ESCAPE.search(joined, at + 1)
    content = decode(joined[at + 1 : cut.start(1) if cut else len(joined)])
    if most > 1 and begins_document(content):
        inner = _OPEN_DOCUMENT + opened_after(content, most=most - 1)
    elif _UNDECIDED.match(content):
        inner = content.strip()
    else:
        inner = b"x"
    return b'"' + quoted(inner)[1:-1] + (cut.group(1) if cut else b"")
