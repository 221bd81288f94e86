"""Rules for personal data: e-mail addresses, telephone numbers, cards, addresses."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sidecar.guardrails.detectors import numbers
from sidecar.guardrails.detectors.context import CONTEXT_RULES
from sidecar.guardrails.detectors.national import NATIONAL_TYPES
from sidecar.guardrails.detectors.phone import PHONE_RULES
from sidecar.guardrails.detectors.words import is_near, kind_before
from sidecar.guardrails.matching.rule import Expression, Rank, Rule, Span, compile_re2, rule, where

_NO_TOP_LEVEL_DOMAIN: Final = re.compile(
    # Suffixes of files (`logo@2x.png`) and of systemd's units (`getty@tty1.service`), none of
    # them in IANA's root zone; and camel case as long as no domain is ever written in.
    rb"(?i:png|jpe?g|gif|svg|webp|bmp|ico|pdf|css|js|json|ts|tsx|jsx|html?|xml|ya?ml|txt|php"
    rb"|service|socket|timer|mount)|(?=.{8})[a-z]{2,}[A-Z][a-z]+(?:[A-Z][a-z]*)*"
)
# Letters outside of ASCII, in UTF-8; no punctuation and no emoji. Of scripts that put spaces
# between words (Latin, Greek, Cyrillic, Hebrew, Arabic, those of India), and of all.
_SPACED: Final = r"[\xc3-\xdf][\x80-\xbf]|\xe0[\xa4-\xb7][\x80-\xbf]|\xe1[\xb8-\xbf][\x80-\xbf]"
_ANY: Final = (
    rf"(?:{_SPACED}|\xe0[\xb8-\xbf][\x80-\xbf]|\xe1[\x80-\xb7][\x80-\xbf]"
    r"|\xe3[\x81-\xbf][\x80-\xbf]|[\xe4-\xed][\x80-\xbf]{2})"
)
_LABEL: Final = rf"(?:[A-Za-z0-9]|{_ANY})+"
_ADDRESS: Final = (
    # RFC 5321 section 4.1.2, the dot-atom form with a domain name; RFC 6531 for other scripts.
    rf"(?:(?:[A-Za-z0-9_%+'-]|{_SPACED})(?:[A-Za-z0-9._%+'-]|{_SPACED})*|{_ANY}{{1,8}})"
    rf"@(?:{_LABEL}(?:-+{_LABEL})*[.])+"
    rf"(?:[Xx][Nn]--[A-Za-z0-9-]*[A-Za-z0-9]|[A-Za-z][A-Za-z-]*[A-Za-z]|{_ANY}{{2,}})"
)
_UNSPACED_DOMAINS: Final = re.compile(
    # Of IANA's root zone, the longest first; words may follow without a space.
    "中文网|我爱你|新加坡|みんな|中国|中國|台湾|台灣|香港|澳门|澳門|公司|网络|网址|网站|在线|商店|商城|集团|公益"
    "|政务|政府|机构|信息|手机|世界|コム|한국|닷컴|닷넷"
)
_KOTLIN_LABEL: Final = re.compile(rb"(?:this|super)@[A-Z]")


_LOCAL: Final = re.compile(r"[\w.%+'\u0300-\u036f\u0900-\u0dff-]*+")
"""Of the part before the `@`, read backwards: a search for its end takes quadratic time."""


def address(content: bytes, start: int, end: int) -> Iterable[Span]:
    """Take an address up to its last label that may be a top-level domain."""
    found = content[start:end]
    if not found.isascii():  # signs of other scripts before it
        local = found.partition(b"@")[0].decode("utf-8", "ignore")
        own = _LOCAL.match(local[::-1])[0]  # type: ignore[index]  # may be empty
        start += len(local.encode()) - len(own.encode())
        found = content[start:end]
    if found.startswith(b"@"):
        return ()
    if _KOTLIN_LABEL.match(found):
        return ()
    behind = content[end : end + 2]
    if found.startswith(b"git@") and behind[:1] == b":" and not behind[1:].isspace():
        return ()  # `git@github.com:org/repo` is the place of a repository
    at = found.rindex(b"@")
    last = found[found.rindex(b".") + 1 :]
    if not last.isascii() and (known := _UNSPACED_DOMAINS.match(last.decode("utf-8", "ignore"))):
        found = found.removesuffix(last) + known[0].encode()
    size, first = len(found), found.index(b".", at)
    # Offsets, and no copies: a domain may have sixty thousand labels.
    while _NO_TOP_LEVEL_DOMAIN.fullmatch(found, (dot := found.rindex(b".", at, size)) + 1, size):
        size, before = dot, found[dot - 1 : dot]
        if dot == first or not (before.isalpha() or before > b"\x7f"):
            return ()
    return ((start, start + size),)


_MAX_IPV6: Final = 45
_IPV6_GROUPS: Final = 8
_IPV6_DIGITS: Final = 4
_SOME: Final = 3
_OCTET: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4: Final = rf"(?:{_OCTET}\.){{3}}{_OCTET}"


_PRIVATE_IPV6: Final = re.compile(rb"(?i:fe[89ab][0-9a-f]|f[cd][0-9a-f]{2}):")
"""Link-local and unique local addresses (RFC 4291 section 2.5.6, RFC 4193)."""


def _ipv6(content: bytes, start: int, end: int, *, is_private: bool) -> tuple[Span, ...]:
    """Take a full address of one host somewhere; drop code and prose in its form.

    An address of RFC 4291 section 2.2, but not loopback or unspecified; with a digit, and with
    three groups or one of three digits, which code (`a::1`) has not.
    """
    if (_PRIVATE_IPV6.match(content, start, end) is not None) != is_private:
        return ()
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


_PRIVATE: Final = re.compile(
    # RFC 1918, RFC 6598 (shared by the customers of a carrier), RFC 3927 (link-local).
    rb"10[.]|192[.]168[.]|172[.](?:1[6-9]|2[0-9]|3[01])[.]|169[.]254[.]"
    rb"|100[.](?:6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7])[.]"
)
_SMALL: Final = re.compile(rb"(?:[12]?[0-9]|3[01])[.](?:[12]?[0-9]|3[01])[.]")
"""Version numbers begin like this, and few addresses."""


@dataclass(frozen=True, slots=True)
class Host:
    """Locates IPv4 addresses of hosts, public or private ones, and drops version numbers."""

    is_private: bool

    def __call__(self, content: bytes, start: int, end: int) -> Iterable[Span]:
        """Return the address, unless the words before it or its small numbers say otherwise."""
        if (_PRIVATE.match(content, start) is not None) != self.is_private:
            return ()
        kind = kind_before(content, start, "host", "version", "identifier")
        if kind == "host" or _PORT.match(content, end):
            return ((start, end),)
        before = content[max(start - 2, 0) : start]
        is_name = before[-1:] in {b"-", b"_"} and before[:1].isalpha()  # `tool-1.2.3.4`
        if kind or is_name:
            return ()
        is_small = _SMALL.match(content, start) and before != b"//" and before[-1:] != b"@"
        return () if is_small and not is_near("host", content, start, end) else ((start, end),)


_PORT: Final = re.compile(rb"[:/][0-9]")


def _ipv4_rule(*, is_private: bool) -> Rule:
    return rule(
        "IPV4",
        rf"\b{_IPV4}\b",
        Host(is_private),
        rank=Rank.ADDRESS,
        # No part of a longer dotted number; no loopback, mask or local group, which are no host's.
        finder=rf"(?<![0-9A-Za-z_.])(?!127\.|0\.|255\.|224\.0\.0\.){_IPV4}"
        r"(?![0-9A-Za-z_])(?!\.[0-9A-Za-z])",
        likely=r"\b[0-9]{1,3}(?:\.[0-9]{1,3}){3}",
    )


def _ipv6_rule(*, is_private: bool) -> Rule:
    return rule(
        "IPV6",
        r"[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:"
        r"(?:(?:[0-9A-Fa-f:]*:)?(?:[0-9]{1,3}\.){3}[0-9]{1,3}|[0-9A-Fa-f:]*)",
        functools.partial(_ipv6, is_private=is_private),
        rank=Rank.ADDRESS,
        finder=r"(?<![0-9A-Za-z_.])(?=[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]+"
        r"(?:(?:\.[0-9]{1,3}){3})?",
        likely=r"(?:\b[0-9A-Fa-f]{1,4}|\B):[0-9A-Fa-f]{0,4}:",
    )


def _wide_card(content: bytes, start: int, end: int) -> Iterable[Span]:
    """Take a card's number with dots between its groups; with wider gaps, near a word for one.

    Rows of tables have such gaps.
    """
    if not numbers.passes_as_card(content[start:end]):
        return ()
    is_card = content[start + 4 : start + 5] == b"." or is_near("card", content, start, end)
    return ((start, end),) if is_card else ()


PRIVATE_ADDRESS_RULES: Final = (_ipv4_rule(is_private=True), _ipv6_rule(is_private=True))
"""For policies with `private_addresses`."""

PII_RULES: Final[tuple[Rule, ...]] = (
    # The scripts' letters in the database would slow the pass over every text by a third.
    Rule(
        "EMAIL",
        Expression(r"[0-9A-Za-z_%+'.-]@[0-9A-Za-z\x80-\xff]|[\x80-\xbf]@[0-9A-Za-z\x80-\xff]"),
        address,
        Rank.EMAIL,
        finder=compile_re2(Expression(_ADDRESS)),
    ),
    rule(
        "CREDIT_CARD",
        # Groups of four digits or more, but for the last, or of one; few ordinary numbers come so.
        r"\b(?:[0-9]{12,19}|[0-9]{4,16}(?:[ -][0-9]{4,16})+[ -][0-9]{1,16}"
        r"|[0-9]{6}[ -][0-9]{13}|[0-9](?:[ -][0-9]){11})\b",
        numbers.cards,
        rank=Rank.CARD,
        finder=rf"(?<![0-9A-Za-z_])[0-9](?:[ -]?[0-9]){{11,{numbers.MAX_RUN_DIGITS}}}"
        r"(?![0-9A-Za-z_])",
        likely=r"\b[0-9](?:[ -]?[0-9]){11}",
    ),
    rule(
        "CREDIT_CARD",
        r"\b([0-9]{4}(?:(?:\.[0-9]{4}){3}|(?: - [0-9]{4}){3}|(?:  [0-9]{4}){3}))\b",
        _wide_card,
        rank=Rank.CARD,
    ),
    rule(
        "IBAN",
        # The countries' names in here would double the cost of the pass over every text.
        r"\b[A-Za-z]{2}[0-9]{2}[ .-]?[A-Za-z0-9]{2}",
        numbers.ibans,
        rank=Rank.IBAN,
        finder=numbers.iban_expression(),
        likely=r"\b[A-Za-z]{2}[0-9]{2}(?:[ .-]?[0-9A-Za-z]){11}",
    ),
    Rule(
        "IBAN",
        Expression(r"(?i)(?:_|iban)([a-z]{2}[0-9]{2}[ .-]?[0-9a-z]{2})"),
        numbers.iban_at,
        Rank.IBAN,
        grows=r"(?i)(?:_|iban)[a-z]{2}[0-9]{2}(?:[ .-]?[0-9a-z]){11,29}",
    ),
    rule(
        "US_SSN",
        r"\b[0-8][0-9]{2}[ -][0-9]{2}[ -][0-9]{4}\b",
        where(numbers.is_ssn),
        rank=Rank.SSN,
        finder=r"(?<![0-9A-Za-z_])(?<![0-9][ -])[0-8][0-9]{2}(?:-[0-9]{2}-|[ ][0-9]{2}[ ])[0-9]{4}"
        r"(?![0-9A-Za-z_])(?![ -][0-9])",
        likely=r"\b[0-8][0-9]{2}[ -][0-9]{2}[ -][0-9]{4}",
    ),
    rule(
        "US_SSN",
        r"(?i)(?:\b|_)(?:ssn|social[ _-]?security(?:[ _-]?(?:number|num|no\.?|nr|#))?)"
        r"[^0-9a-z]{0,6}(?:(?:is|was) )?([0-8][0-9]{2}[ .-]?[0-9]{2}[ .-]?[0-9]{4})\b",
        where(numbers.is_ssn),
        rank=Rank.SSN,
    ),
    _ipv4_rule(is_private=False),
    _ipv6_rule(is_private=False),
    *CONTEXT_RULES,
    *PHONE_RULES,
)
"""The rules that hold without a region or country."""

PII_TYPES: Final = tuple(sorted({*NATIONAL_TYPES, *(known.type for known in PII_RULES)}))
