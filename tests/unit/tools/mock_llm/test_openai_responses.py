"""OpenAI's own client is the judge of the mock's shapes, typed events included."""

from __future__ import annotations

import openai

from tests.unit.tools.mock_llm.conftest import AZURE_KEY, Mock

WORDS = "The mock model was given 10 characters."


async def test_a_response_is_answered_with_the_number_of_characters_given(
    client: openai.AsyncOpenAI,
) -> None:
    """Instructions and input items count."""
    response = await client.responses.create(
        model="gpt-4o",
        instructions="12345",
        input=[{"role": "user", "content": [{"type": "input_text", "text": "12345"}]}],
    )
    assert response.output_text == WORDS
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (3, 7)


async def test_a_streamed_response_accumulates_to_the_whole_answer(
    client: openai.AsyncOpenAI,
) -> None:
    """Every typed event is there, numbered, and the client's accumulator is content."""
    async with client.responses.stream(model="gpt-4o", input="1234567890") as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert ("".join(deltas), len(deltas)) == (WORDS, 7)
    assert final.output_text == WORDS
    assert [event.type for event in events if event.type != "response.output_text.delta"] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_a_stored_response_is_shown_cancelled_and_deleted(
    client: openai.AsyncOpenAI,
) -> None:
    """The sub-resources; any id is one that was made."""
    assert (await client.responses.retrieve("resp_1")).id == "resp_1"
    assert (await client.responses.cancel("resp_1")).status == "cancelled"
    assert [item async for item in client.responses.input_items.list("resp_1")] == []
    await client.responses.delete("resp_1")
    counted = await client.responses.input_tokens.count(model="gpt-4o", input="12345678")
    assert counted.input_tokens == 2


async def test_moderations_and_images_are_answered(client: openai.AsyncOpenAI) -> None:
    """One result an input; one image."""
    moderated = await client.moderations.create(input=["a", "b"])
    assert [result.flagged for result in moderated.results] == [False, False]
    image = await client.images.generate(prompt="a heron", model="gpt-image-1")
    assert image.data is not None
    assert image.data[0].b64_json is not None


async def test_azures_client_is_answered_at_its_deployments(mock: Mock) -> None:
    """With the key in `api-key`, and the deployment in the path in the model's place."""
    async with openai.AsyncAzureOpenAI(
        api_key=AZURE_KEY,
        azure_endpoint=mock.address.url,
        api_version="2024-10-21",
        http_client=mock.https(),
        max_retries=0,
    ) as client:
        answer = await client.chat.completions.create(
            model="our-gpt", messages=[{"role": "user", "content": "1234567890"}]
        )
    assert (answer.model, answer.choices[0].message.content) == ("our-gpt", WORDS)
