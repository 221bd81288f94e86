"""Structured answers judged by a JSON Schema on live Envoy, whole and streamed."""

from __future__ import annotations

import base64
import io
import json
import time

import pytest

from tests.support.stack import CHAT, MESSAGES, Answer, Stack, chat, message

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

FITS = '{"to": "Bob", "n": 1}'
MISFITS = '{"to": "Bob", "n": "one more secret"}'
REQUESTS: dict[str, tuple[str, object]] = {
    "chat": (CHAT, chat("hi")),
    "chat streamed": (CHAT, chat("hi", stream=True)),
    "messages": (MESSAGES, message("hi")),
    "messages streamed": (MESSAGES, message("hi", stream=True)),
}


async def says(stack: Stack, text: str) -> None:
    """Have the provider say *text*, in words where it streams."""
    async with stack.debug.post("/answer", json={"text": text}) as answer:
        assert answer.status == 204


def error_of(answer: Answer, path: str) -> tuple[object, ...]:
    """Return the refusal in the words of the API that was asked."""
    return answer.anthropic_error if path == MESSAGES else answer.openai_error


@pytest.mark.parametrize("api", REQUESTS)
async def test_an_answer_that_fits_is_the_provider_s_and_one_that_does_not_is_a_refusal(
    stack: Stack, api: str
) -> None:
    """A stream is held, so that its refusal has a status; the refusal names place and keyword."""
    path, body = REQUESTS[api]
    await says(stack, FITS)
    async with stack.counting(3) as counted:
        wanted = await stack.post(body, path=path, key="block")
        await stack.debug.delete("/requests")  # the provider counts its answers
        fits = await stack.post(body, path=path, key="answers-schema")
        await says(stack, MISFITS)
        misfit = await stack.post(body, path=path, key="answers-schema")

    assert fits.status == 200
    assert len(fits.body) == len(wanted.body)
    assert error_of(misfit, path)[0] == 400
    assert "'order'. It contains: SCHEMA_TYPE at " in misfit.json["error"]["message"]
    assert misfit.json["error"]["message"].endswith(f"/n. Request id: {misfit.request_id}.")
    assert b"secret" not in misfit.body
    verdicts = {
        verdict: count for (name, verdict), count in counted.verdicts.items() if name == "order"
    }
    assert verdicts == {"pass": 1, "block": 1}


@pytest.mark.parametrize("api", REQUESTS)
async def test_a_flag_lets_the_answer_pass_and_is_counted(stack: Stack, api: str) -> None:
    """To see first how often a model keeps to its form."""
    path, body = REQUESTS[api]
    await says(stack, "No JSON today.")
    async with stack.counting() as counted:
        answer = await stack.post(body, path=path, key="answers-schema-flag")

    assert answer.status == 200
    assert b"today" in answer.body
    assert counted.verdicts == {("order", "flag"): 1}
    assert [outcome for outcome, _, _ in counted.outcomes] == ["flagged"]


async def test_an_answer_made_to_be_slow_is_refused_at_once(stack: Stack) -> None:
    """Megabytes, and a hundred thousand levels; what is over a bound is not read."""
    for text in ("[" * 100_000, '{"to": "' + "x" * 4_000_000 + '"}'):
        choice = {"index": 0, "message": {"role": "assistant", "content": text}}
        raw = base64.b64encode(json.dumps({"choices": [choice]}).encode()).decode()
        order = {"chunks": [raw], "headers": {"content-type": "application/json"}}
        async with stack.debug.post("/raw", data=io.BytesIO(json.dumps(order).encode())) as told:
            assert told.status == 204
        began = time.monotonic()

        answer = await stack.post(chat("hi"), key="answers-schema")

        assert time.monotonic() - began < 30
        assert answer.openai_error == (400, "invalid_request_error", "content_blocked")
        assert "JSON_TOO_LARGE at choices[0]" in answer.json["error"]["message"]


async def test_what_a_provider_says_of_a_failure_reaches_the_client(stack: Stack) -> None:
    """It is no answer, so that no schema is for it."""
    raw = base64.b64encode(b'{"message": "no such model"}').decode()
    order = {"chunks": [raw], "headers": {"content-type": "application/json"}, "status": 404}
    async with stack.debug.post("/raw", data=io.BytesIO(json.dumps(order).encode())) as told:
        assert told.status == 204

    answer = await stack.post(chat("hi"), key="answers-schema")

    assert (answer.status, answer.json) == (404, {"message": "no such model"})
