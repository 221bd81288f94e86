from __future__ import annotations

from sidecar.console.policy_check import marked_pieces, try_text
from sidecar.domain.policy import Stage

POLICY = """\
name: strict
guardrails:
  - name: terms
    type: denied_terms
    terms: [falcon]
    action: block
  - name: personal-data
    type: pii
    action: redact
"""


async def test_findings_are_marked_at_characters_of_the_text() -> None:
    trial = await try_text(POLICY, "Grüße an bob@example.com, falcon", Stage.INPUT)

    marked = [(text, is_blocked) for text, names, is_blocked in trial.pieces if names]
    assert marked == [("bob@example.com", False), ("falcon", True)]
    assert "".join(text for text, _, _ in trial.pieces) == "Grüße an bob@example.com, falcon"
    assert trial.is_refused


async def test_a_guardrail_of_requests_does_not_judge_an_answer() -> None:
    trial = await try_text(POLICY, "falcon", Stage.OUTPUT)

    assert not trial.is_refused
    assert trial.pieces == [("falcon", "", False)]


def test_a_text_without_findings_is_one_piece() -> None:
    assert marked_pieces(b"hello", ()) == [("hello", "", False)]
    assert marked_pieces(b"", ()) == []
