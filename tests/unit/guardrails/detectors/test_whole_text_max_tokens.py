from __future__ import annotations

import sys

import pytest

from sidecar.domain.finding import Finding
from sidecar.guardrails.detectors import whole_text as max_tokens
from tests.support.guardrails import effective, parts_of, policy

quicktok = pytest.importorskip("quicktok", reason="no wheel for this Python")

O200K = quicktok.get_encoding("o200k_base")
TEXTS = {
    "words": "the quick brown fox jumps over the lazy dog " * 3_000,
    "lines": "first line\nsecond line\n\n" * 3_000,
    "unspaced": "机密文件" * 6_000,
    "letters": "a" * 70_000,
    "spaces": " " * 70_000,
    "mixed": "na\u00efve caf\u00e9 — 12,345.67 $x = f(y);\t" * 2_000,
}


def judged(limit: int, *texts: str) -> tuple[tuple[Finding, ...], str | None]:
    chosen = effective(policy(f"  - {{name: most, type: max_tokens, max_tokens: {limit}}}"))
    (outcome,) = chosen.local.scan(parts_of(texts))
    return outcome.findings, outcome.failure and outcome.failure.error_type


@pytest.mark.parametrize("name", TEXTS)
def test_tokens_are_counted_as_the_models_count(name: str) -> None:
    """Long text is counted in slices; a slice ends where no token would go on, or costs one."""
    text = TEXTS[name]
    exact = O200K.count(text)
    cuts = len(text.encode()) // 16_000
    assert judged(exact + 2 * cuts, text) == ((), None)
    whole = Finding("most", "MAX_TOKENS", 0, 0, len(text.encode()))
    assert judged(exact - 2 * cuts - 1, text) == ((whole,), None)


def test_the_text_that_goes_over_is_the_finding() -> None:
    """All strings of a request count together."""
    assert judged(4, "one two", "three four", "five six seven") == (
        (Finding("most", "MAX_TOKENS", 2, 0, 14),),
        None,
    )


def test_short_text_is_not_counted_and_long_text_fails_without_a_vocabulary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the extra is not installed, the guardrail cannot tell, and says so."""
    monkeypatch.setitem(sys.modules, "quicktok", None)
    max_tokens._counter.cache_clear()
    try:
        assert judged(20, "a few words") == ((), None)
        assert judged(2, "a few words more") == ((), "VocabularyMissingError")
    finally:
        max_tokens._counter.cache_clear()
