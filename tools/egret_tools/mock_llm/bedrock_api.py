"""Amazon Bedrock's runtime: Converse and Anthropic's InvokeModel, whole and as event streams."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator
from typing import Final

import orjson
from aiohttp import web

from egret_tools.mock_llm import anthropic_api
from egret_tools.mock_llm.answering import (
    RECEIVED,
    JsonObject,
    RequestError,
    answer_in_words,
    called_tool,
    event_stream,
    json_object,
    json_response,
    required,
)
from egret_tools.mock_llm.tool_calls import CALL_ID, ToolCall, converse_call
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
    body = await json_object(request)
    call = called_tool(request, converse_call(body))
    reply = _reply(request, body, call)
    block: JsonObject = {"text": reply.text}
    if call is not None:
        block = {"toolUse": {"toolUseId": CALL_ID, "name": call.name, "input": call.arguments}}
    return json_response(
        {
            "output": {"message": {"role": "assistant", "content": [block]}},
            "stopReason": "end_turn" if call is None else "tool_use",
            "usage": _usage(reply),
            "metrics": {"latencyMs": 1},
        }
    )


async def converse_stream(request: web.Request) -> web.StreamResponse:
    """POST /model/{id}/converse-stream."""
    body = await json_object(request)
    call = called_tool(request, converse_call(body))
    frames = _frames(_reply(request, body, call), call)
    return await event_stream(request, frames, content_type=EVENT_STREAM)


async def invoke(request: web.Request) -> web.StreamResponse:
    """POST /model/{id}/invoke, for the models that take Anthropic's messages."""
    body = await json_object(request)
    model, identifier = request.match_info["id"], _identifier(request)
    message = anthropic_api.whole_message(request, body, identifier=identifier, model=model)
    return json_response(message)


async def invoke_stream(request: web.Request) -> web.StreamResponse:
    """POST /model/{id}/invoke-with-response-stream: Anthropic's events, each in a chunk."""
    body = await json_object(request)
    model, identifier = request.match_info["id"], _identifier(request)
    events = anthropic_api.message_events(request, body, identifier=identifier, model=model)
    chunks = (
        frame("chunk", {"bytes": base64.b64encode(orjson.dumps(one)).decode()}) for one in events
    )
    return await event_stream(request, chunks, content_type=EVENT_STREAM)


def _identifier(request: web.Request) -> str:
    return f"msg_bdrk_mock_{request.app[RECEIVED].count}"


def _reply(request: web.Request, body: JsonObject, call: ToolCall | None) -> Reply:
    texts = [*texts_in(body.get("system")), *texts_in(required(body, "messages", list))]
    return answer_in_words(request, texts, call)


def _usage(reply: Reply) -> JsonObject:
    return {
        "inputTokens": reply.input_tokens,
        "outputTokens": reply.output_tokens,
        "totalTokens": reply.input_tokens + reply.output_tokens,
    }


def _frames(reply: Reply, call: ToolCall | None) -> Iterator[bytes]:
    yield frame("messageStart", {"role": "assistant"})
    deltas: list[JsonObject] = [{"text": piece} for piece in reply.pieces]
    if call is not None:
        start = {"toolUse": {"toolUseId": CALL_ID, "name": call.name}}
        yield frame("contentBlockStart", {"contentBlockIndex": 0, "start": start})
        deltas = [{"toolUse": {"input": piece}} for piece in call.pieces]
    for delta in deltas:
        yield frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": delta})
    yield frame("contentBlockStop", {"contentBlockIndex": 0})
    yield frame("messageStop", {"stopReason": "end_turn" if call is None else "tool_use"})
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
