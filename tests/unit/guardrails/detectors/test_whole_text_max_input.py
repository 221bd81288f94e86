from __future__ import annotations

import pytest

from sidecar.domain.cooperative import SLICE_BYTES
from sidecar.domain.finding import Finding
from tests.support.guardrails import effective, parts_of, policy

POLICY = effective(policy("  - {name: most, type: max_input, max_characters: 10}"))

CASES = {
    "within": (["12345", "67890"], None),
    "one_more": (["12345", "67890", "x"], 2),
    "characters_not_bytes": (["éééééééééé"], None),
    "beyond_the_basic_plane": (["😀" * 11], 0),
    "the_part_that_goes_over": (["short", "é" * 2 * SLICE_BYTES, "short"], 1),
}


@pytest.mark.parametrize("case", CASES)
def test_characters_are_counted_over_all_texts(case: str) -> None:
    """The finding is the text with which the request goes over the limit."""
    texts, over = CASES[case]
    (outcome,) = POLICY.local.scan(parts_of(texts))
    findings: tuple[Finding, ...] = ()
    if over is not None:
        findings = (Finding("most", "MAX_INPUT", over, 0, len(texts[over].encode())),)
    assert (outcome.findings, outcome.failure) == (findings, None)
