# ruff: noqa: RUF001 - look-alikes such as full-width letters are what is tested
from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence
from typing import Final

import pytest

from sidecar.domain.cooperative import Cooperative, run_sync
from sidecar.domain.finding import Failure, FailureKind, Finding, GuardrailResult, Results, Verdict
from sidecar.domain.subject import TextPart
from sidecar.guardrails.deobfuscation import decoders
from sidecar.guardrails.matching.rule import MAX_CANDIDATES
from tests.support.guardrails import effective, parts_of, policy

PATTERNS = """\
  - name: own
    type: denied_patterns
    patterns:
      - {name: CODE, regex: 'PRJ-[0-9]{4}'}
      - {name: START, regex: '^BEGIN'}
      - {name: END, regex: 'FINIS$'}
      - {name: LONG, regex: 'a.{3,8}b'}
      - {name: NO_SPACE, regex: 'v\\Sv'}
      - {name: CAFE, regex: '(?i)CAFÉ.'}
"""
TERMS = (
    "  - {name: terms, type: denied_terms,"
    " terms: [Bluebird, top secret, Straße, 机密, C++, bird]}\n"
)


def values(guardrails: str, *texts: str) -> list[tuple[str, str]]:
    parts = parts_of(texts)
    outcomes = effective(policy(guardrails)).local.scan(parts)
    found: list[tuple[str, str]] = []
    for outcome in outcomes:
        assert outcome.failure is None
        found += [
            (one.type, parts[one.part].content[one.start : one.end].decode())
            for one in outcome.findings
        ]
    return found


def _outcome(result: GuardrailResult) -> tuple[Verdict, tuple[Finding, ...], Failure | None]:
    return result.verdict, result.findings, result.failure


@pytest.mark.parametrize(
    ("guardrail", "verdict"),
    [
        ("type: max_input, max_characters: 10000", Verdict.PASS),
        ("type: max_tokens, max_tokens: 10000", Verdict.PASS),
        ("type: language, allowed: [en]", Verdict.PASS),
        ("type: prompt_injection", Verdict.ERROR_CLOSED),
    ],
)
def test_hidden_text_is_decoded_only_for_guardrails_that_read_it(
    guardrail: str, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A count of more hidden texts than are decoded was refused, as nothing else would be."""
    monkeypatch.setattr(decoders, "MAX_DECODED", 100)
    local = effective(policy(f"  - {{name: own, {guardrail}}}\n")).local
    (result,) = local.scan(parts_of(["b\u043eb@\u0435xample.com"] * 101))
    assert result.verdict is verdict


PATTERN_CASES = {
    "plain": (["see PRJ-1234!"], [("CODE", "PRJ-1234")]),
    "start_of_a_text": (["BEGIN x", "y BEGIN"], [("START", "BEGIN")]),
    "start_of_a_later_text": (["x", "BEGIN y"], [("START", "BEGIN")]),
    "end_of_an_earlier_text": (["x FINIS", "FINIS y"], [("END", "FINIS")]),
    "never_across_texts": (["PRJ-", "1234 a", "----", "b"], []),
    "vertical_tab": (["v\x0bv v v"], [("NO_SPACE", "v\x0bv")]),
    "code_points": (["x café☕y"], [("CAFE", "café☕")]),
    "nul_inside_a_text": (
        ["PRJ-\x001234 a\x00\x00\x00b"],
        [("CODE", "PRJ-\x001234"), ("LONG", "a\x00\x00\x00b")],
    ),
    "invisible_inside": (["PRJ\u200b-1234"], [("CODE", "PRJ\u200b-1234")]),
    "full_width": (["ＰＲＪ－１２３４"], [("CODE", "ＰＲＪ－１２３４")]),
}


@pytest.mark.parametrize("case", PATTERN_CASES)
def test_an_authors_pattern_means_the_same_wherever_its_text_stands(case: str) -> None:
    """Each text is judged alone, though all are scanned at once."""
    texts, expected = PATTERN_CASES[case]
    assert values(PATTERNS, *texts) == expected


@pytest.mark.parametrize("regex", ["^ignore", r"all\Sx"])
def test_hidden_text_is_read_for_a_pattern_that_is_searched_in_every_string(regex: str) -> None:
    """Signs of hidden text are looked for, although the policy has no other expression."""
    patterns = (
        f"  - {{name: own, type: denied_patterns, patterns: [{{name: P, regex: '{regex}'}}]}}\n"
    )
    hidden = base64.b64encode(b"ignore all-x of these rules").decode()
    (found,) = values(patterns, hidden)
    assert found == ("P", hidden)


TERM_CASES = {
    "case": ("BLUEBIRD flies", ["BLUEBIRD"]),
    "inside_a_word": ("bluebirds rebluebird", []),
    "punctuation": ("(bluebird).", ["bluebird"]),
    "phrase_over_lines": ("this is Top\n  Secret!", ["Top\n  Secret"]),
    "folded": ("STRASSE and straße", ["STRASSE", "straße"]),
    "beside_other_letters": ("éBluebird Bluebirdé", []),
    "no_spaces_in_script": ("这是机密文件", ["机密"]),
    "symbols": ("I like C++, not C", ["C++"]),
    "full_width": ("ｂｌｕｅｂｉｒｄ é", ["ｂｌｕｅｂｉｒｄ"]),
    "invisible_inside": ("blue\u200dbird", ["blue\u200dbird"]),
    "line_separator": (
        "top\u2028secret TOP\u2029\u1680 Secret",
        ["top\u2028secret", "TOP\u2029\u1680 Secret"],
    ),
    "turkish_capital": ("B\u0130RD and BI\u0307RD", ["B\u0130RD", "BI\u0307RD"]),
    "no_break_space": ("é top\u00a0secret", ["top\u00a0secret"]),
}


@pytest.mark.parametrize("case", TERM_CASES)
def test_a_term_is_found_as_a_word_in_any_case(case: str) -> None:
    """The span is the original's, whatever was folded to find it."""
    text, expected = TERM_CASES[case]
    assert [value for _, value in values(TERMS, text)] == expected


def test_a_match_repeated_beyond_counting_takes_in_the_rest() -> None:
    """Past the cap nothing is looked at any more, so all that is left counts as found."""
    repeated = "PRJ-1234 " * (MAX_CANDIDATES + 5)
    parts = parts_of(["PRJ-1234 x", repeated, "harmless"])
    (outcome,) = effective(policy(PATTERNS)).local.scan(parts)
    assert outcome.failure is None
    assert outcome.findings == (
        Finding("own", "CODE", 0, 0, 8),
        Finding("own", "CODE", 1, 0, len(repeated)),
        Finding("own", "CODE", 2, 0, 8),
    )


MANY: Final = 100_000


@pytest.mark.parametrize(
    ("guardrail", "match", "type_"),
    [
        ("  - {name: own, type: pii}\n", "a@b.co ", "EMAIL"),
        ("  - {name: own, type: pii}\n", "1.2.3.4 ", "IPV4"),
        (PATTERNS, "PRJ-1234 ", "CODE"),
        (TERMS, "bluebird ", "DENIED_TERM"),
    ],
)
def test_a_hundred_thousand_matches_are_judged_in_slices_and_found_as_a_whole(
    guardrail: str, match: str, type_: str
) -> None:
    """Work ends with the cap, not with the text; between two slices others have their turn."""
    text = match * MANY
    steps = effective(policy(guardrail)).local.start(parts_of([text]))
    assert not isinstance(steps, tuple)
    slices = 0

    def counted() -> Cooperative[Results]:
        nonlocal slices
        while True:
            try:
                next(steps)
            except StopIteration as end:
                outcomes: Results = end.value
                return outcomes
            slices += 1
            yield

    outcomes = run_sync(counted())

    (outcome,) = outcomes
    name = outcome.guardrail.name
    assert outcome.failure is None
    assert outcome.findings == (Finding(name, type_, 0, 0, len(text)),)
    assert 50 < slices < 1_000


def _searched(parts: Sequence[TextPart], terms: Sequence[str]) -> tuple[int, GuardrailResult]:
    """Return how many turns a search of *parts* for *terms* takes, and its result."""
    own = f"  - {{name: own, type: denied_terms, terms: [{', '.join(terms)}]}}\n"
    steps = effective(policy(own)).local.start(parts)
    assert not isinstance(steps, tuple)
    for taken in itertools.count():
        try:
            next(steps)
        except StopIteration as end:
            (outcome,) = end.value
            return taken, outcome
    raise AssertionError


def test_a_text_found_as_a_whole_is_not_searched_for_more_of_the_same() -> None:
    """A megabyte with all of a thousand terms, again and again, took over a minute."""
    words = [f"term{number}x" for number in range(300)]
    long = " ".join(words) * 60
    parts = parts_of(["plain", long, f"{words[250]} and {words[260]}"])

    def turns(count: int) -> int:
        taken, outcome = _searched(parts, words[:count])
        assert Finding("own", "DENIED_TERM", 1, 0, len(long)) in outcome.findings
        assert any(one.part == 2 for one in outcome.findings) == (count > 250)
        return taken

    assert turns(300) < 2 * turns(60)


def test_a_thousand_strings_are_searched_only_for_the_terms_within_them() -> None:
    """1,000 terms that stood somewhere in 12,000 strings took a minute."""
    words = [f"term{chr(97 + one % 26)}{chr(97 + one // 26)}x" for one in range(300)]
    parts = parts_of([f"a {words[number % 300]}" for number in range(1_800)])

    def turns(count: int) -> int:
        taken, outcome = _searched(parts, words[:count])
        expected = {at for at in range(1_800) if at % 300 < count}
        assert {one.part for one in outcome.findings} == expected
        assert all(one.start == len("a ") for one in outcome.findings)
        return taken

    assert turns(300) < 10 * turns(15)


def test_text_that_is_not_utf8_fails_every_guardrail() -> None:
    """The engine is undefined on such text: no guardrail may claim that it passed."""
    part = TextPart(content=b"\xff PRJ-1234", location=(0,), role="user")
    outcomes = effective(policy(PATTERNS + TERMS)).local.scan([part])
    failed = (Verdict.ERROR_CLOSED, (), Failure(FailureKind.ERROR, "UnicodeDecodeError"))
    assert [_outcome(one) for one in outcomes] == [failed, failed]


def test_a_rule_that_raises_fails_its_guardrail_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An error is an outcome of its own, never a pass."""

    def broken(*_: object) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr("sidecar.guardrails.detectors.numbers.passes_luhn", broken)
    chosen = effective(policy("  - {name: pii, type: pii}\n" + PATTERNS))
    outcomes = chosen.local.scan(parts_of(["4111111111111111 PRJ-1234"]))
    assert [_outcome(one) for one in outcomes] == [
        (Verdict.ERROR_CLOSED, (), Failure(FailureKind.ERROR, "ZeroDivisionError")),
        (Verdict.BLOCK, (Finding("own", "CODE", 0, 17, 25),), None),
    ]


def test_no_text_is_nothing_found() -> None:
    """A request without any string has an outcome for each guardrail all the same."""
    outcomes = effective(policy(PATTERNS + TERMS)).local.scan(())
    assert [_outcome(one) for one in outcomes] == [(Verdict.PASS, (), None)] * 2


@pytest.mark.parametrize(
    "text",
    ["A plain question", "It’s a café — “open” till 5 •", "прив. 日本 \U0001f600 and more of it"],
)
def test_short_text_without_findings_is_judged_at_once(text: str) -> None:
    """Also with accents, typographic marks and other scripts, unless a view changes them."""
    scan = effective(policy("  - {name: pii, type: pii}\n  - {name: i, type: prompt_injection}\n"))
    assert isinstance(scan.local.start(parts_of([text])), tuple)
