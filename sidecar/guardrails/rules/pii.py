"""Personal data with a form of its own: found by shape, confirmed by check digits or plans."""

from __future__ import annotations

import ipaddress
from typing import Final

from sidecar.guardrails.rules import numbers, phones
from sidecar.guardrails.rules.rule import Expression, Locate, Rank, Rule, Span, rule, where

_PHONE_WORDS: Final = (
    r"(?:phones?|telephone|tel|mobile|mobil|cell|cellular|fax|whatsapp|call|dial|text me|"
    r"t\xc3\xa9l(?:\xc3\xa9phone)?|telefono|tel\xc3\xa9fono|telefon|telefone|handy|celular)"
)


def _ip(content: bytes, start: int, end: int) -> tuple[Span, ...]:
    """Take a full address that names one host somewhere; 1.2.3.4.5 and std::max are none."""
    before, after = content[start - 1 : start] if start else b"", content[end : end + 2]
    if before.isalnum() or before in {b".", b"_"} or after[:1].isalnum():
        return ()
    if after[:1] == b"." and after[1:].isalnum():
        return ()
    try:
        address = ipaddress.ip_address(content[start:end].decode("ascii"))
    except ValueError:
        return ()
    if address.is_loopback or address.is_unspecified:
        return ()
    return ((start, end),)


def _ipv6(content: bytes, start: int, end: int) -> tuple[Span, ...]:
    """Drop what reads as code or prose: an address has a digit and three groups or a long one."""
    candidate = content[start:end].rstrip(b":") if end - start > 2 else b""  # noqa: PLR2004 - «::»
    groups = [group for group in candidate.split(b":") if group]
    if not any(character in b"0123456789" for character in candidate):
        return ()
    if len(groups) < 3 and not any(len(group) >= 3 for group in groups):  # noqa: PLR2004
        return ()
    return _ip(content, start, start + len(candidate))


def _phone_rule(
    regex: str, locate: Locate, *, max_candidates: int = phones.MAX_PHONE_CANDIDATES
) -> Rule:
    return Rule(
        type="PHONE",
        expression=Expression(regex),
        locate=locate,
        rank=Rank.PHONE,
        max_candidates=max_candidates,
    )


PII_RULES: Final[tuple[Rule, ...]] = (
    # RFC 5321 section 4.1.2, the dot-atom form with a domain name.
    rule(
        "EMAIL",
        r"[A-Za-z0-9_%+'-][A-Za-z0-9._%+'-]*@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+"
        r"[A-Za-z][A-Za-z-]*[A-Za-z]",
        rank=Rank.EMAIL,
    ),
    rule(
        "CREDIT_CARD",
        # Groups of four digits or more, but for the last; few ordinary numbers come so.
        r"\b(?:[0-9]{12,19}|[0-9]{4,16}(?:[ -][0-9]{4,16})+[ -][0-9]{1,16}"
        r"|[0-9]{6}[ -][0-9]{13})\b",
        numbers.cards,
        rank=Rank.CARD,
    ),
    # The head only: the country gives the length.
    rule("IBAN", r"\b[A-Za-z]{2}[0-9]{2} ?-?[A-Za-z0-9]{4}", numbers.ibans, rank=Rank.IBAN),
    rule(
        "US_SSN",
        r"\b[0-8][0-9]{2}[ -][0-9]{2}[ -][0-9]{4}\b",
        where(numbers.is_ssn),
        rank=Rank.SSN,
    ),
    rule(
        "US_SSN",
        r"(?i)\b(?:ssn|social security(?: number| no\.?| #)?)"
        r"[^0-9a-z]{1,6}(?:is )?([0-8][0-9]{8})\b",
        where(numbers.is_ssn),
        rank=Rank.SSN,
    ),
    rule(
        "IPV4",
        r"\b(?:[0-9]{1,3}\.){3}[0-9]{1,3}\b",
        _ip,
        rank=Rank.ADDRESS,
    ),
    rule(
        "IPV6",
        r"[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:"
        r"(?:(?:[0-9A-Fa-f:]*:)?(?:[0-9]{1,3}\.){3}[0-9]{1,3}|[0-9A-Fa-f:]*)",
        _ipv6,
        rank=Rank.ADDRESS,
    ),
    _phone_rule(r"\+[1-9][0-9() ./-]{5,20}[0-9]", phones.international),
    _phone_rule(
        r"(?i)\b" + _PHONE_WORDS + r"\b[^0-9+\n\x00]{0,20}?(\(?[0-9][0-9() ./-]{5,18}[0-9])\b",
        phones.National(phones.CONTEXT_REGIONS),
        max_candidates=phones.MAX_CONTEXT_CANDIDATES,
    ),
)
"""The rules that hold without a region."""

PII_TYPES: Final = tuple(sorted({known.type for known in PII_RULES}))


def national_phone_rule(regions: tuple[str, ...]) -> Rule:
    """Return the rule for numbers without country code, in the plans of *regions*."""
    return _phone_rule(r"\(?\b[0-9][0-9() ./-]{5,18}[0-9]\b", phones.National(regions))
