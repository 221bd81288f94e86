"""Answers judged on live Envoy: whole and streamed, by every API and every mode."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from multidict import CIMultiDict

from tests.support.answers import chat_chunk, sse
from tests.support.stack import CHAT, MESSAGES, Answer, Stack, as_json, chat, message
from tests.support.stack_steps import EMAIL, ext_proc_messages, says

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

SAID = f"Write to {EMAIL} please."
OTHER = "tim@example.org"
REDACTED = "Write to [EMAIL_1] please."
JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream"}

GEMINI = "/v1beta/models/gemini-mock:"
BEDROCK = "/model/anthropic.claude-mock/"
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
CONVERSE = {"messages": [{"role": "user", "content": [{"text": "hi"}]}]}

WHOLE: dict[str, tuple[str, object]] = {
    "chat": (CHAT, chat("hi")),
    "completion": ("/v1/completions", {"model": "gpt-4o", "prompt": "hi"}),
    "responses": ("/v1/responses", {"model": "gpt-4o", "input": "hi"}),
    "messages": (MESSAGES, message("hi")),
    "gemini": (f"{GEMINI}generateContent", CONTENTS),
    "bedrock": (f"{BEDROCK}converse", CONVERSE),
}
STREAMED: dict[str, tuple[str, object]] = {
    "chat": (CHAT, chat("hi", stream=True)),
    "completion": ("/v1/completions", {"model": "gpt-4o", "prompt": "hi", "stream": True}),
    "responses": ("/v1/responses", {"model": "gpt-4o", "input": "hi", "stream": True}),
    "messages": (MESSAGES, message("hi", stream=True)),
    "gemini": (f"{GEMINI}streamGenerateContent?alt=sse", CONTENTS),
    "gemini array": (f"{GEMINI}streamGenerateContent", CONTENTS),
    "bedrock": (f"{BEDROCK}converse-stream", CONVERSE),
}


async def answers(
    stack: Stack, chunks: Sequence[bytes], headers: dict[str, str], **more: object
) -> None:
    """Have the provider answer with these very bytes."""
    encoded = [base64.b64encode(chunk).decode() for chunk in chunks]
    order = {"chunks": encoded, "headers": headers, **more}
    async with stack.debug.post("/raw", data=io.BytesIO(json.dumps(order).encode())) as answer:
        assert answer.status == 204


async def broken_off(stack: Stack) -> int:
    """Return how many streams the provider could not send to their end."""
    async with stack.debug.get("/count") as answer:
        count: int = (await answer.json())["broken_off"]
        return count


async def is_broken_off_once(stack: Stack) -> None:
    """Wait until the provider has seen its answer broken off, which happens once."""
    for _ in range(3_000):
        if await broken_off(stack):
            break
        await asyncio.sleep(0.02)
    assert await broken_off(stack) == 1


@asynccontextmanager
async def streaming(stack: Stack, body: object, *, key: str) -> AsyncIterator[Any]:
    """Send a request whose answer is read piece by piece."""
    headers = CIMultiDict(stack.credentials(CHAT, key, ()), **JSON)
    url = f"{stack.facts.https_url}{CHAT}"
    async with stack.client.post(
        url, data=as_json(body), headers=headers, ssl=stack.tls
    ) as answer:
        yield answer


@pytest.mark.parametrize("api", WHOLE)
async def test_a_whole_answer_is_redacted_in_every_api(stack: Stack, api: str) -> None:
    """The client gets its provider's answer, with a length that fits."""
    await says(stack, SAID)
    path, body = WHOLE[api]
    async with stack.counting() as counted:
        answer = await stack.post(body, path=path, key="answers-redact")
    assert answer.status == 200
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert REDACTED in json.dumps(answer.json)
    assert EMAIL.encode() not in answer.body
    assert counted.verdicts == {("pii", "redact"): 1, ("secrets", "pass"): 1}


@pytest.mark.parametrize("api", WHOLE)
async def test_a_blocked_whole_answer_is_a_refusal_of_its_api(stack: Stack, api: str) -> None:
    """Status and words are Egret's; nothing of the provider's answer is left."""
    await says(stack, SAID)
    path, body = WHOLE[api]
    async with stack.counting() as counted:
        answer = await stack.post(body, path=path, key="answers-block")
    assert answer.status == 400
    assert "Blocked by guardrail 'pii'. It contains: EMAIL." in answer.body.decode()
    assert EMAIL.encode() not in answer.body
    assert counted.verdicts == {("pii", "block"): 1}
    assert [error for _, _, error in counted.outcomes] == ["content_blocked"]


@pytest.mark.parametrize("api", STREAMED)
async def test_a_stream_is_redacted_in_every_api(stack: Stack, api: str) -> None:
    """Over the borders of its events; the provider's own cadence is kept."""
    await says(stack, f"Write to bob .builder@ {EMAIL} please.", event_ms=2)
    path, body = STREAMED[api]
    answer = await stack.post(body, path=path, key="answers-redact")
    assert answer.status == 200
    assert b"[EMAIL_1]" in answer.body
    assert EMAIL.encode() not in answer.body


@pytest.mark.parametrize("api", [*WHOLE, *(f"{api}, streamed" for api in STREAMED)])
async def test_a_value_of_the_answer_gets_no_placeholder_of_its_request(
    stack: Stack, api: str
) -> None:
    """The client would read one name for two people."""
    await says(stack, f"I wrote to [EMAIL_1], and to {EMAIL}.")
    path, body = STREAMED[api.partition(",")[0]] if "," in api else WHOLE[api]
    asked = json.loads(json.dumps(body).replace('"hi"', f'"mail {OTHER}"'))
    answer = await stack.post(asked, path=path, key="answers-both")
    assert answer.status == 200, answer.body
    (received,) = await stack.received()
    assert b"mail [EMAIL_1]" in received.body
    assert b"[EMAIL_1]" in answer.body
    assert b"[EMAIL_2]" in answer.body
    assert EMAIL.encode() not in answer.body


async def test_each_person_of_a_conversation_has_a_number_of_its_own(stack: Stack) -> None:
    """In every turn, whether a value came from the client or from the model."""
    turns: list[dict[str, str]] = []
    for asked, said, sent, left in (
        (f"mail {OTHER}", f"[EMAIL_1] and {EMAIL}", "mail [EMAIL_1]", "[EMAIL_1] and [EMAIL_2]"),
        ("mail ann@example.org", "ted@example.org", "mail [EMAIL_3]", "[EMAIL_4]"),
        ("who?", "ada@example.org", "who?", "[EMAIL_5]"),
    ):
        await says(stack, said)
        turns.append({"role": "user", "content": asked})
        answer = await stack.post({"model": "gpt-4o", "messages": turns}, key="answers-both")
        turns.append(answer.json["choices"][0]["message"])
        received = json.loads((await stack.received())[-1].body)["messages"]
        assert (received[-1]["content"], turns[-1]["content"]) == (sent, left)
        assert received[0]["content"] == "mail [EMAIL_1]"


@pytest.mark.parametrize("api", STREAMED)
async def test_a_clean_stream_is_the_provider_s_byte_for_byte(stack: Stack, api: str) -> None:
    """In every mode; only what the provider itself counts up differs."""
    await says(stack, "All is well, and nobody is named.", event_ms=1)
    path, body = STREAMED[api]

    async def sent(key: str) -> bytes:
        await stack.debug.delete("/requests")  # the provider counts its answers
        return (await stack.post(body, path=path, key=key)).body

    wanted = await sent("block")
    for key in ("answers-redact", "answers-block", "answers-buffer", "answers-observe"):
        assert await sent(key) == wanted


@pytest.mark.parametrize("api", STREAMED)
async def test_a_block_ends_the_stream_and_the_upstream_s_request(stack: Stack, api: str) -> None:
    """The API's own error is the last that is read; the model need not go on."""
    await says(stack, f"So, {EMAIL} it is. " + "word " * 2_000, event_ms=10)
    path, body = STREAMED[api]
    began = time.monotonic()
    async with stack.counting() as counted:
        answer = await stack.post(body, path=path, key="answers-block")
    assert time.monotonic() - began < 20, "the whole stream takes twenty seconds"
    assert answer.status == 200
    assert EMAIL.split("@", maxsplit=1)[0].encode() not in answer.body
    assert "Blocked by guardrail 'pii'" in answer.body.decode("latin-1")
    assert counted.verdicts == {("pii", "block"): 1}
    await is_broken_off_once(stack)


async def test_the_access_log_says_how_a_stream_ended(stack: Stack) -> None:
    """Its metadata was written with the headers, and once more with the error."""
    await says(stack, SAID)
    answer = await stack.post(chat("hi", stream=True), key="answers-block")
    line = await stack.log_line(answer.request_id)
    assert (line["status"], line["egret"]["verdict"]) == (200, "refused")
    assert line["egret"]["error"] == "content_blocked"


async def test_window_lets_judged_text_go_while_the_model_still_speaks(stack: Stack) -> None:
    """The first words are there long before the last; buffer and the end of time come later."""
    await says(stack, "one two three four five six seven eight", event_ms=50)

    async def first_and_last(key: str) -> tuple[float, float]:
        began = time.monotonic()
        first: float | None = None
        async with streaming(stack, chat("hi", stream=True), key=key) as answer:
            async for piece in answer.content.iter_any():
                if first is None and b" two" in piece:
                    first = time.monotonic() - began
        assert first is not None
        return first, time.monotonic() - began

    first, last = await first_and_last("answers-redact")
    assert first < last - 0.2
    first, last = await first_and_last("answers-buffer")
    assert first > last - 0.1


async def test_what_is_observed_leaves_and_is_counted(stack: Stack) -> None:
    """A block that only observes a stream is a flag; a whole answer is blocked all the same."""
    await says(stack, SAID)
    async with stack.counting() as counted:
        answer = await stack.post(chat("hi", stream=True), key="answers-observe")
    assert b"builder@example.com" in answer.body.replace(b'"}', b"")
    assert counted.verdicts == {("pii", "flag"): 1}
    assert [outcome for outcome, _, _ in counted.outcomes] == ["flagged"]
    assert (await stack.post(chat("hi"), key="answers-observe")).status == 400


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
async def test_the_client_reads_its_own_values_again(stack: Stack, *, streams: bool) -> None:
    """The provider was shown a placeholder, and speaks of it."""
    await says(stack, "I wrote to [EMAIL_1], not [EMAIL_2].")
    answer = await stack.post(chat(f"mail {EMAIL}", stream=streams), key="restore")
    (received,) = await stack.received()
    assert EMAIL.encode() not in received.body
    text = answer.body.decode()
    assert EMAIL in text
    assert "[EMAIL_1]" not in text
    assert "[EMAIL_2]" in text


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
async def test_a_remote_guardrail_judges_the_whole_answer(stack: Stack, *, streams: bool) -> None:
    """A stream is held for it, so that its refusal has a status."""
    await says(stack, SAID)
    answer = await stack.post(chat("hi", stream=streams), key="answers-hook")
    assert answer.openai_error == (400, "invalid_request_error", "content_blocked")


async def test_without_output_guardrails_no_answer_reaches_egret(stack: Stack) -> None:
    """Two messages a request, whatever the answer's length; by Envoy's own count."""
    await says(stack, "word " * 100, event_ms=1)

    async def messages(key: str) -> int:
        before = await ext_proc_messages(stack)
        answer = await stack.post(chat("hi", stream=True), key=key)
        assert answer.status == 200
        return await ext_proc_messages(stack) - before

    assert await messages("block") == 2
    assert await messages("answers-redact") > 20


def clean(*_: object) -> bytes:
    """Return a chat completion that says nothing."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "fine"}}
    return json.dumps({"id": "c", "object": "chat.completion", "choices": [choice]}).encode()


@pytest.mark.parametrize("encoding", ["gzip", "br"])
async def test_a_provider_that_compresses_anyway_is_not_let_through(
    stack: Stack, encoding: str
) -> None:
    """Identity was asked for; what cannot be read is blocked, or passes where policy says so."""
    packed = gzip.compress(clean())
    await answers(stack, [packed], JSON | {"content-encoding": encoding})
    headers = (("accept-encoding", "gzip, br"),)
    async with stack.counting() as counted:
        answer = await stack.post(chat("hi"), key="answers-redact", headers=headers)
    assert answer.openai_error == (403, "invalid_request_error", "unscanned_content")
    assert counted.unscanned == {("encoded_body", "block"): 1}
    (received,) = await stack.received()
    assert received.all("accept-encoding") == ["identity"]
    if encoding == "gzip":
        allowed = await stack.post(chat("hi"), key="answers-allow", headers=headers)
        assert (allowed.status, allowed.json) == (200, json.loads(clean()))


CHUNK = sse(chat_chunk({"content": f"to {EMAIL} now"}))
HTML = f"<html><body>Bad gateway, {EMAIL}</body></html>".encode()
BAD_STREAMS: dict[str, list[bytes]] = {
    "single bytes": [bytes((byte,)) for byte in CHUNK],
    "crlf": [CHUNK.replace(b"\n", b"\r\n")],
    "lf and crlf": [CHUNK, CHUNK.replace(b"\n", b"\r\n"), CHUNK.replace(b"\n", b"\r")],
    "no terminator": [CHUNK.rstrip(b"\n")],
    "comments": [b": hi\n\n", CHUNK, b": bye\n\n"],
    "split emoji": [
        b'data: {"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"\\ude00 \\u00e9"}}]}\n\n',
        CHUNK.replace(b"@", b"\\u0040"),
    ],
}


@pytest.mark.parametrize("name", BAD_STREAMS)
async def test_an_odd_stream_is_judged_like_any_other(stack: Stack, name: str) -> None:
    """Whatever the chunks, the line ends, the escapes."""
    await answers(stack, BAD_STREAMS[name], EVENTS)
    answer = await stack.post(chat("hi", stream=True), key="answers-redact")
    assert answer.status == 200
    wanted = b"".join(BAD_STREAMS[name])
    for form in (EMAIL.encode(), EMAIL.replace("@", "\\u0040").encode()):
        wanted = wanted.replace(form, b"[EMAIL_1]")
    assert answer.body.replace(b"\r\n", b"\n").replace(b"\r", b"\n") == (
        wanted.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        + (b"\n\n" if name == "no terminator" else b"")
    )


@pytest.mark.parametrize(
    ("chunk", "reason"),
    [
        (b"data: {broken\n\n", "malformed_answer"),
        (b"data: " + b"x" * 10_000_000 + b"\n\n", "answer_too_large"),
    ],
    ids=["invalid json", "ten megabytes"],
)
async def test_an_event_that_cannot_be_read_ends_the_stream(
    stack: Stack, chunk: bytes, reason: str
) -> None:
    """What was judged before it has left; it does not, nor what follows."""
    first = sse(chat_chunk({"content": "fine. "}))
    await answers(stack, [first, chunk, CHUNK], EVENTS)
    async with stack.counting() as counted:
        answer = await stack.post(chat("hi", stream=True), key="answers-redact")
    assert answer.body.startswith(first)
    rest = answer.body[len(first) :]
    assert rest.startswith(b'data: {"error":{"message":"This answer holds content')
    assert rest.endswith(b"data: [DONE]\n\n")
    assert counted.unscanned == {(reason, "block"): 1}


async def test_a_stream_that_stalls_has_delivered_what_was_judged(stack: Stack) -> None:
    """The client waits for the model, not for Egret; when it leaves, so does the upstream."""
    await answers(stack, [sse(chat_chunk({"content": "so far\n"}))] * 2, EVENTS)
    await stack.tell_provider("delay", event_ms=30_000)
    async with streaming(stack, chat("hi", stream=True), key="answers-redact") as answer:
        async with asyncio.timeout(60):
            piece = await answer.content.readany()
        assert b"so far" in piece
    await is_broken_off_once(stack)


async def test_an_upstream_that_breaks_off_is_a_broken_stream(stack: Stack) -> None:
    """Its end is not made up; the client learns that there was none."""
    await answers(stack, [sse(chat_chunk({"content": "so far. "}))], EVENTS, is_cut=True)
    with pytest.raises(Exception, match=r"(?i)payload|disconnect|closed|transfer"):
        await stack.post(chat("hi", stream=True), key="answers-redact")


WHOLE_CASES: dict[str, tuple[int, dict[str, str], bytes, int, bytes]] = {
    "json error": (
        429, JSON, json.dumps({"error": {"message": f"slow down, {EMAIL}"}}).encode(),
        429, b'{"error": {"message": "slow down, [EMAIL_1]"}}',
    ),
    "html error": (502, {"content-type": "text/html"}, HTML, 502,
                   HTML.replace(EMAIL.encode(), b"[EMAIL_1]")),
    "json with the label of a stream": (
        200, EVENTS, json.dumps({"choices": [{"message": {"content": EMAIL}}]}).encode(),
        200, b'{"choices": [{"message": {"content": "[EMAIL_1]"}}]}',
    ),
    "text with the label of a stream": (502, EVENTS, HTML, 502,
                                        HTML.replace(EMAIL.encode(), b"[EMAIL_1]")),
    "no content": (204, {}, b"", 204, b""),
    "audio": (200, {"content-type": "audio/mpeg"}, b"\0\1", 403, b"unscanned_content"),
    "no type": (200, {}, b"{}", 403, b"unscanned_content"),
    "not json": (200, JSON, b"{", 403, b"unscanned_content"),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE_CASES)
async def test_answers_of_every_kind_have_a_way(stack: Stack, name: str) -> None:
    """Errors pass with their status, judged; what cannot be read is refused."""
    status, headers, body, wanted, text = WHOLE_CASES[name]
    await answers(stack, [body] if body else [], headers, status=status)
    answer: Answer = await stack.post(chat("hi"), key="answers-redact")
    assert answer.status == wanted
    assert text in answer.body
    assert EMAIL.encode() not in answer.body


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_answer_about_stored_turns_begins_at_a_number_of_its_own(
    stack: Stack, method: str
) -> None:
    """The model wrote it, and in a turn that is not read `[EMAIL_1]` is another person."""
    text = {"type": "output_text", "text": f"[EMAIL_1] and {EMAIL}", "annotations": []}
    said = {"type": "message", "role": "assistant", "content": [text]}
    body = json.dumps({"id": "resp_1", "object": "response", "output": [said]}).encode()
    await answers(stack, [body], JSON)
    asked = {"model": "gpt-4o", "input": "who?", "previous_response_id": "resp_1"}
    if method == "GET":
        headers = stack.credentials("/v1/responses", "answers-redact", ())
        answer = await stack.request("GET", "/v1/responses/resp_1", headers=headers)
    else:
        answer = await stack.post(asked, path="/v1/responses", key="answers-redact")
    assert answer.status == 200
    assert EMAIL.encode() not in answer.body
    assert re.search(rb"\[EMAIL_1\] and \[EMAIL_[1-9][0-9]{4,5}\]", answer.body)


async def test_two_hundred_streams_at_once_are_all_judged(stack: Stack) -> None:
    """None is mixed up with another, and each keeps its own placeholder."""
    await says(stack, f"a {EMAIL} b " + "word " * 20, event_ms=5)

    async def one(number: int) -> bytes:
        body = chat(f"hi {number}", stream=True)
        return (await stack.post(body, key="answers-redact")).body

    bodies = await asyncio.gather(*(one(number) for number in range(200)))
    assert all(body.count(b"[EMAIL_1]") == 1 for body in bodies)
    assert not any(EMAIL.encode() in body for body in bodies)
    assert all(body.endswith(b"data: [DONE]\n\n") for body in bodies)


async def test_the_account_of_a_provider_stays_behind_the_gateway(stack: Stack) -> None:
    """Its cookies, which all clients would share, and the names of the organization that pays."""
    private = {
        "set-cookie": "__cf_bm=secret; path=/",
        "openai-organization": "acme-inc",
        "openai-project": "proj_1",
        "anthropic-organization-id": "org_1",
    }
    body = json.dumps({"choices": []}).encode()
    await answers(stack, [body], {**JSON, **private, "openai-version": "2020-10-01"})
    answer = await stack.post(chat("hi"), key="free")

    assert (answer.status, answer.headers["openai-version"]) == (200, "2020-10-01")
    assert not private.keys() & {name.lower() for name in answer.headers}
