"""Google's own client is the judge of the mock's shapes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google import genai
from google.genai import errors, types

from tests.unit.tools.mock_llm.conftest import GEMINI_KEY, Mock

WORDS = "The mock model was given 10 characters."
MODEL = "gemini-mock"


@asynccontextmanager
async def _client(mock: Mock, key: str) -> AsyncIterator[genai.Client]:
    async with mock.https() as https:
        options = types.HttpOptions(base_url=mock.address.url, httpx_async_client=https)
        opened = genai.Client(api_key=key, http_options=options)
        yield opened
        opened.close()


@pytest.fixture
async def client(mock: Mock) -> AsyncIterator[genai.Client]:
    async with _client(mock, GEMINI_KEY) as opened:
        yield opened


async def test_content_is_generated_with_the_number_of_characters_given(
    client: genai.Client,
) -> None:
    """The system instruction counts too."""
    answer = await client.aio.models.generate_content(
        model=MODEL,
        contents="12345",
        config=types.GenerateContentConfig(system_instruction="12345"),
    )
    assert answer.text == WORDS
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.prompt_token_count == 3
    assert answer.usage_metadata.candidates_token_count == 7


async def test_streamed_content_joins_to_the_whole_answer(client: genai.Client) -> None:
    """The client asks for server-sent events."""
    stream = await client.aio.models.generate_content_stream(model=MODEL, contents="1234567890")
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.text or "" for chunk in chunks) == WORDS
    assert len(chunks) == 7


async def test_without_alt_sse_the_stream_is_one_json_array(mock: Mock) -> None:
    """As Google's own answer to curl."""
    async with mock.https() as https:
        answer = await https.post(
            f"/v1beta/models/{MODEL}:streamGenerateContent",
            json={"contents": [{"parts": [{"text": "1234567890"}]}]},
            headers={"x-goog-api-key": GEMINI_KEY},
        )
    assert answer.headers["content-type"] == "application/json"
    chunks = json.loads(answer.content)
    texts = [chunk["candidates"][0]["content"]["parts"][0]["text"] for chunk in chunks]
    assert "".join(texts) == WORDS


async def test_tokens_vectors_and_models(client: genai.Client) -> None:
    """The other operations of the API."""
    models = client.aio.models
    assert (await models.count_tokens(model=MODEL, contents="12345678")).total_tokens == 2
    texts: list[Any] = ["a", "b", "a"]
    embedded = await models.embed_content(model="gemini-embedding-001", contents=texts)
    assert embedded.embeddings is not None
    first, second, third = (one.values for one in embedded.embeddings)
    assert first == third != second
    names = [model.name async for model in await models.list()]
    assert f"models/{MODEL}" in names


async def test_a_wrong_key_raises_the_clients_error(mock: Mock) -> None:
    """With Google's status."""
    async with _client(mock, "wrong") as client:
        with pytest.raises(errors.ClientError) as refused:
            await client.aio.models.generate_content(model=MODEL, contents="x")
    assert (refused.value.code, refused.value.status) == (401, "UNAUTHENTICATED")
