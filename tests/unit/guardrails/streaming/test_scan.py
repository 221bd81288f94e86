"""The scan of one answer: what each guardrail comes to over its windows."""

from __future__ import annotations

import pytest

from sidecar.domain.finding import NOTHING_REDACTED, Restoration, Verdict
from sidecar.guardrails.streaming.response_policy import AnswerPolicy
from sidecar.guardrails.streaming.scan import MAX_REPORTED, StreamScan
from sidecar.guardrails.streaming.window import StreamWindow
from tests.support.guardrails import Ticks, effective, policy

PII = "  - {name: pii, type: pii, stage: output, action: redact}\n"
SECRETS = "  - {name: secrets, type: secrets, stage: output}\n"


def answers(guardrails: str) -> AnswerPolicy:
    return effective(policy(guardrails)).answers


def scan_of(chosen: AnswerPolicy, restoration: Restoration = NOTHING_REDACTED) -> StreamScan:
    return StreamScan(chosen, clock=Ticks(), restoration=restoration, is_streamed=True)


def test_a_finding_is_replaced_once_no_more_text_can_make_it_longer() -> None:
    """Until then it is held back."""
    scan, window = scan_of(answers(PII)), StreamWindow(0)
    window.add(b"mail bob@example.com")
    assert scan.judge([window]).redact == ()
    assert window.settled == len("mail ")
    window.add(b" now ")
    (found,) = scan.judge([window]).redact
    assert (found.value, found.finding.type) == (b"bob@example.com", "EMAIL")


def test_a_placeholder_of_the_request_is_restored_and_no_finding() -> None:
    """Its value was the client's own."""
    scan, window = (
        scan_of(answers(PII), Restoration({b"[EMAIL_1]": b"ann@example.org"})),
        StreamWindow(0, is_final=True),
    )
    window.add(b"to [EMAIL_1].")
    result = scan.judge([window])
    assert result.redact == ()
    assert [edit.text for edit in window.edits] == [b"ann@example.org"]


def test_every_guardrail_of_a_scan_that_fails_has_its_direction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None of them may look like a pass, and the first that closes refuses the answer."""
    opens = SECRETS.replace("stage: output", "stage: output, on_error: allow")
    chosen = answers(opens + PII + SECRETS.replace("secrets,", "more,", 1))

    def fail(_: object) -> object:
        raise MemoryError

    monkeypatch.setattr(chosen.local._database, "scan_short", fail)
    monkeypatch.setattr(chosen.local._database, "scan", fail)
    scan, window = scan_of(chosen), StreamWindow(0)
    window.add(b"hello ")
    result = scan.judge([window])
    assert result.refused_by is not None
    assert result.refused_by.guardrail.name == "pii"
    assert [(one.guardrail.name, one.verdict) for one in scan.results()] == [
        ("secrets", Verdict.ERROR_OPEN),
        ("pii", Verdict.ERROR_CLOSED),
        ("more", Verdict.ERROR_CLOSED),
    ]
    assert window.settled == 0


def test_a_report_lists_a_bounded_number_of_findings() -> None:
    """An answer may have any number."""
    scan, window = scan_of(answers(PII)), StreamWindow(0)
    for _ in range(3):
        window.add(b"a@example.org " * (MAX_REPORTED // 2))
        scan.judge([window])
    (result,) = scan.results()
    assert len(result.findings) == MAX_REPORTED
