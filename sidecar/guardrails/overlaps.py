"""Findings made disjoint, so that replacing one span cannot break another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from sidecar.domain.finding import Finding


def disjoint(
    findings: Iterable[Finding], *, rank: Callable[[Finding], int]
) -> tuple[Finding, ...]:
    """Return findings of which no two overlap, in text order, that cover the same bytes.

    Of findings that overlap one stays, the lowest rank, then the longest, and grows over the
    rest: dropping the others would leave their ends in the text. The order given is of no
    consequence.
    """
    result: list[Finding] = []
    cluster: list[Finding] = []
    end = 0
    for finding in sorted(findings, key=lambda one: (one.part, one.start, one.end)):
        if cluster and (finding.part != cluster[0].part or finding.start >= end):
            result.append(_joined(cluster, rank))
            cluster = []
        end = max(end, finding.end) if cluster else finding.end
        cluster.append(finding)
    if cluster:
        result.append(_joined(cluster, rank))
    return tuple(result)


def _joined(cluster: list[Finding], rank: Callable[[Finding], int]) -> Finding:
    if len(cluster) == 1:
        return cluster[0]
    best = min(
        cluster,
        key=lambda one: (rank(one), one.start - one.end, one.start, one.type, one.guardrail),
    )
    return replace(best, start=cluster[0].start, end=max(one.end for one in cluster))
