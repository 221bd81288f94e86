from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from sidecar.guardrails.message_table import MessageTable
from tests.support.events import BodyRequired, RequestCleared, RequestRefused
from tests.support.pipeline import NOW, World, headers

TODAY = datetime.fromtimestamp(NOW, UTC).date().isoformat()
YESTERDAY = datetime.fromtimestamp(NOW - 86_400, UTC).date().isoformat()


async def verdict(
    world: World, path: str = "/v1/chat/completions", model: object = "o3", **more: object
) -> str:
    """Send an address in a prompt; say what became of it."""
    text = "write to bob@example.com"
    body = {"messages": [{"role": "user", "content": text}], "input": text, **more}
    if model is not None:
        body["model"] = model
    return await verdict_on(world, json.dumps(body).encode(), path)


async def verdict_on(world: World, body: bytes, path: str = "/v1/chat/completions") -> str:
    """Say what became of a request."""
    exchange = world.exchange()
    answer = await exchange.judge_headers(
        headers(path, ("content-type", b"application/json")), has_body=True
    )
    if isinstance(answer, BodyRequired):
        answer = await exchange.judge_body(body)
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


async def test_of_several_models_the_guardrails_of_any_hold() -> None:
    """It is not known which of them runs."""
    world = World(policy(", models: ['gpt-*']"))

    assert await verdict(world, model="o3", models=["gpt-5"]) == "refused"


async def test_messages_that_are_known_to_one_model_are_judged_for_another() -> None:
    """Though the body seems to name the first: what comes before its model is a client's own."""
    other = "{name: b, type: secrets, action: block, models: [o3]}"
    world = World(
        policy(", models: ['gpt-*']").replace("[{", f"[{other}, {{"),
        messages=MessageTable(max_bytes=1 << 20, secret=bytes(32)),
    )
    text = "write to bob@example.com, " + "and a plain word " * 300
    messages = json.dumps([{"role": "user", "content": text}])
    metadata = '{"model": "o3"}'

    verdicts = [
        await verdict_on(
            world,
            f'{{"metadata": {metadata}, "messages": {messages}, "model": "{model}"}}'.encode(),
        )
        for model in ("o3", "gpt-5", "o3")
    ]

    assert verdicts == ["unchanged", "refused", "unchanged"]


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
