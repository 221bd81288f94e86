"""Which telephone numbers exist, by the numbering plans of the phonenumbers package.

Its own parser takes 33 µs and more a number, ten times that of any other check here, so that a
text full of almost-numbers held a worker up. The plans are compiled to RE2 instead.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import phonenumbers
import re2
from phonenumbers import PhoneMetadata

KNOWN_REGIONS: Final = frozenset(phonenumbers.SUPPORTED_REGIONS)

_KINDS: Final = (
    "fixed_line", "mobile", "toll_free", "premium_rate", "shared_cost", "personal_number", "voip",
    "pager", "uan", "voicemail",
)  # fmt: skip
_NO_NUMBER: Final = r"[^\x00-\x{10FFFF}]"
_MAX_COUNTRY_DIGITS: Final = 3


def load_numbering_plans() -> None:
    """Read and compile all plans now (some 0.2 s) instead of one at a time from within a scan."""
    PhoneMetadata.load_all()
    for code in phonenumbers.COUNTRY_CODE_TO_REGION_CODE:
        _country_plan(str(code).encode())


def is_international(digits: bytes) -> bool:
    """Tell whether *digits*, country code first, are a number in use."""
    for length in range(1, _MAX_COUNTRY_DIGITS + 1):
        plan = _country_plan(digits[:length])
        if plan is not None:  # no code is the beginning of another
            return plan.fullmatch(digits[length:]) is not None
    return False


def is_national(digits: bytes, regions: tuple[str, ...]) -> bool:
    """Tell whether *digits* are a number in use in any of *regions*, as dialled there."""
    return _national_plan(regions).fullmatch(digits) is not None


@lru_cache(maxsize=1_024)
def _country_plan(code: bytes) -> Any:
    regions = phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(int(code))
    if regions is None or code.startswith(b"0"):
        return None
    return _compiled([_plan(_metadata(region, int(code))) for region in regions])


@lru_cache(maxsize=1_024)
def _national_plan(regions: tuple[str, ...]) -> Any:
    return _compiled([_plan(PhoneMetadata.metadata_for_region(region)) for region in regions])


def _compiled(plans: list[str]) -> Any:
    options = re2.Options()
    options.max_mem = 32 << 20  # the 25 regions of +1 in one
    return re2.compile("|".join(plans).encode(), options)


def _metadata(region: str, code: int) -> PhoneMetadata | None:
    if region == phonenumbers.REGION_CODE_FOR_NON_GEO_ENTITY:
        return PhoneMetadata.metadata_for_nongeo_region(code)
    return PhoneMetadata.metadata_for_region(region)


def _plan(metadata: PhoneMetadata | None) -> str:
    """Return the expression for a national number, with what is dialled before it or without."""
    if metadata is None:
        return _NO_NUMBER
    kinds = [getattr(metadata, kind) for kind in _KINDS]
    numbers = [kind.national_number_pattern for kind in kinds
               if kind is not None and kind.national_number_pattern]  # fmt: skip
    prefix = metadata.national_prefix_for_parsing or ""
    return f"(?:{prefix})?(?:{'|'.join(numbers)})"
