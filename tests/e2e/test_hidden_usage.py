"""`usage.streams: hide` on live Envoy: exact counts, and clients that see nothing of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.clients import openai_client
from tests.support.stack import CHAT, Stack, chat
from tests.support.stack_steps import TOKENS, ext_proc_messages, recorded, says, told

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

KEYS = pytest.mark.parametrize("key", ["hidden", "hidden-redact"])
COMPLETION = {"model": "gpt-4o", "prompt": "Count me.", "stream": True}
STREAMS: dict[str, tuple[str, object]] = {
    CHAT: (CHAT, chat("Count me.", stream=True)),
    "/v1/completions": ("/v1/completions", COMPLETION),
}
ASKING = {"stream_options": {"include_usage": True}}


def events(body: bytes) -> Iterator[dict[str, Any]]:
    """Yield the documents of a stream as a simple client reads them."""
    for line in body.decode().splitlines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


@KEYS
@pytest.mark.parametrize("path", STREAMS)
async def test_a_stream_is_counted_exactly_and_its_bytes_are_as_ever(
    stack: Stack, key: str, path: str
) -> None:
    """The provider is asked, and its answer is what it would have been without."""
    path, body = STREAMS[path]
    await says(stack, "So say we all. And é, too.", event_ms=1)
    wanted = await stack.post(body, path=path, key="free")
    await stack.debug.delete("/requests")  # the provider counts its answers
    answer = await stack.post(body, path=path, key=key)
    record = await recorded(stack, answer.request_id)

    assert answer.body == wanted.body
    assert b"include_usage" in (await stack.received())[-1].body
    assert told(record, *TOKENS) == (3, 7, False, "completed", 200)


@KEYS
async def test_a_client_that_reads_the_first_choice_of_every_event_can(
    stack: Stack, key: str
) -> None:
    """The one that breaks on the extra event of `pass`."""
    answer = await stack.post(chat("Count me.", stream=True), key=key)
    text = "".join(one["choices"][0]["delta"].get("content", "") for one in events(answer.body))
    assert text == "The mock model was given 9 characters."


@KEYS
async def test_openais_own_client_sees_no_usage(stack: Stack, key: str) -> None:
    """Nor an event without a choice; one that asked itself gets what it asked for."""
    async with openai_client(stack, stack.keys[key]) as client:

        async def chunks(**more: Any) -> list[Any]:
            create: Any = client.chat.completions.create
            said = [{"role": "user", "content": "Count me."}]
            stream = await create(model="gpt-4o", messages=said, stream=True, **more)
            return [chunk async for chunk in stream]

        unasked, asked = await chunks(), await chunks(**ASKING)

    assert all(chunk.choices and chunk.usage is None for chunk in unasked)
    assert [chunk.choices[0].delta for chunk in unasked] == [
        chunk.choices[0].delta for chunk in asked[:-1]
    ]
    assert asked[-1].usage.completion_tokens == 7


async def test_no_other_answer_passes_here_for_it(stack: Stack) -> None:
    """A whole one, or a stream whose client asked: two messages, as without the policy."""

    async def messages(**more: object) -> int:
        before = await ext_proc_messages(stack)
        assert (await stack.post(chat("hi", **more), key="hidden")).status == 200
        return await ext_proc_messages(stack) - before

    assert await messages() == 2
    assert await messages(stream=True, **ASKING) == 2
    assert await messages(stream=True) > 4


async def test_an_error_in_the_place_of_a_stream_goes_through(stack: Stack) -> None:
    """With its own status and words."""
    await stack.tell_provider("status", status=429, count=1)
    answer = await stack.post(chat("hi", stream=True), key="hidden")
    assert answer.status == 429
    assert "error" in answer.json
