from __future__ import annotations

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phonenumbers import PhoneNumber, PhoneNumberFormat

from sidecar.guardrails.detectors.phone import KNOWN_REGIONS, is_international, is_national

NUMBERS = [
    (region, number)
    for region in sorted(KNOWN_REGIONS)
    for kind in range(11)
    if (number := phonenumbers.example_number_for_type(region, kind)) is not None
]
REWRITING = {
    code
    for code, regions in phonenumbers.COUNTRY_CODE_TO_REGION_CODE.items()
    if any(
        (plan := phonenumbers.PhoneMetadata.metadata_for_region(region)) is not None
        and plan.national_prefix_transform_rule
        for region in regions
    )
}
"""Countries where the package writes some numbers anew before it looks at them."""
OLD_MOBILE_PREFIX = {"AR"}
"""Argentina writes a mobile number one way at home and another from abroad."""


def digits_of(number: PhoneNumber, format_: int) -> bytes:
    text = phonenumbers.format_number(number, format_)
    return "".join(character for character in text if character.isdigit()).encode()


@pytest.mark.parametrize("region", sorted(KNOWN_REGIONS))
def test_every_plans_own_examples_are_numbers(region: str) -> None:
    """As dialled at home and from abroad, for every kind of number a country has."""
    for number in (number for own, number in NUMBERS if own == region):
        assert is_international(digits_of(number, PhoneNumberFormat.E164))
        if region not in OLD_MOBILE_PREFIX:
            assert is_national(digits_of(number, PhoneNumberFormat.NATIONAL), (region,))


@given(
    st.sampled_from(sorted(phonenumbers.COUNTRY_CODE_TO_REGION_CODE.keys() - REWRITING)),
    st.text("0123456789", min_size=4, max_size=12),
)
def test_what_the_package_takes_is_taken(code: int, rest: str) -> None:
    """The plans compiled may take more (a prefix that is not dialled there), never less."""
    try:
        number = phonenumbers.parse(f"+{code}{rest}")
    except phonenumbers.NumberParseException:
        return
    if phonenumbers.is_valid_number(number):
        assert is_international(f"{code}{rest}".encode())
