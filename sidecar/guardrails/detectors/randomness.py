"""Distinguishes random characters from words, names and code: entropy, classes of characters."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Final

MAX_BITS: Final = 3.5
"""Shannon entropy a character that suffices in any alphabet."""
_SHARE_OF_RANDOM: Final = 0.82
"""Of the entropy that as many random characters of an alphabet have on average: one random text
in a thousand has less, whatever its alphabet and length (16 or more)."""
_ALPHABETS: Final = (
    (re.compile(rb"[0-9a-f]+|[0-9A-F]+"), 16),
    (re.compile(rb"[0-9a-z]+|[0-9A-Z]+"), 36),
)
_BASE64_SIZE: Final = 64


def bits_per_character(text: bytes) -> float:
    """Return the Shannon entropy of the byte frequencies, 0.0 for empty text."""
    if not text:
        return 0.0
    total = len(text)
    return -sum(count / total * math.log2(count / total) for count in Counter(text).values())


def least_bits(text: bytes) -> float:
    """Return the entropy a character that *text* needs to count as random in its alphabet."""
    size = next((size for form, size in _ALPHABETS if form.fullmatch(text)), _BASE64_SIZE)
    distinct = size * (1 - (1 - 1 / size) ** len(text))
    return min(MAX_BITS, _SHARE_OF_RANDOM * math.log2(max(distinct, 1.0)))


PLACEHOLDERS: Final = re.compile(rb"(?i)xxxx|your|placeholder|change.?me|redacted|\.\.\.|\*\*\*")


def is_random(candidate: bytes) -> bool:
    """Return whether *candidate* has letters, digits or both cases at random, and no word."""
    letters = candidate.translate(None, b"0123456789")
    if not letters or letters.upper() == letters.lower() or PLACEHOLDERS.search(candidate):
        return False
    if letters == candidate and (
        class_changes(candidate) * 3 < len(candidate)
        or candidate in {letters.lower(), letters.upper()}
    ):
        return False  # no digit: a name, unless upper and lower case alternate
    return bits_per_character(candidate) >= least_bits(candidate)


_RUNS: Final = re.compile(rb"[A-Z]?[a-z]+|[A-Z]+|[0-9]+|[^0-9A-Za-z]")
NO_WORD: Final = re.compile(rb"(?i)[bcdfghjklmnpqrstvwxz]{5}")


def class_changes(text: bytes) -> int:
    """Return how often neighbours are of different classes of characters."""
    return len(_RUNS.findall(text)) - 1


def count_classes(text: bytes) -> int:
    """Return how many there are of lower case, upper case, digits and signs."""
    return (
        (text.upper() != text)
        + (text.lower() != text)
        + (text.translate(None, b"0123456789") != text)
        + (not text.isalnum())
    )


_MIN_WORD_LETTERS: Final = 3.2
_MIN_CAMEL_LETTERS: Final = 4
"""On average: half of it in random letters of both cases, and camel case is all to go by."""
_MIN_BYTES_A_DIGIT: Final = 8
_IDENTIFIER: Final = re.compile(rb"[A-Za-z_$][A-Za-z0-9_$]*(?:[.-][A-Za-z_][A-Za-z0-9_]*)*")
_IDENTIFIER_WORD: Final = re.compile(rb"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def is_wordy(text: bytes) -> bool:
    """Return whether letters form words: long runs of them, and none without a vowel."""
    words = _IDENTIFIER_WORD.findall(text)
    return sum(map(len, words)) >= _MIN_CAMEL_LETTERS * len(words) and not any(
        map(NO_WORD.search, words)
    )


def is_code(value: bytes, *, is_password: bool) -> bool:
    """Return whether a value is code, as `config.database_v2.token` and `GPT2Tokenizer` are.

    A password may well be words and underscores; it is code only with dots.
    """
    if not _IDENTIFIER.fullmatch(value) or (is_password and b"." not in value):
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
        and not any(map(NO_WORD.search, words))
    )
