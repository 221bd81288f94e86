"""Percent signs (RFC 3986), HTML entities, the escapes of JSON and of programming languages."""

from __future__ import annotations

import html
import re
from typing import Final

from sidecar.guardrails.readings.reading import Reading, Runs, matches
from sidecar.guardrails.slices import Steps
from sidecar.guardrails.text_views import Piece, View

_ESCAPES: Final = re.compile(
    # One class first, so that the search skips to it. Percent signs in a row are one run.
    rb"[%&\\](?:(?<=%)[0-9A-Fa-f]{2}(?:%[0-9A-Fa-f]{2})*"
    rb"|(?<=&)(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});"
    rb"|(?<=\\)(?:u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2}))"
)

_MAX_ESCAPE: Final = 16
_PERCENT: Final = re.compile(rb"%[0-9A-Fa-f]{2}")
_ENTITY: Final = re.compile(rb"&[#A-Za-z][0-9A-Za-z]{1,7};")
_BACKSLASH: Final = re.compile(rb"\\[ux][0-9A-Fa-f]{2}")


def _read(piece: Piece) -> Steps[tuple[Piece, ...]]:
    runs = Runs(piece.content)
    for match in matches(_ESCAPES, piece.content, least=_MAX_ESCAPE):
        if match is None:
            yield
            continue
        start, end = match.span()
        runs.add_up_to(start)
        runs.add(_characters(match[0]), start, end)
    if not runs:
        return ()
    runs.add_rest()
    return (runs.as_piece(piece, View.UNESCAPED),)


def _characters(escape: bytes) -> bytes:
    if escape.startswith(b"%"):
        return bytes.fromhex(escape.replace(b"%", b"").decode("ascii"))
    if escape.startswith(b"\\x"):
        return bytes.fromhex(escape[2:].decode("ascii"))
    if escape.startswith(b"&"):
        return html.unescape(escape.decode("ascii")).encode("utf-8", "replace")
    return chr(int.from_bytes(bytes.fromhex(escape[2:].decode("ascii")))).encode(
        "utf-8", "replace"
    )


def _applies(content: bytes) -> bool:
    """Look for each kind by its first byte, which takes some nanoseconds a kilobyte."""
    return bool(
        (b"%" in content and _PERCENT.search(content))
        or (b"&" in content and _ENTITY.search(content))
        or (b"\\" in content and _BACKSLASH.search(content))
    )


ESCAPES: Final = Reading(_read, _applies)
