"""Google's client, Azure's and OpenAI's newer API, unchanged, over TLS; Bedrock by hand."""

from __future__ import annotations

import json
from typing import Any, Final

import openai
import pytest
from anthropic import (
    AsyncAnthropicBedrock,
    AsyncAnthropicFoundry,
    BadRequestError,
    PermissionDeniedError,
)
from google.genai import errors
from websockets.exceptions import InvalidStatus

from tests.support.clients import gemini_client, gemini_models, openai_client, tls_client
from tests.support.stack import Stack
from tests.support.stack_steps import EMAIL, says

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

TEXT = "Write a haiku about herons."
SECRET_TEXT = "Tell me about Bluebird."
BLOCKED = "Blocked by guardrail 'words'. It contains: DENIED_TERM."
WORDS = "The mock model was given 27 characters."
BAD_KEY = "egk_AAAAAAAAAAAA_" + 49 * "A"
GEMINI: Final = "gemini-mock"
CONVERSE: Final = "/model/anthropic.claude-mock-v1%3A0/converse"
BLOCKS: Final = {"messages": [{"role": "user", "content": [{"text": TEXT}]}]}
CLIENTS_OWN = ("authorization", "x-api-key", "api-key", "x-goog-api-key")


def _azure(stack: Stack, key: str) -> openai.AsyncAzureOpenAI:
    return openai.AsyncAzureOpenAI(
        azure_endpoint=stack.facts.https_url,
        api_key=key,
        api_version="2024-10-21",
        http_client=tls_client(stack),
        max_retries=0,
    )


async def _credentials_received(stack: Stack) -> list[dict[str, str]]:
    """Return the credential headers of each request that reached a provider."""
    return [
        {name: value for name, value in one.headers if name in CLIENTS_OWN}
        for one in await stack.received()
    ]


async def test_google_generates_streams_counts_embeds_and_lists(stack: Stack) -> None:
    """Every operation of its client; the provider sees Envoy's key alone, where it wants it."""
    key = stack.keys["block"]
    async with stack.counting(5) as counted, gemini_models(stack, key) as google:
        whole = await google.generate_content(model=GEMINI, contents=TEXT)
        stream = await google.generate_content_stream(model=GEMINI, contents=TEXT)
        pieces = [chunk.text async for chunk in stream]
        tokens = await google.count_tokens(model=GEMINI, contents=TEXT)
        vectors = await google.embed_content(model="gemini-embedding-001", contents=["a", "b"])
        names = [model.name async for model in await google.list()]
    assert whole.text == "".join(pieces) == WORDS
    assert (len(pieces), tokens.total_tokens, len(vectors.embeddings)) == (7, 7, 2)
    assert f"models/{GEMINI}" in names
    assert counted.outcomes == {
        ("allowed", "generate_content", "none"): 2,
        ("allowed", "count_tokens", "none"): 1,
        ("allowed", "embeddings", "none"): 1,
        ("allowed", "list_models", "none"): 1,
    }
    credentials = await _credentials_received(stack)
    assert [set(one) for one in credentials] == [{"x-goog-api-key"}] * 5
    assert not [one for one in credentials if key in one.values()]


async def test_google_raises_its_own_errors(stack: Stack) -> None:
    """A bad key, a blocked prompt, a model that is not allowed, a guardrail that is away."""
    narrow = (await stack.new_key("block", allowed_models=(GEMINI,))).reveal()
    asked = [
        (BAD_KEY, GEMINI, TEXT, 401, "UNAUTHENTICATED", "This API key is not valid."),
        (narrow, GEMINI, SECRET_TEXT, 400, "INVALID_ARGUMENT", BLOCKED),
        (
            *(narrow, "gemini-other", TEXT, 403, "PERMISSION_DENIED"),
            "This API key may not use the requested model.",
        ),
    ]
    for key, model, text, code, status, said in asked:
        async with gemini_models(stack, key) as google:
            with pytest.raises(errors.ClientError) as raised:
                await google.generate_content(model=model, contents=text)
            assert (raised.value.code, raised.value.status) == (code, status)
            assert str(raised.value.message).startswith(f"{said} ")
            stream = await google.generate_content_stream(model=model, contents=text)
            with pytest.raises(errors.ClientError):
                await anext(stream)
    async with gemini_models(stack, stack.keys["hook-error-block"]) as google:
        with pytest.raises(errors.ServerError) as away:
            await google.generate_content(model=GEMINI, contents=TEXT)
    assert (away.value.code, away.value.status) == (503, "UNAVAILABLE")
    assert await stack.received_count() == 0


@pytest.mark.parametrize("query", ["key=AIza-of-somebody", "alt=sse&key=AIza"])
async def test_a_key_in_the_query_reaches_no_provider(stack: Stack, query: str) -> None:
    """As older clients of Google's send it: refused beside a good key in a header as well."""
    for key in (stack.keys["free"], None):
        answer = await stack.post(
            {"contents": []}, path=f"/v1beta/models/{GEMINI}:generateContent?{query}", key=key
        )
        assert answer.status == 401
        assert answer.json["error"]["details"][0]["reason"] == "CREDENTIAL_IN_QUERY"
    assert await stack.received_count() == 0


async def test_openai_responds_whole_and_in_typed_events(stack: Stack) -> None:
    """The Responses API, its count of tokens and its stored responses."""
    async with stack.counting(5) as counted, openai_client(stack, stack.keys["block"]) as client:
        whole = await client.responses.create(model="gpt-4o", input=TEXT)
        async with client.responses.stream(model="gpt-4o", input=TEXT) as stream:
            final = await stream.get_final_response()
        counts = await client.responses.input_tokens.count(model="gpt-4o", input=TEXT)
        again = await client.responses.retrieve(whole.id)
        await client.responses.delete(whole.id)
    assert whole.output_text == final.output_text == WORDS
    assert (counts.input_tokens, again.id) == (7, whole.id)
    assert counted.outcomes == {
        ("allowed", "chat", "none"): 2,
        ("allowed", "count_tokens", "none"): 1,
        ("allowed", "stored_response", "none"): 2,
    }


async def test_a_conversation_of_openai_s_is_judged_before_a_model_reads_it(stack: Stack) -> None:
    """Its items are text; what is stored is searched again when it is read."""

    def says_one(text: str) -> list[Any]:
        return [{"type": "message", "role": "user", "content": text}]

    async with stack.counting(5) as counted, openai_client(stack, stack.keys["block"]) as client:
        made = await client.conversations.create(items=says_one(TEXT))
        await client.conversations.items.create(made.id, items=says_one(TEXT))
        assert [item async for item in client.conversations.items.list(made.id)] == []
        for create in (client.conversations.create, client.conversations.items.create):
            given: Any = (
                {} if create == client.conversations.create else {"conversation_id": made.id}
            )
            with pytest.raises(openai.BadRequestError) as refused:
                await create(items=says_one(SECRET_TEXT), **given)
            assert (refused.value.code, refused.value.param) == (
                "content_blocked",
                "items[0].content",
            )
    assert counted.outcomes == {
        ("allowed", "stored_response", "none"): 3,
        ("refused", "stored_response", "content_blocked"): 2,
    }
    assert await stack.received_count() == 3


async def test_a_cache_of_google_s_is_judged_before_a_model_reads_it(stack: Stack) -> None:
    """Its content and its system instruction; the model is one of those that are allowed."""
    narrow = (await stack.new_key("block", allowed_models=(GEMINI,))).reveal()
    async with gemini_client(stack, narrow) as google:
        made = await google.caches.create(model=GEMINI, config={"contents": [TEXT]})
        await google.caches.get(name=made.name)
        await google.caches.delete(name=made.name)
        for model, config in (
            (GEMINI, {"contents": [SECRET_TEXT]}),
            (GEMINI, {"contents": [TEXT], "system_instruction": SECRET_TEXT}),
            ("gemini-other", {"contents": [TEXT]}),
        ):
            with pytest.raises(errors.ClientError) as refused:
                await google.caches.create(model=model, config=config)
            assert refused.value.code == (400 if model == GEMINI else 403)
    assert await stack.received_count() == 3


async def test_an_interaction_of_google_s_is_judged_like_any_content(stack: Stack) -> None:
    """Its input in each form, and its system instruction; a picture is not read."""
    image = {"type": "image", "uri": "https://example.com/a.png", "mime_type": "image/png"}
    refused_inputs = (
        (SECRET_TEXT, 400),
        ([{"type": "text", "text": "Blue"}, {"type": "text", "text": "bird"}], 400),
        ([{"type": "user_input", "content": [{"type": "text", "text": SECRET_TEXT}]}], 400),
        ([{"type": "text", "text": TEXT}, image], 403),
        (image, 403),
    )
    async with gemini_client(stack, stack.keys["block"]) as google:
        whole = await google.interactions.create(model=GEMINI, input=TEXT)
        for given, status in refused_inputs:
            with pytest.raises(Exception) as refused:  # noqa: PT011 - of a module of its own
                await google.interactions.create(model=GEMINI, input=given)
            assert (
                getattr(refused.value, "code", getattr(refused.value, "status_code", 0)) == status
            )
    assert whole.output_text == WORDS
    assert await stack.received_count() == 1


async def test_a_client_of_openai_s_is_told_why_its_websocket_is_refused(stack: Stack) -> None:
    """Envoy answers: no filter sees an upgrade that is not configured."""
    client = openai.AsyncOpenAI(base_url=f"{stack.facts.url}/v1", api_key=stack.keys["free"])
    with pytest.raises(InvalidStatus) as refused:
        await client.realtime.connect(model="gpt-realtime").enter()
    await client.close()
    answer = refused.value.response
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/json")
    assert json.loads(answer.body or b"")["error"]["code"] == "upgrade_not_supported"
    assert await stack.received_count() == 0


async def test_openai_moderates_and_draws(stack: Stack) -> None:
    """Both are read as text; what a picture shows is the answer's affair."""
    async with openai_client(stack, stack.keys["block"]) as client:
        moderated = await client.moderations.create(input=["a", "b"])
        drawn = await client.images.generate(prompt=TEXT, model="gpt-image-1")
        with pytest.raises(openai.BadRequestError) as refused:
            await client.images.generate(prompt=SECRET_TEXT, model="gpt-image-1")
    assert (len(moderated.results), drawn.data is not None) == (2, True)
    assert refused.value.code == "content_blocked"


async def test_a_response_is_redacted_and_blocked_like_a_chat(stack: Stack) -> None:
    """Byte for byte in its own shape; refused in OpenAI's words."""
    mail = "Write to bob.builder@example.com."
    async with openai_client(stack, stack.keys["redact"]) as client:
        await client.responses.create(model="gpt-4o", input=mail)
    (received,) = await stack.received()
    assert json.loads(received.body)["input"] == "Write to [EMAIL_1]."
    async with openai_client(stack, stack.keys["block"]) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model="gpt-4o", input=SECRET_TEXT)
    assert (refused.value.code, BLOCKED in refused.value.message) == ("content_blocked", True)


async def test_azures_client_is_judged_by_its_deployment(stack: Stack) -> None:
    """The key is in `api-key` on both sides, and is another one behind Envoy."""
    narrow = (await stack.new_key("block", allowed_models=("gpt-eu*",))).reveal()
    prompt: Any = [{"role": "user", "content": TEXT}]
    async with stack.counting(2) as counted, _azure(stack, narrow) as client:
        answer = await client.chat.completions.create(model="gpt-eu-1", messages=prompt)
        with pytest.raises(openai.PermissionDeniedError) as refused:
            await client.chat.completions.create(model="gpt-us-1", messages=prompt)
    assert answer.choices[0].message.content == WORDS
    assert (refused.value.code, refused.value.param) == ("model_not_allowed", "model")
    assert counted.outcomes == {
        ("allowed", "chat", "none"): 1,
        ("refused", "chat", "model_not_allowed"): 1,
    }
    (received,) = await stack.received()
    assert received.path == "/openai/deployments/gpt-eu-1/chat/completions?api-version=2024-10-21"
    (credentials,) = await _credentials_received(stack)
    assert set(credentials) == {"api-key"}
    assert narrow not in credentials.values()


async def test_claude_on_azure_is_judged_in_anthropic_s_words(stack: Stack) -> None:
    """Its client sends the key in two headers; behind Envoy there is Azure's alone."""
    narrow = (await stack.new_key("block", allowed_models=("claude-eu*",))).reveal()
    asked: Any = {"max_tokens": 64, "messages": [{"role": "user", "content": TEXT}]}
    client = AsyncAnthropicFoundry(
        api_key=narrow,
        base_url=f"{stack.facts.https_url}/anthropic",
        http_client=tls_client(stack),
        max_retries=0,
    )
    async with stack.counting(4) as counted, client:
        whole = await client.messages.create(model="claude-eu-1", **asked)
        async with client.messages.stream(model="claude-eu-1", **asked) as stream:
            final = await stream.get_final_message()
        counts = await client.messages.count_tokens(
            model="claude-eu-1", messages=asked["messages"]
        )
        with pytest.raises(PermissionDeniedError) as refused:
            await client.messages.create(model="claude-us-1", **asked)
    assert [one.text for one in whole.content if one.type == "text"] == [WORDS]
    assert [one.text for one in final.content if one.type == "text"] == [WORDS]
    assert counts.input_tokens == whole.usage.input_tokens
    assert "may not use the requested model" in str(refused.value)
    assert counted.outcomes == {
        ("allowed", "chat", "none"): 2,
        ("allowed", "count_tokens", "none"): 1,
        ("refused", "chat", "model_not_allowed"): 1,
    }
    assert {one.path for one in await stack.received()} == {
        "/anthropic/v1/messages",
        "/anthropic/v1/messages/count_tokens",
    }
    assert [set(one) for one in await _credentials_received(stack)] == [{"api-key"}] * 3


async def test_openai_s_client_reaches_gemini_by_google_s_path_for_it(stack: Stack) -> None:
    """Judged, counted and refused as OpenAI's API; the provider's key is Google's."""
    https = tls_client(stack)
    client = openai.AsyncOpenAI(
        base_url=f"{stack.facts.https_url}/v1beta/openai/",
        api_key=stack.keys["block"],
        http_client=https,
        max_retries=0,
    )
    prompt: Any = [{"role": "user", "content": TEXT}]
    async with client:
        whole = await client.chat.completions.create(model=GEMINI, messages=prompt)
        vectors = await client.embeddings.create(model="gemini-embedding-001", input=["a", "b"])
        prompt[0]["content"] = SECRET_TEXT
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model=GEMINI, messages=prompt)
        with pytest.raises(openai.NotFoundError):
            await client.files.list()
    assert whole.choices[0].message.content == WORDS
    assert len(vectors.data) == 2
    assert refused.value.code == "content_blocked"
    assert [set(one) for one in await _credentials_received(stack)] == [{"x-goog-api-key"}] * 2


async def test_azures_versioned_paths_take_the_model_from_the_body(stack: Stack) -> None:
    """OpenAI's own client with another base URL, as Azure documents it."""
    narrow = (await stack.new_key("block", allowed_models=("gpt-eu*",))).reveal()
    async with openai_client(stack, narrow) as client:
        client.base_url = f"{stack.facts.https_url}/openai/v1/"
        response = await client.responses.create(model="gpt-eu-1", input=TEXT)
        with pytest.raises(openai.PermissionDeniedError):
            await client.responses.create(model="gpt-us-1", input=TEXT)
    assert response.output_text == WORDS
    (received,) = await stack.received()
    assert received.path == "/openai/v1/responses"


async def test_bedrock_converses_whole_and_streamed(stack: Stack) -> None:
    """With an API key as bearer; the framed stream goes through untouched."""
    whole = await stack.post(BLOCKS, path=CONVERSE, key="block")
    assert whole.json["output"]["message"]["content"] == [{"text": WORDS}]
    streamed = await stack.post(BLOCKS, path=f"{CONVERSE}-stream", key="block")
    assert streamed.headers["content-type"] == "application/vnd.amazon.eventstream"
    assert streamed.body.count(b"contentBlockDelta") == 7
    credentials = await _credentials_received(stack)
    assert [set(one) for one in credentials] == [{"authorization"}] * 2
    assert not [one for one in credentials if stack.keys["block"] in str(one)]


async def test_claude_on_bedrock_streams_through_guardrails_of_answers(stack: Stack) -> None:
    """Anthropic's client reads events in chunks of AWS, as coding agents use it."""
    asked: Any = {
        "model": "anthropic.claude-mock-v1:0",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": TEXT}],
    }
    texts: list[str] = []
    async with tls_client(stack) as https:

        def client(key: str) -> AsyncAnthropicBedrock:
            return AsyncAnthropicBedrock(
                api_key=stack.keys[key],
                aws_region="eu-west-1",
                base_url=stack.facts.https_url,
                http_client=https,
                max_retries=0,
            )

        for key in ("answers-redact", "search"):
            await says(stack, f"Write to {EMAIL}.")
            async with client(key).messages.stream(**asked) as stream:
                final = await stream.get_final_message()
            texts += [one.text for one in final.content if one.type == "text"]
        asked["messages"][0]["content"] = SECRET_TEXT
        with pytest.raises(BadRequestError):
            await client("block").messages.create(**asked, stream=True)
    assert texts == ["Write to [EMAIL_1].", f"Write to {EMAIL}."]
    assert {one.path for one in await stack.received()} == {
        "/model/anthropic.claude-mock-v1:0/invoke-with-response-stream"
    }


async def test_bedrock_refusals_have_their_type_in_a_header(stack: Stack) -> None:
    """Where AWS's clients look for it; the id's colon is read before the model is judged."""
    narrow = (await stack.new_key("block", allowed_models=("*-v1:0",))).reveal()
    secret = {"messages": [{"role": "user", "content": [{"text": SECRET_TEXT}]}]}
    other = CONVERSE.replace("v1", "v2")
    asked = [
        (BAD_KEY, CONVERSE, BLOCKS, 401, "UnrecognizedClientException"),
        (narrow, CONVERSE, secret, 400, "ValidationException"),
        (narrow, other, BLOCKS, 403, "AccessDeniedException"),
        ("hook-error-block", CONVERSE, BLOCKS, 503, "ServiceUnavailableException"),
    ]
    for key, path, body, status, kind in asked:
        answer = await stack.post(body, path=path, key=key)
        assert (answer.status, answer.headers["x-amzn-errortype"]) == (status, kind)
        assert set(answer.json) == {"message"}
    assert await stack.received_count() == 0
    good = await stack.post(BLOCKS, path=CONVERSE, key=narrow)
    assert good.status == 200
