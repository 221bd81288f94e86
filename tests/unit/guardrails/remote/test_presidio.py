from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from sidecar.domain.finding import Finding
from sidecar.domain.guardrail_settings import PresidioSettings
from sidecar.domain.policy import Action
from sidecar.guardrails.remote.checks import RemoteAnswer, RemoteCheckError
from tests.support.remote_checks import answer_to
from tests.support.webhook_server import WebhookServer


def entity(type_: str, start: int, end: int, score: float = 0.85) -> dict[str, Any]:
    """Return one result as the analyzer writes it (2.2.366)."""
    return {
        "analysis_explanation": None,
        "end": end,
        "entity_type": type_,
        "score": score,
        "start": start,
    }


async def ask(
    server_says: Any, *texts: str, action: Action = Action.REDACT, **settings: Any
) -> tuple[RemoteAnswer, WebhookServer]:
    """Ask a server that says so."""
    return await answer_to(
        partial(PresidioSettings, **settings), server_says, *texts, action=action
    )


async def test_an_analyzer_is_sent_every_text_in_one_request() -> None:
    """As a batch, with the language, the entities and the score of the policy."""
    said, server = await ask(
        [[], []], "Grüße", "b", language="de", entities=("PERSON",), min_score=0.4
    )
    assert said == RemoteAnswer("pass")
    assert server.bodies == [
        {
            "text": ["Grüße", "b"],
            "language": "de",
            "score_threshold": 0.4,
            "entities": ["PERSON"],
        }
    ]


@pytest.mark.parametrize(
    ("action", "verdict"),
    [(Action.BLOCK, "block"), (Action.REDACT, "redact"), (Action.FLAG, "flag")],
)
async def test_entities_in_characters_become_findings_in_bytes(
    action: Action, verdict: Any
) -> None:
    """Python counts code points, 🦩 among them as one."""
    said, _ = await ask(
        [[], [entity("PERSON", 2, 5), entity("LOCATION", 6, 7)]], "a", "é Zoë 🦩", action=action
    )
    findings = (Finding("dlp", "PERSON", 1, 3, 7), Finding("dlp", "LOCATION", 1, 8, 12))
    assert said == RemoteAnswer(verdict, findings)


async def test_entities_the_policy_did_not_ask_for_do_not_count() -> None:
    """Should a server not keep to the score or to the list."""
    said, _ = await ask(
        [[entity("PERSON", 0, 1, 0.3), entity("DATE_TIME", 0, 1), entity("PERSON", 1, 2)]],
        "text",
        entities=("PERSON",),
    )
    assert said.findings == (Finding("dlp", "PERSON", 0, 1, 2),)


BAD_ANSWERS: dict[str, tuple[Any, str]] = {
    "flat": ([entity("PERSON", 0, 1)], "answer_invalid"),
    "too_few": ([], "answer_invalid"),
    "object": ({"error": "no"}, "answer_invalid"),
    "lower_case": ([[entity("person", 0, 1)]], "answer_invalid"),
    "past_the_end": ([[entity("PERSON", 0, 5)]], "span_out_of_range"),
    "empty_span": ([[entity("PERSON", 1, 1)]], "span_out_of_range"),
    "negative": ([[entity("PERSON", -1, 1)]], "answer_invalid"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
async def test_an_answer_of_no_use_is_an_error(case: str) -> None:
    """A server of another version must not look like a pass."""
    said, error_type = BAD_ANSWERS[case]
    with pytest.raises(RemoteCheckError) as raised:
        await ask(said, "text")
    assert raised.value.error_type == error_type


async def test_a_request_without_text_asks_nobody() -> None:
    """The analyzer takes no text for a mistake."""
    said, server = await ask([])
    assert (said, server.paths) == (RemoteAnswer("pass"), [])
