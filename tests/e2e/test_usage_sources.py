"""Usage without an access log: workers read the answers, behind the filters of other gateways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio

from loadtest.usage.trailers import counted_by_envoy
from tests.support.clients import anthropic_client, openai_client, tls_client
from tests.support.gateway_renderings import (
    as_envoy_gateway,
    as_istio,
    with_access_log_of_envoy_gateway,
)
from tests.support.more_workers import more_workers
from tests.support.stack import Stack, chat
from tests.support.stack_steps import (
    TOKENS,
    a_change,
    command,
    leaves_and_is_estimated,
    recorded,
    told,
)

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.asyncio(loop_scope="session")]


def reading_answers(stack: Stack) -> dict[str, str]:
    """Return the settings of workers that read answers, and share limits with the stack's."""
    return {
        "EGRET_USAGE__SOURCE": "answers",
        "EGRET_VALKEY__URL": stack.facts.valkey_url,
    }


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def answers(session_stack: Stack) -> AsyncIterator[Stack]:
    """A worker that reads the answers, behind an Envoy as Envoy Gateway configures it.

    Envoy's log comes as well, and counts nothing beside `answers`.
    """
    settings = reading_answers(session_stack)
    adapted = (as_envoy_gateway, with_access_log_of_envoy_gateway)
    async with more_workers(session_stack, *adapted, workers=1, settings=settings) as stack:
        yield stack


async def test_answers_are_counted_behind_the_filter_for_istio(session_stack: Stack) -> None:
    """The other cases are those of Envoy Gateway: modes of both are the same."""
    settings = reading_answers(session_stack)
    async with more_workers(session_stack, as_istio, workers=1, settings=settings) as stack:
        for key, streamed in (("free", False), ("answers-redact", True)):
            options = {"stream_options": {"include_usage": True}} if streamed else {}
            answer = await stack.post(chat("Count me.", stream=streamed, **options), key=key)
            record = await recorded(stack, answer.request_id)
            assert told(record, *TOKENS) == (3, 7, False, "completed", 200)
        await spends_its_tokens(stack)
        await spends_its_money(stack)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def trailers(session_stack: Stack) -> AsyncIterator[Stack]:
    """A worker that gets Envoy's counts with the trailers of an answer."""
    # Without Valkey: the limits of its keys are shared with no other worker of the database.
    settings = {"EGRET_USAGE__SOURCE": "ai_protocol_manager", "EGRET_LIMITS__SHARES": "1"}
    async with more_workers(
        session_stack, counted_by_envoy, workers=1, settings=settings
    ) as stack:
        yield stack


@pytest.mark.parametrize("key", ["free", "redact", "answers-redact"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_envoy_s_own_counts_come_with_the_trailers(
    trailers: Stack, key: str, *, streamed: bool
) -> None:
    """Without a byte of the answer's body, unless a guardrail reads it."""
    body = chat("Count me.", stream=streamed)
    if streamed:
        body["stream_options"] = {"include_usage": True}
    async with asyncio.timeout(60):
        answer = await trailers.post(body, key=key)
    record = await recorded(trailers, answer.request_id)

    assert told(record, *TOKENS) == (3, 7, False, "completed", 200)


@pytest.mark.parametrize("key", ["free", "answers-redact"], ids=["unjudged", "judged"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_an_answer_is_counted_as_its_provider_counts(
    answers: Stack, key: str, *, streamed: bool
) -> None:
    """Whole and streamed, judged or not; nothing else reports these requests."""
    body = chat("Count me.", stream=streamed)
    if streamed:
        body["stream_options"] = {"include_usage": True}
    answer = await answers.post(body, key=key)
    record = await recorded(answers, answer.request_id)

    assert told(record, *TOKENS) == (3, 7, False, "completed", 200)


async def test_anthropics_own_client_is_counted_as_its_events_count_it(answers: Stack) -> None:
    """Input from the first event, output from the last."""
    async with anthropic_client(answers, answers.keys["answers-redact"]) as client:
        raw = await client.messages.with_raw_response.create(
            model="claude-mock",
            max_tokens=16,
            messages=[{"role": "user", "content": "Count me."}],
            stream=True,
        )
        async for _ in await raw.parse():
            pass
    record = await recorded(answers, raw.headers["x-egret-request-id"])

    assert told(record, *TOKENS) == (3, 7, False, "completed", 200)


async def test_a_client_that_leaves_is_estimated_by_what_had_passed(answers: Stack) -> None:
    """The worker cannot see whether the client or the provider ended it."""
    await leaves_and_is_estimated(answers)


@pytest.mark.parametrize(
    ("status", "key", "text", "row"),
    [
        pytest.param(429, "free", "Fail.", (0, 0, False, "completed", 429), id="provider's error"),
        pytest.param(0, "block", "Bluebird", (0, 0, False, "refused", 400), id="refused"),
    ],
)
async def test_a_request_without_use_is_recorded_without_tokens(
    answers: Stack, status: int, key: str, text: str, row: tuple[object, ...]
) -> None:
    """An error is no completion, and a refused request reached no provider."""
    if status:
        await answers.tell_provider("status", status=status, count=1)
    answer = await answers.post(chat(text), key=key)
    record = await recorded(answers, answer.request_id)

    assert told(record, *TOKENS) == row


async def test_a_request_is_counted_once_if_a_log_reports_it_as_well(answers: Stack) -> None:
    """Its metadata names the source that counts; limits would be settled twice otherwise."""
    answer = await answers.post(chat("Count me."), key="free")
    record = await recorded(answers, answer.request_id)
    page = "egret_access_log_ignored_total 0"
    async with asyncio.timeout(30):
        while "egret_access_log_ignored_total 0" in page:  # the log comes in batches
            async with answers.client.get(answers.facts.metrics_url) as metrics:
                page = await metrics.text()

    assert told(record, *TOKENS) == (3, 7, False, "completed", 200)
    assert 'egret_usage_requests_total{source="access_log"}' not in page


async def test_the_log_that_envoy_gateway_can_send_is_counted_by_bytes(
    session_stack: Stack,
) -> None:
    """Without a filter that counts, its tokens are estimates."""
    adapted = (as_envoy_gateway, with_access_log_of_envoy_gateway)
    async with more_workers(session_stack, *adapted, workers=1) as stack:
        answer = await stack.post(chat("Count me."), key="free")
        record = await recorded(stack, answer.request_id)
        await spends_its_money(stack)

    assert told(record, "is_estimated", "ended", "status") == (True, "completed", 200)
    assert record["input_tokens"] > 0


Ask = Callable[[], Awaitable[None]]


@asynccontextmanager
async def official_clients(
    stack: Stack, *limits: str, max_tokens: int
) -> AsyncIterator[list[Ask]]:
    """Yield a request of each client, whole and streamed, with one key that has these limits."""
    async with a_change(stack):
        key = await stack.new_key("free")
    async with a_change(stack):
        await command(stack, "limits", "set", "--key", key.key_id, *limits)
    given: Any = {
        "max_tokens": max_tokens,
        "messages": [{"role": "user", "content": "Count me."}],
    }
    async with tls_client(stack) as https:
        by_openai = openai_client(stack, key.reveal(), https)
        by_anthropic = anthropic_client(stack, key.reveal(), https)

        async def ask(create: Any, *, streamed: bool, model: str) -> None:
            answer = await create(model=model, stream=streamed, **given)
            if streamed:
                async for _ in answer:
                    pass

        yield [
            partial(ask, create, streamed=streamed, model=model)
            for create, model in (
                (by_openai.chat.completions.create, "gpt-4o"),
                (by_anthropic.messages.create, "claude-mock"),
            )
            for streamed in (False, True)
        ]


async def refusals(asks: list[Ask]) -> list[tuple[str, str]]:
    """Return the type and code in the error of each request that a limit refuses."""
    found = []
    for ask in asks:
        try:
            await ask()
        except (
            openai.RateLimitError,
            openai.PermissionDeniedError,
            anthropic.RateLimitError,
            anthropic.PermissionDeniedError,
        ) as error:
            body: Any = error.body
            words = body.get("error", body)  # OpenAI's client unpacks it
            found.append((words["type"], words.get("code", "")))
    return found


async def spends_its_tokens(stack: Stack) -> None:
    """Each request reserves most of the key's tokens, and uses ten: four fit, and no fifth."""
    async with (
        official_clients(stack, "tokens/day=100", max_tokens=60) as asks,
        asyncio.timeout(60),
    ):
        for ask in asks:
            while await refusals([ask]):  # noqa: ASYNC110 - until the one before is corrected
                await asyncio.sleep(0.05)
        assert await refusals(asks) == [OF_OPENAI, OF_OPENAI, OF_ANTHROPIC, OF_ANTHROPIC]


OF_OPENAI = ("rate_limit_error", "rate_limit_exceeded")
OF_ANTHROPIC = ("rate_limit_error", "")


async def spends_its_money(stack: Stack) -> None:
    """A budget ends with OpenAI's own word for it; a worker reads prices now and then."""
    for model in ("gpt-4o", "claude-mock"):
        prices = ("--input", "1000", "--output-tokens", "1000", "--from", "2020-01-01")
        await command(stack, "price", "set", model, *prices)
    ended = [("insufficient_quota", "budget_exhausted")] * 2 + [OF_ANTHROPIC] * 2
    async with (
        official_clients(stack, "cost/month=0.1", max_tokens=10) as asks,
        asyncio.timeout(60),
    ):
        while await refusals(asks) != ended:  # noqa: ASYNC110 - in a worker
            await asyncio.sleep(0.05)


async def test_a_spent_limit_refuses_official_clients_behind_envoy_gateway(answers: Stack) -> None:
    """By the counts that a worker reads in answers."""
    await spends_its_tokens(answers)
    await spends_its_money(answers)


async def test_a_spent_limit_refuses_official_clients_with_counts_in_trailers(
    trailers: Stack,
) -> None:
    """By Envoy's own counts, without a byte of an answer."""
    await spends_its_tokens(trailers)
    await spends_its_money(trailers)
