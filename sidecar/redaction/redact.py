"""Replaces findings by placeholders, in place: every other byte of the body stays."""

from __future__ import annotations

import hashlib
import hmac
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, NamedTuple, assert_never

from sidecar.apis.fragments import top_values
from sidecar.domain.cooperative import SLICE_BYTES, SLICE_CANDIDATES, Cooperative
from sidecar.domain.finding import (
    HASH_DIGITS,
    MAX_PLACEHOLDER_BYTES,
    PLACEHOLDER_FORMS,
    Finding,
    Restoration,
)
from sidecar.domain.policy import Guardrail, RedactionStyle
from sidecar.domain.subject import Malformed, TextPart
from sidecar.jsontext import tokens as json_text
from sidecar.jsontext.open_strings import opened_after
from sidecar.jsontext.strict import parse
from sidecar.jsontext.tokens import Replacement, splice

_DIGIT_BEFORE: Final = re.compile(rb"[0-9][ -]?\Z")
_DIGIT_AFTER: Final = re.compile(rb"[ -]?[0-9]")
_LONGEST_ESCAPE: Final = len(rb"\u0000")


@dataclass(frozen=True, slots=True)
class RedactionRules:
    """The guardrails behind the findings, by name; each states its style of redaction.

    `hash_key` is the organization's own; without one `hash` falls back to numbers. `first` are
    the roles whose values are numbered before all others. Numbers begin *after* one. With
    `skips_written` they pass over all those in the request, also where nothing is restored, and a
    value whose hash is in the request is numbered.
    """

    guardrails: Mapping[str, Guardrail]
    hash_key: bytes | None = field(default=None, repr=False)
    first: frozenset[str] = frozenset()
    after: int = 0
    skips_written: bool = False


_STORED: Final = re.compile(
    rb'"(previous_response_id|previous_?[iI]nteraction_?[iI]d|conversation)"'
)
"""Names earlier turns, which the provider has with the placeholders of their own requests."""
_CACHED: Final = re.compile(rb'"cached_?[cC]ontent"\s*+:\s*+"')
"""The same of a cache, in any object: a client of OpenAI's API has it in one of Google's."""
_REFERENCE: Final = re.compile(
    rb'\{\s*+(?:"type"\s*+:\s*+(?:"item_reference"|null)\s*+,\s*+)?+"id"\s*+:\s*+"[^"]*+"\s*+'
    rb'(?:,\s*+"type"\s*+:\s*+(?:"item_reference"|null)\s*+)?+\}'
)
"""An item of OpenAI's `input` that is one of an earlier turn. Its type may be left out."""
_NUMBERS: Final = range(10_000, 990_000)
"""A longer number in a placeholder could be a secret itself."""


def number_before(body: bytes, request_id: str) -> int:
    """Return the number after which placeholders are numbered.

    It is 0, unless the model reads earlier turns that are not in the body: `[EMAIL_1]` would name
    two people in one conversation, and an answer about the first would be given the second's.
    """
    if _CACHED.search(body) is not None:
        return own_number(request_id)
    if _STORED.search(body) is None and _REFERENCE.search(body) is None:
        return 0
    values = top_values(body)
    names = {found.decode() for found in _STORED.findall(body)}
    given = values.get("input")
    is_stored = any(body[values[name].start] in b'"{' for name in names & values.keys()) or (
        given is not None and _REFERENCE.search(body, given.start, given.end) is not None
    )
    return own_number(request_id) if is_stored else 0


def own_number(request_id: str) -> int:
    """Return a number for the request, whose answer is about turns that have not been read."""
    digest = hashlib.sha256(request_id.encode()).digest()
    return _NUMBERS[int.from_bytes(digest[:8], "big") % len(_NUMBERS)]


class Redacted(NamedTuple):
    """The body that goes on, and the values to restore in its answer.

    `placeholders` are those of the request, which its answer goes on with.
    """

    body: bytes
    restoration: Restoration
    placeholders: Placeholders


def redact(
    body: bytes, parts: Sequence[TextPart], findings: Iterable[Finding], *, rules: RedactionRules
) -> Cooperative[Redacted]:
    """Return *body* with each found span replaced, for example by `[EMAIL_1]`.

    Without any, it is searched as a whole for placeholders that its answer may not get: *parts* of
    known messages have not been read.
    """
    found = tuple(findings)
    parts = parts if found else (TextPart(body, (), ""),)
    made, restoration, placeholders = yield from replacements(parts, found, rules=rules)
    redacted, has_new_keys = yield from splice(body, made)
    is_suspect = has_new_keys and not placeholders.taken.keys().isdisjoint(
        [one.text for one in made]
    )
    if is_suspect and isinstance(parse(redacted), Malformed):
        # A key has become one that stands in its object already, a number or a hash.
        apart = replace(rules, skips_written=True)
        made, restoration, placeholders = yield from replacements(parts, found, rules=apart)
        redacted, _ = yield from splice(body, made)
    return Redacted(redacted, restoration, placeholders)


def replacements(
    parts: Sequence[TextPart], findings: Iterable[Finding], *, rules: RedactionRules
) -> Cooperative[tuple[list[Replacement], Restoration, Placeholders]]:
    """Return a replacement for each finding, the values to restore, and all placeholders made.

    A placeholder that the client wrote itself is never restored: the client would receive a value
    by guessing its name, or its own text would turn into the address of another person.
    """
    first = rules.first
    ordered = sorted(
        findings,
        key=lambda one: (
            parts[one.part].role not in first, one.part, one.start, -one.end, one.type
        ),
    )  # fmt: skip
    taken = yield from written_in(parts, first)
    placeholders = Placeholders(
        hash_key=rules.hash_key, taken=taken, after=rules.after, skips_written=rules.skips_written
    )
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
        has_texts = part.location[:1] in with_texts
        # Without texts within it, also an escape that the value begins in the middle of goes.
        reach = 0 if has_texts else _LONGEST_ESCAPE
        near = part.content[max(found.start - reach, 0) : found.end]
        if b"\\" in near and json_text.may_be_json(part.content):
            start, end = json_text.whole_units(part.content, found.start, found.end)
            value = part.content[start:end]
            # A model reads through the escapes of JSON text. The text inside such a string is a
            # part of its own: found in both, a value is one value. Without such parts it is none.
            if has_texts:
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
        skips = guardrail.restore or rules.skips_written
        place = _ANYWHERE if skips else (part.role not in first, found.part, found.start)
        text = placeholders.of(value, type_=found.type, style=style, before=place)
        if guardrail.restore and text not in taken:
            originals[text] = value
        made.append(Replacement(part.location, found.start, found.end, text))
    return made, Restoration(originals), placeholders


Place = tuple[bool, int, int]
"""Where a text stands in the order of numbers: whether its role comes later, its part, offset."""
_ANYWHERE: Final[Place] = (True, sys.maxsize, 0)

_PART_BYTES: Final = 64
"""Text that is searched in the time that a part takes beside its text."""


def written_in(
    parts: Iterable[TextPart], first: frozenset[str] = frozenset()
) -> Cooperative[dict[bytes, Place]]:
    """Return everything in *parts* that looks like a placeholder, and where it stands first."""
    written: dict[bytes, Place] = {}
    work = 0
    for index, part in enumerate(parts):
        content = part.content
        if (work := work + _PART_BYTES) >= SLICE_BYTES:
            yield
            work = 0
        for first_byte, form in PLACEHOLDER_FORMS:
            if first_byte not in content:
                continue  # as in nearly all of many short texts
            for start in range(0, len(content), SLICE_BYTES):
                end = start + SLICE_BYTES
                for found in form.finditer(content, start, end + MAX_PLACEHOLDER_BYTES):
                    place = part.role not in first, index, found.start()
                    written[found[0]] = min(written.get(found[0], place), place)
                work += SLICE_BYTES if end < len(content) else len(content) - start
                if work >= SLICE_BYTES:
                    yield
                    work = 0
    return written


class Placeholders:
    """Gives the same value the same placeholder, and two values different ones.

    Numbers run per type in order of first use, so that a model can still distinguish two people
    and the answer can refer to them. A number is skipped if it is `taken` before the value's
    place: an earlier answer has it, or the client's own text.
    """

    def __init__(
        self,
        *,
        hash_key: bytes | None,
        taken: Mapping[bytes, Place] = MappingProxyType({}),
        after: int = 0,
        skips_written: bool = False,
    ) -> None:
        self._hash_key = hash_key
        self.taken: Final = taken
        self._after = after
        self._skips_written = skips_written
        self._made: dict[tuple[RedactionStyle, str, bytes], bytes] = {}
        self._counts: Counter[str] = Counter()

    def of(
        self, value: bytes, *, type_: str, style: RedactionStyle, before: Place = _ANYWHERE
    ) -> bytes:
        """Return the placeholder of *value*; a new one is not taken *before* its place."""
        key = (style, type_, value)
        made = self._made.get(key)
        if made is not None:
            return made
        match style:
            case RedactionStyle.HASH if self._hash_key is not None:
                message = b"%s\x00%s" % (type_.encode(), value)
                digest = hmac.new(self._hash_key, message, hashlib.sha256).hexdigest()
                made = f"[{type_}_h_{digest[:HASH_DIGITS]}]".encode()
                if self._skips_written and made in self.taken:
                    made = self._numbered(type_, None, before=before)
            case RedactionStyle.FORMAT_PRESERVING if type_ == CARD_TYPE:
                made = self._numbered(type_, value.decode(), before=before)
            case (
                RedactionStyle.PLACEHOLDER | RedactionStyle.HASH | RedactionStyle.FORMAT_PRESERVING
            ):
                made = self._numbered(type_, None, before=before)
            case _:
                assert_never(style)
        self._made[key] = made
        return made

    def _numbered(self, type_: str, card: str | None, *, before: Place) -> bytes:
        while True:
            self._counts[type_] += 1
            number = self._after + self._counts[type_]
            made = None if card is None else card_stand_in(card, number)
            made = made or f"[{type_}_{number}]".encode()
            if self.taken.get(made, before) >= before:
                return made


CARD_TYPE: Final = "CREDIT_CARD"
"""The type of finding that has a shape worth keeping."""

_CARD_DIGITS: Final = range(12, 20)
"""Digits of a card number, ISO/IEC 7812-1 and the networks' own ranges."""

_SEPARATORS: Final = " -"


def card_stand_in(card: str, number: int) -> bytes | None:
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
