"""Replaces findings in place: every other byte of the body stays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sidecar.apis.request_text import MAX_NESTING
from sidecar.domain.finding import PLACEHOLDER, Finding, Restoration
from sidecar.domain.policy import Guardrail, RedactionStyle
from sidecar.domain.subject import TextPart
from sidecar.jsontext import tokens as json_text
from sidecar.jsontext.splice import Replacement, splice
from sidecar.redaction.placeholders import Placeholders

_DIGIT_BEFORE: Final = re.compile(rb"[0-9][ -]?\Z")
_DIGIT_AFTER: Final = re.compile(rb"[ -]?[0-9]")


@dataclass(frozen=True, slots=True)
class RedactionRules:
    """The guardrails behind the findings, by name; each states its style of redaction.

    `hash_key` is the organization's own; without one `hash` falls back to numbers.
    """

    guardrails: Mapping[str, Guardrail]
    hash_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Redacted:
    """The body that goes on, and the values to restore in its answer."""

    body: bytes
    restoration: Restoration


def redact(
    body: bytes, parts: Sequence[TextPart], findings: Iterable[Finding], *, rules: RedactionRules
) -> Redacted:
    """Return *body* with each found span replaced, for example by `[EMAIL_1]`."""
    made, restoration = replacements(parts, findings, rules=rules)
    return Redacted(splice(body, made), restoration)


def replacements(
    parts: Sequence[TextPart], findings: Iterable[Finding], *, rules: RedactionRules
) -> tuple[list[Replacement], Restoration]:
    """Return a replacement for each finding, and the values to restore in the answer.

    A placeholder that the client wrote itself is never restored: the client would receive a value
    by guessing its name, or its own text would turn into the address of another person.
    """
    ordered = sorted(findings, key=lambda found: (found.part, found.start, -found.end, found.type))
    restores = any(rules.guardrails[found.guardrail].restore for found in ordered)
    taken = _written(parts) if restores else frozenset[bytes]()
    placeholders = Placeholders(hash_key=rules.hash_key, taken=taken)
    originals: dict[bytes, bytes] = {}
    made: list[Replacement] = []
    for found in ordered:
        part, guardrail = parts[found.part], rules.guardrails[found.guardrail]
        value = part.content[found.start : found.end]
        if json_text.may_be_json(part.content):
            # A model reads through the escapes of JSON text. The text inside such a string is a
            # part of its own: found in both, a value is one value.
            start, end = json_text.whole_units(part.content, found.start, found.end)
            value = part.content[start:end]
            for _ in range(MAX_NESTING):
                value = json_text.decode(value)
        style = guardrail.redaction
        if style is RedactionStyle.FORMAT_PRESERVING:
            before = part.content[max(found.start - 2, 0) : found.start]
            after = part.content[found.end : found.end + 2]
            if _DIGIT_BEFORE.search(before) or _DIGIT_AFTER.match(after):
                # Other digits stand right beside the number, which would merge with it.
                style = RedactionStyle.PLACEHOLDER
        text = placeholders.of(value, type_=found.type, style=style)
        if guardrail.restore and text not in taken:
            originals[text] = value
        made.append(
            Replacement(location=part.location, start=found.start, end=found.end, text=text)
        )
    return made, Restoration(originals)


def _written(parts: Sequence[TextPart]) -> frozenset[bytes]:
    """Return everything in the request that looks like a placeholder."""
    return frozenset(
        found.group() for part in parts for found in PLACEHOLDER.finditer(part.content)
    )
