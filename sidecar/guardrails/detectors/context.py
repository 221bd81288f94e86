"""Rules for personal data that only the words before it identify: dates of birth, accounts."""

from __future__ import annotations

import importlib.resources
import re
from operator import mul
from typing import Final

from sidecar.guardrails.detectors.phone import KNOWN_REGIONS
from sidecar.guardrails.matching.rule import Expression, Rank, Rule, compile_re2, rule, where

GAP: Final = r"[^0-9\n\x00]{0,24}?"
"""Between the words and the datum: «number», «is», punctuation; no other number, no new line."""
_LINES: Final = r"[^0-9\x00]{0,24}?"
"""The same before an address, which begins a line of its own in letters."""

_MONTHS: Final = (
    r"(?i:jan(?:uary|uar|vier)?|feb(?:ruary|ruar)?|f\xc3\xa9vrier|mar(?:ch|s)?|m\xc3\xa4rz|apr(?:il)?|avril|"
    r"may|mai|june?|juni|juin|july?|juli|juillet|aug(?:ust)?|ao\xc3\xbbt|sep(?:t|tember|tembre)?|"
    r"o[ck]t(?:ober|obre)?|nov(?:ember|embre)?|de[cz](?:ember)?|d\xc3\xa9cembre|enero|febrero|marzo|"
    r"abril|mayo|junio|julio|agosto|septiembre|octubre|noviembre|diciembre)\.?"
)
_DATE: Final = (
    r"(?:[0-3]?[0-9][./-][0-3]?[0-9][./-](?:(?:19|20)[0-9]{2}|[0-9]{2})"
    r"|(?:19|20)[0-9]{2}[./-][01]?[0-9][./-][0-3]?[0-9]"
    rf"|{_MONTHS} [0-3]?[0-9](?:st|nd|rd|th)?,? (?:19|20)[0-9]{{2}}"
    rf"|[0-3]?[0-9](?:st|nd|rd|th)?\.?[ -](?:of |de )?{_MONTHS}(?:-|,? (?:de )?)"
    r"(?:19|20)[0-9]{2}"
    r"|(?:19|20)[0-9]{2}[01][0-9][0-3][0-9])"
)
_BIRTH: Final = (
    r"dob|d\.o\.b|date of birth|birth ?date|birthday|born|geburtsdatum|geboren|geb"
    r"|date de naissance|n\xc3\xa9e? le|fecha (?:de )?nacimiento|nacid[oa] el"
    r"|data di nascita|nat[oa] il|data de nascimento|geboortedatum"
)
_STREET: Final = (
    r"street|st|avenue|ave|road|rd|lane|ln|drive|dr|boulevard|blvd|court|ct|way|place|pl|square|sq"
    r"|terrace|highway|hwy|parkway|pkwy|circle|close|crescent|gardens|row|mews"
)
_AT: Final = (
    r"(?:home|postal|mailing|billing|shipping|delivery)? ?address(?: line ?1?)?"
    r"|lives? at|living at|resid(?:es?|ing) at|ship(?:ped|ping)? to|deliver(?:ed|y)? to"
    r"|mail(?:ed)? to|anschrift|adresse|wohnhaft in|wohnt in der|wohnt in"
)
_UNIT: Final = r"(?:,? (?i:apt|apartment|suite|ste|unit|flat|#)\.? ?[0-9A-Za-z-]{1,6})?"
_TOWN: Final = (
    r"(?:,? [A-Z][A-Za-z.'-]{1,20}\b){0,3}(?:,? [A-Z]{2}\b)?"
    r"(?:,? (?:[0-9]{5}(?:-[0-9]{4})?|[A-Z]{1,2}[0-9][0-9A-Z]? ?[0-9][A-Z]{2}))?"
)
_ENGLISH_ADDRESS: Final = (
    r"[0-9]{1,5}[A-Za-z]?,? (?:[A-Z0-9][A-Za-z0-9.'-]{0,20} ){1,4}"
    rf"(?i:{_STREET})\b\.?{_UNIT}{_TOWN}"
)
_GERMAN_ADDRESS: Final = (
    r"[A-Z][A-Za-z\x80-\xff-]{2,24}"
    r"(?:stra\xc3\x9fe|strasse|str\.|weg|platz|allee|gasse|ring|damm|ufer) [0-9]{1,4} ?[a-z]?\b"
    r"(?:,? (?:D-)?[0-9]{5} [A-Z][A-Za-z\x80-\xff-]{2,24})?"
)


_SHARED: Final = {"cue", "house", "word", "name", "town", "first", "to", "han"}
"""Parts of the others; the rest are addresses of one family of countries each."""


def foreign_address_rule() -> Rule:
    """Return the rule for the forms of `postal_addresses.txt`, each behind a word of its `cue`."""
    parts: dict[str, str] = {}
    package = importlib.resources.files("sidecar.guardrails.detectors")
    for line in package.joinpath("postal_addresses.txt").read_text(encoding="utf-8").splitlines():
        name, sign, expression = line.partition(" = ")
        if not sign or line.startswith("#"):
            continue
        for known, part in parts.items():
            expression = expression.replace(f"<{known}>", f"(?:{part})")
        parts[name] = re.sub(
            "[^\x00-\x7f]+",
            lambda run: "".join(f"\\x{byte:02x}" for byte in run[0].encode()),
            expression,
        )
    found = "|".join(parts[name] for name in parts if name not in _SHARED)
    # It begins behind a space or sign, or a whole character of another script.
    before = rf"(?:{parts['cue']})(?:[^0-9\x00]{{0,24}}?[\s:=(>\"'\x80-\xbf])?"
    # The database looks for the words in front: all of it would be too large for that.
    return Rule(
        "POSTAL_ADDRESS",
        Expression(parts["cue"]),
        rank=Rank.CONTEXT,
        finder=compile_re2(Expression(f"{before}({found})")),
    )


_ROUTING_WEIGHTS: Final = (3, 7, 1) * 3


def after_words(
    words: str, shape: str, *, others: str = "", gap: str = GAP, end: str = r"\b"
) -> str:
    """Return the expression for *shape* behind one of *words*, which count in any case.

    They count in the names of fields, too, such as `customer_dob` and `passportNumber`.
    *others* are words of other scripts, in which expressions of bytes see no boundaries.
    """
    words = words.replace(" ?", " ").replace(" ", "[ _-]?")
    before = rf"(?:\b|_)(?i:{words})(?:\b|_?(?i:number|num|no|nr|id)\b)"
    if others:
        escaped = "".join(
            one if one == "|" else "".join(f"\\x{byte:02x}" for byte in one.encode())
            for one in others
        )
        before = f"(?:{before}|{escaped})"
    return rf"{before}{gap}\b({shape}){end}"


CONTEXT_RULES: Final[tuple[Rule, ...]] = (
    rule("DATE_OF_BIRTH", after_words(_BIRTH, _DATE, end=r"(?:\b|T)"), rank=Rank.CONTEXT),
    rule(
        "POSTAL_ADDRESS",
        after_words(_AT, f"{_ENGLISH_ADDRESS}|{_GERMAN_ADDRESS}", gap=_LINES, end=""),
        rank=Rank.CONTEXT,
    ),
    foreign_address_rule(),
    # ICAO 9303: up to nine characters; nearly all are letters and then digits, some mixed.
    rule(
        "PASSPORT",
        after_words(
            r"passport|reisepass(?:nummer)?|passeport|pasaporte|passaporto|paspoort",
            # France: two digits, two letters, five digits. Spain: three letters, six digits.
            r"[A-Z]{0,3}[0-9]{6,9}[A-Z]?|[CFGHJK][0-9CFGHJKLMNPRTVWXYZ]{8}|[0-9]{2}[A-Z]{2}[0-9]{5}",
        ),
        rank=Rank.CONTEXT,
    ),
    # The check digit must be right (ABA, Routing Number Policy: weights 3, 7, 1).
    rule(
        "US_BANK_ROUTING",
        after_words(r"routing|aba|rtn|transit", r"[0-9]{9}"),
        where(lambda digits: sum(map(mul, map(int, digits.decode()), _ROUTING_WEIGHTS)) % 10 == 0),
        rank=Rank.CONTEXT,
    ),
    rule(
        "BANK_ACCOUNT",
        after_words(
            r"(?:bank |checking |savings )?account (?:number|num|no)|acct(?: (?:number|no))?"
            r"|kontonummer|num\xc3\xa9ro de compte|n\xc3\xbamero de cuenta",
            r"[0-9](?:[ -]?[0-9]){5,16}",
        ),
        rank=Rank.CONTEXT,
    ),
    # ISO 9362: four of the bank, two of the country, two of the place, three of the branch.
    rule(
        "SWIFT_BIC",
        r"\b(?i:(?:swift[ _-]?(?:code|/ ?bic|number)|bic)\b[^0-9\n\x00]{0,8}?|swift ?: ?)"
        r"\b([A-Z]{4}[A-Z]{2}[A-Z0-9]{2}(?:[A-Z0-9]{3})?)\b",
        where(lambda code: code[4:6].decode("ascii") in KNOWN_REGIONS),
        rank=Rank.CONTEXT,
    ),
)
