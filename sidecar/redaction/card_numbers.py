"""Stand-ins for card numbers: as long and grouped as the real one, and never a real one."""

from __future__ import annotations

from typing import Final

CARD_TYPE: Final = "CREDIT_CARD"
"""The type of finding that has a shape worth keeping."""

_LENGTHS: Final = range(12, 20)
"""Digits of a card number, ISO/IEC 7812-1 and the networks' own ranges."""

_SEPARATORS: Final = " -"


def stand_in(card: str, number: int) -> bytes | None:
    """Return the *number*-th stand-in in the shape of *card*; None if that has another shape.

    It begins with 0, which no issuer has (ISO/IEC 7812-1), and its check digit is wrong: it cannot
    be charged, and no search for card numbers finds it again.
    """
    digits = sum(character.isdecimal() for character in card)
    if digits not in _LENGTHS or not all(
        # Characters without width may stand between digits, and are left out of the stand-in.
        character.isdecimal() or character in _SEPARATORS or not character.isprintable()
        for character in card
    ):
        return None
    payload = f"{number:0{digits - 1}d}"
    total = 0  # of Luhn's test (ISO/IEC 7812-1 annex B)
    for place, character in enumerate(reversed(payload)):
        digit = int(character) * (1 if place % 2 else 2)
        total += digit - 9 if digit > 9 else digit  # noqa: PLR2004 - the sum of its two digits
    made = iter(payload + str((5 - total) % 10))
    return "".join(
        next(made) if character.isdecimal() else character
        for character in card
        if character.isdecimal() or character in _SEPARATORS
    ).encode()
