"""Findings made disjoint, so that replacing one span cannot break another."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sidecar.domain.finding import Finding

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
