"""Changes texts of an answer in place: every other byte of its JSON stays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from sidecar.dialects import json_text
from sidecar.dialects.answer_read import without_logprobs
from sidecar.dialects.json_text import OffsetMap, Token


@dataclass(frozen=True, slots=True)
class TokenEdit:
    """Put `text` in the place of a span of the token at `location` (see `AnswerText`).

    `start` and `end` are byte offsets into its decoded content. Of a number the whole token is
    replaced, by a string. `is_json` tells that the token is JSON text, in which quotes of `text`
    are escaped once more.
    """

    location: int
    start: int
    end: int
    text: bytes
    is_json: bool = False


def edited(payload: bytes, edits: Sequence[TokenEdit], *, has_logprobs: bool) -> bytes:
    """Return *payload* with its texts changed and without the tokens that would repeat them."""
    pieces: list[bytes] = []
    position = 0
    for start, end, text in sorted(_span(payload, edit) for edit in edits):
        if start >= position:  # else it was widened over the one before, which stands for both
            pieces += (payload[position:start], text)
        position = max(position, end)
    payload = b"".join((*pieces, payload[position:]))
    return without_logprobs(payload) if has_logprobs else payload


def _span(payload: bytes, edit: TokenEdit) -> tuple[int, int, bytes]:
    token = _token(payload, edit.location)
    if edit.location < 0:
        return token.start, token.end, b'"' + edit.text + b'"'
    start, end = edit.start, edit.end
    raw = payload[token.start : token.end]
    text = edit.text
    if edit.is_json:
        start, end = json_text.whole_units(json_text.decode(raw), start, end)
        text = _escaped(text)
    start, end = OffsetMap(raw).raw_range(start, end)
    return token.start + start, token.start + end, _escaped(text)


def _token(payload: bytes, location: int) -> Token:
    if location < 0:
        return next(islice(json_text.number_tokens(payload), -1 - location, None))
    return next(islice(json_text.string_tokens(payload), location, None))


def _escaped(text: bytes) -> bytes:
    return json.dumps(text.decode(), ensure_ascii=False)[1:-1].encode()
