"""Limits and budgets on the whole stack: Envoy, Valkey, PostgreSQL, the official client."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.support.stack import Stack, chat
from tests.support.stack_steps import a_change, command

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]


MODEL = "gpt-4o"


@pytest_asyncio.fixture(loop_scope="session")
async def key_id(stack: Stack) -> AsyncIterator[str]:
    """The id of a new key, under the policy that redacts; its secret is `limited`."""
    async with a_change(stack):
        key = await stack.new_key("redact")
    stack.keys["limited"] = key.reveal()
    yield key.key_id
    del stack.keys["limited"]


async def limit(stack: Stack, key_id: str, *words: str) -> None:
    """Set limits of the key, and wait until they act."""
    async with a_change(stack):
        await command(stack, "limits", "set", "--key", key_id, *words)


async def statuses(stack: Stack, count: int, **fields: Any) -> Counter[int]:
    """Ask so many times, one after the other; count the statuses."""
    counted: Counter[int] = Counter()
    for _ in range(count):
        answer = await stack.post(chat("hello", **fields), key="limited")
        counted[answer.status] += 1
    return counted


async def test_a_limit_set_at_run_time_acts_within_a_second(stack: Stack, key_id: str) -> None:
    """And is refused in OpenAI's words, with its headers."""
    assert await statuses(stack, 5) == {200: 5}
    await command(stack, "limits", "set", "--key", key_id, "requests/minute=4", "--burst", "3")
    await asyncio.sleep(1.0)
    assert await statuses(stack, 5) == {200: 3, 429: 2}
    refused = await stack.post(chat("hello"), key="limited")
    assert json.loads(refused.body)["error"]["code"] == "rate_limit_exceeded"
    assert refused.headers["x-ratelimit-limit-requests"] == "4"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert int(refused.headers["retry-after"]) > 0


async def test_the_openai_client_waits_as_told_and_succeeds(stack: Stack, key_id: str) -> None:
    """Its own retries honour our headers."""
    await limit(stack, key_id, "requests/second=1")
    async with openai.AsyncOpenAI(
        base_url=f"{stack.facts.url}/v1", api_key=stack.keys["limited"], max_retries=5
    ) as client:
        started_at = time.monotonic()
        for _ in range(3):
            answer = await client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "hello"}]
            )
            assert answer.choices
    assert time.monotonic() - started_at > 1.5


async def test_tokens_that_were_not_used_are_given_back(stack: Stack, key_id: str) -> None:
    """An answer is far shorter than what it might have been."""
    await limit(stack, key_id, "tokens/day=10000")
    assert await statuses(stack, 1, max_tokens=9_900) == {200: 1}
    async with asyncio.timeout(60):
        while await statuses(stack, 1, max_tokens=9_000) != {200: 1}:  # noqa: ASYNC110 - in Valkey
            await asyncio.sleep(0.3)


async def test_a_blocked_answer_is_not_given_back(stack: Stack) -> None:
    """Its tokens were produced: whoever is blocked again and again still runs into the limit."""
    async with a_change(stack):
        key = await stack.new_key("answers-block")
    stack.keys["limited"] = key.reveal()
    await limit(stack, key.key_id, "tokens/day=10000")
    async with stack.debug.post("/answer", json={"text": f"ann@example.org{' x' * 3000}"}):
        blocked = await stack.post(chat("hello", max_tokens=9_900), key="limited")
    assert blocked.openai_error[::2] == (400, "content_blocked")
    await stack.forget()
    async with asyncio.timeout(60):
        while await statuses(stack, 1, max_tokens=6_000) != {200: 1}:  # noqa: ASYNC110 - in Valkey
            await asyncio.sleep(0.3)
    assert await statuses(stack, 1, max_tokens=9_000) == {429: 1}


async def test_a_key_whose_tokens_are_limited_has_its_streams_counted(
    stack: Stack, key_id: str
) -> None:
    """Exactly, though nobody asked, and the client sees nothing of it."""
    await limit(stack, key_id, "tokens/day=10000")
    answer = await stack.post(chat("hello", stream=True), key="limited")
    assert b"usage" not in answer.body
    assert b"include_usage" in (await stack.received())[-1].body


async def test_concurrent_requests_are_counted_to_the_end_of_their_answers(
    stack: Stack, key_id: str
) -> None:
    """The access log frees a slot, whichever worker hears of it."""
    await limit(stack, key_id, "concurrent=2")
    await stack.tell_provider("delay", ms=3_000)
    answers = await asyncio.gather(*(stack.post(chat("hello"), key="limited") for _ in range(6)))
    assert Counter(answer.status for answer in answers) == {200: 2, 429: 4}
    await stack.forget()
    async with asyncio.timeout(60):
        while await statuses(stack, 1) != {200: 1}:  # noqa: ASYNC110 - in Valkey
            await asyncio.sleep(0.3)


async def test_a_budget_ends_with_its_own_code(stack: Stack, key_id: str) -> None:
    """By the price table; the client is told not to try again."""
    prices = ("--input", "1000", "--output-tokens", "1000")
    await command(stack, "price", "set", MODEL, *prices, "--from", "2020-01-01")
    await limit(stack, key_id, "cost/month=0.5")
    async with asyncio.timeout(30):
        while await statuses(stack, 8, max_tokens=1_000) != {429: 8}:  # noqa: ASYNC110 - each worker reads prices now and then
            await asyncio.sleep(0.5)
    refused = await stack.post(chat("hello", max_tokens=1_000), key="limited")
    assert json.loads(refused.body)["error"]["code"] == "budget_exhausted"
    assert refused.headers["x-should-retry"] == "false"
    assert await statuses(stack, 1, max_tokens=10) == {200: 1}


async def told(stack: Stack, body: dict[str, Any], *, key: str = "limited") -> dict[str, str]:
    """Ask, and return what the answer says about limits; each header once."""
    answer = await stack.post(body, key=key)
    assert answer.status == 200
    found = [(name, value) for name, value in answer.headers.items() if is_of_limits(name)]
    assert len(dict(found)) == len(found)
    return dict(found)


def is_of_limits(name: str) -> bool:
    return "ratelimit" in name or name in {"x-egret-budget", "x-egret-limits"}


async def answer_with_limits_of_its_own(stack: Stack) -> None:
    """Let the provider say how much is left of the account that all clients share."""
    own = {
        "content-type": "application/json",
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-remaining-project-tokens": "149984",
        "x-egret-budget": "95",
    }
    chunks = [base64.b64encode(b"{}").decode()]
    async with stack.debug.post("/raw", json={"headers": own, "chunks": chunks}) as answer:
        assert answer.status == 204


async def test_an_answer_tells_how_limits_stand_in_place_of_the_providers(
    stack: Stack, key_id: str
) -> None:
    """As this worker knows it: what it took ahead is still there to be used."""
    await command(
        stack, "limits", "set", "--key", key_id, "requests/minute=600", "tokens/day=50000"
    )
    await answer_with_limits_of_its_own(stack)
    try:
        of_limited = await told(stack, chat("hello", max_tokens=100))
        of_other = await told(stack, chat("hello"), key="redact")
    finally:
        await stack.forget()
    assert of_other == {}
    assert set(of_limited) == {
        f"x-ratelimit-{what}-{of}"
        for what in ("limit", "remaining", "reset")
        for of in ("requests", "tokens")
    }
    assert of_limited["x-ratelimit-limit-requests"] == "600"
    assert 50 <= int(of_limited["x-ratelimit-remaining-requests"]) < 60
    assert 49_000 < int(of_limited["x-ratelimit-remaining-tokens"]) < 49_900


async def test_a_budget_that_runs_short_is_told_before_it_ends(stack: Stack, key_id: str) -> None:
    """On answers, and once to those who watch."""
    prices = ("--input", "1000", "--output-tokens", "1000")
    await command(stack, "price", "set", MODEL, *prices, "--from", "2020-01-01")
    await command(stack, "limits", "set", "--key", key_id, "cost/month=10")
    async with asyncio.timeout(30):
        while 403 in await statuses(stack, 8, max_tokens=1):  # noqa: ASYNC110 - until both workers have read the price
            await asyncio.sleep(0.5)
        while not (found := await told(stack, chat("hello", max_tokens=6000))):  # noqa: ASYNC110 - each worker reads prices now and then
            await asyncio.sleep(0.3)
    assert found["x-egret-budget"] in {"50", "80"}
    async with stack.client.get(stack.facts.metrics_url) as answer:
        metrics = await answer.text()
    passed = re.search(
        r'egret_budget_thresholds_passed_total\{level="key",threshold="50"\} (\d+)', metrics
    )
    assert passed is not None
    assert int(passed[1]) >= 1
