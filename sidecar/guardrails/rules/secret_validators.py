"""What tells a credential from a word, a placeholder or a digest."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Iterable
from typing import Final

from sidecar.guardrails.rules.entropy import bits_per_character
from sidecar.guardrails.rules.rule import Span, where

GENERIC_SECRET_BITS: Final = 3.5
"""Shannon entropy a character above which a keyword's value is taken for a secret."""
_MIN_DISTINCT: Final = math.ceil(2**GENERIC_SECRET_BITS)
"""Fewer different characters cannot have as much entropy; told in a fraction of the time."""

_PLACEHOLDERS: Final = (b"example", b"xxxx", b"your", b"placeholder", b"changeme", b"redacted")
_PEM_MAX_BYTES: Final = 16_384
_PUTTY_MAX_BYTES: Final = 4_096
_PUTTY_MAC: Final = re.compile(rb"Private-(?:MAC|Hash): [0-9a-f]{40,64}")
_PEM_FOOTER: Final = re.compile(rb"-----END[A-Z0-9 ]{1,40}-----")
_PEM_BODY: Final = re.compile(rb"[A-Za-z0-9+/=\r\n\t \\:,-]*")


def whole_private_key(content: bytes, start: int, end: int) -> Iterable[Span]:
    """Extend a PEM header to the end of its block, or over what is left of a cut one.

    Looks no further than the next line of dashes, so that headers without end cost no more
    than their own length.
    """
    limit = min(len(content), end + _PEM_MAX_BYTES)
    dashes = content.find(b"-----", end, limit)
    footer = _PEM_FOOTER.match(content, dashes, limit) if dashes >= 0 else None
    if footer is None:
        footer = _PEM_BODY.match(content, end, dashes if dashes >= 0 else limit)
    return ((start, footer.end() if footer else end),)


def whole_putty_key(content: bytes, start: int, end: int) -> Iterable[Span]:
    """Extend the first line of a PuTTY key to its last, or over what is left of a cut one."""
    limit = min(len(content), end + _PUTTY_MAX_BYTES)
    last = _PUTTY_MAC.search(content, end, limit)
    return ((start, limit if last is None else last.end()),)


def _is_jwt(candidate: bytes) -> bool:
    """Tell whether the first segment is a JOSE header (RFC 7515 section 4)."""
    header = candidate.split(b".", 1)[0]
    try:
        decoded = json.loads(base64.urlsafe_b64decode(header + b"=" * (-len(header) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return False
    return isinstance(decoded, dict) and "alg" in decoded


def _is_random(candidate: bytes) -> bool:
    if len(set(candidate)) < _MIN_DISTINCT:
        return False
    lowered = candidate.lower()
    return (
        candidate.translate(None, b"0123456789") != candidate
        and lowered.upper() != lowered
        and not any(word in lowered for word in _PLACEHOLDERS)
        and bits_per_character(candidate) >= GENERIC_SECRET_BITS
    )


def _is_password(candidate: bytes) -> bool:
    """Tell a password in a URL from a variable, a mask or a documentation word."""
    lowered = candidate.lower()
    return lowered[:1] not in b"$<{%[" and lowered.strip(b"*x.") not in {
        b"", b"password", b"pass", b"pwd", b"secret", b"token",
    }  # fmt: skip


random_value = where(_is_random)
"""Takes a value that is no word and no placeholder."""

password = where(_is_password)
"""Takes the password of a URL."""

json_web_token = where(_is_jwt)
"""Takes a token whose header is a JOSE header."""
