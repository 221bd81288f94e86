"""Replaces findings by placeholders, in place: every other byte of the body stays."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, assert_never

from sidecar.apis.fragments import top_values
from sidecar.domain.cooperative import SLICE_CANDIDATES, SLICE_FINDINGS, Cooperative
from sidecar.domain.finding import HASH_DIGITS, PLACEHOLDER, Finding, Restoration
from sidecar.domain.policy import Guardrail, RedactionStyle
from sidecar.domain.subject import Malformed, TextPart
from sidecar.jsontext import tokens as json_text
from sidecar.jsontext.open_strings import opened_after
from sidecar.jsontext.strict import parse
from sidecar.jsontext.tokens import Replacement, splice

_DIGIT_BEFORE: Final = re.compile(rb"[0-9][ -]?\Z")
_DIGIT_AFTER: Final = re.compile(rb"[ -]?[0-9]")


@dataclass(frozen=True, slots=True)
class RedactionRules:
    """The guardrails behind the findings, by name; each states its style of redaction.

    `hash_key` is the organization's own; without one `hash` falls back to numbers. `first` are
    the roles whose values are numbered before all others. Numbers begin *after* one. With
    `skips_written` they pass over those in the request, also where nothing is restored.
    """

    guardrails: Mapping[str, Guardrail]
    hash_key: bytes | None = field(default=None, repr=False)
    first: frozenset[str] = frozenset()
    after: int = 0
    skips_written: bool = False


_STORED: Final = re.compile(rb'"(previous_response_id|conversation|cached_?[cC]ontent)"')
"""Names earlier turns, which the provider has with the placeholders of their own requests."""
_NUMBERS: Final = range(10_000, 990_000)
"""A longer number in a placeholder could be a secret itself."""


def number_before(body: bytes, request_id: str) -> int:
    """Return the number after which placeholders are numbered.

    It is 0, unless the model reads earlier turns that are not in the body: `[EMAIL_1]` would name
    two people in one conversation, and an answer about the first would be given the second's.
    """
    if _STORED.search(body) is None:
        return 0
    values = top_values(body)
    names = {found.decode() for found in _STORED.findall(body)}
    if not any(body[values[name].start] in b'"{' for name in names & values.keys()):
        return 0
    digest = hashlib.sha256(request_id.encode()).digest()
    return _NUMBERS[int.from_bytes(digest[:8], "big") % len(_NUMBERS)]


_FEW: Final = 16
"""Placeholders that are looked for one by one."""


class Redacted(NamedTuple):
    """The body that goes on, and the values to restore in its answer."""

    body: bytes
    restoration: Restoration


def redact(
    body: bytes, parts: Sequence[TextPart], findings: Iterable[Finding], *, rules: RedactionRules
) -> Cooperative[Redacted]:
    """Return *body* with each found span replaced, for example by `[EMAIL_1]`."""
    found = tuple(findings)
    made, restoration = yield from replacements(parts, found, rules=rules)
    redacted = yield from splice(body, made)
    texts = {one.text for one in made}
    is_suspect = len(texts) > _FEW or b"\\u00" in body or any(map(body.__contains__, texts))
    if is_suspect and isinstance(parse(redacted), Malformed):
        # A key has become one that stands in its object already: that number is passed over.
        apart = replace(rules, skips_written=True)
        made, restoration = yield from replacements(parts, found, rules=apart)
        redacted = yield from splice(body, made)
    return Redacted(redacted, restoration)


def replacements(
    parts: Sequence[TextPart], findings: Iterable[Finding], *, rules: RedactionRules
) -> Cooperative[tuple[list[Replacement], Restoration]]:
    """Return a replacement for each finding, and the values to restore in the answer.

    A placeholder that the client wrote itself is never restored: the client would receive a value
    by guessing its name, or its own text would turn into the address of another person.
    """
    ordered = sorted(findings, key=lambda found: (found.part, found.start, -found.end, found.type))
    if rules.first:
        ordered.sort(key=lambda found: parts[found.part].role not in rules.first)
    skips = rules.skips_written or any(rules.guardrails[one.guardrail].restore for one in ordered)
    taken = (yield from _written(parts)) if skips else frozenset[bytes]()
    placeholders = Placeholders(hash_key=rules.hash_key, taken=taken, after=rules.after)
    with_texts = {part.location[:1] for part in parts if len(part.location) > 1}
    # Of a text that is found as a whole, the texts that it holds as JSON go with it.
    whole: set[tuple[int, ...]] = set()
    if with_texts:
        whole = {
            parts[one.part].location
            for one in ordered
            if (one.start, one.end) == (0, len(parts[one.part].content))
        }
    originals: dict[bytes, bytes] = {}
    made: list[Replacement] = []
    read: dict[int, tuple[int, bytes]] = {}  # to where, and the strings open there
    for count, found in enumerate(ordered):
        if count and not count % SLICE_CANDIDATES:
            yield
        part, guardrail = parts[found.part], rules.guardrails[found.guardrail]
        depth = len(part.location)
        if depth > 1 and not whole.isdisjoint([part.location[:n] for n in range(1, depth)]):
            continue
        value = part.content[found.start : found.end]
        if b"\\" in value and json_text.may_be_json(part.content):
            start, end = json_text.whole_units(part.content, found.start, found.end)
            value = part.content[start:end]
            # A model reads through the escapes of JSON text. The text inside such a string is a
            # part of its own: found in both, a value is one value. Without such parts it is none.
            if part.location[:1] in with_texts:
                at, opened = read.get(found.part, (0, b""))
                opened = opened_after(part.content[at:start], opened)
                read[found.part] = start, opened
                for _ in range(opened.count(b'"')):
                    value = json_text.decode(value)
        style = guardrail.redaction
        if style is RedactionStyle.FORMAT_PRESERVING:
            before = part.content[max(found.start - 2, 0) : found.start]
            after = part.content[found.end : found.end + 2]
            if _DIGIT_BEFORE.search(before) or _DIGIT_AFTER.match(after):
                # Other digits stand right beside the number, which would merge with it.
                style = RedactionStyle.PLACEHOLDER
        text = placeholders.of(
            value,
            type_=found.type,
            style=style,
            may_be_taken=not (guardrail.restore or rules.skips_written),
        )
        if guardrail.restore and text not in taken:
            originals[text] = value
        made.append(
            Replacement(location=part.location, start=found.start, end=found.end, text=text)
        )
    return made, Restoration(originals)


def _written(parts: Sequence[TextPart]) -> Cooperative[frozenset[bytes]]:
    """Return everything in the request that looks like a placeholder."""
    written: set[bytes] = set()
    for count, part in enumerate(parts, start=1):
        written.update(PLACEHOLDER.findall(part.content))
        if not count % SLICE_FINDINGS:
            yield
    return frozenset(written)


class Placeholders:
    """Gives the same value the same placeholder, and two values different ones.

    Numbers run per type in order of first use, so that a model can still distinguish two people
    and the answer can refer to them. A number is skipped if the client's own text has it already,
    by `taken`.
    """

    def __init__(self, *, hash_key: bytes | None, taken: frozenset[bytes], after: int = 0) -> None:
        self._hash_key = hash_key
        self._taken = taken
        self._after = after
        self._made: dict[tuple[RedactionStyle, str, bytes], bytes] = {}
        self._counts: Counter[str] = Counter()

    def of(
        self, value: bytes, *, type_: str, style: RedactionStyle, may_be_taken: bool = False
    ) -> bytes:
        """Return the placeholder of *value*, one that is taken only if it *may be*."""
        key = (style, type_, value)
        made = self._made.get(key)
        if made is not None:
            return made
        match style:
            case RedactionStyle.HASH if self._hash_key is not None:
                message = b"%s\x00%s" % (type_.encode(), value)
                digest = hmac.new(self._hash_key, message, hashlib.sha256).hexdigest()
                made = f"[{type_}_h_{digest[:HASH_DIGITS]}]".encode()
            case RedactionStyle.FORMAT_PRESERVING if type_ == CARD_TYPE:
                made = self._numbered(type_, value.decode(), may_be_taken=may_be_taken)
            case (
                RedactionStyle.PLACEHOLDER | RedactionStyle.HASH | RedactionStyle.FORMAT_PRESERVING
            ):
                made = self._numbered(type_, None, may_be_taken=may_be_taken)
            case _:
                assert_never(style)
        self._made[key] = made
        return made

    def _numbered(self, type_: str, card: str | None, *, may_be_taken: bool) -> bytes:
        while True:
            self._counts[type_] += 1
            number = self._after + self._counts[type_]
            made = None if card is None else stand_in(card, number)
            made = made or f"[{type_}_{number}]".encode()
            if may_be_taken or made not in self._taken:
                return made


CARD_TYPE: Final = "CREDIT_CARD"
"""The type of finding that has a shape worth keeping."""

_CARD_DIGITS: Final = range(12, 20)
"""Digits of a card number, ISO/IEC 7812-1 and the networks' own ranges."""

_SEPARATORS: Final = " -"


def stand_in(card: str, number: int) -> bytes | None:
    """Return the *number*-th stand-in in the shape of *card*; None if that has another shape.

    It begins with 0, which no issuer has (ISO/IEC 7812-1), and its check digit is wrong: it cannot
    be charged, and no search for card numbers finds it again.
    """
    digits = sum(character.isdecimal() for character in card)
    if digits not in _CARD_DIGITS or not all(
        # Characters without width may stand between digits, and are left out of the stand-in.
        character.isdecimal() or character in _SEPARATORS or not character.isprintable()
        for character in card
    ):
        return None
    payload = f"{number:0{digits - 1}d}"
    total = 0  # of Luhn's test (ISO/IEC 7812-1 annex B)
    for place, character in enumerate(reversed(payload)):
        digit = int(character) * (1 if place % 2 else 2)
        total += digit - 9 if digit > 9 else digit  # noqa: PLR2004 - the sum of its two digits
    made = iter(payload + str((5 - total) % 10))
    return "".join(
        next(made) if character.isdecimal() else character
        for character in card
        if character.isdecimal() or character in _SEPARATORS
    ).encode()
