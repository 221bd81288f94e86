from __future__ import annotations

import pytest

from sidecar.redaction.redact import card_stand_in


def _passes_luhn(digits: str) -> bool:
    doubled = [int(d) * (1 + at % 2) for at, d in enumerate(reversed(digits))]
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


@pytest.mark.parametrize(
    ("card", "shape"),
    [
        ("4111111111111111", "0000000000000013"),
        ("4111 1111 1111 1111", "0000 0000 0000 0013"),
        ("4111-1111-1111-1111", "0000-0000-0000-0013"),
        ("3782 822463 10005", "0000 000000 00013"),
        ("501800000009", "000000000013"),
        ("6304000000000000000", "0000000000000000013"),
        ("\uff14\uff11\uff11\uff11 1111 1111 1111", "0000 0000 0000 0013"),
        ("4111\u200b1111 1111 1111", "00000000 0000 0013"),
    ],
)
def test_a_stand_in_has_the_cards_digits_and_grouping(card: str, shape: str) -> None:
    """In plain ASCII, whatever the card was written in."""
    assert card_stand_in(card, 1) == shape.encode()


@pytest.mark.parametrize("card", ["41111111111", "4" * 20, "4111 1111 1111 1111.", "", "a1"])
def test_anything_else_has_no_stand_in(card: str) -> None:
    """Too short, too long, or with something between that no card number has."""
    assert card_stand_in(card, 1) is None


@pytest.mark.parametrize("digits", range(12, 20))
def test_no_stand_in_can_be_a_card(digits: int) -> None:
    """No issuer begins with 0, no check digit is right, and all are different."""
    made = [(card_stand_in("4" * digits, number) or b"").decode() for number in range(1, 200)]
    assert len(set(made)) == len(made)
    assert {len(one) for one in made} == {digits}
    assert not any(_passes_luhn(one) for one in made)
    assert {one[0] for one in made} == {"0"}
