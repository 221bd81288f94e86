"""Numbers without quotes in JSON text inside a string: what stands for one needs quotes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Final

import orjson

from sidecar.dialects.json_text import WHOLE_STRING, Token

_OUTSIDE: Final = re.compile(rb'(?:[^"]++|' + WHOLE_STRING + rb")*+", re.DOTALL)
_STRING_REST: Final = re.compile(WHOLE_STRING + rb"?", re.DOTALL)

_BEFORE: Final = re.compile(rb"[:,\[][ \t\r\n]*+(-?(?:[0-9][0-9.eE+-]*+)?+)\Z")
_NUMBER: Final = re.compile(rb"(-?[0-9][0-9.eE+-]*+)[ \t\r\n]*+(?:[,\]}]|\Z)")

_LOOKED_BACK_BYTES: Final = 256
"""Room for a number and for the line break and indentation before it."""


def bare_numbers(text: bytes, starts: Iterable[int], *, opened: bytes = b"") -> dict[int, Token]:
    """Return, by start, the number without quotes that each of *starts* is within.

    *opened* is what `opened_after` says of the text before. One pass, whatever the starts.
    """
    found: dict[int, Token] = {}
    shift = len(opened)
    at = 0
    joined = b""
    for start in sorted(set(starts)):
        token = _token_at(text, start)
        if token is None:
            continue
        joined = joined or opened + text
        if start + shift < at:
            continue  # in the string before
        at = _end(_OUTSIDE, joined, at, start + shift)
        if at == start + shift:
            found[start] = token
        else:
            at = _end(_STRING_REST, joined, at, len(joined))
    return found


def opened_after(text: bytes, opened: bytes = b"") -> bytes:
    r"""Return the least that stands for what *text* leaves open: `"`, `"\` or nothing."""
    joined = opened + text
    at = _end(_OUTSIDE, joined, 0, len(joined))
    if at == len(joined):
        return b""
    backslashes = len(joined) - len(joined.rstrip(b"\\"))
    return b'"\\' if backslashes % 2 else b'"'


def is_json(text: bytes) -> bool:
    """Tell whether *text* is JSON as a whole."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            json.loads(text)  # half a pair of surrogates is no fault to it
        except (ValueError, RecursionError):
            return False
    return True


def quoted(text: bytes) -> bytes:
    """Return *text* as a string of JSON text, quotes included."""
    return json.dumps(text.decode(), ensure_ascii=False).encode()


def _token_at(text: bytes, start: int) -> Token | None:
    before = _BEFORE.search(text[max(start - _LOOKED_BACK_BYTES, 0) : start])
    if before is None:
        return None
    begin = start - len(before.group(1))
    number = _NUMBER.match(text, begin)
    if number is None or number.end(1) <= start:
        return None
    return Token(*number.span(1))


def _end(pattern: re.Pattern[bytes], text: bytes, start: int, end: int) -> int:
    match = pattern.match(text, start, end)
    return match.end() if match is not None else start
