"""Changes texts of an answer in place: every other byte of its JSON stays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from sidecar.dialects import json_numbers, json_text
from sidecar.dialects.answer_read import without_logprobs
from sidecar.dialects.json_text import OffsetMap, Token


@dataclass(frozen=True, slots=True)
class TokenEdit:
    """Put `text` in the place of a span of the token at `location` (see `AnswerText`).

    `start` and `end` are byte offsets into its decoded content. Of a number the whole token is
    replaced, by a string. `is_json` tells that the token is JSON text, in which quotes of `text`
    are escaped once more, `is_bare` that it stands there for a number without quotes.
    """

    location: int
    start: int
    end: int
    text: bytes
    is_json: bool = False
    is_bare: bool = False


def edited(payload: bytes, edits: Sequence[TokenEdit], *, has_logprobs: bool) -> bytes:
    """Return *payload* with its texts changed and without the tokens that would repeat them."""
    pieces: list[bytes] = []
    position = 0
    for start, end, text in sorted(_spans(payload, edits)):
        if start >= position:  # else it was widened over the one before, which stands for both
            pieces += (payload[position:start], text)
        position = max(position, end)
    payload = b"".join((*pieces, payload[position:]))
    return without_logprobs(payload) if has_logprobs else payload


def _spans(payload: bytes, edits: Iterable[TokenEdit]) -> Iterator[tuple[int, int, bytes]]:
    """Yield the bytes to change. Each token is looked for and read once, whatever its edits."""
    by_token: defaultdict[int, list[TokenEdit]] = defaultdict(list)
    for edit in edits:
        by_token[edit.location].append(edit)
    strings = {location for location in by_token if location >= 0}
    numbers = {-1 - location for location in by_token if location < 0}
    for index, token in _picked(json_text.number_tokens(payload), numbers):
        for edit in by_token[-1 - index]:
            yield token.start, token.end, b'"' + edit.text + b'"'
    for index, token in _picked(json_text.string_tokens(payload), strings):
        yield from _spans_in(payload, token, by_token[index])


def _picked(tokens: Iterable[Token], wanted: set[int]) -> Iterator[tuple[int, Token]]:
    for index, token in enumerate(islice(tokens, max(wanted, default=-1) + 1)):
        if index in wanted:
            yield index, token


def _spans_in(
    payload: bytes, token: Token, edits: Iterable[TokenEdit]
) -> Iterator[tuple[int, int, bytes]]:
    raw = payload[token.start : token.end]
    content = json_text.decode(raw)
    offsets = OffsetMap(raw)
    for edit in edits:
        start, end = edit.start, edit.end
        text = edit.text
        if edit.is_json:
            start, end = json_text.whole_units(content, start, end)
        if edit.is_bare:
            text = json_numbers.quoted(text)
        elif edit.is_json:
            text = _escaped(text)
        start, end = offsets.raw_range(start, end)
        yield token.start + start, token.start + end, _escaped(text)


def _escaped(text: bytes) -> bytes:
    return json_numbers.quoted(text)[1:-1]
