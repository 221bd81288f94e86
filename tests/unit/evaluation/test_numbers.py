"""Floors and ceilings of numbers on a small sample of the generated texts."""

from __future__ import annotations

import pytest

from evaluation import look_alikes, national_numbers, postal_addresses
from evaluation.own import OwnDetector

A_KIND = 10
COUNTRIES = ("US", "DE", "FR", "GB", "IT", "JP", "BR", "SE")


def test_there_are_forty_kinds_of_look_alikes() -> None:
    """Each with texts that are filled anew."""
    texts = list(look_alikes.look_alikes(a_kind=A_KIND))
    assert len({one.kind for one in texts}) * A_KIND == len(texts) == 40 * A_KIND
    assert len({one.text for one in texts}) > 0.9 * len(texts)


@pytest.mark.parametrize("regions", ["US, DE", "twenty"])
def test_numbers_that_are_no_personal_data_pass(regions: str) -> None:
    """At most one of a hundred is flagged, whatever the regions."""
    detector = OwnDetector(f"type: pii, regions: [{look_alikes.REGION_SETS[regions]}]")
    texts = list(look_alikes.look_alikes(a_kind=A_KIND))
    flagged = [one for one in texts if detector.judge(one.text).findings]
    assert len(flagged) <= 0.01 * len(texts), flagged


def test_random_runs_of_digits_are_no_cards() -> None:
    """Of 16 to 19 digits, bare and in the contexts of identifiers."""
    detector = OwnDetector("type: pii, types: [CREDIT_CARD]")
    runs = list(look_alikes.random_runs(count=1_000))
    assert sum(bool(detector.judge(text).findings) for text in runs) <= 2


def test_national_telephone_numbers_are_found() -> None:
    """Behind a word for a telephone anywhere; as the country writes them where it is a region."""
    without = OwnDetector("type: pii, types: [PHONE]")
    own = OwnDetector(f"type: pii, types: [PHONE], regions: [{', '.join(COUNTRIES)}]")
    texts = list(national_numbers.telephone_texts(a_country=20))
    for country in COUNTRIES:
        worded = [one for one in texts if one.country == country and one.has_word]
        bare = [one for one in texts if one.country == country and not one.has_word]
        found = sum(national_numbers.is_found(without, one) for one in worded)
        assert found >= 0.95 * len(worded), country
        assert sum(national_numbers.is_found(own, one) for one in bare) >= 0.8 * len(bare), country


def test_addresses_of_fifteen_countries_are_found_behind_a_word_for_one() -> None:
    """Eight of ten in each country at least."""
    texts = tuple(postal_addresses.addresses(a_country=20))
    for country, (found, _) in postal_addresses.evaluate_addresses(texts).items():
        assert found.value >= 0.8, country
