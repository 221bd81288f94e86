"""What is recorded of each request, whatever becomes of it: in the database of a whole stack."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest

from tests.support.clients import openai_client
from tests.support.stack import MESSAGES, Stack, chat, message
from tests.support.stack_steps import TOKENS, leaves_and_is_estimated, recorded, told

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]


EMBEDDINGS = "/v1/embeddings"


async def test_a_whole_answer_is_recorded_as_its_provider_counted_it(stack: Stack) -> None:
    """Who, what, how much, how long; joined by the id that the client was told."""
    answer = await stack.post(chat("Count me."), key="free")
    record = await recorded(stack, answer.request_id)

    usage = answer.json["usage"]
    assert told(record, *TOKENS) == (
        usage["prompt_tokens"], usage["completion_tokens"], False, "completed", 200,
    )  # fmt: skip
    assert told(record, "operation", "provider", "response_model", "is_streamed") == (
        "chat", "openai", "gpt-4o", False,
    )  # fmt: skip
    assert record["decision"] == "allow"
    assert record["provider_request_id"] == answer.headers["x-request-id"]
    assert record["latency_ms"] >= record["first_token_ms"] > 0


async def test_line_feeds_in_the_name_of_a_model_change_no_other_value(stack: Stack) -> None:
    """Envoy's log has a line for each value; this provider repeats the client's text."""
    model = 'gpt-4o\n7\r\n7\t"7\n' + "\n-" * 30
    answer = await stack.post(chat("Count me.", model=model), key="free")
    record = await recorded(stack, answer.request_id)

    usage = answer.json["usage"]
    assert answer.json["model"] == model
    assert told(record, *TOKENS) == (
        usage["prompt_tokens"], usage["completion_tokens"], False, "completed", 200,
    )  # fmt: skip
    assert record["provider_request_id"] == answer.headers["x-request-id"]
    assert record["response_model"] == "other"


async def test_a_redacted_request_says_which_guardrail_did_it(stack: Stack) -> None:
    """By name; what was found stays out of it."""
    answer = await stack.post(chat("Mail ann@example.org", stream=False), key="redact")
    record = await recorded(stack, answer.request_id)

    assert told(record, "decision", "guardrails") == ("redact", '{"pii": "redact"}')
    assert told(record, "request_model", "response_model") == ("gpt-4o", "gpt-4o")


async def test_a_refused_request_is_recorded_and_cost_nothing(stack: Stack) -> None:
    """No tokens: the provider never saw it."""
    answer = await stack.post(chat("Project Bluebird"), key="block")
    record = await recorded(stack, answer.request_id)

    assert told(record, *TOKENS) == (0, 0, False, "refused", answer.status)
    assert told(record, "decision", "cost_usd") == ("deny", 0)


async def test_a_blocked_answer_is_charged_as_its_provider_counted_it(stack: Stack) -> None:
    """It was written, and is paid for, though nobody has read it."""
    async with stack.debug.post("/answer", json={"text": f"Mail ann@example.org{' x' * 40}"}):
        answer = await stack.post(chat("Count me."), key="answers-block")
    record = await recorded(stack, answer.request_id)

    assert told(record, *TOKENS) == (3, 42, False, "blocked", 400)
    assert told(record, "decision", "response_model") == ("deny", "gpt-4o")


@pytest.mark.parametrize("key", ["answers-block", "answers-hook"], ids=["window", "buffer"])
async def test_a_blocked_stream_is_charged_by_what_its_provider_sent(
    stack: Stack, key: str
) -> None:
    """Its own count never came, or nobody asked for it: an estimate, and marked as one."""
    text = f"{'x ' * 60}ann@example.org"
    async with stack.debug.post("/answer", json={"text": text}):
        answer = await stack.post(chat("Count me.", stream=True), key=key)
    record = await recorded(stack, answer.request_id)

    assert told(record, "ended", "is_estimated", "input_tokens") == ("blocked", True, 4)
    assert 40 <= record["output_tokens"] <= 80


async def test_an_error_that_was_blocked_is_no_completion(stack: Stack) -> None:
    """The provider charges nothing for it."""
    order = {
        "status": 500,
        "headers": {"content-type": "text/plain"},
        "chunks": [base64.b64encode(b"ask ann@example.org").decode()],
    }
    async with stack.debug.post("/raw", json=order):
        answer = await stack.post(chat("Count me."), key="answers-block")
    record = await recorded(stack, answer.request_id)

    assert told(record, *TOKENS) == (0, 0, False, "blocked", 400)


async def test_an_anthropic_stream_is_recorded_as_its_events_count_it(stack: Stack) -> None:
    """Input from the first event, output from the last."""
    answer = await stack.post(message("Count me.", stream=True), path=MESSAGES, key="redact")
    record = await recorded(stack, answer.request_id)

    assert told(record, *TOKENS) == (3, 7, False, "completed", 200)
    assert told(record, "provider", "is_streamed") == ("anthropic", True)


async def test_an_openai_stream_with_usage_is_recorded_as_counted(stack: Stack) -> None:
    """The client asked for the extra event."""
    body = chat("Count me.", stream=True, stream_options={"include_usage": True})
    answer = await stack.post(body, key="free")
    record = await recorded(stack, answer.request_id)

    assert told(record, *TOKENS) == (3, 7, False, "completed", 200)


async def test_a_stream_that_tells_nothing_is_estimated_and_says_so(stack: Stack) -> None:
    """From the bytes that were delivered."""
    answer = await stack.post(chat("Count me.", stream=True), key="free")
    record = await recorded(stack, answer.request_id)

    assert record["is_estimated"]
    assert told(record, "ended", "status") == ("completed", 200)
    assert record["input_tokens"] > 0
    assert record["output_tokens"] > 0


async def test_a_policy_may_ask_for_the_counts_of_every_stream(stack: Stack) -> None:
    """The request is made to ask, redacted or not; the client gets one event more."""
    for text, sent in (("Count me.", b"Count me."), ("Mail ann@example.org", b"Mail [EMAIL_1]")):
        answer = await stack.post(chat(text, stream=True), key="counted")
        record = await recorded(stack, answer.request_id)
        body = (await stack.received())[-1].body

        assert not record["is_estimated"]
        assert record["output_tokens"] == 7
        assert sent in body
        assert body.endswith(b',"stream_options":{"include_usage":true}}')
        assert b'"choices":[],"usage":{' in answer.body


async def test_openais_own_client_reads_a_stream_that_was_made_to_tell(stack: Stack) -> None:
    """It knows the extra event; a program that takes the first choice of each does not."""
    async with openai_client(stack, stack.keys["counted"]) as client:
        stream = await client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "Count me."}], stream=True
        )
        chunks = [chunk async for chunk in stream]

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == "The mock model was given 9 characters."
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 7
    with pytest.raises(IndexError):
        _ = [chunk.choices[0] for chunk in chunks]


CHAT = {"prompt_tokens": 100, "completion_tokens": 50}
CLAUDE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 200,
    "cache_read_input_tokens": 300,
    "output_tokens": 50,
}
INVOKE = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": MESSAGES}


@pytest.mark.parametrize(
    ("path", "body", "usage", "counts"),
    [
        pytest.param(
            "/model/eu.anthropic.claude-sonnet-4-v1:0/invoke",
            INVOKE,
            CLAUDE,
            (510, 50, 300, 200),
            id="cached input of Claude on Bedrock",
        ),
        pytest.param(
            "/v1/chat/completions",
            chat("Count me."),
            CHAT | {"total_tokens": 180, "completion_tokens_details": {"reasoning_tokens": 30}},
            (100, 80, 0, 0),
            id="reasoning beside the output",
        ),
        pytest.param(
            EMBEDDINGS,
            {"model": "voyage-4", "input": "Count me."},
            {"total_tokens": 8},
            (8, 0, 0, 0),
            id="a sum alone",
        ),
    ],
)
async def test_tokens_that_a_provider_states_beside_the_usual_ones_count(
    stack: Stack, path: str, body: Mapping[str, Any], usage: Any, counts: tuple[int, ...]
) -> None:
    """Each was left out, and the record said that the provider had counted so."""
    answer = json.dumps({"type": "message", "model": "m", "usage": usage}).encode()
    order = {
        "headers": {"content-type": "application/json"},
        "chunks": [base64.b64encode(answer).decode()],
    }
    async with stack.debug.post("/raw", json=order):
        found = await stack.post(body, path=path, key="free")
    record = await recorded(stack, found.request_id)

    kinds = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens")
    assert told(record, *kinds) == counts
    assert record["is_estimated"] is False


@pytest.mark.parametrize(
    ("headers", "counts"),
    [
        (
            {"X-Amzn-Bedrock-Input-Token-Count": "5", "X-Amzn-Bedrock-Output-Token-Count": "8"},
            (5, 8),
        ),
        ({"X-Amzn-Bedrock-Input-Token-Count": "5"}, (5, 0)),
    ],
    ids=["text", "embeddings"],
)
async def test_bedrocks_headers_count_an_answer_whose_body_does_not(
    stack: Stack, headers: dict[str, str], counts: tuple[int, int]
) -> None:
    """Of models with a form of their own; Envoy's filter reads none of their counts."""
    answer = json.dumps({"inputTextTokenCount": 5, "embedding": [0.5] * 500}).encode()
    order = {
        "headers": {"content-type": "application/json", **headers},
        "chunks": [base64.b64encode(answer).decode()],
    }
    async with stack.debug.post("/raw", json=order):
        found = await stack.post(
            {"inputText": "Count me."}, path="/model/amazon.titan-x-v1:0/invoke", key="free"
        )
    record = await recorded(stack, found.request_id)

    assert told(record, *TOKENS) == (*counts, False, "completed", 200)


async def test_embeddings_count_input_alone(stack: Stack) -> None:
    """There is no output."""
    body = {"model": "text-embedding-3-small", "input": ["a" * 40, "b" * 40]}
    answer = await stack.post(body, path=EMBEDDINGS, key="free")
    record = await recorded(stack, answer.request_id)

    assert told(record, *TOKENS, "operation") == (20, 0, False, "completed", 200, "embeddings")


async def test_an_answer_larger_than_any_buffer_is_passed_on_and_counted(stack: Stack) -> None:
    """2 MB of vectors; Envoy's buffers are 64 KiB."""
    body = {"model": "text-embedding-3-small", "input": ["a" * 8] * 6000}
    answer = await stack.post(body, path=EMBEDDINGS, key="free")
    record = await recorded(stack, answer.request_id)

    assert len(answer.body) > 1_000_000
    assert told(record, *TOKENS) == (12000, 0, False, "completed", 200)


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "stream"])
async def test_compressed_answers_are_counted_too(stack: Stack, *, is_streamed: bool) -> None:
    """A provider may compress though nobody asked; the client gets it plain."""
    async with stack.debug.post("/compression", json={"gzip": True}) as told_so:
        assert told_so.status == 204
    options = {"stream_options": {"include_usage": True}} if is_streamed else {}
    answer = await stack.post(chat("Count me.", stream=is_streamed, **options), key="free")
    record = await recorded(stack, answer.request_id)

    assert "content-encoding" not in answer.headers
    assert b"chatcmpl-mock" in answer.body
    assert told(record, *TOKENS) == (3, 7, False, "completed", 200)


@pytest.mark.parametrize("status", [400, 429, 500, 529])
async def test_an_error_of_the_provider_is_recorded_without_tokens(
    stack: Stack, status: int
) -> None:
    """An error is no completion."""
    await stack.tell_provider("status", status=status, count=1)
    answer = await stack.post(chat("Fail."), key="free")
    record = await recorded(stack, answer.request_id)

    assert answer.status == status
    assert told(record, *TOKENS) == (0, 0, False, "completed", status)


async def test_a_client_that_leaves_is_charged_by_what_it_was_sent(stack: Stack) -> None:
    """Marked as estimated: the provider's count never came."""
    await leaves_and_is_estimated(stack)


async def test_a_list_of_models_has_no_tokens(stack: Stack) -> None:
    """It is recorded all the same."""
    headers = stack.credentials("/v1/models", "free", [])
    answer = await stack.request("GET", "/v1/models", headers=headers)
    record = await recorded(stack, answer.request_id)

    assert told(record, *TOKENS, "operation") == (0, 0, False, "completed", 200, "list_models")


async def test_a_request_without_a_good_key_is_nobodys_usage(stack: Stack) -> None:
    """Nobody can be charged with it."""
    answer = await stack.post(chat("Hello"), key="egk_wrong")
    good = await stack.post(chat("Hello"), key="free")
    await recorded(stack, good.request_id)

    connection = await asyncpg.connect(stack.facts.postgres_dsn)
    found = await connection.fetchval(
        "SELECT count(*) FROM usage WHERE request_id = $1", answer.request_id
    )
    await connection.close()
    assert (answer.status, found) == (401, 0)
