"""OpenAI's own client is the judge of the mock's shapes."""

from __future__ import annotations

import openai
import pytest

from tests.unit.tools.mock_llm.conftest import OPENAI_KEY, Mock


async def test_a_chat_is_answered_with_the_number_of_characters_given(
    client: openai.AsyncOpenAI,
) -> None:
    """All messages and text parts count, and nothing of them is repeated."""
    answer = await client.chat.completions.create(
        model="gpt-4o",
        messages=[
            {"role": "system", "content": "12345"},
            {"role": "user", "content": [{"type": "text", "text": "12345"}]},
        ],
    )
    assert answer.choices[0].message.content == "The mock model was given 10 characters."
    assert answer.model == "gpt-4o"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 7)


@pytest.mark.parametrize("usage_asked", [False, True], ids=["plain", "with usage"])
async def test_a_streamed_chat_joins_to_the_whole_answer(
    client: openai.AsyncOpenAI, *, usage_asked: bool
) -> None:
    """Usage comes in an extra chunk without choices, and only when it is asked for."""
    stream = await client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": "hello"}],
        stream=True,
        stream_options={"include_usage": usage_asked},
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == "The mock model was given 5 characters."
    assert [chunk.usage is not None for chunk in chunks].count(True) == int(usage_asked)
    assert (chunks[-1].choices == []) is usage_asked


async def test_a_completion_is_answered_whole_and_streamed_alike(
    client: openai.AsyncOpenAI,
) -> None:
    """Two prompts in a list count as one text."""
    whole = await client.completions.create(model="gpt-4o", prompt=["abc", "def"])
    stream = await client.completions.create(model="gpt-4o", prompt="abcdef", stream=True)
    streamed = "".join([chunk.choices[0].text async for chunk in stream])
    assert whole.choices[0].text == streamed == "The mock model was given 6 characters."


async def test_embeddings_are_the_same_in_base64_and_as_floats(
    client: openai.AsyncOpenAI,
) -> None:
    """The client asks for base64 unless told; equal texts get equal vectors."""
    packed = await client.embeddings.create(model="text-embedding-3-small", input=["a", "b", "a"])
    plain = await client.embeddings.create(
        model="text-embedding-3-small", input="a", encoding_format="float"
    )
    first, second, third = (row.embedding for row in packed.data)
    assert first == third != second
    assert first == pytest.approx(plain.data[0].embedding)


async def test_models_can_be_listed_and_looked_up(client: openai.AsyncOpenAI) -> None:
    """A model there is none of raises the client's own NotFoundError."""
    names = [model.id async for model in client.models.list()]
    assert "gpt-4o" in names
    assert (await client.models.retrieve("gpt-4o")).owned_by == "mock"
    with pytest.raises(openai.NotFoundError) as missing:
        await client.models.retrieve("no-such-model")
    assert missing.value.code == "model_not_found"


async def test_a_wrong_key_raises_the_clients_authentication_error(mock: Mock) -> None:
    """The provider checks its credential, so a missing injection cannot go unseen."""
    async with openai.AsyncOpenAI(
        api_key="sk-wrong", base_url=f"{mock.address.url}/v1", http_client=mock.https()
    ) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        pytest.param("/v1/chat/completions", b"{", 400, id="invalid JSON"),
        pytest.param("/v1/chat/completions", b"[]", 400, id="not an object"),
        pytest.param("/v1/chat/completions", b'{"model":"m"}', 400, id="no messages"),
        pytest.param("/v1/completions", b'{"model":"m"}', 400, id="no prompt"),
        pytest.param("/v1/embeddings", b'{"model":"m","input":[]}', 400, id="no input"),
        pytest.param("/v1/unknown", b"{}", 404, id="unknown path"),
    ],
)
async def test_a_bad_request_gets_openais_error_object(
    mock: Mock, path: str, body: bytes, status: int
) -> None:
    """Message, type, param and code are all there."""
    async with mock.https() as https:
        answer = await https.post(
            path, content=body, headers={"authorization": f"Bearer {OPENAI_KEY}"}
        )
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
