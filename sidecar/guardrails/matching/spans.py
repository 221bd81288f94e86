"""Finds the spans of matches, and resolves overlaps.

The database has reported the rules that occur somewhere in the texts; here each of these rules is
searched in each view, its candidates are checked, and spans are mapped back to the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from sidecar.domain.finding import Finding
from sidecar.guardrails.cooperative import SLICE_CANDIDATES, SLICE_FINDINGS, Cooperative
from sidecar.guardrails.matching.rule import Rule, Span
from sidecar.guardrails.matching.text_views import IDENTITY, TextView, ViewKind

WINDOW_BYTES: Final = 262_144
"""A longer text is searched in windows of so many bytes, some 0.3 ms each."""

MAX_FOUND: Final = 2_000
"""Findings of one rule in one scan; beyond it the rest of the text counts as found."""

OFFSETS_WEIGHT: Final = 8
"""Candidates that one finding counts for if its offsets are mapped back to the part's: the first
in each chunk of a text takes 0.2 ms."""

BYTES_A_CANDIDATE: Final = 64
"""Every so many bytes of one candidate count as one more."""

_FOR_WORDS: Final = frozenset({ViewKind.FOLDED, ViewKind.LEET})

PartSpan = tuple[int, int, int]
"""A part's index, start and end in its bytes."""


def spans(
    rule: Rule, views: Sequence[TextView], ends: Sequence[int], *, first_end: int
) -> Cooperative[list[PartSpan]]:
    """Return the spans that *rule* finds in *views*, from the view on that holds *first_end*.

    Folded rules search words, all others the text as it is read.
    """
    locate, left, work = rule.locate, rule.max_candidates, 0
    found: list[PartSpan] = []
    for view, view_end in zip(views, ends, strict=True):
        is_other = view.kinds.isdisjoint(_FOR_WORDS) if rule.folded else view.kinds <= _FOR_WORDS
        if is_other or view_end <= first_end:
            continue
        part, offsets, accepts, begin = view.part, view.offsets, view.accepts, len(found)
        if left <= 0:  # too many to check: the rest counts as found
            if view.length:
                found.append((part, 0, view.length))
            continue
        for candidate in candidates(rule, view.content):
            if candidate is None or work >= SLICE_CANDIDATES:
                yield
                work = 0
            if candidate is None:
                continue
            start, end = candidate
            # A long one counts for several, since some validators go through all of it.
            weight = 1 if locate is None else 1 + (end - start) // BYTES_A_CANDIDATE
            left -= weight
            work += weight
            if left < 0 or len(found) > MAX_FOUND:
                found[begin:] = [(part, 0, view.length)]
                left = min(left, 0)
                break
            for span in (candidate,) if locate is None else locate(view.content, start, end):
                if accepts is not None and not accepts(*span):
                    continue
                if offsets is not IDENTITY:
                    span = offsets.span(*span)  # noqa: PLW2901 - the same span, in the part
                    work += OFFSETS_WEIGHT
                found.append((part, *span))
    return found


def candidates(rule: Rule, content: bytes) -> Iterator[Span | None]:
    """Yield the spans the expression alone finds, left to right, and None after each window.

    A match counts only if it starts so far before its window's end that it is seen whole, so
    windows change nothing. An expression without a known reach is searched in one go.
    """
    pattern, group, length = rule.pattern, rule.group, len(content)
    reach = rule.reach if length > WINDOW_BYTES else None
    position = 0
    while position < length:
        limit = length if reach is None else min(length, position + max(WINDOW_BYTES, 2 * reach))
        certain = length if reach is None or limit == length else limit - reach
        following = certain
        for match in pattern.finditer(content, position, limit):
            start, end = match.span()
            if start >= certain:
                break
            following = max(certain, end)
            span = match.span(group) if group else (start, end)
            if span[0] < span[1]:
                yield span
        position = following
        if position < length:
            yield None


Located = tuple[int, int, int, int, str, str]
"""A finding with its rank: part, start, end, rank, type, guardrail.

A plain tuple, since a text full of matches makes ten thousand of them. Of two that overlap the
lower rank stays.
"""


def disjoint(
    findings: Iterable[Finding], *, rank: Callable[[Finding], int]
) -> tuple[Finding, ...]:
    """Return findings of which no two overlap, in text order, that cover the same bytes."""
    located = merged(
        [(one.part, one.start, one.end, rank(one), one.type, one.guardrail) for one in findings]
    )
    return tuple(
        Finding(guardrail, type_, part, start, end)
        for part, start, end, _, type_, guardrail in located
    )


def disjoint_in_turns(located: list[Located]) -> Cooperative[tuple[Finding, ...]]:
    """Do the same as `disjoint` for thousands of findings."""
    findings: list[Finding] = []
    for count, (part, start, end, _, type_, guardrail) in enumerate(merged(located), start=1):
        findings.append(Finding(guardrail, type_, part, start, end))
        if not count % SLICE_FINDINGS:
            yield
    return tuple(findings)


def merged(located: list[Located]) -> list[Located]:
    """Return findings of which no two overlap, in text order, that cover the same bytes.

    Of findings that overlap one stays, the lowest rank, then the longest, and grows over the
    rest: dropping the others would leave their ends in the text. The order given is of no
    consequence; *located* is sorted.
    """
    located.sort()
    result: list[Located] = []
    at = 0
    while at < len(located):
        best = located[at]
        part, start, end, *_ = best
        at += 1
        while at < len(located) and located[at][0] == part and located[at][1] < end:
            other = located[at]
            end = max(end, other[2])
            best = min(best, other, key=lambda one: (one[3], one[1] - one[2], one[1], *one[4:]))
            at += 1
        result.append((part, start, end, *best[3:]))
    return result
