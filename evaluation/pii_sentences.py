"""Sentences with personal data at known places.

The sentences and the people are presidio-evaluator's; the table's card numbers have lost their
digits, so cards, accounts and social security numbers are drawn here: valid by checksum, in the
ways people write them.
"""

from __future__ import annotations

import csv
import random
import re
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from stdnum import iban, luhn

from training.packages import unpacked

TYPES: Final = {
    "credit_card_number": "CREDIT_CARD",
    "email": "EMAIL",
    "iban": "IBAN",
    "ip_address": "IP_ADDRESS",
    "phone_number": "PHONE",
    "ssn": "US_SSN",
}
A_SENTENCE: Final = 40
"""Fillings of each sentence that holds something to be found."""

_PLACE: Final = re.compile(r"\{\{([a-z_]+)\}\}")
_CARDS: Final = (
    ("4", 16),
    ("51", 16),
    ("55", 16),
    ("2221", 16),
    ("34", 15),
    ("37", 15),
    ("6011", 16),
    ("36", 14),
    ("3528", 16),
)
_BANKS: Final = {
    "DE": "dddddddddddddddddd",
    "GB": "ccccdddddddddddddd",
    "FR": "ddddddddddaaaaaaaaaaadd",
    "NL": "ccccdddddddddd",
    "ES": "dddddddddddddddddddd",
    "IT": "cddddddddddaaaaaaaaaaaa",
    "CH": "dddddaaaaaaaaaaaa",
    "BE": "dddddddddddd",
}


_ALPHABETS: Final = {
    "d": string.digits, "c": string.ascii_uppercase, "a": string.digits + string.ascii_uppercase,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sentence:
    """A text and what is in it: types with their spans, in bytes."""

    text: str
    spans: tuple[tuple[str, int, int], ...]


def sentences(seed: int = 20261125) -> Iterator[Sentence]:
    """Return the same sentences for the same seed."""
    draw = random.Random(seed)  # noqa: S311 - a test's data, and the same each time
    folder = unpacked("presidio_evaluator") / "presidio_evaluator/data_generator/raw_data"
    with (folder / "FakeNameGenerator.com_3000.csv").open(
        encoding="utf-8-sig", newline=""
    ) as file:
        people = [row for row in csv.DictReader(file) if row["TelephoneNumber"]]
    lines = (folder / "templates.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines:
        wanted = not TYPES.keys().isdisjoint(_PLACE.findall(line))
        for _ in range(A_SENTENCE if wanted else 1):
            yield _filled(line.replace("\\n", "\n"), draw.choice(people), draw)


def _filled(line: str, person: Mapping[str, str], draw: random.Random) -> Sentence:
    text, spans = "", []
    for number, piece in enumerate(_PLACE.split(line)):
        if number % 2 == 0:
            text += piece
            continue
        value = _value(piece, person, draw)
        start = len(text.encode())
        text += value
        if piece in TYPES:
            spans.append((TYPES[piece], start, start + len(value.encode())))
    return Sentence(text, tuple(spans))


def _value(name: str, person: Mapping[str, str], draw: random.Random) -> str:
    drawn = _DRAWN.get(name)
    if drawn is not None:
        return drawn(draw)
    if name == "phone_number":
        return phone(person, draw)
    return person["EmailAddress"] if name == "email" else _other(name, person, draw)


def _other(name: str, person: Mapping[str, str], draw: random.Random) -> str:
    known = {
        "address": f"{person['StreetAddress']}, {person['City']} {person['ZipCode']}",
        "person": f"{person['GivenName']} {person['Surname']}",
        "name": f"{person['GivenName']} {person['Surname']}",
        "city": person["City"],
        "country": person["CountryFull"],
        "organization": person["Company"],
        "zipcode": person["ZipCode"],
        "postcode": person["ZipCode"],
        "street_name": person["StreetAddress"],
        "job": person["Occupation"],
        "date_of_birth": person["Birthday"],
        "age": person["Age"],
        "url": f"https://www.{person['Domain']}/",
        "year": str(draw.randint(1950, 2026)),
    }
    return known.get(name, person["GivenName" if "first" in name else "Surname"])


def card(draw: random.Random) -> str:
    """Return a card number that passes Luhn's check, whole or in groups."""
    prefix, length = draw.choice(_CARDS)
    digits = prefix + "".join(draw.choices("0123456789", k=length - len(prefix) - 1))
    digits += luhn.calc_check_digit(digits)
    between = draw.choice(("", "", " ", "-"))
    groups = (4, 6, 5) if length == 15 else (4, 6, 4) if length == 14 else (4, 4, 4, 4)  # noqa: PLR2004 - lengths of cards
    return between.join(_cut(digits, groups))


def account(draw: random.Random) -> str:
    """Return an account number with its check digits, whole, in groups or in lower case."""
    number = ""
    while not iban.is_valid(number):  # some countries have check digits of their own inside
        country = draw.choice(sorted(_BANKS))
        body = "".join(draw.choice(_ALPHABETS[kind]) for kind in _BANKS[country])
        number = country + iban.calc_check_digits(f"{country}00{body}") + body
    shape = draw.random()
    if shape < 0.4:  # noqa: PLR2004 - as banks print it
        return " ".join(number[at : at + 4] for at in range(0, len(number), 4))
    return number.lower() if shape > 0.95 else number  # noqa: PLR2004 - a few


def social_security(draw: random.Random) -> str:
    """Return a number the Social Security Administration could have issued."""
    area = draw.choice([one for one in range(1, 900) if one != 666])  # noqa: PLR2004 - never issued
    return f"{area:03}-{draw.randint(1, 99):02}-{draw.randint(1, 9999):04}"


def phone(person: Mapping[str, str], draw: random.Random) -> str:
    """Return the person's number as the country writes it, or with its code before it."""
    number = person["TelephoneNumber"]
    if draw.random() < 0.5:  # noqa: PLR2004 - half of them
        return f"+{person['TelephoneCountryCode']} {number.lstrip('0')}"
    return number


def address(draw: random.Random) -> str:
    """Return an IPv4 address."""
    return ".".join(str(draw.randint(1, 254)) for _ in range(4))


_DRAWN: Final[Mapping[str, Callable[[random.Random], str]]] = {
    "credit_card_number": card,
    "iban": account,
    "ssn": social_security,
    "ip_address": address,
}


def _cut(digits: str, lengths: tuple[int, ...]) -> Iterator[str]:
    start = 0
    for length in lengths:
        yield digits[start : start + length]
        start += length
