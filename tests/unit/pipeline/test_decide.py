from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import pytest

from sidecar.domain.errors import ClientError, ErrorKind, client_error
from sidecar.domain.finding import (
    Allow,
    Decision,
    Deny,
    Failure,
    FailureKind,
    Finding,
    GuardrailResult,
    Redact,
    TooMuchHiddenTextError,
    Verdict,
)
from sidecar.domain.guardrail_settings import PiiSettings
from sidecar.domain.policy import Guardrail, Mode, UnscannedAction
from sidecar.domain.subject import UnscannedReason
from sidecar.pipeline.decide import decide, decide_unscanned, is_flagged

EMAIL = Finding(guardrail="pii", type="EMAIL", part=0, start=3, end=9)
IBAN = Finding(guardrail="pii", type="IBAN", part=1, start=0, end=22)

BLOCKED = Deny(
    ClientError(ErrorKind.CONTENT_BLOCKED, "Blocked by guardrail 'pii'. It contains: EMAIL, IBAN.")
)
UNAVAILABLE = Deny(
    ClientError(
        ErrorKind.GUARDRAIL_UNAVAILABLE,
        "Guardrail 'pii' could not check this request. Try again later.",
        retry_after_seconds=1,
    )
)
REDACTED = Redact((IBAN, EMAIL))

ENFORCED: dict[Verdict, Decision] = {
    Verdict.PASS: Allow(),
    Verdict.FLAG: Allow(),
    Verdict.REDACT: REDACTED,
    Verdict.BLOCK: BLOCKED,
    Verdict.ERROR_OPEN: Allow(),
    Verdict.ERROR_CLOSED: UNAVAILABLE,
    Verdict.TIMEOUT_OPEN: Allow(),
    Verdict.TIMEOUT_CLOSED: UNAVAILABLE,
    Verdict.SKIPPED: Allow(),
}


def result(
    verdict: Verdict,
    *,
    name: str = "pii",
    mode: Mode = Mode.ENFORCE,
    findings: tuple[Finding, ...] = (IBAN, EMAIL),
) -> GuardrailResult:
    """Return the outcome of one guardrail."""
    guardrail = Guardrail(name=name, settings=PiiSettings(), mode=mode)
    return GuardrailResult(guardrail, verdict, findings, started_at=0.0, seconds=0.001)


def test_a_refusal_says_where_in_a_structured_answer() -> None:
    """The place is in names of the policy's own and numbers, so that a client may read it."""
    misfit = Finding("order", "SCHEMA_TYPE", 0, 0, 9, place="choices[0]/items/3")

    decision = decide([result(Verdict.BLOCK, findings=(misfit,))], subject="answer")

    assert isinstance(decision, Deny)
    assert decision.error.message.endswith("It contains: SCHEMA_TYPE at choices[0]/items/3.")


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (Failure.of(TooMuchHiddenTextError()), "than guardrail 'pii' decodes"),
        (
            Failure(FailureKind.CONTENT, "answer_too_large"),
            "the server of guardrail 'pii' does not take this text, or its answer is too large",
        ),
    ],
)
def test_a_text_that_keeps_a_guardrail_from_judging_is_refused_without_another_try(
    failure: Failure, reason: str
) -> None:
    """Sent again, the same text ends in the same way."""
    failed = result(Verdict.ERROR_CLOSED)._replace(failure=failure)

    decision = decide([failed])

    assert isinstance(decision, Deny)
    assert decision.error.kind is ErrorKind.UNSCANNED_CONTENT
    assert decision.error.retry_after_seconds is None
    assert reason in decision.error.message


@pytest.mark.parametrize("kind", [FailureKind.ERROR, FailureKind.TIMEOUT])
def test_a_guardrail_that_fails_for_another_reason_is_worth_another_try(
    kind: FailureKind,
) -> None:
    failed = result(Verdict.ERROR_CLOSED)._replace(failure=Failure(kind, "connection"))
    assert decide([failed]) == UNAVAILABLE


def test_nothing_checked_is_allowed() -> None:
    """A policy without guardrails lets everything pass."""
    assert decide([]) == Allow()


@pytest.mark.parametrize("verdict", Verdict, ids=lambda verdict: verdict.value)
def test_each_enforced_verdict_has_its_answer(verdict: Verdict) -> None:
    """The table holds every verdict there is: one that is forgotten fails here."""
    assert decide([result(verdict)]) == ENFORCED[verdict]


@pytest.mark.parametrize("verdict", Verdict, ids=lambda verdict: verdict.value)
def test_no_verdict_of_a_shadow_guardrail_changes_anything(verdict: Verdict) -> None:
    """Shadow mode reports what enforce would have done, also where a check failed."""
    assert decide([result(verdict, mode=Mode.SHADOW)]) == Allow()
    assert decide([result(verdict, mode=Mode.SHADOW), result(Verdict.BLOCK)]) == BLOCKED


RANK = {Allow: 0, Redact: 1, Deny: 2}


@pytest.mark.parametrize(
    "pair", list(permutations(Verdict, 2)), ids=lambda pair: f"{pair[0].value}-{pair[1].value}"
)
def test_the_sternest_verdict_wins_whatever_the_order(pair: tuple[Verdict, Verdict]) -> None:
    """A denial beats a redaction, a redaction beats a pass."""
    alone = [ENFORCED[verdict] for verdict in pair]
    sternest = max(RANK[type(decision)] for decision in alone)
    assert RANK[type(decide([result(verdict) for verdict in pair]))] == sternest


def test_the_first_denial_in_policy_order_words_the_refusal() -> None:
    """The same content gets the same answer, however fast each check was."""
    results = [
        result(Verdict.REDACT),
        result(Verdict.TIMEOUT_CLOSED, name="tone"),
        result(Verdict.BLOCK),
    ]
    assert decide(results) == Deny(
        ClientError(
            ErrorKind.GUARDRAIL_UNAVAILABLE,
            "Guardrail 'tone' could not check this request. Try again later.",
            retry_after_seconds=1,
        )
    )


def test_redactions_of_several_guardrails_are_done_together() -> None:
    """In policy order; a guardrail that found nothing adds nothing."""
    results = [
        result(Verdict.REDACT, findings=(IBAN,)),
        result(Verdict.PASS, findings=()),
        result(Verdict.REDACT, name="more", findings=(EMAIL,)),
    ]
    assert decide(results) == REDACTED


@pytest.mark.parametrize(
    ("findings", "message"),
    [
        ((), "Blocked by guardrail 'pii'."),
        ((EMAIL, EMAIL), "Blocked by guardrail 'pii'. It contains: EMAIL."),
    ],
    ids=["no-findings", "same-type-twice"],
)
def test_a_block_names_types_once_and_never_the_text(
    findings: tuple[Finding, ...], message: str
) -> None:
    """The client learns what to take out; a remote check may not say."""
    assert decide([result(Verdict.BLOCK, findings=findings)]) == Deny(
        ClientError(ErrorKind.CONTENT_BLOCKED, message)
    )


@pytest.mark.parametrize(
    ("reasons", "action", "is_allowed"),
    [
        ((), UnscannedAction.BLOCK, True),
        ((), UnscannedAction.FLAG, True),
        ((), UnscannedAction.ALLOW, True),
        ((UnscannedReason.IMAGE,), UnscannedAction.BLOCK, False),
        ((UnscannedReason.IMAGE,), UnscannedAction.FLAG, True),
        ((UnscannedReason.IMAGE,), UnscannedAction.ALLOW, True),
    ],
)
def test_what_no_guardrail_can_read_goes_as_the_policy_says(
    reasons: Sequence[UnscannedReason], action: UnscannedAction, *, is_allowed: bool
) -> None:
    """Only `block` stops it, and only where there is such content."""
    assert isinstance(decide_unscanned(reasons, action), Allow if is_allowed else Deny)


def test_a_refusal_of_unread_content_names_each_reason_once_in_a_stable_order() -> None:
    """The client learns which parts to leave out."""
    reasons = [UnscannedReason.IMAGE, UnscannedReason.AUDIO, UnscannedReason.IMAGE]
    assert decide_unscanned(reasons, UnscannedAction.BLOCK) == Deny(
        ClientError(
            ErrorKind.UNSCANNED_CONTENT,
            "This request holds content that cannot be checked (audio, image), "
            "and the policy of this key does not let such content pass. "
            "To let it pass, the policy must say `unscanned: allow`; ask your operator.",
        )
    )


def test_content_in_an_unreadable_form_is_refused_without_the_advice_to_let_it_pass() -> None:
    """The client can send the same text uncompressed; the policy is not to be opened for that."""
    decision = decide_unscanned([UnscannedReason.ENCODED_BODY], UnscannedAction.BLOCK)
    assert isinstance(decision, Deny)
    assert "unscanned: allow" not in decision.error.message


def test_an_unknown_route_is_refused_as_an_unknown_url_and_allowed_as_other_content() -> None:
    """Only the refusal has a kind of its own, with status 404."""
    route = [UnscannedReason.UNKNOWN_ROUTE]
    assert decide_unscanned(route, UnscannedAction.BLOCK) == Deny(
        client_error(ErrorKind.UNKNOWN_URL)
    )
    for action in (UnscannedAction.FLAG, UnscannedAction.ALLOW):
        assert decide_unscanned(route, action) == Allow()


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("mode", Mode)
def test_only_an_enforced_flag_flags(verdict: Verdict, mode: Mode) -> None:
    """In shadow nothing counts."""
    assert is_flagged([result(Verdict.PASS), result(verdict, mode=mode)]) is (
        verdict is Verdict.FLAG and mode is Mode.ENFORCE
    )
