from __future__ import annotations

import json

import pytest

from training.generated.carriers import PLACE, placed, read_carriers, read_words
from training.generated.grammar import seeded

VARIANTS = ("a", "b", "c", "d")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_carrier_has_one_place_and_known_words(variant: str) -> None:
    """A carrier without a place would be an attack without one."""
    for carrier in read_carriers(variant):
        assert carrier.count(PLACE) == 1, carrier
    for at in range(200):
        text = placed("<<order>>", ["Fill."], variant, seeded(str(at)))
        assert "<<order>>" in text
        assert "@FILL" not in text
        assert "@HERE" not in text


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_carrier_of_json_stays_json(variant: str) -> None:
    """Quotes and newlines of the text are escaped."""
    found = 0
    for at in range(200):
        text = placed('say "x"\nnow', ["Fill."], variant, seeded(str(at)))
        if text.startswith(("{", "[{")):
            found += 1
            json.loads(text)
    assert found


def test_variants_share_no_carrier() -> None:
    """Else leaving a variant out would leave nothing out."""
    assert not set(read_carriers("a")) & set(read_carriers("b")) - {PLACE}


def test_words_are_not_empty() -> None:
    """An empty word would leave a gap."""
    assert all(words and all(words) for words in read_words().values())
