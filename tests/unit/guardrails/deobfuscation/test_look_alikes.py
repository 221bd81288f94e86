from __future__ import annotations

import sys
import unicodedata

import pytest

from sidecar.guardrails.deobfuscation.look_alikes import LAST_LETTERS
from tests.support.guardrails import effective, parts_of, policy

POLICY = effective(policy("  - {name: pii, type: pii}"))
ZEROS = [
    character
    for code in range(0x80, LAST_LETTERS)
    if unicodedata.category(character := chr(code)) == "Nd" and unicodedata.digit(character) == 0
]


def test_every_digit_of_unicode_is_looked_at() -> None:
    """There is none beyond the last code point that the table is made from."""
    beyond = range(LAST_LETTERS, sys.maxunicode + 1)

    assert not [code for code in beyond if unicodedata.category(chr(code)) == "Nd"]


@pytest.mark.parametrize("zero", ZEROS, ids=lambda zero: f"{ord(zero):x}")
def test_a_card_is_read_in_the_digits_of_every_script(zero: str) -> None:
    """Whole, in groups, or with one digit of a script among Latin ones."""
    number = "".join(chr(ord(zero) + int(digit)) for digit in "4111111111111111")
    groups = " ".join(number[at : at + 4] for at in range(0, 16, 4))
    for written in (number, groups, "411111111111111" + number[-1]):
        (outcome,) = POLICY.local.scan(parts_of([f"x {written} y"]))
        (finding,) = outcome.findings
        assert (finding.type, finding.start) == ("CREDIT_CARD", 2)
        assert finding.end == 2 + len(written.encode())
