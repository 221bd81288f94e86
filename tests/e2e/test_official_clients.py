"""The providers' own Python clients, unchanged but for base URL and key, over TLS."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator

import anthropic
import openai
import pytest
import pytest_asyncio

from tests.support.clients import PROMPT, anthropic_client, ask_claude, ask_gpt, openai_client
from tests.support.http2 import Http2Answer, http2_request
from tests.support.stack import CHAT, MESSAGES, Stack, as_json, chat, message

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

WORDS = "The mock model was given 27 characters."
BAD_KEY = "egk_AAAAAAAAAAAA_" + 49 * "A"


@pytest_asyncio.fixture(loop_scope="session")
async def gpt(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client with a key whose policy blocks."""
    async with openai_client(stack, stack.keys["block"]) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def claude(stack: Stack) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """Anthropic's client with a key whose policy blocks."""
    async with anthropic_client(stack, stack.keys["block"]) as client:
        yield client


async def test_openai_completes_a_chat(stack: Stack, gpt: openai.AsyncOpenAI) -> None:
    """Every field of the answer is the provider's; the exchange is counted as allowed."""
    async with stack.counting() as counted:
        answer = await ask_gpt(gpt)
    assert answer.choices[0].message.content == WORDS
    assert answer.usage is not None
    assert (answer.model, answer.usage.completion_tokens) == ("gpt-4o", 7)
    assert counted.outcomes == {("allowed", "chat", "none"): 1}
    assert await stack.received_count() == 1


async def test_openai_streams_a_chat(stack: Stack, gpt: openai.AsyncOpenAI) -> None:
    """Word by word, and with the usage it asked for at the end."""
    stream = await ask_gpt(gpt, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == WORDS
    assert sum(map(bool, texts)) == 7
    assert chunks[-1].usage is not None
    assert await stack.received_count() == 1


async def test_openai_completes_embeds_and_lists_models(
    stack: Stack, gpt: openai.AsyncOpenAI
) -> None:
    """The other operations Egret knows."""
    async with stack.counting(4) as counted:
        completion = await gpt.completions.create(model="gpt-4o", prompt=PROMPT["content"])
        vectors = await gpt.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
        models = await gpt.models.list()
        one = await gpt.models.retrieve("gpt-4o")
    assert completion.choices[0].text == WORDS
    assert [len(row.embedding) for row in vectors.data] == [16, 16]
    assert {model.id for model in models.data} >= {"gpt-4o", "mock-model"}
    assert one.id == "gpt-4o"
    assert counted.outcomes == {
        ("allowed", "text_completion", "none"): 1,
        ("allowed", "embeddings", "none"): 1,
        ("allowed", "list_models", "none"): 2,
    }


async def test_anthropic_answers_a_message(stack: Stack, claude: anthropic.AsyncAnthropic) -> None:
    """Every field of the answer is the provider's; the exchange is counted as allowed."""
    async with stack.counting() as counted:
        answer = await ask_claude(claude)
    assert [part.text for part in answer.content if part.type == "text"] == [WORDS]
    assert (answer.model, answer.stop_reason, answer.usage.output_tokens) == (
        "claude-mock",
        "end_turn",
        7,
    )
    assert counted.outcomes == {("allowed", "chat", "none"): 1}


async def test_anthropic_streams_counts_and_lists(
    stack: Stack, claude: anthropic.AsyncAnthropic
) -> None:
    """A stream word by word, a count of tokens, and the models of its own API."""
    words = []
    async with stack.counting(3) as counted:
        async with claude.messages.stream(
            model="claude-mock",
            max_tokens=64,
            messages=[{"role": "user", "content": PROMPT["content"]}],
        ) as stream:
            words = [text async for text in stream.text_stream]
        tokens = await claude.messages.count_tokens(
            model="claude-mock", messages=[{"role": "user", "content": PROMPT["content"]}]
        )
        models = [model.id async for model in claude.models.list()]
    assert ("".join(words), len(words)) == (WORDS, 7)
    assert tokens.input_tokens == 7
    assert models == ["claude-mock", "claude-mock-small"]
    assert counted.outcomes == {
        ("allowed", "chat", "none"): 1,
        ("allowed", "count_tokens", "none"): 1,
        ("allowed", "list_models", "none"): 1,
    }


async def test_openai_raises_its_authentication_error_for_a_bad_key(stack: Stack) -> None:
    """With our words and code, for a key of the right form and for none of ours."""
    for key in (BAD_KEY, "sk-of-somebody-else"):
        async with stack.counting() as counted, openai_client(stack, key) as client:
            with pytest.raises(openai.AuthenticationError) as raised:
                await ask_gpt(client)
        assert (raised.value.status_code, raised.value.code) == (401, "invalid_api_key")
        assert "This API key is not valid." in raised.value.message
        assert counted.outcomes == {("refused", "chat", "invalid_api_key"): 1}
    assert await stack.received_count() == 0


async def test_anthropic_raises_its_authentication_error_for_a_bad_key(stack: Stack) -> None:
    """Listing models included: that path is served by both APIs."""
    async with stack.counting(2) as counted, anthropic_client(stack, BAD_KEY) as client:
        with pytest.raises(anthropic.AuthenticationError) as raised:
            await ask_claude(client)
        with pytest.raises(anthropic.AuthenticationError):
            await client.models.list()
    request_id = raised.value.request_id
    assert request_id
    assert raised.value.body == {
        "type": "error",
        "error": {
            "type": "authentication_error",
            "message": f"This API key is not valid. Request id: {request_id}.",
        },
        "request_id": request_id,
    }
    assert counted.outcomes == {
        ("refused", "chat", "invalid_api_key"): 1,
        ("refused", "list_models", "invalid_api_key"): 1,
    }
    assert await stack.received_count() == 0


async def test_a_blocked_prompt_raises_each_clients_bad_request_error(
    stack: Stack, gpt: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic
) -> None:
    """Which guardrail and what kind of thing it found, not the thing itself; streams too."""
    prompt = {"role": "user", "content": "Tell me about Bluebird."}
    said = "Blocked by guardrail 'words'. It contains: DENIED_TERM. Found in: messages[0].content."
    async with stack.counting(3) as counted:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as refused:
                await ask_gpt(gpt, prompt, stream=stream)
            assert refused.value.request_id
            assert refused.value.body == {
                "message": f"{said} Request id: {refused.value.request_id}.",
                "type": "invalid_request_error",
                "param": "messages[0].content",
                "code": "content_blocked",
            }
        with pytest.raises(anthropic.BadRequestError) as declined:
            await ask_claude(claude, prompt)
    assert declined.value.body == {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": f"{said} Request id: {declined.value.request_id}.",
        },
        "request_id": declined.value.request_id,
    }
    assert counted.outcomes == {("refused", "chat", "content_blocked"): 3}
    assert await stack.received_count() == 0


async def test_a_forbidden_model_and_an_image_raise_permission_denied(stack: Stack) -> None:
    """The key may use one model only, and its policy blocks what cannot be read."""
    key = await stack.new_key("block", allowed_models=("gpt-4o", "claude-mock"))
    image = [{"type": "image_url", "image_url": {"url": "https://example.com/heron.png"}}]
    async with openai_client(stack, key.reveal()) as client:
        with pytest.raises(openai.PermissionDeniedError) as raised:
            await ask_gpt(client, model="gpt-4o-mini")
        assert (raised.value.code, raised.value.param) == ("model_not_allowed", "model")
        with pytest.raises(openai.PermissionDeniedError) as unread:
            await ask_gpt(client, {"role": "user", "content": image})
        assert unread.value.code == "unscanned_content"
    async with anthropic_client(stack, key.reveal()) as client:
        with pytest.raises(anthropic.PermissionDeniedError):
            await ask_claude(client, model="claude-else")
    assert await stack.received_count() == 0


SCRIPT = """
import json, anthropic, openai
said = openai.OpenAI().chat.completions.create(model="gpt-4o", messages=[PROMPT])
told = anthropic.Anthropic().messages.create(model="claude-mock", max_tokens=9, messages=[PROMPT])
print(json.dumps([said.choices[0].message.content, told.content[0].text]))
"""


async def test_programs_need_nothing_but_environment_variables(stack: Stack) -> None:
    """Base URL, key and certificate authority: not a line of the program is changed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SCRIPT.replace("PROMPT", json.dumps(PROMPT))),
        stdout=asyncio.subprocess.PIPE,
        env={
            "PATH": os.defpath,
            "SSL_CERT_FILE": str(stack.facts.ca_file),
            "OPENAI_BASE_URL": f"{stack.facts.https_url}/v1",
            "OPENAI_API_KEY": stack.keys["block"],
            "ANTHROPIC_BASE_URL": stack.facts.https_url,
            "ANTHROPIC_API_KEY": stack.keys["block"],
        },
    )
    printed, _ = await process.communicate()
    assert json.loads(printed) == [WORDS, WORDS]


async def _over_http2(stack: Stack, path: str, key: str, body: bytes) -> Http2Answer:
    fields = [
        *((":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", path)),
        *(("x-api-key", key), ("content-type", "application/json")),
    ]
    port = int(stack.facts.https_url.rpartition(":")[2])
    return await http2_request(port, stack.facts.ca_file, fields=fields, body=[body])


async def test_http2_clients_are_served_and_refused_alike(stack: Stack) -> None:
    """Both dialects: a call, a stream, a bad key, a blocked prompt."""
    key = stack.keys["block"]
    async with stack.counting(5) as counted:
        whole = await _over_http2(stack, CHAT, key, as_json(chat(PROMPT["content"])))
        streamed = await _over_http2(
            stack, CHAT, key, as_json(chat(PROMPT["content"], stream=True))
        )
        told = await _over_http2(stack, MESSAGES, key, as_json(message(PROMPT["content"])))
        unknown = await _over_http2(stack, CHAT, BAD_KEY, as_json(chat(PROMPT["content"])))
        blocked = await _over_http2(stack, MESSAGES, key, as_json(message("Bluebird")))
    assert json.loads(whole.body)["choices"][0]["message"]["content"] == WORDS
    assert streamed.body.endswith(b"data: [DONE]\n\n")
    assert json.loads(told.body)["content"] == [{"type": "text", "text": WORDS}]
    assert json.loads(unknown.body)["error"]["code"] == "invalid_api_key"
    assert json.loads(blocked.body)["error"]["type"] == "invalid_request_error"
    answers = (whole, streamed, told, unknown, blocked)
    assert [answer.status for answer in answers] == [200, 200, 200, 401, 400]
    assert counted.outcomes == {
        ("allowed", "chat", "none"): 3,
        ("refused", "chat", "invalid_api_key"): 1,
        ("refused", "chat", "content_blocked"): 1,
    }
    assert await stack.received_count() == 3
