"""Telephone numbers by national numbering plans."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import phonenumbers

from sidecar.guardrails.rules.rule import Span

CONTEXT_REGIONS: Final = ("US", "GB", "DE", "FR", "ES", "IT", "IN", "BR", "AU", "JP", "MX", "NL")
"""Plans tried for a national number next to a word such as «phone»."""

MAX_PHONE_CANDIDATES: Final = 1_000
MAX_CONTEXT_CANDIDATES: Final = 200
"""A check costs some 30 µs a region, ten times that of any other validator; twelve are tried."""

KNOWN_REGIONS: Final = frozenset(phonenumbers.SUPPORTED_REGIONS)

_SEPARATORS: Final = b" ().-/"
_MIN_DIGITS: Final = 7
_MAX_DIGITS: Final = 15  # E.164


def load_numbering_plans() -> None:
    """Read all plans now (some 50 ms) instead of one at a time from within a scan."""
    phonenumbers.PhoneMetadata.load_all()


def international(content: bytes, start: int, end: int) -> Iterable[Span]:
    """Return the number in E.164 form at *start*, cut where the digits stop being valid."""
    if start and (content[start - 1] in b"+_" or content[start - 1 : start].isalnum()):
        return ()
    return _longest_valid(content, (start, end), regions=(None,))


@dataclass(frozen=True, slots=True)
class National:
    """Locates numbers in the national form of these regions."""

    regions: tuple[str, ...]

    def __call__(self, content: bytes, start: int, end: int) -> Iterable[Span]:
        """Return the number at *start*, if it is one in any of the regions."""
        if content[start - 1 : start].isalnum() or content[end : end + 1].isalnum():
            return ()
        return _longest_valid(content, (start, end), regions=self.regions)


def _longest_valid(
    content: bytes, span: Span, *, regions: tuple[str | None, ...]
) -> Iterable[Span]:
    """Drop groups from the end, twice at most: a year or an extension may follow."""
    start, end = span
    for _ in range(3):
        text = content[start:end].decode("ascii")
        digits = sum(character.isdigit() for character in text)
        if digits < _MIN_DIGITS:
            break
        if digits <= _MAX_DIGITS and any(_is_valid(text, region) for region in regions):
            return ((start, end),)
        shorter = max(content.rfind(bytes((separator,)), start, end) for separator in _SEPARATORS)
        if shorter <= start:
            break
        while content[shorter - 1] in _SEPARATORS:  # ends at the first digit or plus at latest
            shorter -= 1
        end = shorter
    return ()


def _is_valid(text: str, region: str | None) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(text, region))
    except phonenumbers.NumberParseException:
        return False
