"""Long bodies that Envoy keeps while they are judged (docs/envoy.md, "Long bodies")."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.http2 import http2_request
from tests.support.second_gateway import Config, ext_proc_filters, second_gateway
from tests.support.stack import CHAT, PATIENCE_SECONDS, Answer, Stack, as_json, chat

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

EMAIL = "bob.builder@example.com"
LONG = "x" * 200_000


async def came_back(stack: Stack, answer: Answer) -> bool:
    """Return whether the body went back to Envoy: then it was streamed."""
    measured = (await stack.log_line(answer.request_id))["ext_proc"]
    assert measured["bytes_sent"] > len(LONG)
    return int(measured["bytes_received"]) > len(LONG)


def fields(stack: Stack, key: str, length: int) -> list[tuple[str, str]]:
    """Return the headers of a chat over HTTP/2."""
    return [
        *((":method", "POST"), (":scheme", "https"), (":authority", "localhost")),
        *((":path", CHAT), ("content-type", "application/json"), ("content-length", str(length))),
        ("authorization", f"Bearer {stack.keys[key]}"),
    ]


async def test_a_long_body_goes_on_unchanged_redacted_or_not_at_all(stack: Stack) -> None:
    """Over both versions of HTTP, with its length and without the client's key."""
    body = as_json(chat(f"{LONG} {EMAIL}"))
    port = int(stack.facts.https_url.rpartition(":")[2])
    for key, sent in (("flag", body), ("redact", body.replace(EMAIL.encode(), b"[EMAIL_1]"))):
        await stack.forget()
        answer = await stack.post(body, key=key)
        over_h2 = await http2_request(
            port, stack.facts.ca_file, fields=fields(stack, key, len(body)), body=[body]
        )
        assert (answer.status, over_h2.status) == (200, 200)
        assert not await came_back(stack, answer) or key == "redact"
        received = await stack.received()
        assert [(one.path, one.body) for one in received] == [(CHAT, sent)] * 2
        for one in received:
            assert one.framing == {"content-length": [str(len(sent))]}
            assert stack.keys[key] not in str(one.headers)
    await stack.forget()
    refused = await stack.post(chat(f"{LONG} Bluebird"), key="block")
    assert refused.openai_error[2] == "content_blocked"
    assert await stack.received_count() == 0


async def test_an_answer_that_is_judged_has_its_request_streamed(stack: Stack) -> None:
    """As has a stream whose counts are hidden, and a body without a length."""
    for key in ("answers-redact", "hidden"):
        answer = await stack.post(chat(LONG), key=key)
        assert answer.status == 200
        assert await came_back(stack, answer)


async def test_trailers_behind_a_kept_body_are_refused(stack: Stack) -> None:
    """As they are behind a body that is streamed."""
    body = as_json(chat(LONG))
    answer = await http2_request(
        int(stack.facts.https_url.rpartition(":")[2]),
        stack.facts.ca_file,
        fields=fields(stack, "flag", len(body)),
        body=[body],
        trailers=[("x-checksum", "1")],
    )
    assert (answer.status, await stack.received_count()) == (400, 0)
    assert b"request_trailers" in answer.body


def without_override(config: Config) -> None:
    """Forbid the override: in the first filter any, in the second that to BUFFERED."""
    first, second = ext_proc_filters(config)
    first["allow_mode_override"] = False
    second["allowed_override_modes"] = [
        {
            "response_header_mode": "SKIP",
            "request_body_mode": "FULL_DUPLEX_STREAMED",
            "request_trailer_mode": "SEND",
        }
    ]


async def test_an_envoy_that_ignores_the_override_lets_nothing_through(stack: Stack) -> None:
    """It would send an unjudged request to the provider; it finds no route for it."""
    async with second_gateway(stack, without_override) as gateway:
        for url in (gateway.url, gateway.https_url) * 2:
            answer = await stack.post(chat(f"{LONG} Bluebird"), key="block", url=url)
            assert answer.status == 404
    assert await stack.received_count() == 0


async def test_a_client_that_leaves_in_its_body_leaves_nothing_behind(stack: Stack) -> None:
    """The room that its length took is free again, and the next request is judged."""
    body = as_json(chat(LONG))
    head = "".join(
        [
            f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n",
            f"authorization: Bearer {stack.keys['flag']}\r\nexpect: 100-continue\r\n",
            f"content-length: {len(body)}\r\n\r\n",
        ]
    )
    async with stack.counting() as counted:
        port = int(stack.facts.https_url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("localhost", port, ssl=stack.tls)
        writer.write(head.encode())
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert (await reader.readline()).startswith(b"HTTP/1.1 100")
        writer.write(body[:100_000])
        await writer.drain()
        writer.close()
    assert [outcome for outcome, _, _ in counted.outcomes] == ["aborted"]
    assert (await stack.post(body, key="flag")).status == 200
    assert await stack.received_count() == 1
