"""Personal data with a form of its own: found by shape, confirmed by check digits or plans."""

from __future__ import annotations

import ipaddress
from typing import Final

from sidecar.guardrails.rules import emails, numbers, phones
from sidecar.guardrails.rules.context import CONTEXT_RULES
from sidecar.guardrails.rules.national import NATIONAL_TYPES
from sidecar.guardrails.rules.rule import Locate, Rank, Rule, Span, rule, where

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
    """Take a full address that names one host somewhere; drop what reads as code or prose."""
    candidate = content[start:end].rstrip(b":")
    end = start + len(candidate)
    after = content[end : end + 2]
    if after[:1].isalnum() or (after[:1] == b"." and after[1:].isalnum()):
        return ()
    return ((start, end),) if _is_ipv6(candidate) else ()


def _is_ipv6(candidate: bytes) -> bool:
    """Tell what RFC 4291 section 2.2 allows, but for loopback and unspecified.

    With what an address has and code (`a::1`) has not: a digit, and three groups or one of three.
    """
    groups = [group for group in candidate.split(b":") if group]
    longest = max(map(len, groups), default=0)
    if len(groups) < _SOME and longest < _SOME:
        return False
    if b"." in candidate:
        return len(candidate) <= _MAX_IPV6 and _parses_as_ipv6(candidate)
    gaps = candidate.count(b"::")
    return (
        (len(groups) < _IPV6_GROUPS if gaps == 1 else len(groups) == _IPV6_GROUPS - gaps)
        and longest <= _IPV6_DIGITS
        and candidate.translate(None, b"0123456789") != candidate
        and candidate.lstrip(b"0:") not in {b"", b"1"}
        and (candidate[:1] != b":" or candidate[1:2] == b":")
        and b":::" not in candidate
    )


def _parses_as_ipv6(candidate: bytes) -> bool:
    """Ask a parser, ten times as slow: the last groups are an IPv4 address."""
    try:
        address = ipaddress.IPv6Address(candidate.decode("ascii"))
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)


def _phone_rule(regex: str, locate: Locate, *, finder: str | None = None) -> Rule:
    return rule("PHONE", regex, locate, rank=Rank.PHONE, finder=finder)


PII_RULES: Final[tuple[Rule, ...]] = (
    # RFC 5321 section 4.1.2, the dot-atom form with a domain name.
    rule(
        "EMAIL",
        r"[A-Za-z0-9_%+'-][A-Za-z0-9._%+'-]*@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+"
        r"[A-Za-z][A-Za-z-]*[A-Za-z]",
        emails.address,
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
        phones.international,
        finder=r"(?<![0-9A-Za-z_+])\+[1-9][0-9() ./-]{5,20}[0-9]",
    ),
    _phone_rule(
        r"(?i)\b" + _PHONE_WORDS + r"\b[^0-9+\n\x00]{0,20}?(\(?[0-9][0-9() ./-]{5,18}[0-9])\b",
        phones.National(phones.CONTEXT_REGIONS),
    ),
)
"""The rules that hold without a region or country."""

PII_TYPES: Final = tuple(sorted({*NATIONAL_TYPES, *(known.type for known in PII_RULES)}))


def national_phone_rule(regions: tuple[str, ...]) -> Rule:
    """Return the rule for numbers without country code, in the plans of *regions*."""
    return _phone_rule(r"\(?\b[0-9][0-9() ./-]{5,18}[0-9]\b", phones.National(regions))
