"""Checks that a match is a secret and no placeholder."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

from sidecar.guardrails.matching.rule import Span, where


def bits_per_character(text: bytes) -> float:
    """Return the Shannon entropy of the byte frequencies, 0.0 for empty text."""
    if not text:
        return 0.0
    total = len(text)
    return -sum(count / total * math.log2(count / total) for count in Counter(text).values())


GENERIC_SECRET_BITS: Final = 3.5
"""Shannon entropy a character above which a keyword's value is taken for a secret."""
_MIN_DISTINCT: Final = math.ceil(2**GENERIC_SECRET_BITS)
"""Fewer different characters cannot have as much entropy; counted in a fraction of the time."""

_PLACEHOLDERS: Final = (b"example", b"xxxx", b"your", b"placeholder", b"changeme", b"redacted")
_NAME_BYTES: Final = 96
"""How far back the name of a value can begin: a keyword, its suffix, quotes and a sign."""
_NAME: Final = re.compile(rb"([A-Za-z0-9_.-]*[A-Za-z])[^A-Za-z0-9]+(?:is +)?\Z")
_NO_SECRETS_NAME: Final = re.compile(
    # Tokenizers, page tokens of lists, and descriptions of a secret.
    rb"(?i)tokeni[sz]|(?:page|next|pagination|continuation)[_-]?token\Z"
    rb"|(?:secret|token|passw(?:or)?d|credential|key)s?[a-z_]{0,12}?[_.-]?"
    rb"(?:name|class|type|count|ids|path|file|arn|ref|policy|encoder|length|limit|version)s?\Z"
)
_IDENTIFIER: Final = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_IDENTIFIER_WORD: Final = re.compile(rb"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_NO_WORD: Final = re.compile(rb"(?i)[bcdfghjklmnpqrstvwxz]{5}")
_MIN_WORD_LETTERS: Final = 3.2
_MIN_CAMEL_LETTERS: Final = 4
"""On average: half of it in random letters of both cases, and camel case is all to go by."""
_MIN_BYTES_A_DIGIT: Final = 8
_FILE: Final = re.compile(rb"(?i)\.(?:pem|key|crt|cer|pub|p12|jks|json|ya?ml|toml|txt|env)\Z")
_QUOTES: Final = b"\"'`"

_PEM_MAX_BYTES: Final = 16_384
_PUTTY_MAX_BYTES: Final = 4_096
_PUTTY_MAC: Final = re.compile(rb"Private-(?:MAC|Hash): [0-9a-f]{40,64}")
_PEM_FOOTER: Final = re.compile(rb"-----END[A-Z0-9 ]{1,40}-----")
_PEM_BODY: Final = re.compile(rb"[A-Za-z0-9+/=\r\n\t \\:,-]*")


def whole_private_key(content: bytes, start: int, end: int) -> Iterable[Span]:
    """Extend a PEM header to the end of its block, or over the rest of a cut one.

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
    """Extend the first line of a PuTTY key to its last, or over the rest of a cut one."""
    limit = min(len(content), end + _PUTTY_MAX_BYTES)
    last = _PUTTY_MAC.search(content, end, limit)
    return ((start, limit if last is None else last.end()),)


@where
def json_web_token(candidate: bytes) -> bool:
    """Return whether the first segment is a JOSE header (RFC 7515 section 4)."""
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


def named_secret(content: bytes, start: int, end: int) -> Iterable[Span]:
    """Take the value of a secret's name if it is random, and neither code nor a file's name."""
    value = content[start:end]
    if not _is_random(value) or _FILE.search(value):
        return ()
    before = content[max(start - _NAME_BYTES, 0) : start]
    named = _NAME.search(before)
    name = named.group(1) if named else b""
    if _NO_SECRETS_NAME.search(name):
        return ()
    is_quoted = before[-1:] in _QUOTES  # code names things outside of quotes
    return () if not is_quoted and _is_code(value, name) else ((start, end),)


def _is_code(value: bytes, name: bytes) -> bool:
    """Return whether a value is code, as `config.database_v2.token` and `GPT2Tokenizer` are.

    A password may well be words and underscores; it is code only with dots.
    """
    if not _IDENTIFIER.fullmatch(value):
        return False
    if b"." not in value and b"passw" in name.lower():
        return False
    is_joined = b"." in value or b"_" in value
    has_form = is_joined or value not in {value.lower(), value.upper()}
    words = _IDENTIFIER_WORD.findall(value)
    digits = len(value) - len(value.translate(None, b"0123456789"))
    least = _MIN_WORD_LETTERS if is_joined else _MIN_CAMEL_LETTERS
    return (
        has_form
        and digits * _MIN_BYTES_A_DIGIT <= len(value)
        and sum(map(len, words)) >= least * len(words)
        and not any(map(_NO_WORD.search, words))
    )


@where
def password(candidate: bytes) -> bool:
    """Return whether the password of a URL is no variable, mask or documentation word."""
    lowered = candidate.lower()
    return lowered[:1] not in b"$<{%[" and lowered.strip(b"*x.") not in {
        b"", b"password", b"pass", b"pwd", b"secret", b"token",
    }  # fmt: skip


random_value = where(_is_random)
"""Takes a value that is no word and no placeholder."""
