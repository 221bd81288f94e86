from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from tests.support.events import BodyRequired, RequestCleared, RequestRefused
from tests.support.pipeline import NOW, World, headers

TODAY = datetime.fromtimestamp(NOW, UTC).date().isoformat()
YESTERDAY = datetime.fromtimestamp(NOW - 86_400, UTC).date().isoformat()


async def verdict(world: World, path: str = "/v1/chat/completions", model: object = "o3") -> str:
    """Send an address in a prompt; say what became of it."""
    text = "write to bob@example.com"
    body = {"messages": [{"role": "user", "content": text}], "input": text}
    if model is not None:
        body["model"] = model  # type: ignore[assignment]  # a client sends what it likes
    exchange = world.exchange()
    answer = await exchange.judge_headers(
        headers(path, ("content-type", b"application/json")), has_body=True
    )
    if isinstance(answer, BodyRequired):
        answer = await exchange.judge_body(json.dumps(body).encode())
    await exchange.end()
    if isinstance(answer, RequestRefused):
        return "refused"
    assert isinstance(answer, RequestCleared)
    return "unchanged" if answer.mutations.body is None else "redacted"


def policy(extra: str, action: str = "block") -> str:
    return f"name: default\nguardrails: [{{name: a, type: pii, action: {action}{extra}}}]\n"


@pytest.mark.parametrize(
    ("extra", "path", "model", "expected"),
    [
        (", routes: [chat]", "/v1/chat/completions", "o3", "refused"),
        (", routes: [chat]", "/v1/messages", "claude", "refused"),
        (", routes: [chat]", "/v1/embeddings", "o3", "unchanged"),
        (", routes: [chat]", "/v1/embeddings?path=/v1/chat/completions", "o3", "unchanged"),
        (", models: ['gpt-*']", "/v1/chat/completions", "gpt-5", "refused"),
        (", models: ['gpt-*']", "/v1/chat/completions", "GPT-5", "refused"),
        (", models: ['gpt-*']", "/v1/chat/completions", "o3", "unchanged"),
        (", models: ['gpt-*']", "/v1/chat/completions", "o3 ", "refused"),
        (", models: ['gpt-*']", "/v1/chat/completions", None, "refused"),
        (", models: ['gpt-*']", "/v1/chat/completions", ["o3"], "refused"),
        (", rollout: 0%", "/v1/chat/completions", "o3", "unchanged"),
        (", rollout: 100%", "/v1/chat/completions", "o3", "refused"),
    ],
)
async def test_a_guardrail_judges_the_requests_of_its_scope(
    extra: str, path: str, model: object, expected: str
) -> None:
    """By what the path and the body say; a model that says nothing is within every scope."""
    assert await verdict(World(policy(extra)), path, model) == expected


@pytest.mark.parametrize(
    ("until", "expected", "counted"), [(TODAY, "unchanged", 1.0), (YESTERDAY, "redacted", None)]
)
async def test_an_exception_holds_until_its_day_is_over_and_is_counted(
    until: str, expected: str, counted: float | None
) -> None:
    """By the worker's clock; afterwards the guardrail judges again."""
    extra = f", exceptions: [{{team: acme/search, until: {until}, reason: migration}}]"
    world = World(policy(extra, "redact"))

    assert await verdict(world) == expected

    sample = world.registry.get_sample_value(
        "egret_guardrail_exemptions_total", {"guardrail": "a"}
    )
    assert sample == counted
