"""Amazon Bedrock's runtime: Converse whole and as an event stream, and Anthropic's InvokeModel."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

import orjson
from aiohttp import web

from egret_tools.mock_llm.answering import (
    RECEIVED,
    JsonObject,
    RequestError,
    answer_in_words,
    event_stream,
    json_object,
    json_response,
    required,
)
from egret_tools.mock_llm.words import Reply, texts_in

EVENT_STREAM: Final = "application/vnd.amazon.eventstream"

ERROR_TYPES: Final = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}

_STRING: Final = 7
"""The type of a header value in a frame."""


def error_response(error: RequestError) -> web.Response:
    """Word an error as AWS does: its type in a header."""
    response = json_response({"message": error.message}, status=error.status)
    kind = ERROR_TYPES.get(error.status, "InternalServerException")
    response.headers["x-amzn-errortype"] = kind
    return response


async def converse(request: web.Request) -> web.StreamResponse:
    """POST /model/{id}/converse."""
    reply = _reply(request, await json_object(request))
    message = {"role": "assistant", "content": [{"text": reply.text}]}
    return json_response(
        {
            "output": {"message": message},
            "stopReason": "end_turn",
            "usage": _usage(reply),
            "metrics": {"latencyMs": 1},
        }
    )


async def converse_stream(request: web.Request) -> web.StreamResponse:
    """POST /model/{id}/converse-stream."""
    reply = _reply(request, await json_object(request))
    return await event_stream(request, _frames(reply), content_type=EVENT_STREAM)


async def invoke(request: web.Request) -> web.StreamResponse:
    """POST /model/{id}/invoke, for the models that take Anthropic's messages."""
    reply = _reply(request, await json_object(request))
    return json_response(
        {
            "id": f"msg_bdrk_mock_{request.app[RECEIVED].count}",
            "type": "message",
            "role": "assistant",
            "model": request.match_info["id"],
            "content": [{"type": "text", "text": reply.text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": reply.input_tokens, "output_tokens": reply.output_tokens},
        }
    )


def _reply(request: web.Request, body: JsonObject) -> Reply:
    texts = [*texts_in(body.get("system")), *texts_in(required(body, "messages", list))]
    return answer_in_words(request, texts)


def _usage(reply: Reply) -> JsonObject:
    return {
        "inputTokens": reply.input_tokens,
        "outputTokens": reply.output_tokens,
        "totalTokens": reply.input_tokens + reply.output_tokens,
    }


def _frames(reply: Reply) -> Iterator[bytes]:
    yield frame("messageStart", {"role": "assistant"})
    for piece in reply.pieces:
        yield frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": piece}})
    yield frame("contentBlockStop", {"contentBlockIndex": 0})
    yield frame("messageStop", {"stopReason": "end_turn"})
    yield frame("metadata", {"usage": _usage(reply), "metrics": {"latencyMs": 1}})


def frame(event: str, payload: JsonObject) -> bytes:
    """Return one message of the encoding `vnd.amazon.eventstream`: lengths, headers, checksums."""
    fields = {
        ":event-type": event,
        ":content-type": "application/json",
        ":message-type": "event",
    }
    headers = b"".join(
        struct.pack(">B", len(name)) + name.encode()
        + struct.pack(">BH", _STRING, len(value)) + value.encode()
        for name, value in fields.items()
    )  # fmt: skip
    body = orjson.dumps(payload)
    prelude = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + body
    return message + struct.pack(">I", zlib.crc32(message))
