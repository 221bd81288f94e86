"""Rules for telephone numbers: the `+` form, and numbers as they are dialled at home.

A number without a country code is one behind or before a word for a telephone. Without such a word
it counts in the regions of the policy alone, and only as people there write it: with the trunk
prefix or the area in brackets, or in exactly the groups of the country. Dates, decimals, versions
and numbers behind a word such as «invoice» are none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import phonenumbers
import re2
from phonenumbers import PhoneMetadata

from sidecar.guardrails.detectors.words import (
    expression_of,
    is_near,
    kind_before,
    starts_with,
    words_of,
)
from sidecar.guardrails.matching.rule import Expression, Rank, Rule, Span, compile_re2, rule

KNOWN_REGIONS: Final = frozenset(phonenumbers.SUPPORTED_REGIONS)
CONTEXT_REGIONS: Final = ("US", "GB", "DE", "FR", "ES", "IT", "IN", "BR", "AU", "JP", "MX", "NL")
"""Plans tried for plain digits behind a word such as «call»."""

_KINDS: Final = (
    "fixed_line", "mobile", "toll_free", "premium_rate", "shared_cost", "personal_number", "voip",
    "pager", "uan", "voicemail",
)  # fmt: skip
_NO_NUMBER: Final = r"[^\x00-\x{10FFFF}]"
_MAX_COUNTRY_DIGITS: Final = 3
_MIN_DIGITS: Final = 7
_MAX_DIGITS: Final = 15  # E.164
_MAX_WORDED_DIGITS: Final = 13  # of a longer one, which may be several, the valid part
_MIN_GROUPED_DIGITS: Final = 9
_MIN_TRUNK_DIGITS: Final = 9  # with the prefix; shorter ones must have the country's own groups
_MIN_DOTS: Final = 2  # one is a decimal point
_SOME_GROUPS: Final = 3
_MIN_GROUP_DIGITS: Final = 2
_MOBILE_AREA_DIGITS: Final = range(3, 6)  # `0151`, `07911`: people part them as they like


def load_numbering_plans() -> None:
    """Read and compile all plans now (some 0.2 s) instead of one at a time from within a scan."""
    PhoneMetadata.load_all()
    for code in phonenumbers.COUNTRY_CODE_TO_REGION_CODE:
        _country_plan(str(code).encode())


def is_international(digits: bytes) -> bool:
    """Return whether *digits*, country code first, are a number in use."""
    for length in range(1, _MAX_COUNTRY_DIGITS + 1):
        plan = _country_plan(digits[:length])
        if plan is not None:  # no code is the beginning of another
            return plan.fullmatch(digits[length:]) is not None
    return False


def is_national(digits: bytes, regions: tuple[str, ...]) -> bool:
    """Return whether *digits* are a number in use in any of *regions*, as dialled there."""
    return _national_plan(regions).fullmatch(digits) is not None


@lru_cache(maxsize=1_024)
def _country_plan(code: bytes) -> Any:
    regions = phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(int(code))
    if regions is None or code.startswith(b"0"):
        return None
    return _compiled(
        [
            _plan(
                PhoneMetadata.metadata_for_nongeo_region(int(code))
                if region == phonenumbers.REGION_CODE_FOR_NON_GEO_ENTITY
                else PhoneMetadata.metadata_for_region(region)
            )
            for region in regions
        ]
    )


@lru_cache(maxsize=1_024)
def _national_plan(regions: tuple[str, ...]) -> Any:
    return _compiled([_plan(PhoneMetadata.metadata_for_region(region)) for region in regions])


def _compiled(plans: list[str]) -> Any:
    options = re2.Options()
    options.max_mem = 32 << 20  # the 25 regions of +1 in one
    return re2.compile("|".join(plans).encode(), options)


def _plan(metadata: PhoneMetadata | None) -> str:
    """Return the expression for a national number, with or without the prefix to dial."""
    if metadata is None:
        return _NO_NUMBER
    kinds = [getattr(metadata, kind) for kind in _KINDS]
    numbers = [kind.national_number_pattern for kind in kinds
               if kind is not None and kind.national_number_pattern]  # fmt: skip
    prefix = metadata.national_prefix_for_parsing or ""
    return f"(?:{prefix})?(?:{'|'.join(numbers)})"


@dataclass(frozen=True, slots=True)
class _Format:
    """One way in which a country groups numbers; `trunk` is the prefix that must stand before."""

    leading: re.Pattern[bytes]
    groups: re.Pattern[bytes]
    trunk: bytes
    is_trunk_needed: bool
    mobile: re.Pattern[bytes] | None


@lru_cache(maxsize=256)
def _formats(region: str) -> tuple[_Format, ...]:
    """Return the formats of *region*; Canada has those of its code's first country."""
    metadata = PhoneMetadata.metadata_for_region(region)
    if metadata is None:
        return ()
    main = phonenumbers.COUNTRY_CODE_TO_REGION_CODE[metadata.country_code or 0][0]
    formats = (PhoneMetadata.metadata_for_region(main) or metadata).number_format
    trunk = metadata.national_prefix or ""
    mobile = metadata.mobile.national_number_pattern if metadata.mobile else None
    return tuple(
        _Format(
            re.compile((one.leading_digits_pattern or [""])[-1].encode()),
            re.compile((one.pattern or "").encode()),
            trunk.encode(),
            bool(trunk)
            and trunk in re.sub(r"\\[0-9]", "", one.national_prefix_formatting_rule or "")
            and not one.national_prefix_optional_when_formatting,
            re.compile(mobile.encode()) if mobile else None,
        )
        for one in formats
    )


@dataclass(frozen=True, slots=True)
class _Groups:
    """The digits of a candidate as written, and the signs between its groups, in their order."""

    digits: tuple[bytes, ...]
    signs: tuple[bytes, ...]
    has_brackets: bool

    @classmethod
    def of(cls, text: bytes) -> _Groups:
        """Divide *text* at everything but digits."""
        area, bracket, rest = text.rpartition(b")")
        signs = _BETWEEN.findall(rest.lstrip(b" -") if bracket else text)
        return cls(tuple(_GROUP.findall(text)), tuple(signs), bool(area))

    def is_written(self, regions: tuple[str, ...]) -> bool:
        """Return whether people in one of *regions* write a number of theirs like this."""
        whole, signs = b"".join(self.digits), self.signs
        between = signs if self.has_brackets else signs[1:]  # within the area's numbers
        is_decimal = b"." in signs and (len(set(signs)) > 1 or len(signs) < _MIN_DOTS)
        if (
            not _MIN_DIGITS <= len(whole) <= _MAX_DIGITS
            or is_decimal
            or len(set(between)) > 1
            or b"/" in between
        ):
            return False
        for region in regions:
            for form in _formats(region) if is_national(whole, (region,)) else ():
                trunk = form.trunk if whole.startswith(form.trunk) else b""
                number = whole[len(trunk) :]
                match = form.groups.fullmatch(number)
                if match is None or form.leading.match(number) is None:
                    continue
                is_mobile = form.mobile is not None and form.mobile.fullmatch(number) is not None
                expected = [len(group) for group in match.groups()]
                if self._fits(form, trunk, expected, is_mobile=is_mobile):
                    return True
                break  # only the first of the country's formats for such digits counts
        return False

    def _fits(
        self, form: _Format, trunk: bytes, expected: Sequence[int], *, is_mobile: bool
    ) -> bool:
        first, *others = self.digits
        if not others:  # plain digits
            return bool(trunk) and form.is_trunk_needed and is_mobile
        if first == b"0" and trunk and not self.has_brackets:
            return False  # an amount, or a number of a book
        written = [len(group) for group in others]
        if len(first) > len(trunk):
            written = [len(first) - len(trunk), *written]
        has_area = bool(trunk) or self.has_brackets or (not form.trunk and first[:1] == b"0")
        if written == expected:
            is_plain_pair = len(written) < _SOME_GROUPS and self.signs != (b" ",)
            return has_area or not (form.is_trunk_needed or b"/" in self.signs or is_plain_pair)
        if not has_area or b"." in self.signs or len(expected) > _SOME_GROUPS:
            return False
        is_area = written[0] == expected[0] or (
            is_mobile and written[0] + len(trunk) in _MOBILE_AREA_DIGITS
        )
        length = sum(map(len, self.digits))
        is_long = length >= _MIN_TRUNK_DIGITS - self.has_brackets
        return is_area and is_long and min(written[1:], default=0) >= _MIN_GROUP_DIGITS


_GROUP: Final = re.compile(rb"[0-9]+")
_BETWEEN: Final = re.compile(rb"[^0-9]+")
_DATES: Final = re.compile(
    # ISO 8601 and the other orders of day, month and year; a time may follow.
    rb"(?:(?:19|20)[0-9]{2}([./ -])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12][0-9]|3[01])"
    rb"|(?:0?[1-9]|[12][0-9]|3[01])([./ -])(?:0?[1-9]|1[0-2])\2(?:19|20)[0-9]{2}"
    rb"|(?:0?[1-9]|[12][0-9]|3[01])([./-])(?:0?[1-9]|1[0-2])\3[0-9]{2}"
    rb"|(?:0?[1-9]|1[0-2])([./-])(?:0?[1-9]|[12][0-9]|3[01])\4(?:(?:19|20)[0-9]{2}|[0-9]{2})"
    rb"|(?:19|20)[0-9]{2}[./ -]+(?:19|20)[0-9]{2})(?![0-9]|[./-][0-9])[ ,]*"
)
_YEAR_FIRST: Final = re.compile(rb"(?:19|20)[0-9]{2}[-/.][0-9]{3,}\Z")
_ZIP: Final = re.compile(rb"[0-9]{5}-[0-9]{3,4}")
_DECIMAL: Final = re.compile(rb"[0-9]+[.][0-9]+(?:[ /-]+[0-9]+[.][0-9]+)*")
_NUMBER: Final = re.compile(rb"\(?[0-9][0-9() ./-]{5,18}[0-9]\b")
_SIGNS: Final = b" ().-/"


def international(content: bytes, start: int, end: int) -> Iterable[Span]:
    """Return the number in E.164 form at *start*, without groups that make it invalid.

    One in groups behind a country's code counts if its plan has no such number: plans change.
    """
    if found := _longest_valid(content, (start, end), is_international):
        return found
    code, _, rest = content[start + 1 : end].partition(b" ")
    digits = len(rest.translate(None, _SIGNS))
    is_written = (
        code.isdigit()
        and int(code) in phonenumbers.COUNTRY_CODE_TO_REGION_CODE
        and not rest.isdigit()
        and _MIN_GROUPED_DIGITS <= len(code) + digits <= _MAX_DIGITS
        and not starts_with("unit", content, end)
    )
    return ((start, end),) if is_written else ()


def dialled(content: bytes, start: int, end: int) -> Iterable[Span]:
    """Return the number behind 00, or 011 in North America, as dialled for another country.

    Its country's plan must have it, since numbers of orders begin with zeros as well.
    """
    prefix = 3 if content.startswith(b"011", start) else 2
    code = _GROUP.search(content, start + prefix)
    if (
        code is None
        or int(code[0]) not in phonenumbers.COUNTRY_CODE_TO_REGION_CODE
        or kind_before(content, start, "identifier", "money")
    ):
        return ()
    return _longest_valid(content, (start, end), lambda digits: is_international(digits[prefix:]))


def _longest_valid(
    content: bytes, span: Span, is_valid: Callable[[bytes], bool]
) -> Sequence[Span]:
    """Drop groups from the end, twice at most: a year or an extension may follow."""
    start, end = span
    for _ in range(3):
        digits = content[start:end].translate(None, b"+ ().-/")
        if len(digits) < _MIN_DIGITS:
            break
        if len(digits) <= _MAX_DIGITS and is_valid(digits):
            return ((start, end),)
        shorter = max(
            content.rfind(sign, start, end) for sign in (b" ", b"(", b")", b".", b"-", b"/")
        )
        if shorter <= start:
            break
        while content[shorter - 1] in _SIGNS:  # ends at the first digit or plus at latest
            shorter -= 1
        end = shorter
    return ()


def near_word(content: bytes, start: int, end: int) -> Iterable[Span]:
    """Return the number beside a word for a telephone or a call, if it is one.

    Another word between may say that it is none. Behind a verb such as «call», plain digits must
    be a number of `CONTEXT_REGIONS`.
    """
    if (
        content[start - 1 : start].isalnum()
        or content[end : end + 1].isalnum()
        or kind_before(content, start, "identifier")
    ):
        return ()
    if date := _DATES.match(content, start, end):  # a number may stand behind it
        behind = _NUMBER.match(content, date.end())
        if behind is None:
            return ()
        start, end = behind.span()
    text = content[start:end]
    if _ZIP.fullmatch(text) or _YEAR_FIRST.match(text) or _DECIMAL.fullmatch(text):
        return ()
    digits = len(text.translate(None, _SIGNS))
    is_clear = not text.isdigit() or is_near("telephone", content, start, start)
    if is_clear and _MIN_DIGITS <= digits <= _MAX_WORDED_DIGITS:
        return ((start, end),)
    return _longest_valid(
        content, (start, end), lambda digits: is_national(digits, CONTEXT_REGIONS)
    )


@dataclass(frozen=True, slots=True)
class National:
    """Locates numbers in the national form of these regions, as people write them there."""

    regions: tuple[str, ...]

    def __call__(self, content: bytes, start: int, end: int) -> Iterable[Span]:
        """Return the number in a run of groups of digits, if it is one of any of the regions."""
        while date := _DATES.match(content, start, end):
            start = date.end()
        text = content[start:end]
        groups = _Groups.of(text)
        if _OTHER_CODE.fullmatch(text) or not groups.is_written(self.regions):
            return ()
        kind = kind_before(content, start, "identifier", "money", "text")
        if kind in {"identifier", "money"} or starts_with("unit", content, end):
            return ()
        is_value = _KEY.search(content, max(start - _KEY_BYTES, 0), start) is not None
        is_plain = text.isdigit() and _QUOTE.search(content, max(start - 3, 0), start) is not None
        if is_plain or (is_value and kind != "text"):
            return ()
        is_among_numbers = (
            _NUMBER_BEFORE.search(content, max(start - 4, 0), start) is not None
            or _NUMBER_BEHIND.match(content, end) is not None
        )
        is_sure = text.startswith((b"0", b"(")) and groups.digits[0] not in {b"0", text}
        return ((start, end),) if is_sure or not is_among_numbers else ()


_OTHER_CODE: Final = re.compile(rb"[0-9]{5}-[0-9]{3,4}|[0-9]{4}-[0-9]{4}")
"""Postal codes, and numbers of periodicals (ISSN)."""
_KEY_BYTES: Final = 6
_KEY: Final = re.compile(rb"[\"'] ?: ?[\"']\Z|[a-z_]=[\"']?\Z")
"""In JSON and the like the key says if a value is a telephone number, unless it is any text."""
_QUOTE: Final = re.compile(rb"[\"':=] ?\Z")
_NUMBER_BEFORE: Final = re.compile(rb"[0-9][ ,;:\t|]{1,3}\Z")
_NUMBER_BEHIND: Final = re.compile(rb"[ ]?[,;:\t|][ ]?[0-9]|,[0-9]")


_AS_WRITTEN: Final = r"\(?[0-9][0-9() ./-]{5,18}[0-9]"
_GAP: Final = r"(?:[\x01-*,-/:-\x7f]|[\xc2-\xf4][\x80-\xbf]{1,3}){0,20}?"
"""So many characters, of which none is a digit or a plus sign."""
_BEFORE_LABEL: Final = rf" ?[ ,(-] ?(?i:{'|'.join(words_of('label'))})\b"
_ANY_NUMBER: Final = rf"{_AS_WRITTEN}\b"

PHONE_RULES: Final = (
    rule(
        "PHONE",
        r"\+[1-9][0-9() ./-]{5,20}[0-9]",
        international,
        rank=Rank.PHONE,
        finder=r"\+(?<![0-9A-Za-z_+]\+)[1-9][0-9() ./-]{5,20}[0-9]",
    ),
    rule(
        "PHONE",
        r"\b(?:00|011)[ -]?[1-9][0-9]{0,2}[ (./-][0-9() ./-]{5,18}[0-9]",
        dialled,
        rank=Rank.PHONE,
        finder=r"(?<![0-9A-Za-z_.,:/-])(?:00|011)[ -]?[1-9][0-9]{0,2}[ (./-]"
        r"[0-9() ./-]{5,18}[0-9]",
    ),
    # The database looks for the words alone: with a gap and a number they would slow its pass.
    *(
        Rule(
            "PHONE",
            Expression(words),
            near_word,
            Rank.PHONE,
            finder=compile_re2(Expression(rf"(?:{words}){_GAP}({_AS_WRITTEN})\b")),
        )
        for words in (expression_of("telephone", edge=r"(?:\b|_)"), expression_of("call"))
    ),
    Rule(
        "PHONE",
        Expression(rf"[0-9]{_BEFORE_LABEL}"),
        near_word,
        Rank.PHONE,
        finder=compile_re2(
            Expression(rf"\b(\(?[0-9]+[) ./-][0-9() ./-]{{3,16}}[0-9]){_BEFORE_LABEL}")
        ),
    ),
)


def national_phone_rule(regions: tuple[str, ...]) -> Rule:
    """Return the rule for numbers without country code, in the plans of *regions*."""
    return rule(
        "PHONE",
        _ANY_NUMBER,
        National(regions),
        rank=Rank.PHONE,
        # All groups of digits with one sign between, and no sign of a longer thing around. One
        # class first, so that the search skips to it.
        finder=r"[0-9(](?<![0-9A-Za-z_.,@#$%&=+*/\\^~-][0-9(])"
        r"(?:(?<![0-9][ :][0-9(])|(?<=:[0-9]{2} [0-9(]))"
        r"(?:(?<=0)[0-9]{6,14}+(?![ ./-][0-9])"
        r"|(?:(?<=[0-9])[ -]?\(|(?<=\())[0-9]{1,6}\)[ -]?[0-9]{1,12}+(?:[ ./-][0-9]{1,12}+){0,5}+"
        r"|(?<=[0-9])[0-9]{0,11}+(?:[ ./-][0-9]{1,12}+){1,6}+)(?![0-9A-Za-z_%@=])(?![ ./-][0-9])",
    )
