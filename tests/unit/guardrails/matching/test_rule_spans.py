from __future__ import annotations

import pytest

from sidecar.domain.finding import Finding
from sidecar.guardrails.matching.rule import disjoint


def at(start: int, end: int, type_: str = "B", part: int = 0) -> Finding:
    return Finding("g", type_, part, start, end)


CASES = {
    "apart": ([at(5, 9), at(0, 4)], [at(0, 4), at(5, 9)]),
    "touching": ([at(0, 4), at(4, 8)], [at(0, 4), at(4, 8)]),
    "same_place_other_part": ([at(0, 4), at(0, 4, part=1)], [at(0, 4), at(0, 4, part=1)]),
    "inside": ([at(0, 9), at(2, 4)], [at(0, 9)]),
    "lower_rank_inside": ([at(0, 9), at(2, 4, "A")], [at(0, 9, "A")]),
    "half_over": ([at(0, 5, "A"), at(3, 9)], [at(0, 9, "A")]),
    "chain": ([at(0, 5), at(4, 9), at(8, 12, "A")], [at(0, 12, "A")]),
    "longest_of_a_rank": ([at(0, 3, "C"), at(2, 9, "D")], [at(0, 9, "D")]),
}


@pytest.mark.parametrize("case", CASES)
def test_overlapping_findings_become_one_that_covers_all(case: str) -> None:
    """The lowest rank names it, then the longest; no byte that was found is given up."""
    findings, expected = CASES[case]
    for order in (findings, findings[::-1]):
        assert disjoint(order, rank=lambda one: {"A": 0}.get(one.type, 1)) == tuple(expected)
