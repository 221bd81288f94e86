"""The decoder of base64 and of hexadecimal digits.

In program code most runs of letters are names and paths, some four in a kilobyte. Of these one in
six may be text in base64: an expression finds where, and only runs there are decoded.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterator
from typing import Final

from typing_extensions import override

from sidecar.domain.cooperative import SLICE_BYTES, Cooperative
from sidecar.guardrails.deobfuscation.decoder import DecodedText, Decoder, matches
from sidecar.guardrails.matching.rule import (
    WINDOW_BYTES,
    Expression,
    compile_re2,
    every_match,
    occurs,
)
from sidecar.guardrails.matching.text_views import ByteSpan, TextView, ViewKind

MIN_RUN: Final = 20
"""Characters; 15 bytes in base64, shorter than any key."""
QUAD: Final = 4
"""Letters of base64 for three bytes."""

_LETTERS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-"
_LETTER: Final = "[0-9A-Za-z+/_-]"
_RUN: Final = Expression(f"{_LETTER}{{{MIN_RUN}}}")
_ANY_RUN: Final = compile_re2(_RUN)
# In one line, or broken into lines as mail is (RFC 2045 section 6.8).
_BASE64: Final = compile_re2(
    Expression(
        rf"{_LETTER}{{{MIN_RUN},}}(?:\r?\n{_LETTER}{{{MIN_RUN},}})*"
        rf"(?:\r?\n{_LETTER}{{1,19}})?={{0,2}}"
    )
)
_HEX: Final = compile_re2(Expression(r"\b(?:[0-9A-Fa-f]{2}){12,}"))

# The first three letters of a quad, if the byte that begins in each is of a kind of UTF-8.
_ASCII: Final = ("[A-Za-f]", "[A-HQ-Xg-nw-z0-3]", "[ABEFIJMNQRUVYZcdghklopstwx014589]")
_FOLLOWING: Final = ("[g-v]", "[I-LYZabo-r4-7]", "[CGKOSWaeimquy26+-]")
_LEADING: Final = ("[w-z0-9]", "[M-Pc-fs-v89+/_-]", "[DHLPTXbfjnrvz37/_]")
_NEXT: Final = {  # which kinds may stand behind another
    _ASCII: (_ASCII, _LEADING),
    _LEADING: (_FOLLOWING,),
    _FOLLOWING: (_ASCII, _FOLLOWING, _LEADING),
}
_QUAD_OF_UTF8: Final = "|".join(
    first[0] + second[1] + third[2] + _LETTER
    for first, behind in _NEXT.items()
    for second in behind
    for third in _NEXT[second]
)
_END_OF_LINE: Final = r"(?:\r?\n)?"
_SIX_ASCII: Final = _END_OF_LINE.join((*_ASCII, _LETTER) * 2)
_SIX_LETTERS: Final = f"{_LETTER}{{6}}"
_MAY_BE_TEXT: Final = compile_re2(
    Expression(
        # Of twenty letters with eight in them, six stand before or behind.
        f"{_SIX_LETTERS}{_END_OF_LINE}{_SIX_ASCII}|{_SIX_ASCII}{_END_OF_LINE}{_SIX_LETTERS}"
        rf"|(?:\A|[^0-9A-Za-z+/_-])(?:{_QUAD_OF_UTF8}){{5}}"
    )
)
"""In every run with text in it: six bytes of ASCII, or fifteen of other text at its beginning."""

_READABLE: Final = re.compile(rb"[\t\n\r -~]{8,}")
"""Read of bytes that are not text as a whole: a few in front would hide the rest."""
_LONG_READABLE: Final = re.compile(rb"[\t\n\r -~]{15,}")
"""Shorter ones turn up in many a name that is read from another place than its first letter, and
in bytes that a provider has sealed: a finding there would replace all of the run."""
_LONG_RUN: Final = 1_366
"""Characters of a run from which it may be sealed reasoning: 1 KiB of bytes."""
_PADDING: Final = b"=="
"""As much as any text needs; what is too much is ignored."""
_FAR: Final = 64
"""Bytes: no match of `_MAY_BE_TEXT` is longer, nor is a run behind one looked for further away."""
_OVERLAP: Final = 8_192
_STEP: Final = SLICE_BYTES - _OVERLAP
_PRINTABLE: Final = bytes({*b"\t\n\r", *range(0x20, 0x7F)})
_READABLE_AS_ONE: Final = bytes.maketrans(_PRINTABLE, b"a" * len(_PRINTABLE))
_ROWS: Final = {_READABLE: b"a" * 8, _LONG_READABLE: b"a" * 15}
_ASCII_QUADS: Final = re.compile(
    rb"(?:[A-Za-f][A-HQ-Xg-nw-z0-3][ABEFIJMNQRUVYZcdghklopstwx014589][A-Za-z0-9+/]){5}"
)
"""Fifteen bytes of ASCII, wherever they begin: the first bit of each is zero."""
_SHORT_RUN: Final = 128
"""Characters up to which a search for those bytes is faster than to decode and look."""
_LEAST: Final = 32
"""No run needs more bytes to be recognised."""
SLICE_DECODED: Final = 64
"""Runs decoded between two interruptions, at some 5 µs each."""

_HEX_LINES: Final = re.compile(rb"[0-9a-f\r\n]+=*|[0-9A-F\r\n]+=*")
"""Identifiers and digests, which are no text in base64: of three bytes of ASCII, the first would
be a control character or, in small letters, one of `k`, `o`, `s`, `w` and `{`."""
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
_NO_TEXT: Final = bytes({*range(0x20), 0x7F} - {*b"\t\n\r"})


def from_base64(run: bytes) -> bytes | None:
    """Decode the lines of *run* as one, and each alone: they need not belong together.

    A slash of an address, which base64 has too, or any letters before it shift the text behind.
    """
    if _HEX_LINES.fullmatch(run):
        return None
    texts: list[bytes] = []
    lines = run.split() if b"\n" in run else ()
    for one in (run, *lines) if len(lines) > 1 else (run,):
        compact = one.translate(_URL_SAFE, b"=\r\n")
        length = len(compact)
        decoded = binascii.a2b_base64(compact[: length - (length % QUAD == 1)] + _PADDING)
        text = _text_in(decoded, len(run))
        if text is not None:
            texts.append(text)
            if len(text) * QUAD >= (length - 2 * QUAD) * 3:
                continue  # all of it: no part is shifted
        if length <= _SHORT_RUN and _ASCII_QUADS.search(compact) is None:
            continue
        for shift in range(1, QUAD):
            shifted = compact[shift : length - ((length - shift) % QUAD == 1)]
            decoded = binascii.a2b_base64(shifted + _PADDING)
            text = _text_in(decoded, len(run), is_shifted=True)
            if text is not None:
                texts.append(text)
    return b"\n".join(texts) or None


def from_hex(run: bytes) -> bytes | None:
    """Decode a *run* of hexadecimal digits."""
    return _text_in(binascii.unhexlify(run), len(run))


def _text_in(decoded: bytes, run_size: int, *, is_shifted: bool = False) -> bytes | None:
    """Return all of *decoded* if it is text, or else the readable pieces in it.

    Of text in UTF-16, every second byte is NUL.
    """
    if decoded.count(0) * 3 > len(decoded):
        decoded = decoded.translate(None, b"\0")
    visible = decoded.translate(None, _NO_TEXT)
    if visible == decoded:
        try:
            decoded.decode()
        except UnicodeDecodeError:
            pass
        else:
            return decoded
    readable = _LONG_READABLE if is_shifted else _READABLE
    if run_size >= _LONG_RUN:
        in_utf8 = visible.decode(errors="ignore").encode()  # of random bytes 46 %
        if len(in_utf8) * 5 < len(decoded) * 3:
            readable = _LONG_READABLE
    # A search for a row of equal bytes takes a tenth of the time of one for the expression.
    if _ROWS[readable] not in decoded.translate(_READABLE_AS_ONE):
        return None
    return b"\n".join(readable.findall(decoded)) + b"\n"


def runs_of_base64(content: bytes) -> Iterator[ByteSpan | None]:
    """Yield the runs that may be text, and a few more; None wherever work may be interrupted.

    A run may begin far before what looks like text in it, and lines before it belong to it.
    """
    position = 0
    while position < len(content):
        limit = min(len(content), position + SLICE_BYTES)
        found = next(every_match(_MAY_BE_TEXT, content, position, limit), None)
        at = limit if found is None else found[0][1]
        start = position + len(content[position:at].rstrip(_LETTERS + b"\r\n"))
        if found is None and limit == len(content):
            return
        if found is None and start > position + 1:
            position = start - 1  # with the byte before a run
            yield None
            continue
        run = next(every_match(_BASE64, content, start, min(len(content), at + 2 * MIN_RUN)), None)
        if run is None:  # shorter than a run: a text may be full of such words
            limit = min(len(content), at + SLICE_BYTES)
            following = next(every_match(_ANY_RUN, content, at, limit), None)
            if following is None and limit == len(content):
                return
            # Up to here no run is near, and no match goes over a byte of neither word nor line.
            far = max(at, (limit - MIN_RUN if following is None else following[0][0]) - _FAR)
            position = at + max(0, len(content[at:far].rstrip(_LETTERS + b"\r\n")) - 1)
            words = every_match(_MAY_BE_TEXT, content, position, limit)
            for count, word in enumerate(words, 1):
                if word[0][1] > far:
                    break
                position = word[0][1]
                if not count % SLICE_DECODED:
                    yield None
            yield None
            continue
        start, end = run[0]
        if end > at:
            end = _BASE64.match(content, start).end()
        yield start, end
        position = end - 1  # the byte before the next run, if it follows padding


class EncodingsDecoder(Decoder):
    """Decodes runs of base64 and of hexadecimal digits."""

    trigger: Expression | None = _RUN

    @override
    def applies(self, content: bytes) -> bool:
        return len(content) > WINDOW_BYTES or occurs(_ANY_RUN, content)

    @override
    def read(self, view: TextView) -> Cooperative[tuple[TextView, ...]]:
        content = view.content
        views: list[TextView] = []
        found: tuple[tuple[Iterator[ByteSpan | None], Callable[[bytes], bytes | None]], ...] = (
            (runs_of_base64(content), from_base64),
            (matches(_HEX, content, least=_LEAST), from_hex),
        )
        for runs, decode in found:
            decoded = DecodedText(content)  # of its own: runs are in the order of the text
            for count, span in enumerate(runs, 1):
                if span is not None:
                    start, end = span
                    is_long = end - start > SLICE_BYTES
                    text = decode(content[start : start + SLICE_BYTES if is_long else end])
                    # Slices overlap: one may begin anywhere in the text, and none cuts a key.
                    for at in range(start + _STEP, end - _OVERLAP, _STEP) if is_long else ():
                        yield
                        more = decode(content[at : min(end, at + SLICE_BYTES)])
                        text = b"\n".join(filter(None, (text, more))) or None
                    if text is not None:
                        decoded.add(text + b"\n", start, end)
                if span is None or not count % SLICE_DECODED:
                    yield
            if decoded:
                views.append(decoded.as_view(view, ViewKind.DECODED))
        return tuple(views)


ENCODINGS: Final = EncodingsDecoder()
