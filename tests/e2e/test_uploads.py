"""Files of 20 MB through the body modes of gateways: whole, or refused in words of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import pytest

from tests.support.second_gateway import processing_mode, second_gateway
from tests.support.stack import CHAT, Stack

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

FILES: Final = "/v1/files"
POLICY: Final = "{name: files, unscanned: allow, guardrails: [{name: secrets, type: secrets}]}"
BOUNDARY: Final = "heron"
TYPE: Final = [("content-type", f"multipart/form-data; boundary={BOUNDARY}")]
DISPOSITION: Final = 'content-disposition: form-data; name="file"; filename="a.jsonl"'
UPLOAD: Final = b"".join(
    (
        f"--{BOUNDARY}\r\n{DISPOSITION}\r\n\r\n".encode(),
        bytes(20 << 20),
        f"\r\n--{BOUNDARY}--\r\n".encode(),
    )
)
STREAMED: Final = {
    "request_body_mode": "FULL_DUPLEX_STREAMED",
    "request_trailer_mode": "SEND",
    "response_trailer_mode": "SEND",
}


async def in_pieces() -> AsyncIterator[bytes]:
    for start in range(0, len(UPLOAD), 1 << 16):
        yield UPLOAD[start : start + (1 << 16)]


async def test_a_file_passes_whole_where_bodies_are_streamed_and_envoy_refuses_it_where_not(
    stack: Stack,
) -> None:
    """Of a file that a policy lets pass unread, with and without a length.

    BUFFERED is bounded by Envoy's buffer; on a route that is judged Egret's own limit counts.
    """
    await stack.apply(POLICY)
    key = (await stack.new_key("files")).reveal()
    for modes in ({"request_body_mode": "NONE"}, STREAMED):
        async with second_gateway(stack, processing_mode(**modes)) as gateway:
            for body in (UPLOAD, in_pieces()):
                await stack.post(body, path=FILES, key=key, headers=TYPE, url=gateway.https_url)
            judged = await stack.post(UPLOAD, path=CHAT, key=key, url=gateway.https_url)
        assert [one.body == UPLOAD for one in await stack.received()] == [True, True]
        assert judged.openai_error == (413, "invalid_request_error", "body_too_large")
        await stack.forget()
    async with second_gateway(stack, processing_mode(request_body_mode="BUFFERED")) as gateway:
        refused = await stack.post(
            UPLOAD, path=FILES, key=key, headers=TYPE, url=gateway.https_url
        )
    assert (refused.status, refused.body) == (413, b"Payload Too Large")
    assert await stack.received_count() == 0
