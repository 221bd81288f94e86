from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from sidecar.domain.finding import Finding
from sidecar.domain.guardrail_settings import ModerationSettings
from sidecar.domain.policy import Action
from sidecar.guardrails.remote.checks import RemoteAnswer, RemoteCheckError
from tests.support.remote_checks import answer_to
from tests.support.webhook_server import WebhookServer

PASS = RemoteAnswer("pass")


def result(*, flagged: float = False, **scores: float) -> dict[str, Any]:
    """Return one text's result as OpenAI writes it; a category is true from 0.5 on."""
    return {
        "flagged": bool(flagged) or any(score >= 0.5 for score in scores.values()),
        "categories": {name: score >= 0.5 for name, score in scores.items()},
        "category_scores": scores,
        "category_applied_input_types": {name: ["text"] for name in scores},
    }


async def ask(
    server_says: Any, *texts: str, action: Action = Action.BLOCK, **settings: Any
) -> tuple[RemoteAnswer, WebhookServer]:
    """Ask a server that says so."""
    return await answer_to(
        partial(ModerationSettings, **settings), server_says, *texts, action=action
    )


def results(*each: dict[str, Any]) -> dict[str, Any]:
    """Return a whole answer."""
    return {"id": "modr-1", "model": "omni-moderation-latest", "results": list(each)}


async def test_a_moderation_server_is_sent_every_text_that_says_anything() -> None:
    """In one request, without who asks; a blank text would be refused."""
    said, server = await ask(
        results(result(violence=0.1), result(violence=0.1)),
        "Grüße", " ", "b", model="omni-moderation-latest",
    )  # fmt: skip
    assert said == PASS
    assert server.bodies == [{"model": "omni-moderation-latest", "input": ["Grüße", "b"]}]


async def test_a_request_without_any_text_asks_nobody() -> None:
    """There is nothing to judge."""
    said, server = await ask(results(), " ")
    assert (said, server.paths) == (PASS, [])


@pytest.mark.parametrize(
    ("action", "verdict"),
    [(Action.BLOCK, "block"), (Action.REDACT, "redact"), (Action.FLAG, "flag")],
)
async def test_a_flagged_category_is_a_finding_over_its_whole_text(
    action: Action, verdict: Any
) -> None:
    """Texts that were not sent are counted all the same; what follows is the policy's to say."""
    said, _ = await ask(
        results(result(violence=0.1), result(**{"self-harm/intent": 0.9, "violence": 0.8})),
        "a", "", "é!", action=action,
    )  # fmt: skip
    findings = (Finding("dlp", "SELF_HARM_INTENT", 2, 0, 3), Finding("dlp", "VIOLENCE", 2, 0, 3))
    assert said == RemoteAnswer(verdict, findings)


CHOICES: dict[str, tuple[dict[str, Any], dict[str, Any], set[str]]] = {
    "the_server_decides": ({}, result(hate=0.6, violence=0.4), {"HATE"}),
    "stricter": ({"thresholds": (("violence", 0.3),)}, result(violence=0.4), {"VIOLENCE"}),
    "more_lenient": ({"thresholds": (("violence", 0.9),)}, result(violence=0.8), set()),
    "one_threshold_among_others": (
        {"thresholds": (("violence", 0.9),)},
        result(violence=0.8, hate=0.7),
        {"HATE"},
    ),
    "only_these": ({"categories": ("violence",)}, result(violence=0.4, hate=0.9), set()),
    "flagged_without_a_category": ({}, result(flagged=True, hate=0.1), {"FLAGGED"}),
    "flagged_for_one_not_chosen": (
        {"categories": ("violence",)},
        result(flagged=True, violence=0.1),
        set(),
    ),
}


@pytest.mark.parametrize("case", CHOICES)
async def test_what_counts_is_the_policys_to_say(case: str) -> None:
    """By threshold, by category, and else by the server's own word."""
    settings, one, types = CHOICES[case]
    said, _ = await ask(results(one), "text", **settings)
    assert {finding.type for finding in said.findings} == types
    assert said.verdict == ("block" if types else "pass")


GOOD = result(violence=0.1)
BAD_ANSWERS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no_results": ({}, {}, "answer_invalid"),
    "too_few": (results(), {}, "answer_invalid"),
    "too_many": (results(GOOD, GOOD), {}, "answer_invalid"),
    "flagged_as_text": (results({**GOOD, "flagged": "no"}), {}, "answer_invalid"),
    "no_scores": (results({"flagged": False, "categories": {}}), {}, "answer_invalid"),
    "score_as_text": (
        results({**GOOD, "category_scores": {"violence": "0.1"}}),
        {},
        "answer_invalid",
    ),
    "unknown_category": (results(GOOD), {"categories": ("violance",)}, "category_missing"),
    "unknown_threshold": (results(GOOD), {"thresholds": (("violance", 0.5),)}, "category_missing"),
    "null_score": (
        results({**GOOD, "category_scores": {"violence": None}}),
        {"thresholds": (("violence", 0.5),)},
        "category_missing",
    ),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
async def test_an_answer_of_no_use_is_an_error(case: str) -> None:
    """A category the server does not know would else be clean for ever."""
    said, settings, error_type = BAD_ANSWERS[case]
    with pytest.raises(RemoteCheckError) as raised:
        await ask(said, "text", **settings)
    assert raised.value.error_type == error_type


async def test_odd_category_names_become_types_a_placeholder_can_have() -> None:
    """Upper snake case that begins with a letter, at most 40 characters."""
    said, _ = await ask(results(result(**{"x" * 60: 0.9, "1/2": 0.9})), "text")
    assert [finding.type for finding in said.findings] == ["X" * 40, "FLAGGED"]
