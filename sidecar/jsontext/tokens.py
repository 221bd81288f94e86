"""Finds strings, numbers and members in JSON text, and replaces spans of them, byte for byte."""

from __future__ import annotations

import binascii
import json
import re
from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Final

import msgspec
import orjson
from msgspec import structs

from sidecar.domain.cooperative import Cooperative

_STRING: Final = rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)(?:"|\\?\Z)'
# Possessive, and never failing once begun: a hostile text costs one pass, not one a quote.

WHOLE_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
"""A string of valid JSON, quotes included; for expressions with `re.DOTALL`."""

_STRING_TOKEN: Final = re.compile(_STRING, re.DOTALL)

_TOKEN: Final = re.compile(_STRING + rb"|(-?[0-9][0-9.eE+-]*+)", re.DOTALL)
_NUMBER_GROUP: Final = 2
_COLON: Final = re.compile(rb"[ \t\r\n]*+:")

_JSON_START: Final = re.compile(rb'[ \t\r\n]*+["\[{]')

_ONE_ESCAPE: Final = (
    rb'\\(?:["\\/bfnrt]'
    rb"|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|u[0-9a-fA-F]{4})"
)

_ESCAPE: Final = re.compile(_ONE_ESCAPE)

_STRETCH: Final = re.compile(rb"(?:" + _ONE_ESCAPE + rb"|[^\\]++|\\){1,512}+")
"""A stretch of a string's raw bytes that cuts no escape and no character in two."""

_NESTED_UNIT: Final = re.compile(
    rb"(?:\\\\)*+\\(?:u[0-9a-fA-F]{4}|[^\\])?+"
    rb'|(?:\\\\)++(?:u[0-9a-fA-F]{4}|["/bfnrt])?+',
    re.DOTALL,
)
"""A run of backslashes, with the character that it escapes at some depth. An even run before any
other character is of backslashes alone, as in `C:\\\\[NAME_1]`."""

_RUN_BYTES: Final = 4_096
"""Of a run of backslashes, which go at a time: a client may send five megabytes of them."""

_CONTINUATION: Final = range(0x80, 0xC0)
"""Second and further bytes of a UTF-8 character (RFC 3629 section 3)."""


class JsonToken(msgspec.Struct, frozen=True, gc=False):
    """A token's bytes are `text[start:end]`; of a string, those between its quotes."""

    start: int
    end: int


def string_tokens(text: bytes) -> Iterator[JsonToken]:
    """Yield every string token of *text* in order, keys included."""
    for match in _STRING_TOKEN.finditer(text):
        yield JsonToken(*match.span(1))


_TO_ESCAPED: Final = re.compile(
    rb'((?:[^"]++|"[^"\\]*+")*+)"([^"\\]*+(?:\\.[^"\\]*+)++)(?:"|\\?\Z)', re.DOTALL
)
"""The next string with an escape, behind all text and strings without one."""


def escaped_strings(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield index and raw bytes of each string token with an escape.

    A text may have some million others, which are skipped at the speed of C.
    """
    index = at = 0
    while found := _TO_ESCAPED.match(text, at):
        index += found[1].count(b'"') // 2
        yield index, found[2]
        index += 1
        at = found.end()


def count_strings(text: bytes) -> int:
    """Return how many strings *text* has, which is valid JSON."""
    if b"\\" in text:
        text = text.replace(rb"\\", b"").replace(rb"\"", b"")
    return text.count(b'"') // 2


def pick_tokens(
    text: bytes, indexes: Collection[int], *, are_numbers: bool = False
) -> Cooperative[dict[int, JsonToken]]:
    """Return the strings, or numbers, of some indexes; raise `SpliceError` if there are fewer."""
    tokens, group = (_TOKEN, _NUMBER_GROUP) if are_numbers else (_STRING_TOKEN, 1)
    picked: dict[int, JsonToken] = {}
    index, behind = 0, max(indexes, default=-1) + 1
    for count, found in enumerate(tokens.finditer(text) if indexes else (), start=1):
        if found.lastindex == group:
            if index in indexes:
                picked[index] = JsonToken(*found.span(group))
            index += 1
        if index == behind:
            break
        if not count % SLICE_TOKENS:
            yield
    if len(picked) != len(indexes):
        raise SpliceError("a replacement is for a token that is not in the text")
    return picked


def may_be_json(content: bytes) -> bool:
    r"""Return whether a string should be searched as JSON text.

    Without a backslash it has no escapes, so that its own bytes already show all it says.
    """
    return b"\\" in content and begins_json(content)


def begins_json(content: bytes) -> bool:
    """Return whether a string begins as JSON text does."""
    return _JSON_START.match(content) is not None


def decode(raw: bytes) -> bytes:
    """Return the content of a string token in UTF-8; an unpaired surrogate becomes `?`."""
    if b"\\" not in raw:
        return raw
    quoted_text = b'"%b"' % raw
    try:
        text = orjson.loads(quoted_text)
    except orjson.JSONDecodeError:
        try:
            text = _LENIENT.decode(quoted_text.decode())
        except ValueError:
            return _ESCAPE.sub(_character, raw)
    return str(text).encode("utf-8", "replace")


_LENIENT: Final = json.JSONDecoder(strict=False)

_SHORT_ESCAPES: Final = dict(zip(b'"\\/bfnrt', b'"\\/\b\f\n\r\t', strict=True))


def _character(found: re.Match[bytes]) -> bytes:
    """Return the character of an escape: a text may have some hundred thousand of them."""
    escape = found[0]
    match len(escape):
        case 2:
            return bytes((_SHORT_ESCAPES[escape[1]],))
        case 12:
            return str(orjson.loads(b'"%b"' % escape)).encode()
        case _:
            code = int(escape[2:], 16)  # noqa: FURB166 - JSON's prefix is not Python's
            return chr(code).encode("utf-8", "replace")


class RawOffsets:
    """Turns offsets into the decoded content of a string into offsets into its raw bytes.

    A range that begins or ends inside an escape or a character is widened to the whole of it.
    Only the beginnings of stretches are kept, and the escapes of the stretch used last: a client
    may send ten megabytes of escapes. Ranges in order look into each stretch once.
    """

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._raw_starts = array("Q", [0])  # of stretches; the last one is the end of all
        self._decoded_starts = array("Q", [0])
        self._open = -1  # the stretch whose escapes these are
        self._escapes: list[tuple[int, int]] = []  # raw start and end
        self._decoded: list[tuple[int, int]] = []  # the same escapes in the decoded content

    def decoded(self) -> Cooperative[bytes]:
        """Read the string in slices, and return its content; before any range."""
        raw = self._raw
        if b"\\" not in raw:  # mostly
            self._raw_starts.append(len(raw))
            self._decoded_starts.append(len(raw))
            return raw
        content = bytearray()
        for count, stretch in enumerate(_STRETCH.finditer(raw), start=1):
            content += decode(stretch.group())
            self._raw_starts.append(stretch.end())
            self._decoded_starts.append(len(content))
            if not count % TOKENS_AN_EDIT:
                yield
        return bytes(content)

    def raw_range(self, start: int, end: int) -> tuple[int, int]:
        """Return the raw range that covers the decoded range."""
        begin = self._look_into(bisect_right(self._decoded_starts, start) - 1, start)
        at = bisect_right(self._decoded, (start, len(self._raw))) - 1
        if at >= 0:
            is_within = start < self._decoded[at][1]
            behind = self._escapes[at][1] + start - self._decoded[at][1]
            begin = self._escapes[at][0] if is_within else behind
        while begin and self._byte(begin) in _CONTINUATION:
            begin -= 1
        stretch = bisect_left(self._decoded_starts, end) - 1  # one that begins before
        limit = self._look_into(max(stretch, 0), end)
        at = bisect_right(self._decoded, (end, -1)) - 1  # an escape that begins before
        if at >= 0:
            limit = self._escapes[at][1] + max(end - self._decoded[at][1], 0)
        while self._byte(limit) in _CONTINUATION:
            limit += 1
        return begin, max(begin, limit)

    def _look_into(self, stretch: int, offset: int) -> int:
        """Read the escapes of a stretch; return where *offset* is if none of them is before."""
        begin, decoded = self._raw_starts[stretch], self._decoded_starts[stretch]
        if stretch != self._open:
            self._open = stretch
            self._escapes, self._decoded = [], []
            end = self._raw_starts[min(stretch + 1, len(self._raw_starts) - 1)]
            shift = begin - decoded
            for match in _ESCAPE.finditer(self._raw, begin, end):
                start, after = match.span()
                length = len(_character(match))
                self._escapes.append((start, after))
                self._decoded.append((start - shift, start - shift + length))
                shift += after - start - length
        return begin + offset - decoded

    def _byte(self, position: int) -> int:
        return self._raw[position] if position < len(self._raw) else 0


def whole_units(content: bytes, start: int, end: int) -> tuple[int, int]:
    """Widen a range so that it cuts no escape of JSON text inside a string in two.

    A run of backslashes is one unit, whatever the depth at which it is read.
    """
    for unit in _units_around(content, start):
        start = min(start, unit.start)
    for unit in _units_around(content, end):
        end = max(end, unit.end)
    return start, end


def _units_around(content: bytes, offset: int) -> Iterator[JsonToken]:
    # At most `uXXX` of a unit stands between its backslashes and the offset.
    search_from = max(offset - 4, 0)
    while content[search_from - 1 : search_from] == b"\\":
        before = content[max(search_from - _RUN_BYTES, 0) : search_from]
        search_from -= len(before) - len(before.rstrip(b"\\"))
    at = content.find(b"\\", search_from, offset)
    while at >= 0:  # never past offset: the next backslash may be megabytes away
        match = _NESTED_UNIT.match(content, at)
        if match is None:
            return  # nothing stands behind the last run
        if offset < match.end():
            yield JsonToken(*match.span())
        at = content.find(b"\\", match.end(), offset)


OUTSIDE_STRINGS: Final = re.compile(rb'(?:[^"]++|' + WHOLE_STRING + rb")*+", re.DOTALL)
_STRING_REST: Final = re.compile(WHOLE_STRING + rb"?", re.DOTALL)

_BEFORE: Final = re.compile(rb"[:,\[][ \t\r\n]*+(-?(?:[0-9][0-9.eE+-]*+)?+)\Z")
_NUMBER: Final = re.compile(rb"(-?[0-9][0-9.eE+-]*+)[ \t\r\n]*+(?:[,\]}]|\Z)")

LOOKED_BACK_BYTES: Final = 256
"""Room for a number and for the line break and indentation before it."""


def bare_numbers(text: bytes, starts: Iterable[int]) -> dict[int, JsonToken]:
    """Return, by start, the number without quotes that each of *starts* is within.

    It takes one pass.
    """
    found: dict[int, JsonToken] = {}
    at = 0
    for start in sorted(set(starts)):
        before = _BEFORE.search(text[max(start - LOOKED_BACK_BYTES, 0) : start])
        number = before and _NUMBER.match(text, start - len(before.group(1)))
        if number is None or number.end(1) <= start:
            continue
        if start < at:
            continue  # in the string before
        at = match_end(OUTSIDE_STRINGS, text, at, start)
        if at == start:
            found[start] = JsonToken(*number.span(1))
        else:
            at = match_end(_STRING_REST, text, at, len(text))
    return found


def is_json(text: bytes) -> bool:
    """Return whether *text* is JSON as a whole."""
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


def match_end(pattern: re.Pattern[bytes], text: bytes, start: int, end: int) -> int:
    """Return the place behind the match of *pattern* at *start*, or *start* without one."""
    match = pattern.match(text, start, end)
    return match.end() if match is not None else start


_PLAIN_TEXT: Final = re.compile(rb"[ !#-\[\]-~]*")
"""Printable ASCII without quote and backslash: means itself at every depth of JSON text."""


class SpliceError(ValueError):
    """A replacement that does not fit the body: a fault of the caller, never of a client."""


class Replacement(msgspec.Struct, frozen=True, gc=False):
    """Put `text` in the place of a span of the string at `location` (see `TextPart`).

    `start` and `end` are byte offsets into the decoded content in UTF-8. Of a number the whole
    token is replaced, by a string, also of one in JSON text inside a string.
    """

    location: tuple[int, ...]
    start: int
    end: int
    text: bytes


class _Edit(msgspec.Struct, frozen=True, gc=False):
    start: int
    end: int
    text: bytes
    is_key: bool = False  # in the name of a member


SLICE_TOKENS: Final = 1_024
"""Strings gone through between two interruptions: some 0.3 ms."""

TOKENS_AN_EDIT: Final = 32
"""Strings that are gone through in the time of one edit, some 10 us."""


def splice(body: bytes, replacements: Sequence[Replacement]) -> Cooperative[tuple[bytes, bool]]:
    """Return *body*, valid JSON, with all replacements done, and whether a name has changed.

    It works in slices. Names are those of members of *body*, not of JSON text in its strings.
    Where ranges overlap, their union is replaced by the text of the one that begins first.

    Raises:
        SpliceError: a location or span is not in the body, or a text would need escaping.
    """
    for replacement in replacements:
        if not _PLAIN_TEXT.fullmatch(replacement.text):
            raise SpliceError("the text of a replacement is not plain ASCII")
    strings = [one for one in replacements if not _is_number(one)]
    edits = yield from _in_strings(body, strings)
    if len(strings) < len(replacements):
        numbers = {-1 - one.location[0]: one for one in reversed(replacements) if _is_number(one)}
        for index, token in (yield from pick_tokens(body, numbers, are_numbers=True)).items():
            edits.append(_Edit(token.start, token.end, b'"' + numbers[index].text + b'"'))
    pieces: list[bytes] = []
    position, has_key = 0, False
    for count, edit in enumerate(_merge(edits), start=1):
        pieces += (body[position : edit.start], edit.text)
        position = edit.end
        has_key |= edit.is_key
        if not count % SLICE_TOKENS:
            yield
    return b"".join((*pieces, body[position:])), has_key


def _is_number(replacement: Replacement) -> bool:
    return len(replacement.location) == 1 and replacement.location[0] < 0


def _in_strings(text: bytes, replacements: Sequence[Replacement]) -> Cooperative[list[_Edit]]:
    """Return the edits of *text* itself, that of strings in strings included."""
    by_token: defaultdict[int, list[Replacement]] = defaultdict(list)
    for replacement in replacements:
        if not replacement.location:
            raise SpliceError("a replacement has no location")
        by_token[replacement.location[0]].append(replacement)
    edits: list[_Edit] = []
    work = 0
    for index, found in enumerate(_STRING_TOKEN.finditer(text) if by_token else ()):
        work += 1
        if index in by_token:
            here = by_token.pop(index)
            edits += yield from _in_token(text, JsonToken(*found.span(1)), here)
            work += TOKENS_AN_EDIT
            if not by_token:
                return edits
        if work >= SLICE_TOKENS:
            yield
            work = 0
    if by_token:
        raise SpliceError("a replacement is for a token that is not in the text")
    return edits


def _in_token(
    text: bytes, token: JsonToken, replacements: Sequence[Replacement]
) -> Cooperative[list[_Edit]]:
    raw = text[token.start : token.end]
    content = decode(raw)
    span, is_key = (0, len(content)), _COLON.match(text, token.end + 1) is not None
    for one in replacements:
        if (one.start, one.end) == span and len(one.location) == 1:  # all others are within it
            return [_Edit(token.start, token.end, one.text, is_key)]
    nested = [one for one in replacements if len(one.location) > 1]
    if nested and not begins_json(content):
        moved = [structs.replace(one, location=one.location[1:]) for one in nested]
        try:
            enclosed = binascii.a2b_base64(content)
        except binascii.Error as error:
            raise SpliceError("a replacement is for a text within no other") from error
        document, _ = yield from splice(enclosed, moved)
        encoded = binascii.b2a_base64(document, newline=False)
        return [_Edit(token.start, token.end, encoded)]
    offsets = RawOffsets(raw)
    yield from offsets.decoded()
    edits: list[_Edit] = []
    inner = yield from _in_content(content, replacements)
    for count, edit in enumerate(sorted(inner, key=attrgetter("start")), start=1):
        start, end = offsets.raw_range(edit.start, edit.end)
        escaped = edit.text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        edits.append(_Edit(token.start + start, token.start + end, escaped, is_key))
        if not count * TOKENS_AN_EDIT % SLICE_TOKENS:
            yield
    return edits


def _in_content(content: bytes, replacements: Sequence[Replacement]) -> Cooperative[list[_Edit]]:
    nested = [
        Replacement(one.location[1:], one.start, one.end, one.text)
        for one in replacements
        if len(one.location) > 1
    ]
    edits = (yield from _in_strings(content, nested)) if nested else []
    inner = sorted((one.start, one.end) for one in edits)
    has_escapes = may_be_json(content)
    numbers: dict[int, JsonToken] = {}  # those without quotes in which replacements begin
    if begins_json(content):
        starts = [one.start for one in replacements if len(one.location) == 1]
        numbers = bare_numbers(content, starts)
        if numbers and not is_json(content):
            numbers = {}
    for one in replacements:
        if len(one.location) > 1:
            continue
        if not 0 <= one.start <= one.end <= len(content):
            raise SpliceError("a replacement reaches outside its string")
        start, end = one.start, one.end
        number = numbers.get(start)
        if number is not None and start < end <= number.end:
            edits.append(_Edit(number.start, number.end, quoted(one.text)))
            continue
        at = bisect_right(inner, (start, len(content))) - 1
        if at >= 0 and end <= inner[at][1]:
            continue  # found in the string within as well, where escapes are certain
        if has_escapes:
            start, end = whole_units(content, start, end)
        edits.append(_Edit(start, end, one.text))
    return edits


def _merge(edits: Iterable[_Edit]) -> Iterator[_Edit]:
    last: _Edit | None = None
    for edit in sorted(edits, key=lambda edit: (edit.start, -edit.end)):
        if last is not None and edit.start < last.end:
            last = _Edit(last.start, max(last.end, edit.end), last.text, last.is_key)
            continue
        if last is not None:
            yield last
        last = edit
    if last is not None:
        yield last
