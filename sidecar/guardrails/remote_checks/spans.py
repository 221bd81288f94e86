"""Spans in Unicode characters, as servers count, turned into spans in bytes, as findings do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sidecar.domain.finding import Finding
from sidecar.domain.subject import TextPart
from sidecar.guardrails.remote import RemoteCheckError


def in_bytes(findings: Sequence[Finding], parts: Sequence[TextPart]) -> tuple[Finding, ...]:
    """Return *findings* with byte offsets.

    Raises:
        RemoteCheckError: a span is outside its text, or empty.
    """
    if any(one.start >= one.end for one in findings):
        raise RemoteCheckError("span_out_of_range")
    offsets: dict[int, set[int]] = {}
    for one in findings:
        offsets.setdefault(one.part, set()).update((one.start, one.end))
    places = {part: _byte_offsets(parts, part, sorted(wanted)) for part, wanted in offsets.items()}
    return tuple(
        replace(one, start=places[one.part][one.start], end=places[one.part][one.end])
        for one in findings
    )


def _byte_offsets(parts: Sequence[TextPart], part: int, wanted: list[int]) -> dict[int, int]:
    """Return the byte offset of each character offset in one go over the text."""
    if part >= len(parts):
        raise RemoteCheckError("span_out_of_range")
    text = parts[part].content.decode()
    if wanted[-1] > len(text):
        raise RemoteCheckError("span_out_of_range")
    places: dict[int, int] = {}
    seen_characters = seen_bytes = 0
    for offset in wanted:
        seen_bytes += len(text[seen_characters:offset].encode())
        seen_characters = offset
        places[offset] = seen_bytes
    return places
