"""Takes the values of members out of JSON text: every other byte of it stays."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from sidecar.dialects import json_text

_BEFORE_VALUE: Final = re.compile(rb'"[ \t\r\n]*+:[ \t\r\n]*+')
_TO_BRACKET: Final = re.compile(
    rb'[^"{}\[\]]*+(?:' + json_text.WHOLE_STRING + rb'[^"{}\[\]]*+)*+([{}\[\]])', re.DOTALL
)
_SCALAR: Final = re.compile(json_text.WHOLE_STRING + rb"|[^ \t\r\n,\]}]*+", re.DOTALL)


def without_values(document: bytes, keys: frozenset[bytes]) -> bytes:
    """Return *document*, which is valid JSON, with null under each of *keys*, at any depth."""
    pieces: list[bytes] = []
    position = 0
    for start, end in _values(document, keys):
        pieces += (document[position:start], b"null")
        position = end
    return b"".join((*pieces, document[position:]))


def _values(document: bytes, keys: frozenset[bytes]) -> Iterator[tuple[int, int]]:
    end = 0
    for token in json_text.string_tokens(document):
        if token.start < end or json_text.decode(document[token.start : token.end]) not in keys:
            continue
        before = _BEFORE_VALUE.match(document, token.end)
        if before is not None:
            end = _value_end(document, before.end())
            yield before.end(), end


def _value_end(document: bytes, start: int) -> int:
    if document[start : start + 1] in {b"{", b"["}:
        depth = 0
        for bracket in _TO_BRACKET.finditer(document, start):
            depth += 1 if bracket.group(1) in {b"{", b"["} else -1
            if not depth:
                return bracket.end()
    scalar = _SCALAR.match(document, start)
    return scalar.end() if scalar is not None else start
