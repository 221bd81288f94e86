"""Digits and signs for letters, as in `p4ssw0rd`; for words, not for tokens."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from sidecar.guardrails.readings.reading import Reading
from sidecar.guardrails.slices import Steps
from sidecar.guardrails.text_views import Piece, View

_SIGN: Final = re.compile(rb"[0134578@$!|]")
_LETTER: Final = re.compile(rb"[A-Za-z]")
_TABLES: Final = tuple(  # a one is an i or an l
    bytes.maketrans(b"0345789@$1!|", b"oeastbgas" + letter * 3) for letter in (b"i", b"l")
)
_VIEWS: Final = frozenset({View.LEET})


def _read(piece: Piece) -> Steps[tuple[Piece, ...]]:
    content = piece.content
    tables = _TABLES if any(one in content for one in (b"1", b"!", b"|")) else _TABLES[:1]

    def has_letter(start: int, end: int) -> bool:
        return _LETTER.search(content, start, end) is not None

    found: list[Piece] = []
    for table in tables:
        changed = content.translate(table)
        found.append(replace(piece, views=_VIEWS, content=changed, accepts=has_letter))
        yield
    return tuple(found)


LEET: Final = Reading(_read, lambda content: _SIGN.search(content) is not None)
