"""Turns the results of guardrails and unreadable content into one decision; pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, assert_never

from sidecar.domain.errors import ClientError, ErrorKind, client_error
from sidecar.domain.finding import (
    Allow,
    Decision,
    Deny,
    FailureKind,
    Finding,
    GuardrailResult,
    Redact,
    Verdict,
)
from sidecar.domain.policy import Mode, UnscannedAction
from sidecar.domain.subject import UnscannedReason

_ALLOW: Final = Allow()

_PASS: Final = Verdict.PASS
_MEDIA: Final = frozenset(
    one.value for one in (UnscannedReason.IMAGE, UnscannedReason.AUDIO, UnscannedReason.FILE)
)
OPERATOR_ADVICE: Final = (
    " To let it pass, the policy must say `unscanned: allow`; ask your operator."
)
"""Only where the client cannot send the same in a form that is read."""


def decide(results: Sequence[GuardrailResult], *, subject: str = "request") -> Decision:
    """Return the answer that enforced results add up to; shadow results change nothing.

    The first denial in policy order words the refusal, so that the same content always gets the
    same answer; *subject* is its word for what was judged. Every verdict is named here: a
    forgotten one would look like a pass.
    """
    redacted: list[Finding] = []
    for result in results:
        # Nearly every one passes: this is the first question.
        if result.verdict is _PASS or result.guardrail.mode is Mode.SHADOW:
            continue
        match result.verdict:
            case Verdict.FLAG | Verdict.ERROR_OPEN | Verdict.TIMEOUT_OPEN | Verdict.SKIPPED:
                pass
            case Verdict.BLOCK:
                types = sorted(
                    {
                        one.type if one.place is None else f"{one.type} at {one.place}"
                        for one in result.findings
                    }
                )
                found = f" It contains: {', '.join(types)}." if types else ""
                return Deny(
                    ClientError(
                        ErrorKind.CONTENT_BLOCKED,
                        f"Blocked by guardrail '{result.guardrail.name}'.{found}",
                    )
                )
            case Verdict.ERROR_CLOSED | Verdict.TIMEOUT_CLOSED:
                return Deny(unjudged(result, subject=subject))
            case Verdict.REDACT:
                redacted += result.findings
            case _:
                assert_never(result.verdict)
    return Redact(tuple(redacted)) if redacted else _ALLOW


def unjudged(result: GuardrailResult, *, subject: str) -> ClientError:
    """Return the refusal of what a guardrail could not judge, by the kind of its failure."""
    name = result.guardrail.name
    kind = FailureKind.ERROR if result.failure is None else result.failure.kind
    match kind:
        case FailureKind.HIDDEN_TEXT:
            return ClientError(
                ErrorKind.UNSCANNED_CONTENT,
                f"This {subject} cannot be checked: it has more texts in encodings,"
                f" escapes or spaced letters than guardrail '{name}' decodes."
                " Send fewer of them at once.",
            )
        case FailureKind.CONTENT:
            return ClientError(
                ErrorKind.UNSCANNED_CONTENT,
                f"This {subject} cannot be checked: the server of guardrail '{name}' does not"
                " take this text, or its answer is too large or not valid."
                " Send less text at once.",
            )
        case FailureKind.ERROR | FailureKind.TIMEOUT:
            return ClientError(
                ErrorKind.GUARDRAIL_UNAVAILABLE,
                f"Guardrail '{name}' could not check this {subject}. Try again later.",
                retry_after_seconds=1,
            )
        case _:
            assert_never(kind)


def is_flagged(results: Iterable[GuardrailResult]) -> bool:
    """Return whether an enforced guardrail flags, which is no decision but part of the outcome."""
    # A loop, and no generator: each of its steps is a call, for every request.
    for result in results:
        if result.verdict is Verdict.FLAG and result.guardrail.mode is Mode.ENFORCE:
            return True
    return False


def decide_unscanned(
    reasons: Iterable[UnscannedReason], action: UnscannedAction, *, subject: str = "request"
) -> Allow | Deny:
    """Return the decision on content that no guardrail can read."""
    named = sorted({reason.value for reason in reasons})
    match action:
        case UnscannedAction.BLOCK if named:
            if UnscannedReason.UNKNOWN_ROUTE.value in named:
                return Deny(client_error(ErrorKind.UNKNOWN_URL))
            advice = OPERATOR_ADVICE if _MEDIA.issuperset(named) else ""
            return Deny(
                ClientError(
                    ErrorKind.UNSCANNED_CONTENT,
                    f"This {subject} holds content that cannot be checked ({', '.join(named)}), "
                    f"and the policy of this key does not let such content pass.{advice}",
                )
            )
        case UnscannedAction.BLOCK | UnscannedAction.FLAG | UnscannedAction.ALLOW:
            return _ALLOW
        case _:
            assert_never(action)
