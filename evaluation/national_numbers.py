"""Telephone numbers in use in many countries, as dialled at home, and street addresses there.

Numbers are drawn from the examples of the countries' numbering plans, with other last digits, and
written as the country writes them; addresses are made of names of streets and towns.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import phonenumbers
from phonenumbers import PhoneNumber, PhoneNumberFormat, PhoneNumberType

from evaluation.intervals import Share
from evaluation.own import OwnDetector
from evaluation.texts import texts_by_heading
from loadtest.results import Grid

A_COUNTRY: Final = 40

COUNTRIES: Final = (
    "US", "GB", "DE", "FR", "ES", "IT", "IN", "BR", "AU", "JP", "MX", "NL", "PL", "SE", "CH", "CN",
    "CA", "AT", "BE", "PT", "DK", "NO", "FI", "IE", "CZ", "HU", "RO", "GR", "TR", "UA", "RU", "KR",
    "ZA", "NZ", "AR", "CO", "IL", "ID", "SG", "EG",
)  # fmt: skip
_KINDS: Final = (PhoneNumberType.FIXED_LINE, PhoneNumberType.MOBILE)

_TEXTS: Final = texts_by_heading("telephone_texts.txt")

_PEOPLES: Final[dict[str, tuple[str, ...]]] = {
    "DE": ("/", "-"), "FR": (".", "-"), "US": (".", "-"), "CA": (".", "-"), "NL": ("-",),
    "AT": ("/",), "BE": ("/",), "IT": ("-", "/"),
}  # fmt: skip
"""Signs that people write behind the area's code, or everywhere, in place of the plan's own."""


@dataclass(frozen=True, slots=True)
class Written:
    """A text with a telephone number in it, at bytes `start` to `end`."""

    country: str
    has_word: bool
    text: str
    start: int
    end: int


def telephone_texts(seed: int = 20261128, a_country: int = A_COUNTRY) -> Iterator[Written]:
    """Return the same texts for the same seed: by country, half of them with a word."""
    draw = random.Random(seed)  # noqa: S311 - a test's data, and the same each time
    for country in COUNTRIES:
        own = _TEXTS.get(country, ())
        for number in range(a_country):
            digits = _national(country, _KINDS[number // 2 % 2], draw)
            worded = (
                own[number // 2 % len(own)] if own and number % 4 else draw.choice(_TEXTS["*"])
            )
            yield _text(country, worded, digits, has_word=True)
            yield _text(
                country, _TEXTS["none"][number % len(_TEXTS["none"])], digits, has_word=False
            )


def _text(country: str, text: str, digits: str, *, has_word: bool) -> Written:
    start = len(text[: text.index("{}")].encode())
    end = start + len(digits.encode())
    return Written(country, has_word, text.replace("{}", digits), start, end)


def _national(country: str, kind: int, draw: random.Random) -> str:
    example = phonenumbers.example_number_for_type(country, kind)
    example = example or phonenumbers.example_number(country)
    if example is None:
        raise LookupError(country)
    number = example
    for _ in range(50):
        national = str(example.national_number)
        changed = national[:-4] + f"{draw.randint(0, 9999):04}"
        number = PhoneNumber(
            country_code=example.country_code,
            national_number=int(changed),
            italian_leading_zero=example.italian_leading_zero,
        )
        if phonenumbers.is_valid_number_for_region(number, country):
            break
    written = phonenumbers.format_number(number, PhoneNumberFormat.NATIONAL)
    sign = draw.choice((None, *_PEOPLES.get(country, ())))
    if sign in {".", "-"} and "(" not in written:
        return written.replace(" ", sign).replace("-", sign)
    return written.replace(" ", sign, 1) if sign == "/" else written


@dataclass(frozen=True, slots=True)
class NationalResults:
    """Numbers found, by country: with a word and no region, with a word, without one."""

    found: dict[str, tuple[Share, Share, Share]]

    def of(self, column: int) -> Share:
        """Return the share over all countries in one column."""
        shares = [row[column] for row in self.found.values()]
        return Share(sum(one.count for one in shares), sum(one.total for one in shares))


def evaluate_numbers(texts: Sequence[Written]) -> NationalResults:
    """Judge each country's texts without regions, and with its own."""
    without = OwnDetector("type: pii")
    found: dict[str, tuple[Share, Share, Share]] = {}
    for country in dict.fromkeys(one.country for one in texts):
        regional = OwnDetector(f"type: pii, regions: ['{country}']")
        here = [one for one in texts if one.country == country]
        worded = [one for one in here if one.has_word]
        bare = [one for one in here if not one.has_word]
        found[country] = (
            _share(without, worded), _share(regional, worded), _share(regional, bare),
        )  # fmt: skip
    return NationalResults(found)


def _share(detector: OwnDetector, texts: Sequence[Written]) -> Share:
    """Count the numbers that one finding covers whole."""
    return Share(sum(is_found(detector, one) for one in texts), len(texts))


def is_found(detector: OwnDetector, one: Written) -> bool:
    """Return whether a telephone number covers all of the number's digits."""
    content = one.text.encode()
    covered = {
        at
        for found in detector.judge(one.text).findings
        if found.type == "PHONE"
        for at in range(found.start, found.end)
    }
    return all(at in covered for at in range(one.start, one.end) if content[at : at + 1].isdigit())


def figures(results: NationalResults) -> dict[str, float]:
    """Return the three shares over all countries."""
    names = ("word", "word_and_region", "written_form")
    return {f"national.{name}": results.of(column).value for column, name in enumerate(names)}


def grid(results: NationalResults) -> Grid:
    """Return countries against shares found."""
    rows = [
        [country, *(f"{one.count}/{one.total}" for one in row)]
        for country, row in results.found.items()
    ]
    rows.append(["all", *(str(results.of(column)) for column in range(3))])
    columns = ("country", "with a word", "with a word, its region", "no word, its region")
    return Grid("National telephone numbers found", columns, rows, labels=1)
