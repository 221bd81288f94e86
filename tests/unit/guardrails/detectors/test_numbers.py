from __future__ import annotations

import random

import pytest

from sidecar.guardrails.detectors.numbers import cards, has_issuer, ibans, is_ssn, passes_luhn


def found(text: bytes) -> list[bytes]:
    return [text[start:end] for start, end in cards(text, text.index(b"4"), len(text))]


def test_plain_digits_are_a_card_near_a_word_for_one() -> None:
    """An issuer's digits and the right check digit occur among random numbers, too."""
    assert found(b"card 4539148803436467") == [b"4539148803436467"]
    assert found(b"line 4539148803436467") == []
    assert found(b"4539 1488 0343 6467") == [b"4539 1488 0343 6467"]


def test_random_runs_of_digits_are_hardly_ever_cards() -> None:
    """Of ten thousand at most one, and that by a published test number."""
    draw = random.Random(7)  # noqa: S311 - a test's data
    runs = ["".join(draw.choices("0123456789", k=16 + at % 4)).encode() for at in range(10_000)]
    assert sum(bool(list(cards(run, 0, len(run)))) for run in runs) <= 1


def test_check_digits_and_issuers_are_looked_at() -> None:
    """Luhn, ISO/IEC 7812, ISO 7064."""
    assert passes_luhn(b"4111111111111111")
    assert not passes_luhn(b"4111111111111112")
    assert has_issuer(b"4111111111111111")
    assert not has_issuer(b"7111111111111117")
    assert list(ibans(b"DE89370400440532013000", 0, 22)) == [(0, 22)]
    assert list(ibans(b"DE88370400440532013000", 0, 22)) == []


@pytest.mark.parametrize("number", [b"123-45-6789", b"078051120", b"555-55-5555", b"000-12-3456"])
def test_a_number_of_documentation_is_no_ssn(number: bytes) -> None:
    """Nobody was issued one of these."""
    assert not is_ssn(number)
    assert is_ssn(b"536-90-4399")
