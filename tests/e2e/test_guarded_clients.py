"""The providers' own clients read streams that a window guards, as fast as the model speaks."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import pytest

from tests.support.clients import anthropic_client, gemini_client, gemini_models, openai_client
from tests.support.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

EMAIL: Final = "bob.builder@example.com"
SAID: Final = f"You may write to {EMAIL} or call, whenever you like, and somebody will answer."
READ: Final = SAID.replace(EMAIL, "[EMAIL_1]")
EVENT_MS: Final = 60
PROMPT: Any = {"role": "user", "content": "hi"}


async def _by_openai(stack: Stack, key: str) -> AsyncIterator[str]:
    async with openai_client(stack, key) as client:
        events = await client.chat.completions.create(
            model="gpt-4o", messages=[PROMPT], stream=True
        )
        async for event in events:
            for choice in event.choices:
                yield choice.delta.content or ""


async def _by_openai_responses(stack: Stack, key: str) -> AsyncIterator[str]:
    async with openai_client(stack, key) as client:
        async for event in await client.responses.create(model="gpt-4o", input="hi", stream=True):
            if event.type == "response.output_text.delta":
                yield event.delta


async def _by_anthropic(stack: Stack, key: str) -> AsyncIterator[str]:
    async with (
        anthropic_client(stack, key) as client,
        client.messages.stream(model="claude-mock", max_tokens=64, messages=[PROMPT]) as stream,
    ):
        async for text in stream.text_stream:
            yield text


async def _by_google(stack: Stack, key: str) -> AsyncIterator[str]:
    async with gemini_models(stack, key) as models:
        async for chunk in await models.generate_content_stream(
            model="gemini-mock", contents="hi"
        ):
            yield chunk.text or ""


async def _by_google_interactions(stack: Stack, key: str) -> AsyncIterator[str]:
    async with gemini_client(stack, key) as google:
        asked = google.interactions.create(model="gemini-mock", input="hi", stream=True)
        async for event in await asked:
            if event.event_type == "step.delta":
                yield event.delta.text


@pytest.mark.parametrize(
    "read",
    [_by_openai, _by_openai_responses, _by_anthropic, _by_google, _by_google_interactions],
    ids=lambda one: one.__name__,
)
async def test_a_client_reads_a_guarded_stream_word_by_word(
    stack: Stack, read: Callable[[Stack, str], AsyncIterator[str]]
) -> None:
    """The address is gone, though it came in pieces; all else comes while the model speaks."""
    async with stack.debug.post("/answer", json={"text": SAID}) as answer:
        assert answer.status == 204
    key = stack.keys["answers-redact"]
    # Clients build their models at the first event, which may take longer than a short stream.
    assert "".join([text async for text in read(stack, key)]) == READ
    await stack.tell_provider("delay", event_ms=EVENT_MS)
    texts = read(stack, key)
    pieces = [(time.monotonic(), text) async for text in texts if text]
    assert "".join(text for _, text in pieces) == READ
    assert len(pieces) == len(READ.split())
    # Only the first word waits for the second: what comes later comes with its own event.
    seconds = pieces[-1][0] - pieces[0][0]
    # A third of the stream: a busy machine may deliver the first words late, and together.
    assert seconds > EVENT_MS / 1000 * len(pieces) / 3
