"""Replaces what was found by placeholders, in place: every other byte of the body stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from sidecar.dialects.splice import Replacement, splice
from sidecar.domain.finding import Finding
from sidecar.domain.subject import TextPart


def redact(body: bytes, parts: Sequence[TextPart], findings: Iterable[Finding]) -> bytes:
    """Return *body* with each found span replaced by a placeholder such as `[EMAIL_1]`."""
    return splice(body, replacements(parts, findings))


def replacements(parts: Sequence[TextPart], findings: Iterable[Finding]) -> list[Replacement]:
    """Return a replacement a finding; the same value gets the same placeholder.

    Numbers run per type in the order of the text, so that a model can still tell two people
    apart and the answer can refer to them.
    """
    placeholders: dict[tuple[str, bytes], bytes] = {}
    counts: Counter[str] = Counter()
    ordered = sorted(findings, key=lambda found: (found.part, found.start, -found.end, found.type))
    made: list[Replacement] = []
    for found in ordered:
        part = parts[found.part]
        value = (found.type, part.content[found.start : found.end])
        if value not in placeholders:
            counts[found.type] += 1
            placeholders[value] = f"[{found.type}_{counts[found.type]}]".encode()
        made.append(
            Replacement(
                location=part.location,
                start=found.start,
                end=found.end,
                text=placeholders[value],
            )
        )
    return made
