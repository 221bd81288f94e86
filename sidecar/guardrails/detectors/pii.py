"""Rules for personal data: e-mail addresses, telephone numbers, cards, addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from sidecar.guardrails.detectors import numbers
from sidecar.guardrails.detectors.context import CONTEXT_RULES
from sidecar.guardrails.detectors.national import NATIONAL_TYPES
from sidecar.guardrails.detectors.numbers import is_international, is_national
from sidecar.guardrails.matching.rule import Locate, Rank, Rule, Span, rule, where

_NO_TOP_LEVEL_DOMAIN: Final = re.compile(
    # Suffixes of files (`logo@2x.png`) and of systemd's units (`getty@tty1.service`), none of
    # them in IANA's root zone; and camel case as long as no domain is ever written in.
    rb"(?i:png|jpe?g|gif|svg|webp|bmp|ico|pdf|css|js|json|ts|tsx|jsx|html?|xml|ya?ml|txt|php"
    rb"|service|socket|timer|mount)|(?=.{8})[a-z]{2,}[A-Z][a-z]+(?:[A-Z][a-z]*)*"
)
_KOTLIN_LABEL: Final = re.compile(rb"(?:this|super)@[A-Z]")


def address(content: bytes, start: int, end: int) -> Iterable[Span]:
    """Take an address up to its last label that may be a top-level domain."""
    found = content[start:end]
    if _KOTLIN_LABEL.match(found):
        return ()
    behind = content[end : end + 2]
    if found.startswith(b"git@") and behind[:1] == b":" and not behind[1:].isspace():
        return ()  # `git@github.com:org/repo` is the place of a repository
    at = found.rindex(b"@")
    while _NO_TOP_LEVEL_DOMAIN.fullmatch(found, found.rindex(b".") + 1):
        found = found[: found.rindex(b".")]
        if b"." not in found[at:] or not found[-1:].isalpha():
            return ()
    return ((start, start + len(found)),)


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
    """Return the number in E.164 form at *start*, without groups that make it invalid."""
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


_PHONE_WORDS: Final = (
    r"(?:phones?|telephone|tel|mobile|mobil|cell|cellular|fax|whatsapp|call|dial|text me|"
    r"t\xc3\xa9l(?:\xc3\xa9phone)?|telefono|tel\xc3\xa9fono|telefon|telefone|handy|celular)"
)

_MAX_IPV6: Final = 45
_IPV6_GROUPS: Final = 8
_IPV6_DIGITS: Final = 4
_SOME: Final = 3
# 078-05-1120, 219-09-9999, 457-55-5462
_SSN_EXCEPTIONS: Final = (
    r"(?!000|666|[0-9]{3}[ -]00|[0-9]{3}[ -][0-9]{2}[ -]0000"
    r"|078[ -]05[ -]1120|219[ -]09[ -]9999|457[ -]55[ -]5462)"
)
_OCTET: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4: Final = rf"(?:{_OCTET}\.){{3}}{_OCTET}"


def _ipv6(content: bytes, start: int, end: int) -> tuple[Span, ...]:
    """Take a full address of one host somewhere; drop code and prose in its form.

    An address of RFC 4291 section 2.2, but not loopback or unspecified; with a digit, and with
    three groups or one of three digits, which code (`a::1`) has not.
    """
    candidate = content[start:end].rstrip(b":")
    end = start + len(candidate)
    after = content[end : end + 2]
    if after[:1].isalnum() or (after[:1] == b"." and after[1:].isalnum()):
        return ()
    groups = [group for group in candidate.split(b":") if group]
    longest = max(map(len, groups), default=0)
    if len(groups) < _SOME and longest < _SOME:
        return ()
    if b"." in candidate:  # the last groups are an IPv4 address: a parser, ten times as slow
        if len(candidate) > _MAX_IPV6:
            return ()
        try:
            address = ipaddress.IPv6Address(candidate.decode("ascii"))
        except ValueError:
            return ()
        return () if address.is_loopback or address.is_unspecified else ((start, end),)
    gaps = candidate.count(b"::")
    is_address = (
        (len(groups) < _IPV6_GROUPS if gaps == 1 else len(groups) == _IPV6_GROUPS - gaps)
        and longest <= _IPV6_DIGITS
        and candidate.translate(None, b"0123456789") != candidate
        and candidate.lstrip(b"0:") not in {b"", b"1"}
        and (candidate[:1] != b":" or candidate[1:2] == b":")
        and b":::" not in candidate
    )
    return ((start, end),) if is_address else ()


def _phone_rule(regex: str, locate: Locate, *, finder: str | None = None) -> Rule:
    return rule("PHONE", regex, locate, rank=Rank.PHONE, finder=finder)


PII_RULES: Final[tuple[Rule, ...]] = (
    # RFC 5321 section 4.1.2, the dot-atom form with a domain name.
    rule(
        "EMAIL",
        r"[A-Za-z0-9_%+'-][A-Za-z0-9._%+'-]*@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+"
        r"[A-Za-z][A-Za-z-]*[A-Za-z]",
        address,
        rank=Rank.EMAIL,
    ),
    rule(
        "CREDIT_CARD",
        # Groups of four digits or more, but for the last; few ordinary numbers come so.
        r"\b(?:[0-9]{12,19}|[0-9]{4,16}(?:[ -][0-9]{4,16})+[ -][0-9]{1,16}"
        r"|[0-9]{6}[ -][0-9]{13})\b",
        numbers.cards,
        rank=Rank.CARD,
        finder=rf"(?<![0-9A-Za-z_])[0-9](?:[ -]?[0-9]){{11,{numbers.MAX_RUN_DIGITS}}}"
        r"(?![0-9A-Za-z_])",
    ),
    rule(
        "IBAN",
        # The countries' names in here would double the cost of the pass over every text.
        r"\b[A-Za-z]{2}[0-9]{2}[ -]?[A-Za-z0-9]{2}",
        where(numbers.is_iban),
        rank=Rank.IBAN,
        finder=numbers.iban_expression(),
    ),
    # Never issued: areas 000, 666 and from 900 on, group 00, serial 0000 (SSA, since 2011); and
    # three numbers that were printed in advertisements.
    rule(
        "US_SSN",
        r"\b[0-8][0-9]{2}[ -][0-9]{2}[ -][0-9]{4}\b",
        rank=Rank.SSN,
        finder=rf"\b{_SSN_EXCEPTIONS}[0-8][0-9]{{2}}[ -][0-9]{{2}}[ -][0-9]{{4}}\b",
    ),
    rule(
        "US_SSN",
        r"(?i)\b(?:ssn|social security(?: number| no\.?| #)?)"
        r"[^0-9a-z]{1,6}(?:is )?([0-8][0-9]{8})\b",
        where(numbers.is_plain_ssn),
        rank=Rank.SSN,
    ),
    rule(
        "IPV4",
        rf"\b{_IPV4}\b",
        rank=Rank.ADDRESS,
        # Not a part of a longer dotted number, not loopback, not unspecified.
        finder=rf"(?<![0-9A-Za-z_.])(?!127\.|0\.0\.0\.0(?![0-9])){_IPV4}"
        r"(?![0-9A-Za-z_])(?!\.[0-9A-Za-z])",
    ),
    rule(
        "IPV6",
        r"[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:"
        r"(?:(?:[0-9A-Fa-f:]*:)?(?:[0-9]{1,3}\.){3}[0-9]{1,3}|[0-9A-Fa-f:]*)",
        _ipv6,
        rank=Rank.ADDRESS,
        finder=r"(?<![0-9A-Za-z_.])(?=[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]+"
        r"(?:(?:\.[0-9]{1,3}){3})?",
    ),
    *CONTEXT_RULES,
    _phone_rule(
        r"\+[1-9][0-9() ./-]{5,20}[0-9]",
        international,
        finder=r"(?<![0-9A-Za-z_+])\+[1-9][0-9() ./-]{5,20}[0-9]",
    ),
    _phone_rule(
        r"(?i)\b" + _PHONE_WORDS + r"\b[^0-9+\n\x00]{0,20}?(\(?[0-9][0-9() ./-]{5,18}[0-9])\b",
        National(CONTEXT_REGIONS),
    ),
)
"""The rules that hold without a region or country."""

PII_TYPES: Final = tuple(sorted({*NATIONAL_TYPES, *(known.type for known in PII_RULES)}))


def national_phone_rule(regions: tuple[str, ...]) -> Rule:
    """Return the rule for numbers without country code, in the plans of *regions*."""
    return _phone_rule(r"\(?\b[0-9][0-9() ./-]{5,18}[0-9]\b", National(regions))
