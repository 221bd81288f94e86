"""Checks of numbers: cards, accounts, IP addresses."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

from sidecar.guardrails.detectors.words import is_near, kind_before
from sidecar.guardrails.matching.rule import Span

_VALUES: Final = bytes((byte - 48) % 10 for byte in range(256))
_DOUBLED: Final = bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)[value] for value in _VALUES)
_DIGITS: Final = re.compile(rb"[0-9]+")
_REST: Final = re.compile(rb"(?:[ -]?[0-9]){0,64}")
MAX_RUN_DIGITS: Final = 500
_MAX_CARD_DIGITS: Final = 19
_MIN_CARD_DIGITS_AMONG_OTHERS: Final = 14  # shorter ones are too often a part of something
_MIN_GROUP_DIGITS: Final = 4

# First four digits from and to, number of digits from and to, by the first digit.
_ISSUERS: Final[tuple[tuple[tuple[int, int, int, int], ...], ...]] = (
    (),
    ((1800, 1800, 15, 15),),  # JCB, older
    ((2131, 2131, 15, 15), (2200, 2204, 16, 19), (2221, 2720, 16, 16)),  # JCB, Mir, Mastercard
    (
        (3000, 3059, 14, 19),  # Diners Club
        (3095, 3095, 14, 19),
        (3400, 3499, 15, 15),  # American Express
        (3528, 3589, 16, 19),  # JCB
        (3600, 3699, 14, 19),  # Diners Club
        (3700, 3799, 15, 15),  # American Express
        (3800, 3999, 14, 19),  # Diners Club
    ),
    ((4000, 4999, 13, 13), (4000, 4999, 16, 16), (4000, 4999, 19, 19)),  # Visa
    ((5000, 5099, 12, 19), (5100, 5599, 16, 16), (5600, 5899, 12, 19)),  # Maestro, Mastercard
    ((6000, 6999, 12, 19),),  # Maestro, Discover, UnionPay, RuPay
    (),
    ((8100, 8171, 16, 19),),  # UnionPay
    ((9792, 9792, 16, 16),),  # Troy
)

# Lengths by country, from the IBAN registry (ISO 13616, SWIFT).
_IBAN_LENGTHS: Final = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
        24: "AD CZ DZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip


_CARD_LENGTHS: Final = {
    b"%04d" % number: lengths
    for number in range(10_000)
    if (
        lengths := frozenset(
            length
            for low, high, shortest, longest in _ISSUERS[number // 1_000]
            if low <= number <= high
            for length in range(shortest, longest + 1)
        )
    )
}
"""How many digits a card's number has, by its first four."""

_GROUPED_CARD: Final = re.compile(
    rb"[0-9]{4}([ -])(?:[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{3})?|[0-9]{6}\1[0-9]{4,5})\Z"
)
"""As cards are embossed."""

_EXAMPLE_CARDS: Final = frozenset(
    b"4111111111111111 4012888888881881 4222222222222 4242424242424242 4000056655665556"
    b" 5555555555554444 5105105105105100 2221000000000009 2223003122003222 5200828282828210"
    b" 378282246310005 371449635398431 378734493671000 30569309025904 38520000023237"
    b" 3530111333300000 3566002020360505 6011111111111117 6011000990139424 6200000000000005"
    b" 6205500000000000004 6759649826438453".split()
)
"""Test numbers of payment providers' documentation. They count everywhere: people try a guardrail
with them, and no other number is one of them by chance."""

_CHARACTER_VALUES: Final = {
    byte: str(int(chr(byte), 36)) for byte in b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
}
_UPPER: Final = bytes(byte - 32 if 97 <= byte <= 122 else byte for byte in range(256))  # noqa: PLR2004 - a to z


def passes_luhn(digits: bytes) -> bool:
    """Return whether the last digit is the check digit of the rest (ISO/IEC 7812-1, annex B)."""
    total = sum(digits[::-2].translate(_VALUES)) + sum(digits[-2::-2].translate(_DOUBLED))
    return not total % 10


def has_issuer(digits: bytes) -> bool:
    """Return whether an issuer range in use (ISO/IEC 7812) goes with the number's length."""
    return len(digits) in _CARD_LENGTHS.get(digits[:4], ())


def cards(content: bytes, start: int, end: int) -> Iterable[Span]:
    """Return the card numbers in a run of digit groups joined by single spaces or dashes.

    A number begins and ends with a group, so that a number beside it (an order number before,
    a security code behind) cannot hide it; groups but the last have four digits or more, or all
    have one. One run of digits, and one of digits set apart, is a card's only near a word for
    cards: among random ones, too, an issuer's first digits and the right check digit occur.
    """
    if end - start <= _MAX_CARD_DIGITS:
        digits = content[start:end].translate(None, b" -")
        if len(digits) == end - start:
            is_card = has_issuer(digits) and passes_luhn(digits)
            if is_card and _is_meant(content, start, end):
                yield start, end
            return
    # A run may be cut at its most digits; a number that begins in it may end behind it.
    behind = _REST.match(content, end)
    stop = end if behind is None else behind.end()
    groups = [match.span() for match in _DIGITS.finditer(content, start, stop)]
    digits = b"".join([content[begin:limit] for begin, limit in groups])
    ends = list(accumulate((limit - begin for begin, limit in groups), initial=0))
    # Running Luhn sums: one with digits at even places doubled, one with the others.
    sums: tuple[list[int], list[int]] | None = None
    index = 0
    while index < len(groups) and groups[index][0] < end:
        lengths = _CARD_LENGTHS.get(digits[ends[index] : ends[index] + 4])
        taken = 0
        if lengths:
            if sums is None:
                values, doubled = digits.translate(_VALUES), digits.translate(_DOUBLED)
                even, odd = bytearray(values), bytearray(values)
                even[::2], odd[1::2] = doubled[::2], doubled[1::2]
                sums = list(accumulate(even, initial=0)), list(accumulate(odd, initial=0))
            taken = _card_groups(ends, index, lengths, sums)
        if taken:
            span = groups[index][0], groups[index + taken - 1][1]
            if _is_meant(content, *span):
                yield span
        index += taken or 1


def _is_meant(content: bytes, start: int, end: int) -> bool:
    """Return whether a number that could be a card's is one, by its form and the words near it."""
    is_grouped = _GROUPED_CARD.match(content, start, end) is not None
    if is_grouped or content[start:end].translate(None, b" -") in _EXAMPLE_CARDS:
        return True
    return is_near("card", content, start, end) and not kind_before(content, start, "identifier")


def passes_as_card(candidate: bytes) -> bool:
    """Return whether issuer, length and check digit are those of a card, whatever parts it."""
    digits = b"".join(_DIGITS.findall(candidate))
    return has_issuer(digits) and passes_luhn(digits)


def iban_expression(before: str = "(?<![0-9A-Za-z_])") -> str:
    """Return the expression that finds IBANs by country and length, spaced or not, in any case.

    For `re`: it looks around, and repeats nothing that could match in two ways.
    """
    by_length: dict[int, list[str]] = {}
    for country, length in _IBAN_LENGTHS.items():
        by_length.setdefault(length, []).append(
            "".join(f"[{letter}{letter.lower()}]" for letter in country)
        )
    forms = (
        rf"(?:{'|'.join(countries)})[0-9]{{2}}(?:[ .-]?[0-9A-Za-z]){{{length - 4}}}"
        for length, countries in by_length.items()
    )
    ahead = "(?=[A-Za-z]{2}[0-9]{2}[ .-]?[0-9A-Za-z])"
    return rf"{before}{ahead}(?:{'|'.join(forms)})(?![0-9A-Za-z])"


_IBAN: Final = re.compile(iban_expression(before="").encode())


def iban_at(content: bytes, start: int, _: int) -> Iterable[Span]:
    """Return the IBAN that begins at *start*, if there is one, such as right behind its name."""
    found = _IBAN.match(content, start)
    return () if found is None else ibans(content, *found.span())


_UUID: Final = re.compile(rb"(?i)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UUID_BYTES: Final = 36


def ibans(content: bytes, start: int, end: int) -> Iterable[Span]:
    """Take an account's number with the right check digits (ISO 13616, ISO 7064 MOD 97-10).

    One in some thousand UUIDs has such a part, and base64 has letters of both cases.
    """
    candidate = content[start:end]
    own = candidate[4:]
    if own not in {own.upper(), own.lower()}:
        return ()
    compact = candidate.translate(_UPPER, b" .-")
    turned = compact[4:] + compact[:4]
    if int("".join([_CHARACTER_VALUES[byte] for byte in turned])) % 97 != 1:
        return ()
    around = (content, max(start - _UUID_BYTES, 0), end + _UUID_BYTES)
    if b"-" in candidate and any(
        uuid.start() <= start < uuid.end() for uuid in _UUID.finditer(*around)
    ):
        return ()
    return ((start, end),)


_EXAMPLE_SSNS: Final = frozenset(
    b"123456789 078051120 219099999 457555462 111223333 123121234 012345678 987654321".split()
)
"""Numbers of advertisements and documentation, which belong to no person."""


def is_ssn(candidate: bytes) -> bool:
    """Return whether it could be a number of the US Social Security Administration.

    Never issued: areas 000, 666 and from 900 on, group 00, serial 0000 (SSA, since 2011).
    """
    digits = candidate.translate(None, b" .-")
    if digits in _EXAMPLE_SSNS or len(set(digits)) == 1:
        return False
    return digits[:3] not in {b"000", b"666"} and digits[3:5] != b"00" and digits[5:] != b"0000"


def _card_groups(
    ends: list[int], first: int, lengths: frozenset[int], sums: tuple[list[int], list[int]]
) -> int:
    """Return how many groups from *first* on make a card number, the most that do, or 0."""
    begin, best, last = ends[first], 0, len(ends) - 1
    is_apart = ends[first + 1] - begin == 1  # each digit is a group
    tried = [first + length for length in lengths] if is_apart else range(first + 1, last + 1)
    for end_index in tried:
        if end_index > last:
            continue
        end = ends[end_index]
        length = end - begin
        if length in lengths and (not is_apart or length == end_index - first):
            running = sums[end % 2]
            is_alone = first == 0 and end_index == last
            if (is_alone or length >= _MIN_CARD_DIGITS_AMONG_OTHERS) and not (
                running[end] - running[begin]
            ) % 10:
                best = max(best, end_index - first)
        if not is_apart and (
            end - ends[end_index - 1] < _MIN_GROUP_DIGITS or length > _MAX_CARD_DIGITS
        ):
            break  # only the last group may be shorter
    return best
