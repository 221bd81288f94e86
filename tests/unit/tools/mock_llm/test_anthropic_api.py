"""Anthropic's own client is the judge of the mock's shapes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anthropic
import pytest

from tests.unit.tools.mock_llm.conftest import ANTHROPIC_KEY, Mock


@pytest.fixture
async def client(mock: Mock) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        api_key="unused",
        default_headers={"x-api-key": ANTHROPIC_KEY},
        base_url=mock.address.url,
        http_client=mock.https(),
        max_retries=0,
    ) as opened:
        yield opened


async def test_a_message_is_answered_with_the_number_of_characters_given(
    client: anthropic.AsyncAnthropic,
) -> None:
    """The system prompt counts too."""
    answer = await client.messages.create(
        model="claude-mock",
        max_tokens=64,
        system="12345",
        messages=[{"role": "user", "content": [{"type": "text", "text": "12345"}]}],
    )
    assert answer.content[0].type == "text"
    assert answer.content[0].text == "The mock model was given 10 characters."
    assert answer.stop_reason == "end_turn"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (3, 7)


async def test_a_streamed_message_accumulates_to_the_whole_answer(
    client: anthropic.AsyncAnthropic,
) -> None:
    """From message_start to message_stop, as the client's own accumulator wants it."""
    async with client.messages.stream(
        model="claude-mock",
        max_tokens=64,
        messages=[{"role": "user", "content": "hello"}],
    ) as stream:
        pieces = [piece async for piece in stream.text_stream]
        message = await stream.get_final_message()
    assert len(pieces) > 1
    assert "".join(pieces) == "The mock model was given 5 characters."
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == len(pieces)


async def test_tokens_are_counted_and_models_listed(client: anthropic.AsyncAnthropic) -> None:
    """The header anthropic-version tells which list of models is meant."""
    counted = await client.messages.count_tokens(
        model="claude-mock", messages=[{"role": "user", "content": "12345678"}]
    )
    names = [model.id async for model in client.models.list()]
    assert counted.input_tokens == 2
    assert "claude-mock" in names
    assert (await client.models.retrieve(names[0])).type == "model"


async def test_a_wrong_key_raises_the_clients_authentication_error(mock: Mock) -> None:
    """Only x-api-key is believed: a bearer token alone is not enough."""
    async with anthropic.AsyncAnthropic(
        api_key=ANTHROPIC_KEY, base_url=mock.address.url, http_client=mock.https()
    ) as client:
        with pytest.raises(anthropic.AuthenticationError) as refused:
            await client.messages.create(
                model="m",
                max_tokens=1,
                messages=[{"role": "user", "content": "x"}],
                extra_headers={"x-api-key": "wrong"},
            )
    assert refused.value.body == {
        "type": "error",
        "error": {"type": "authentication_error", "message": "Incorrect API key provided."},
    }


async def test_a_request_without_max_tokens_is_a_bad_request(mock: Mock) -> None:
    """The real API requires it as well."""
    async with mock.https() as https:
        answer = await https.post(
            "/v1/messages",
            json={"model": "m", "messages": []},
            headers={"x-api-key": ANTHROPIC_KEY},
        )
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
