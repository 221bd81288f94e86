"""The spans of rules that occur: candidates by RE2, confirmed by the rule's own check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from sidecar.guardrails.rules.rule import Rule, Span
from sidecar.guardrails.slices import SLICE_CANDIDATES, Steps
from sidecar.guardrails.text_views import Piece, View

WINDOW_BYTES: Final = 262_144
"""A longer text is searched in windows of so many bytes, some 0.3 ms each."""

BYTES_A_CANDIDATE: Final = 64
"""Every so many bytes of one candidate count as one more."""

PartSpan = tuple[int, int, int]
"""A part's index, start and end in its bytes."""


def spans(
    rule: Rule, pieces: Sequence[Piece], ends: Sequence[int], *, first_end: int
) -> Steps[list[PartSpan]]:
    """Return what *rule* finds in *pieces*, from the one on that holds *first_end*."""
    view = View.FOLDED if rule.folded else None
    left = rule.max_candidates
    found: list[PartSpan] = []
    for index, piece in enumerate(pieces):
        if ends[index] <= first_end or not _searches(view, piece):
            continue
        if left <= 0:  # too many to look at: what is left counts as found
            if piece.length:
                found.append((piece.part, 0, piece.length))
            continue
        tried = yield from _search(rule, piece, left, found)
        left -= tried
    return found


def _search(rule: Rule, piece: Piece, left: int, found: list[PartSpan]) -> Steps[int]:
    """Add what *rule* finds in *piece* to *found*; return how many candidates that took."""
    tried = count = 0
    content, part, origin, locate = piece.content, piece.part, piece.origin, rule.locate
    for candidate in candidates(rule, content):
        if candidate is None:
            yield
            continue
        count += 1
        if not count % SLICE_CANDIDATES:
            yield
        tried += _weight(rule, candidate)
        if tried > left:
            found.append((part, 0, piece.length))
            break
        located = (candidate,) if locate is None else locate(content, *candidate)
        found += [(part, *origin.span(*span)) for span in located]
    return tried


def candidates(rule: Rule, content: bytes) -> Iterator[Span | None]:
    """Yield the spans the expression alone finds, left to right, and None between windows.

    A match counts only where it starts so far before its window's end that it is seen whole, so
    windows change nothing. An expression without a known reach is searched in one go.
    """
    group, finditer, reach = rule.group, rule.pattern.finditer, rule.reach
    length = len(content)
    if reach is None or length <= WINDOW_BYTES:
        for match in finditer(content):
            start, end = match.span(group)
            if start < end:
                yield start, end
        return
    position = 0
    while position < length:
        limit = min(length, position + max(WINDOW_BYTES, 2 * reach))
        certain = length if limit == length else limit - reach
        position, next_start = certain, position
        for match in finditer(content, next_start, limit):
            if match.start() >= certain:
                break
            position = max(certain, match.end())
            start, end = match.span(group)
            if start < end:
                yield start, end
        yield None


def _searches(view: View | None, piece: Piece) -> bool:
    if view is None:
        return View.RAW in piece.views or View.PLAIN in piece.views
    return view in piece.views


def _weight(rule: Rule, span: Span) -> int:
    """Return how many candidates a long one counts for: some validators go through it all."""
    return 1 if rule.locate is None else 1 + (span[1] - span[0]) // BYTES_A_CANDIDATE
