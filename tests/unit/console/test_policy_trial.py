from __future__ import annotations

import json
import time

import pytest

from sidecar.admin_api.problems import Problem
from sidecar.console.policy_trial import SampleKind, marked_pieces, try_sample

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
    trial = await try_sample(POLICY, "Grüße an bob@example.com, falcon", SampleKind.MESSAGE)

    ((role, pieces),) = trial.texts
    assert role == "user"
    marked = [(text, is_blocked) for text, names, is_blocked in pieces if names]
    assert marked == [("bob@example.com", False), ("falcon", True)]
    assert "".join(text for text, _, _ in pieces) == "Grüße an bob@example.com, falcon"
    assert trial.is_refused


async def test_a_guardrail_of_requests_does_not_judge_an_answer() -> None:
    trial = await try_sample(POLICY, "falcon", SampleKind.ANSWER)

    assert not trial.is_refused
    assert trial.texts == [("model", [("falcon", "", False)])]


async def test_a_kept_request_is_read_as_a_client_sends_it() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "falcon"}, image]},
    ]
    body = json.dumps({"model": "gpt-4o", "messages": messages})

    trial = await try_sample(POLICY, body, SampleKind.REQUEST)

    texts = list(trial.texts)
    assert ("user", [("falcon", "terms: DENIED_TERM", True)]) in texts
    assert ("system", [("be kind", "", False)]) in texts
    assert trial.unscanned


@pytest.mark.parametrize(
    ("body", "problem"), [("{", "JSON"), ("x" * 200_000, "more than 100000 characters")]
)
async def test_a_text_that_is_no_request_is_refused_with_the_reason(
    body: str, problem: str
) -> None:
    with pytest.raises(Problem, match=problem):
        await try_sample(POLICY, body, SampleKind.REQUEST)


def test_a_text_without_findings_is_one_piece() -> None:
    assert marked_pieces(b"hello", ()) == [("hello", "", False)]
    assert marked_pieces(b"", ()) == []


async def test_a_text_full_of_findings_is_judged_beside_the_loop() -> None:
    """Other requests go on: the thread of the loop has next to none of the work."""
    all_began, own_began = time.process_time(), time.thread_time()

    trial = await try_sample(POLICY, "ab@example.com " * 2_000, SampleKind.MESSAGE)

    all_work, own_work = time.process_time() - all_began, time.thread_time() - own_began
    ((_, pieces),) = trial.texts
    assert len(pieces) == 4_000
    assert own_work < all_work / 10
