from __future__ import annotations

import pytest

from sidecar.guardrails.detectors.words import (
    WordList,
    is_near,
    kind_before,
    starts_with,
    words_of,
)

IDENTIFIERS = (
    "order no. ", "Order #", "orderId: ", '{"order_id": "', "Rechnungsnummer: ", "commande n° ",
    "The invoice number is ", "Kunden-Nr.: ", "ISBN-10: ", "订单号", "phone order ",
)  # fmt: skip
OTHERS = ("Ann, ", "phone number: ", "WhatsApp ", "order 12 ", "order\n", "reordered ", "")


@pytest.mark.parametrize("text", IDENTIFIERS)
def test_a_word_right_before_a_number_names_it(text: str) -> None:
    """With «no.», «is», quotes and signs between."""
    assert kind_before(text.encode(), len(text.encode()), "money", "identifier") == "identifier"


@pytest.mark.parametrize("text", OTHERS)
def test_another_word_or_line_before_a_number_does_not(text: str) -> None:
    """The nearest word decides, and a word for a telephone is none for an order."""
    assert not kind_before(text.encode(), len(text.encode()), "identifier")


def test_a_word_near_a_number_stands_on_either_side_of_it() -> None:
    """Within reach, in any case, as part of a name in code too."""
    for text in ("my Visa: 1", "1 (credit card)", "cardNumber=1", "我的卡号是1"):
        at = text.encode().index(b"1")
        assert is_near("card", text.encode(), at, at + 1)
    assert not is_near("card", b"card" + b" " * 60 + b"1", 64, 65)


def test_a_unit_stands_right_behind_a_number() -> None:
    """A sign or a word."""
    assert starts_with("unit", "1 €".encode(), 1)
    assert starts_with("unit", b"1 rows", 1)
    assert not starts_with("unit", b"1, rows", 1)


def test_every_kind_has_words() -> None:
    """A heading that is misspelt would be silent."""
    for kind in ("telephone", "call", "identifier", "card", "version", "host", "money", "unit"):
        assert words_of(kind)


def test_the_end_of_a_compound_is_no_word_by_itself() -> None:
    """Unless it is itself a compound with another end."""
    known = WordList(frozenset(), ("nummer", "rufnummer"), ())
    assert [known.has(one) for one in ("nummer", "rufnummer", "hausnummer", "zahl")] == [
        False, True, True, False,
    ]  # fmt: skip
