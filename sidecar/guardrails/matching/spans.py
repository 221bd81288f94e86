"""Finds the exact spans of matches, and resolves overlaps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

from sidecar.domain.finding import Finding
from sidecar.guardrails.cooperative import SLICE_CANDIDATES, Cooperative
from sidecar.guardrails.matching.rule import Locate, Rule, Span
from sidecar.guardrails.matching.text_views import IDENTITY, TextView, ViewKind

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
    rule: Rule, views: Sequence[TextView], ends: Sequence[int], *, first_end: int
) -> Cooperative[list[PartSpan]]:
    """Return what *rule* finds in *views*, from the one on that holds *first_end*."""
    left = rule.max_candidates
    found: list[PartSpan] = []
    for index, view in enumerate(views):
        if ends[index] <= first_end or not _searches(rule, view):
            continue
        if left <= 0:  # too many to look at: what is left counts as found
            if view.length:
                found.append((view.part, 0, view.length))
            continue
        tried = yield from _search(rule, view, left, found)
        left -= tried
    return found


def _search(rule: Rule, view: TextView, left: int, found: list[PartSpan]) -> Cooperative[int]:
    """Add what *rule* finds in *view* to *found*; return how many candidates that took."""
    tried, begin = 0, len(found)
    part, locate = view.part, rule.locate
    for index, batch in enumerate(candidates(rule, view.content)):
        if index:
            yield
        tried += len(batch) if locate is None else sum(map(_weight, batch))
        if tried > left or len(found) > MAX_FOUND:
            found[begin:] = [(part, 0, view.length)]
            tried = max(tried, left)
            break
        located = batch
        if locate is not None:
            located = yield from _confirmed(locate, view.content, batch)
        if (accepts := view.accepts) is not None:
            located = [span for span in located if accepts(*span)]
        if view.offsets is IDENTITY:
            found += [(part, start, end) for start, end in located]
        else:
            yield from _led_back(view, located, found)
    return tried


def _led_back(view: TextView, located: Iterable[Span], found: list[PartSpan]) -> Cooperative[None]:
    """Add where *located* comes from; the first finding in each chunk of a text takes 0.2 ms."""
    for count, (start, end) in enumerate(located, 1):
        found.append((view.part, *view.offsets.span(start, end)))
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


def _confirmed(locate: Locate, content: bytes, batch: Iterable[Span]) -> Cooperative[list[Span]]:
    found: list[Span] = []
    weight = 0
    for candidate in batch:
        weight += _weight(candidate)
        if weight > SLICE_CANDIDATES:
            yield
            weight = 0
        found += locate(content, *candidate)
    return found


_FOR_WORDS: Final = frozenset({ViewKind.FOLDED, ViewKind.LEET})


def _searches(rule: Rule, view: TextView) -> bool:
    """Tell whether *rule* looks at *view*: at the text as it is read, or at its words."""
    if rule.folded:
        return not view.kinds.isdisjoint(_FOR_WORDS)
    return not view.kinds <= _FOR_WORDS


def _weight(span: Span) -> int:
    """Return how many candidates a long one counts for: some validators go through it all."""
    return 1 + (span[1] - span[0]) // BYTES_A_CANDIDATE


Located = tuple[int, int, int, int, str, str]
"""A finding to be: part, start, end, rank, type, guardrail.

A plain tuple, since a text full of matches makes ten thousand of them. Of two that overlap the
lower rank stays.
"""


def disjoint(
    findings: Iterable[Finding], *, rank: Callable[[Finding], int]
) -> tuple[Finding, ...]:
    """Return findings of which no two overlap, in text order, that cover the same bytes."""
    located = [
        (one.part, one.start, one.end, rank(one), one.type, one.guardrail) for one in findings
    ]
    return tuple(as_finding(one) for one in merged(located))


def merged(located: list[Located]) -> list[Located]:
    """Return findings of which no two overlap, in text order, that cover the same bytes.

    Of findings that overlap one stays, the lowest rank, then the longest, and grows over the
    rest: dropping the others would leave their ends in the text. The order given is of no
    consequence; *located* is sorted.
    """
    located.sort()
    result: list[Located] = []
    cluster: list[Located] = []
    part = end = -1
    for one in located:
        if one[0] == part and one[1] < end:
            cluster.append(one)
            end = max(end, one[2])
            continue
        if cluster:
            result.append(_joined(cluster, end))
        cluster, part, end = [one], one[0], one[2]
    if cluster:
        result.append(_joined(cluster, end))
    return result


def as_finding(located: Located) -> Finding:
    """Return what it is to the rest of the program."""
    part, start, end, _, type_, guardrail = located
    return Finding(guardrail, type_, part, start, end)


def _joined(cluster: list[Located], end: int) -> Located:
    if len(cluster) == 1:
        return cluster[0]
    part, _, _, rank, type_, guardrail = min(cluster, key=_standing)
    return part, cluster[0][1], end, rank, type_, guardrail


def _standing(one: Located) -> tuple[int, int, int, str, str]:
    _, start, end, rank, type_, guardrail = one
    return rank, start - end, start, type_, guardrail
