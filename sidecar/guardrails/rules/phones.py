"""Telephone numbers by national numbering plans."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from sidecar.guardrails.rules.numbering import is_international, is_national
from sidecar.guardrails.rules.rule import Span

CONTEXT_REGIONS: Final = ("US", "GB", "DE", "FR", "ES", "IT", "IN", "BR", "AU", "JP", "MX", "NL")
"""Plans tried for a national number next to a word such as «phone»."""

_DATE: Final = re.compile(
    # ISO 8601, and with the other signs that are common between year, month and day.
    rb"(?:19|20)[0-9]{2}([./-])(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12][0-9]|3[01])(?![0-9])[ ]*"
)
_NUMBER: Final = re.compile(rb"\(?[0-9][0-9() ./-]{5,18}[0-9]\b")

_SEPARATORS: Final = b" ().-/"
_MIN_DIGITS: Final = 7
_MAX_DIGITS: Final = 15  # E.164


def international(content: bytes, start: int, end: int) -> Iterable[Span]:
    """Return the number in E.164 form at *start*, cut where the digits stop being valid."""
    return _longest_valid(content, (start, end), is_international)


@dataclass(frozen=True, slots=True)
class National:
    """Locates numbers in the national form of these regions."""

    regions: tuple[str, ...]

    def __call__(self, content: bytes, start: int, end: int) -> Iterable[Span]:
        """Return the number at *start*, if it is one in any of the regions."""
        if content[start - 1 : start].isalnum() or content[end : end + 1].isalnum():
            return ()
        if date := _DATE.match(content, start, end):  # a number may stand behind it
            behind = _NUMBER.match(content, date.end())
            if behind is None:
                return ()
            start, end = behind.span()
        return _longest_valid(
            content, (start, end), lambda digits: is_national(digits, self.regions)
        )


def _longest_valid(
    content: bytes, span: Span, is_valid: Callable[[bytes], bool]
) -> Iterable[Span]:
    """Drop groups from the end, twice at most: a year or an extension may follow."""
    start, end = span
    for _ in range(3):
        digits = content[start:end].translate(None, b"+ ().-/")
        if len(digits) < _MIN_DIGITS:
            break
        if len(digits) <= _MAX_DIGITS and is_valid(digits):
            return ((start, end),)
        shorter = max(content.rfind(separator, start, end) for separator in _SEPARATORS)
        if shorter <= start:
            break
        while content[shorter - 1] in _SEPARATORS:  # ends at the first digit or plus at latest
            shorter -= 1
        end = shorter
    return ()
