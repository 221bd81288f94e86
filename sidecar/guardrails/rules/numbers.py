"""Payment cards, IBANs and US social security numbers: check digits and issuer ranges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from stdnum import iban
from stdnum.us import ssn

from sidecar.guardrails.rules.rule import Span

_DIGITS: Final = b"0123456789"
_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
_MIN_CARD_DIGITS: Final = 12
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


def passes_luhn(digits: bytes) -> bool:
    """Tell whether the last digit is the check digit of the rest (ISO/IEC 7812-1, annex B)."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = digit - 48
        total += _DOUBLED[value] if index % 2 else value
    return total % 10 == 0


def has_issuer(digits: bytes) -> bool:
    """Tell whether an issuer range in use (ISO/IEC 7812) goes with the number's length."""
    four, length = int(digits[:4]), len(digits)
    return any(
        low <= four <= high and shortest <= length <= longest
        for low, high, shortest, longest in _ISSUERS[digits[0] - 48]
    )


def cards(content: bytes, start: int, end: int) -> Iterator[Span]:
    """Yield the card numbers in a run of digit groups joined by single spaces or dashes.

    A number begins and ends with a group, so that what stands beside it (an order number before,
    a security code behind) cannot hide it; groups but the last have four digits or more.
    """
    groups = list(_digit_groups(content, start, end))
    index = 0
    while index < len(groups):
        length = _card_groups(content, groups, index)
        if length:
            yield groups[index][0], groups[index + length - 1][1]
        index += length or 1


def _digit_groups(content: bytes, start: int, end: int) -> Iterator[Span]:
    begin = start
    for position in range(start, end + 1):
        if position == end or content[position] not in _DIGITS:
            if begin < position:
                yield begin, position
            begin = position + 1


def _card_groups(content: bytes, groups: list[Span], first: int) -> int:
    """Return how many groups from *first* on make a card number, the most that do, or 0."""
    digits, best = b"", 0
    for count, (start, end) in enumerate(groups[first : first + 5], 1):
        is_alone = count == len(groups)
        digits += content[start:end]
        if len(digits) > _MAX_CARD_DIGITS:
            break
        least = _MIN_CARD_DIGITS if is_alone else _MIN_CARD_DIGITS_AMONG_OTHERS
        if len(digits) >= least and has_issuer(digits) and passes_luhn(digits):
            best = count
        if end - start < _MIN_GROUP_DIGITS:
            break  # only the last group may be shorter
    return best


def ibans(content: bytes, start: int, _end: int) -> Iterable[Span]:
    """Return the IBAN that begins at *start*, with or without spaces, in either case."""
    wanted = _IBAN_LENGTHS.get(content[start : start + 2].decode("ascii").upper(), 0)
    compact, position = bytearray(), start
    while len(compact) < wanted and position < len(content):
        character = content[position]
        if chr(character).isascii() and chr(character).isalnum():
            compact.append(character)
        elif character not in b" -" or content[position - 1] in b" -":
            break
        position += 1
    followed = content[position : position + 1]
    if not wanted or len(compact) < wanted or (followed.isalnum() and followed.isascii()):
        return ()
    return ((start, position),) if iban.is_valid(compact.decode("ascii")) else ()


def is_ssn(candidate: bytes) -> bool:
    """Tell whether the Social Security Administration could have issued it."""
    digits = bytes(character for character in candidate if character in _DIGITS).decode("ascii")
    return bool(ssn.is_valid(f"{digits[:3]}-{digits[3:5]}-{digits[5:]}"))
