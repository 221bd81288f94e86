"""Base64 (RFC 4648, also its URL alphabet, also in lines) and hexadecimal runs that are text."""

from __future__ import annotations

import base64
import re
from typing import Final

from sidecar.guardrails.readings.reading import Reading, Runs, matches
from sidecar.guardrails.rules.rule import Expression, compile_re2
from sidecar.guardrails.slices import SLICE_BYTES, Steps
from sidecar.guardrails.text_views import Piece, View

MIN_RUN: Final = 20
"""Characters; 15 bytes in base64, shorter than any key."""

# In one line, or broken into lines as mail is (RFC 2045 section 6.8).
_BASE64: Final = compile_re2(
    Expression(
        rf"[0-9A-Za-z+/_-]{{{MIN_RUN},}}(?:\r?\n[0-9A-Za-z+/_-]{{{MIN_RUN},}})*"
        r"(?:\r?\n[0-9A-Za-z+/_-]{1,19})?={0,2}"
    )
)
_HEX: Final = compile_re2(Expression(r"\b(?:[0-9A-Fa-f]{2}){12,}"))
_READABLE: Final = re.compile(rb"[\t\n\r -~]{8,}")
"""What is read of bytes that are no text as a whole: a few in front would hide the rest."""
_LEAST: Final = 32
"""Runs have no more bytes than that at least."""
SLICE_DECODED: Final = 64
"""Runs decoded between two interruptions, at some 5 µs each."""

_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
_NO_TEXT: Final = bytes({*range(0x20), 0x7F} - {*b"\t\n\r"})


def _read(piece: Piece) -> Steps[tuple[Piece, ...]]:
    content = piece.content
    runs = Runs(content)
    for expression, decode in ((_BASE64, _from_base64), (_HEX, _from_hex)):
        for count, match in enumerate(matches(expression, content, least=_LEAST), 1):
            text = None if match is None else (yield from decode(match[0]))
            if match is not None and text is not None:
                runs.add(text + b"\n", *match.span())
            if match is None or not count % SLICE_DECODED:
                yield
    return (runs.as_piece(piece, View.DECODED),) if runs else ()


def _from_base64(run: bytes) -> Steps[bytes | None]:
    """Decode the lines of *run* as one, and each alone: they need not belong together."""
    lines = run.split()
    texts: list[bytes] = []
    for one in (run, *lines) if len(lines) > 1 else (run,):
        text = yield from _from_one(one)
        if text is not None:
            texts.append(text)
    return b"\n".join(texts) or None


def _from_one(run: bytes) -> Steps[bytes | None]:
    compact = run.translate(_URL_SAFE, b"=\r\n")
    compact = compact[: len(compact) - (len(compact) % 4 == 1)]
    texts: list[bytes] = []
    for start in range(0, len(compact), SLICE_BYTES):  # a multiple of four
        if start:
            yield
        quads = compact[start : start + SLICE_BYTES]
        texts += _texts(base64.b64decode(quads + b"=" * (-len(quads) % 4)))
    return b"".join(texts) or None


def _from_hex(run: bytes) -> Steps[bytes | None]:
    compact = run.decode("ascii")
    texts: list[bytes] = []
    for start in range(0, len(compact), SLICE_BYTES):
        if start:
            yield
        texts += _texts(bytes.fromhex(compact[start : start + SLICE_BYTES]))
    return b"".join(texts) or None


def _texts(decoded: bytes) -> list[bytes]:
    """Return what can be read: all of it, or the readable runs of what is no text."""
    if decoded.translate(None, _NO_TEXT) == decoded and _is_utf8(decoded):
        return [decoded]
    return [text + b"\n" for text in _READABLE.findall(decoded)]


def _is_utf8(decoded: bytes) -> bool:
    try:
        decoded.decode()
    except UnicodeDecodeError:
        return False
    return True


ENCODINGS: Final = Reading(
    _read,
    lambda content: len(content) >= MIN_RUN,
    trigger=Expression(rf"[0-9A-Za-z+/_-]{{{MIN_RUN}}}"),
)
