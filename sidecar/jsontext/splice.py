"""Replaces spans of JSON text and leaves every other byte as it was."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import Final

from sidecar.jsontext import tokens
from sidecar.jsontext.tokens import OffsetMap, Token

_PLAIN: Final = re.compile(rb"[ !#-\[\]-~]*")
"""Printable ASCII without quote and backslash: means itself at every depth of JSON text."""


class SpliceError(ValueError):
    """A replacement that does not fit the body: a fault of the caller, never of a client."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """Put `text` in the place of a span of the string at `location` (see `TextPart`).

    `start` and `end` are byte offsets into the decoded content in UTF-8. Of a number the whole
    token is replaced, by a string, also of one in JSON text inside a string.
    """

    location: tuple[int, ...]
    start: int
    end: int
    text: bytes


@dataclass(frozen=True, slots=True)
class _Edit:
    start: int
    end: int
    text: bytes


def splice(body: bytes, replacements: Sequence[Replacement]) -> bytes:
    """Return *body*, which is valid JSON, with all replacements done.

    Where ranges overlap, their union is replaced by the text of the one that begins first.

    Raises:
        SpliceError: a location or span is not in the body, or a text would need escaping.
    """
    for replacement in replacements:
        if not _PLAIN.fullmatch(replacement.text):
            raise SpliceError("the text of a replacement is not plain ASCII")
    edits = _in_strings(body, [one for one in replacements if not _is_number(one)])
    numbers = {-1 - one.location[0]: one for one in reversed(replacements) if _is_number(one)}
    for index, token in pick(tokens.number_tokens(body), numbers).items():
        edits.append(_Edit(token.start, token.end, b'"' + numbers[index].text + b'"'))
    pieces: list[bytes] = []
    position = 0
    for edit in _merge(edits):
        pieces += (body[position : edit.start], edit.text)
        position = edit.end
    return b"".join((*pieces, body[position:]))


def _is_number(replacement: Replacement) -> bool:
    return len(replacement.location) == 1 and replacement.location[0] < 0


def _in_strings(text: bytes, replacements: Sequence[Replacement]) -> list[_Edit]:
    """Return the edits of *text* itself, that of strings in strings included."""
    by_token: defaultdict[int, list[Replacement]] = defaultdict(list)
    for replacement in replacements:
        if not replacement.location:
            raise SpliceError("a replacement has no location")
        by_token[replacement.location[0]].append(replacement)
    edits: list[_Edit] = []
    for index, token in pick(tokens.string_tokens(text), by_token.keys()).items():
        raw = text[token.start : token.end]
        offsets = OffsetMap(raw)
        inner = _in_content(tokens.decode(raw), by_token[index])
        for edit in sorted(inner, key=attrgetter("start")):
            start, end = offsets.raw_range(edit.start, edit.end)
            edits.append(
                _Edit(
                    token.start + start,
                    token.start + end,
                    edit.text.replace(b"\\", b"\\\\").replace(b'"', b'\\"'),
                )
            )
    return edits


def _in_content(content: bytes, replacements: Sequence[Replacement]) -> list[_Edit]:
    nested = [
        Replacement(one.location[1:], one.start, one.end, one.text)
        for one in replacements
        if len(one.location) > 1
    ]
    edits = _in_strings(content, nested) if nested else []
    is_json = tokens.may_be_json(content)
    numbers: dict[int, Token] = {}  # those without quotes in which replacements begin
    if tokens.begins_json(content):
        starts = [one.start for one in replacements if len(one.location) == 1]
        numbers = tokens.bare_numbers(content, starts)
        if numbers and not tokens.is_json(content):
            numbers = {}
    for one in replacements:
        if len(one.location) > 1:
            continue
        if not 0 <= one.start <= one.end <= len(content):
            raise SpliceError("a replacement reaches outside its string")
        start, end = one.start, one.end
        number = numbers.get(start)
        if number is not None and start < end <= number.end:
            edits.append(_Edit(number.start, number.end, tokens.quoted(one.text)))
            continue
        if is_json:
            start, end = tokens.whole_units(content, start, end)
        edits.append(_Edit(start, end, one.text))
    return edits


def pick(found: Iterable[Token], indexes: Iterable[int]) -> dict[int, Token]:
    """Return the tokens of some indexes.

    Raises:
        SpliceError: there are fewer tokens.
    """
    wanted = set(indexes)
    if not wanted:
        return {}
    picked = {
        index: token
        for index, token in enumerate(islice(found, max(wanted) + 1))
        if index in wanted
    }
    if len(picked) != len(wanted):
        raise SpliceError("a replacement is for a token that is not in the text")
    return picked


def _merge(edits: Iterable[_Edit]) -> list[_Edit]:
    merged: list[_Edit] = []
    for edit in sorted(edits, key=lambda edit: (edit.start, -edit.end)):
        if merged and edit.start < merged[-1].end:
            last = merged.pop()
            edit = _Edit(last.start, max(last.end, edit.end), last.text)  # noqa: PLW2901 - grown
        merged.append(edit)
    return merged
