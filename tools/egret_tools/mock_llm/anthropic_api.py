"""The Anthropic API as far as the gateway knows it: messages, token counts, models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import orjson
from aiohttp import web

from egret_tools.mock_llm.answering import (
    RECEIVED,
    JsonObject,
    RequestError,
    answer_in_words,
    called_tool,
    event_stream,
    json_object,
    json_response,
    model_of,
    produce,
    required,
)
from egret_tools.mock_llm.tool_calls import CALL_ID, ToolCall, anthropic_call
from egret_tools.mock_llm.words import ANTHROPIC_MODELS, Reply, texts_in

ERROR_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def error_response(error: RequestError) -> web.Response:
    """Word an error as Anthropic does."""
    detail = {"type": ERROR_TYPES.get(error.status, "api_error"), "message": error.message}
    return json_response({"type": "error", "error": detail}, status=error.status)


async def messages(request: web.Request) -> web.StreamResponse:
    """POST /v1/messages, and `:rawPredict` of Vertex AI, where the path names the model."""
    body = await json_object(request)
    model = request.match_info.get("model") or model_of(body)
    if not isinstance(body.get("max_tokens"), int):
        raise RequestError(400, "max_tokens: Field required")
    identifier = f"msg_mock_{request.app[RECEIVED].count}"
    if body.get("stream") is True:
        events = message_events(request, body, identifier=identifier, model=model)
        framed = (
            b"event: " + str(one["type"]).encode() + b"\ndata: " + orjson.dumps(one) + b"\n\n"
            for one in events
        )
        return await event_stream(request, framed)
    return json_response(whole_message(request, body, identifier=identifier, model=model))


def whole_message(
    request: web.Request, body: JsonObject, *, identifier: str, model: str
) -> JsonObject:
    """Return the message that answers *body*, which Bedrock's models take as well."""
    call = called_tool(request, anthropic_call(body))
    reply = _reply(request, body, call)
    block: JsonObject = {"type": "text", "text": reply.text}
    if call is not None:
        block = {**_tool_use(call), "input": call.arguments}
    return {
        **_message(identifier, model),
        "content": [block],
        "stop_reason": "end_turn" if call is None else "tool_use",
        "stop_sequence": None,
        "usage": _usage(reply, output_tokens=reply.output_tokens),
    }


def _message(identifier: str, model: str) -> JsonObject:
    return {"id": identifier, "type": "message", "role": "assistant", "model": model}


def _tool_use(call: ToolCall) -> JsonObject:
    return {"type": "tool_use", "id": CALL_ID, "name": call.name, "input": {}}


async def count_tokens(request: web.Request) -> web.StreamResponse:
    """POST /v1/messages/count_tokens."""
    body = await json_object(request)
    model_of(body)
    tokens = _reply(request, body).input_tokens
    produce(request, 0, 0)
    return json_response({"input_tokens": tokens})


def models(identifier: str | None) -> web.Response:
    """GET /v1/models and /v1/models/{id}.

    Raises:
        RequestError: 404 for a model there is none of.
    """
    if identifier is None:
        rows = [_model(name) for name in ANTHROPIC_MODELS]
        ends = {"first_id": ANTHROPIC_MODELS[0], "last_id": ANTHROPIC_MODELS[-1]}
        return json_response({"data": rows, "has_more": False, **ends})
    if identifier not in ANTHROPIC_MODELS:
        raise RequestError(404, "The model does not exist.")
    return json_response(_model(identifier))


def _model(name: str) -> JsonObject:
    created_at = "2023-11-14T22:13:20Z"
    return {"type": "model", "id": name, "display_name": name, "created_at": created_at}


def _reply(request: web.Request, body: JsonObject, call: ToolCall | None = None) -> Reply:
    texts = [*texts_in(body.get("system")), *texts_in(required(body, "messages", list))]
    return answer_in_words(request, texts, call)


def _usage(reply: Reply, *, output_tokens: int) -> JsonObject:
    return {
        "input_tokens": reply.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
    }


def _event(kind: str, **fields: object) -> JsonObject:
    return {"type": kind, **fields}


def message_events(
    request: web.Request, body: JsonObject, *, identifier: str, model: str
) -> Iterator[JsonObject]:
    """Return the events of the stream that answers *body*; its tokens are noted at once."""
    call = called_tool(request, anthropic_call(body))
    return _events(_message(identifier, model), _reply(request, body, call), call)


def _events(message: JsonObject, reply: Reply, call: ToolCall | None) -> Iterator[JsonObject]:
    unended: JsonObject = {"content": [], "stop_reason": None, "stop_sequence": None}
    usage = _usage(reply, output_tokens=1)
    yield _event("message_start", message={**message, **unended, "usage": usage})
    block: JsonObject = {"type": "text", "text": ""} if call is None else _tool_use(call)
    yield _event("content_block_start", index=0, content_block=block)
    yield _event("ping")
    if call is None:
        for piece in reply.pieces:
            delta = {"type": "text_delta", "text": piece}
            yield _event("content_block_delta", index=0, delta=delta)
    else:
        for piece in call.pieces:
            delta = {"type": "input_json_delta", "partial_json": piece}
            yield _event("content_block_delta", index=0, delta=delta)
    yield _event("content_block_stop", index=0)
    end = {"stop_reason": "end_turn" if call is None else "tool_use", "stop_sequence": None}
    yield _event("message_delta", delta=end, usage={"output_tokens": reply.output_tokens})
    yield _event("message_stop")
