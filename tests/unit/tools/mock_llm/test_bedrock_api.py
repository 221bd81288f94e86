from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from tests.unit.tools.mock_llm.conftest import BEDROCK_KEY, Mock

WORDS = "The mock model was given 10 characters."
MODEL = "/model/anthropic.claude-mock-v1%3A0"
BODY = {
    "system": [{"text": "12345"}],
    "messages": [{"role": "user", "content": [{"text": "12345"}]}],
}
BEARER = {"authorization": f"Bearer {BEDROCK_KEY}"}


def _frames(stream: bytes) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    while stream:
        length, headers_length, checksum = struct.unpack(">III", stream[:12])
        frame, stream = stream[:length], stream[length:]
        assert zlib.crc32(frame[:8]) == checksum
        assert zlib.crc32(frame[:-4]) == struct.unpack(">I", frame[-4:])[0]
        yield (
            dict(_headers(frame[12 : 12 + headers_length])),
            json.loads(frame[12 + headers_length : -4]),
        )


def _headers(block: bytes) -> Iterator[tuple[str, str]]:
    while block:
        end = 1 + block[0]
        kind, length = struct.unpack(">BH", block[end : end + 3])
        assert kind == 7
        yield block[1:end].decode(), block[end + 3 : end + 3 + length].decode()
        block = block[end + 3 + length :]


async def test_a_conversation_is_answered_whole(mock: Mock) -> None:
    """The system prompt counts too."""
    async with mock.https() as https:
        answer = await https.post(f"{MODEL}/converse", json=BODY, headers=BEARER)
    told = answer.json()
    assert told["output"]["message"] == {"role": "assistant", "content": [{"text": WORDS}]}
    assert told["usage"] == {"inputTokens": 3, "outputTokens": 7, "totalTokens": 10}


async def test_a_streamed_conversation_is_a_row_of_checksummed_frames(mock: Mock) -> None:
    """In the encoding `vnd.amazon.eventstream`, from messageStart to metadata."""
    async with mock.https() as https:
        answer = await https.post(f"{MODEL}/converse-stream", json=BODY, headers=BEARER)
    assert answer.headers["content-type"] == "application/vnd.amazon.eventstream"
    frames = list(_frames(answer.content))
    kinds = [headers[":event-type"] for headers, _ in frames]
    assert kinds == [
        "messageStart",
        *["contentBlockDelta"] * 7,
        "contentBlockStop",
        "messageStop",
        "metadata",
    ]
    texts = [body["delta"]["text"] for _, body in frames if "delta" in body]
    assert "".join(texts) == WORDS


async def test_a_model_of_anthropics_is_invoked_in_its_own_terms(mock: Mock) -> None:
    """InvokeModel passes the model's own body on."""
    async with mock.https() as https:
        answer = await https.post(
            f"{MODEL}/invoke",
            json={"messages": [{"role": "user", "content": "1234567890"}]},
            headers=BEARER,
        )
    assert answer.json()["content"] == [{"type": "text", "text": WORDS}]


async def test_a_wrong_key_is_refused_in_awss_words(mock: Mock) -> None:
    """The type stands in a header, as its clients look for it."""
    async with mock.https() as https:
        answer = await https.post(f"{MODEL}/converse", json=BODY)
    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (
        401,
        "UnrecognizedClientException",
    )
    assert answer.json() == {"message": "Incorrect API key provided."}
