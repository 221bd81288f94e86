"""Guardrails for some requests only, behind a live Envoy."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.command_line import Egret
from tests.support.stack import CHAT, Stack, chat

pytestmark = [
    pytest.mark.stack,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(300),
]

EMBEDDINGS = "/v1/embeddings"
MAIL = "bob.builder@example.com"
POLICY = """\
name: scoped
guardrails:
  - {{name: mail, type: pii, types: [EMAIL], action: redact, routes: [embeddings]{exceptions}}}
  - {{name: words, type: denied_terms, terms: [Bluebird], models: ["gpt-4o*"]}}
"""


async def seen(stack: Stack, body: object, *, key: str, path: str = CHAT) -> str:
    """Send a request; return what the provider read of it, or the refusal's code."""
    await stack.forget()
    answer = await stack.post(body, key=key, path=path)
    if answer.status != 200:
        return str(answer.json["error"]["code"])
    (received,) = await stack.received()
    return json.dumps(json.loads(received.body))


async def test_routes_and_models_decide_which_guardrails_judge(stack: Stack) -> None:
    """By the path and the body that the provider gets; an odd name is within every selector."""
    await stack.apply(POLICY.format(exceptions=""))
    key = (await stack.new_key("scoped")).reveal()
    embedding = {"model": "text-embedding-3-small", "input": MAIL}

    assert MAIL in await seen(stack, chat(MAIL), key=key)
    assert "[EMAIL_1]" in await seen(stack, embedding, key=key, path=EMBEDDINGS)
    verdicts = {
        model: await seen(stack, chat("Bluebird") | {"model": model}, key=key)
        for model in ("gpt-4o-mini", "GPT-4o", "o3", "o3 ")
    }
    assert {model for model, said in verdicts.items() if said == "content_blocked"} == {
        "gpt-4o-mini",
        "GPT-4o",
        "o3 ",
    }
    assert "Bluebird" in verdicts["o3"]


async def test_an_exception_of_a_key_ends_with_its_day(stack: Stack) -> None:
    """Today it goes by unchanged; with a day that is over the guardrail holds again."""
    await stack.apply(POLICY.format(exceptions=""))
    key = await stack.new_key("scoped")
    embedding = {"model": "text-embedding-3-small", "input": MAIL}
    today = datetime.now(UTC).date() + timedelta(days=1)
    found: list[str] = []

    for until in (today, today - timedelta(days=3)):
        exception = f", exceptions: [{{key: '{key.key_id}', until: {until}, reason: test}}]"
        await stack.apply(POLICY.format(exceptions=exception))
        found.append(await seen(stack, embedding, key=key.reveal(), path=EMBEDDINGS))

    assert MAIL in found[0]
    assert "[EMAIL_1]" in found[1]


async def test_a_promotion_shows_what_the_shadow_came_to_and_then_enforces(stack: Stack) -> None:
    """Counted by the workers, told by the command, in force for the next request."""
    await stack.apply(
        "name: watched\nguardrails:\n"
        "  - {name: watched-mail, type: pii, types: [EMAIL], mode: shadow}\n"
    )
    key = (await stack.new_key("watched")).reveal()
    assert MAIL in await seen(stack, chat(MAIL), key=key)
    assert "hello" in await seen(stack, chat("hello"), key=key)
    loads = stack.policy_loads()

    ran = await asyncio.to_thread(
        Egret(stack.facts.postgres_dsn),
        *("policy", "promote", "watched", "watched-mail", "--yes"),
        *("--metrics", stack.facts.metrics_url),
    )

    assert ran.code == 0, ran
    assert ran.err.startswith("In shadow watched-mail came to: block 1, pass 1 (")
    assert "-  mode: shadow\n+  mode: enforce\n" in ran.out
    await stack.every_worker_has({"watched": 2}, since=loads)
    assert await seen(stack, chat(MAIL), key=key) == "content_blocked"
