from __future__ import annotations

import pytest

from sidecar.domain.finding import (
    MAX_PLACEHOLDER_BYTES,
    NOTHING_REDACTED,
    Failure,
    FailureKind,
    Finding,
    FindingCount,
    GuardrailResult,
    Restoration,
    TooMuchHiddenTextError,
    Verdict,
    count_findings,
    unfinished_from,
)
from sidecar.domain.guardrail_settings import PiiSettings
from sidecar.domain.policy import Guardrail, Mode, OnError, Stage
from sidecar.domain.subject import TextPart

HASH = b"[EMAIL_h_00112233445566ff]"
FAKE = b"0000 0000 0000 0013"
MADE = Restoration(
    {
        b"[EMAIL_1]": b"ann@a.test",
        b"[EMAIL_2]": b"[EMAIL_1]",
        b"[US_SSN_12]": "§ 7".encode(),
        HASH: b"bob@b.test",
        FAKE: b"4111 1111 1111 1111",
    }
)


@pytest.mark.parametrize(
    ("said", "restored"),
    [
        (b"to [EMAIL_1], [EMAIL_1]!", b"to ann@a.test, ann@a.test!"),
        (b"[[EMAIL_1]]", b"[ann@a.test]"),
        (b"[US_SSN_12]", "§ 7".encode()),
        (HASH, b"bob@b.test"),
        (b"card " + FAKE + b".", b"card 4111 1111 1111 1111."),
    ],
)
def test_a_placeholder_becomes_its_value_again(said: bytes, restored: bytes) -> None:
    """Wherever it stands in the text, and as often as it does."""
    assert MADE.restore(said) == restored


def test_what_is_put_in_is_not_looked_at_again() -> None:
    """A value that reads like a placeholder does not bring another person's value with it."""
    assert MADE.restore(b"[EMAIL_2] [EMAIL_1]") == b"[EMAIL_1] ann@a.test"


@pytest.mark.parametrize(
    "said",
    [
        b"[EMAIL_3]",
        b"[EMAIL_01]",
        b"[email_1]",
        b"[EMAIL_1",
        b"EMAIL_1]",
        b"[EMAIL_ 1]",
        b"[PHONE_1]",
        b"[EMAIL_h_00112233445566fe]",
        b"0000 0000 0000 00134",
        b"10000 0000 0000 0013",
        b"0000 0000 0000 0013-5",
    ],
)
def test_anything_else_stays_as_it_is(said: bytes) -> None:
    """Only the very bytes that were put in stand for something."""
    assert MADE.restore(said) == said
    assert NOTHING_REDACTED.restore(b"[EMAIL_1]") == b"[EMAIL_1]"


def test_neither_values_nor_placeholders_are_shown() -> None:
    """A map that ends up in a crash report or a log line tells nothing."""
    assert repr(MADE) == str(MADE) == "Restoration()"


@pytest.mark.parametrize(
    ("text", "unfinished"),
    [
        (b"hello", b""),
        (b"hello [", b"["),
        (b"hello [EMAIL_", b"[EMAIL_"),
        (b"[EMAIL_1]", b""),
        (b"[EMAIL_h_00ff", b"[EMAIL_h_00ff"),
        (b"a [b c", b""),
        (b"at 0000 00", b"0000 00"),
        (b"at 0000 ", b"0000 "),
        (b"", b""),
    ],
)
def test_what_may_still_become_a_placeholder_is_held_back(text: bytes, unfinished: bytes) -> None:
    """The answer comes in pieces that cut placeholders anywhere."""
    assert text[unfinished_from(text) :] == unfinished


def test_no_more_is_held_back_than_a_placeholder_is_long() -> None:
    """An answer of digits or letters alone is delivered all the same."""
    for text in (b"7" * 1000, b"[" + b"A" * 1000):
        assert len(text) - unfinished_from(text) <= MAX_PLACEHOLDER_BYTES


def test_findings_are_counted_by_guardrail_type_and_role() -> None:
    pii = Guardrail("pii", PiiSettings())
    shadow = Guardrail("trial", PiiSettings(), mode=Mode.SHADOW)
    parts = tuple(TextPart(b"", (0,), role) for role in ("user", "tool", "user"))
    kinds = (("EMAIL", 0), ("EMAIL", 2), ("PHONE", 1))
    found = tuple(Finding("pii", type_, part, 0, 1) for type_, part in kinds)
    results = (
        GuardrailResult(pii, Verdict.REDACT, found),
        GuardrailResult(shadow, Verdict.BLOCK, found[:1]),
        GuardrailResult(pii, Verdict.PASS),
        GuardrailResult(
            pii, Verdict.FLAG, (Finding("pii", "EMAIL", 9, 0, 1),), stage=Stage.OUTPUT
        ),
    )
    assert count_findings(results, parts) == (
        FindingCount(pii, Verdict.REDACT, "EMAIL", "user", 2),
        FindingCount(pii, Verdict.REDACT, "PHONE", "tool", 1),
        FindingCount(shadow, Verdict.BLOCK, "EMAIL", "user", 1),
        FindingCount(pii, Verdict.FLAG, "EMAIL", "answer", 1),
    )


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (ValueError("a text"), Failure(FailureKind.ERROR, "ValueError")),
        (
            TooMuchHiddenTextError(),
            Failure(FailureKind.HIDDEN_TEXT, "TooMuchHiddenTextError"),
        ),
    ],
)
def test_a_check_that_raised_has_failed_by_the_name_of_its_error_alone(
    error: Exception, failure: Failure
) -> None:
    """Its message may quote the text."""
    assert Failure.of(error) == failure


@pytest.mark.parametrize(
    ("kind", "verdicts"),
    [
        (FailureKind.ERROR, [Verdict.ERROR_OPEN, Verdict.ERROR_CLOSED]),
        (FailureKind.TIMEOUT, [Verdict.TIMEOUT_OPEN, Verdict.TIMEOUT_CLOSED]),
        (FailureKind.HIDDEN_TEXT, [Verdict.ERROR_CLOSED, Verdict.ERROR_CLOSED]),
        (FailureKind.CONTENT, [Verdict.ERROR_CLOSED, Verdict.ERROR_CLOSED]),
    ],
)
def test_on_error_decides_about_a_failed_check_but_not_about_one_that_its_sender_can_cause(
    kind: FailureKind, verdicts: list[Verdict]
) -> None:
    guardrails = [
        Guardrail("pii", PiiSettings(), on_error=one) for one in (OnError.ALLOW, OnError.BLOCK)
    ]
    assert [Failure(kind, "Error").verdict(one) for one in guardrails] == verdicts
