"""The spans of rules that occur: candidates by RE2, confirmed by the rule's own check."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

from sidecar.guardrails.origins import SAME
from sidecar.guardrails.rules.rule import Locate, Rule, Span
from sidecar.guardrails.slices import SLICE_CANDIDATES, Steps
from sidecar.guardrails.text_views import Piece, View

WINDOW_BYTES: Final = 262_144
"""A longer text is searched in windows of so many bytes, some 0.3 ms each."""

MAX_FOUND: Final = 2_000
"""Findings of one rule in one scan; beyond it the rest of the text counts as found."""

SLICE_ORIGINS: Final = 4
"""Findings led back to the original's bytes between two interruptions."""

BYTES_A_CANDIDATE: Final = 64
"""Every so many bytes of one candidate count as one more."""

PartSpan = tuple[int, int, int]
"""A part's index, start and end in its bytes."""


def spans(
    rule: Rule, pieces: Sequence[Piece], ends: Sequence[int], *, first_end: int
) -> Steps[list[PartSpan]]:
    """Return what *rule* finds in *pieces*, from the one on that holds *first_end*."""
    left = rule.max_candidates
    found: list[PartSpan] = []
    for index, piece in enumerate(pieces):
        if ends[index] <= first_end or not _searches(rule, piece):
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
    tried, begin = 0, len(found)
    part, locate = piece.part, rule.locate
    for index, batch in enumerate(candidates(rule, piece.content)):
        if index:
            yield
        tried += len(batch) if locate is None else sum(map(_weight, batch))
        if tried > left or len(found) > MAX_FOUND:
            found[begin:] = [(part, 0, piece.length)]
            tried = max(tried, left)
            break
        located = batch
        if locate is not None:
            located = yield from _confirmed(locate, piece.content, batch)
        if (accepts := piece.accepts) is not None:
            located = [span for span in located if accepts(*span)]
        if piece.origin is SAME:
            found += [(part, start, end) for start, end in located]
        else:
            yield from _led_back(piece, located, found)
    return tried


def _led_back(piece: Piece, located: Iterable[Span], found: list[PartSpan]) -> Steps[None]:
    """Add where *located* comes from; the first finding in each chunk of a text takes 0.2 ms."""
    for count, (start, end) in enumerate(located, 1):
        found.append((piece.part, *piece.origin.span(start, end)))
        if not count % SLICE_ORIGINS:
            yield


def candidates(rule: Rule, content: bytes) -> Iterator[list[Span]]:
    """Yield the spans the expression alone finds, left to right, a few at a time or none.

    A match counts only where it starts so far before its window's end that it is seen whole, so
    windows change nothing. An expression without a known reach is searched in one go.
    """
    reach, length = rule.reach, len(content)
    if reach is None or length <= WINDOW_BYTES:
        yield from _batches(rule, rule.pattern.finditer(content))
        return
    position = 0
    while position < length:
        limit = min(length, position + max(WINDOW_BYTES, 2 * reach))
        certain = length if limit == length else limit - reach
        window = _Window(rule.pattern.finditer(content, position, limit), certain)
        yield from _batches(rule, window)
        position = window.end
        yield []


class _Window:
    """The matches of one window that begin before *certain*; `end` is where the next begins."""

    def __init__(self, matches: Iterator[Any], certain: int) -> None:
        self._matches = matches
        self._certain = certain
        self.end = certain

    def __iter__(self) -> Iterator[Any]:
        for match in self._matches:
            start, end = match.span()
            if start >= self._certain:
                break
            self.end = max(self._certain, end)
            yield match


def _batches(rule: Rule, matches: Iterable[Any]) -> Iterator[list[Span]]:
    group, iterator = rule.group, iter(matches)
    while found := list(islice(iterator, SLICE_CANDIDATES)):
        spans_found = [match.span(group) for match in found]
        yield [span for span in spans_found if span[0] < span[1]]


def _confirmed(locate: Locate, content: bytes, batch: Iterable[Span]) -> Steps[list[Span]]:
    found: list[Span] = []
    weight = 0
    for candidate in batch:
        weight += _weight(candidate)
        if weight > SLICE_CANDIDATES:
            yield
            weight = 0
        found += locate(content, *candidate)
    return found


_FOR_WORDS: Final = frozenset({View.FOLDED, View.LEET})


def _searches(rule: Rule, piece: Piece) -> bool:
    """Tell whether *rule* looks at *piece*: at the text as it is read, or at its words."""
    if rule.folded:
        return not piece.views.isdisjoint(_FOR_WORDS)
    return not piece.views <= _FOR_WORDS


def _weight(span: Span) -> int:
    """Return how many candidates a long one counts for: some validators go through it all."""
    return 1 + (span[1] - span[0]) // BYTES_A_CANDIDATE
