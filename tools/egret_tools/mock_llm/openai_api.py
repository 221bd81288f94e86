"""The OpenAI API as far as the gateway knows it: chat, completions, embeddings, models."""

from __future__ import annotations

import base64
import struct
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
from egret_tools.mock_llm.tool_calls import CALL_ID, ToolCall, openai_call
from egret_tools.mock_llm.words import CREATED_AT, MODELS, Reply, texts_in, vector_of

DONE: Final = b"data: [DONE]\n\n"

PIXEL: Final = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
"""An image of one transparent pixel."""


def error_response(error: RequestError) -> web.Response:
    """Word an error as OpenAI does."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"  # noqa: PLR2004 - 5xx
    body = {"message": error.message, "type": kind, "param": None, "code": error.code}
    return json_response({"error": body}, status=error.status)


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions."""
    body = await json_object(request)
    model = _model_of(request, body)
    messages = required(body, "messages", list)
    call = called_tool(request, openai_call(body, messages))
    reply = answer_in_words(request, list(texts_in(messages)), call)
    frame: JsonObject = {
        "id": f"chatcmpl-mock-{request.app[RECEIVED].count}",
        "created": CREATED_AT,
        "model": model,
        "system_fingerprint": "fp_mock",
    }
    if body.get("stream") is True:
        events = _chat_events(frame, reply=reply, call=call, usage_asked=_usage_asked(body))
        return await event_stream(request, events)
    message: JsonObject = {"role": "assistant", "content": reply.text, "refusal": None}
    if call is not None:
        message = {**message, "content": None, "tool_calls": [_tool_call(call, call.json)]}
    reason = "stop" if call is None else "tool_calls"
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    return json_response(
        {**frame, "object": "chat.completion", "choices": [choice], "usage": _usage(reply)}
    )


async def moderations(request: web.Request) -> web.StreamResponse:
    """POST /v1/moderations: nothing is ever flagged."""
    body = await json_object(request)
    given = body.get("input")
    results = given if isinstance(given, list) else [given]
    clean = {"flagged": False, "categories": {}, "category_scores": {}}
    return json_response(
        {
            "id": f"modr-mock-{request.app[RECEIVED].count}",
            "model": body.get("model", "omni-moderation-latest"),
            "results": [clean] * len(results),
        }
    )


async def images(request: web.Request) -> web.StreamResponse:
    """POST /v1/images/generations: always the same pixel."""
    required(await json_object(request), "prompt", str)
    return json_response({"created": CREATED_AT, "data": [{"b64_json": PIXEL}]})


async def completions(request: web.Request) -> web.StreamResponse:
    """POST /v1/completions."""
    body = await json_object(request)
    model = _model_of(request, body)
    if "prompt" not in body:
        raise RequestError(400, "Missing or wrong field: 'prompt'.")
    reply = answer_in_words(request, list(texts_in(body["prompt"])))
    frame: JsonObject = {
        "id": f"cmpl-mock-{request.app[RECEIVED].count}",
        "object": "text_completion",
        "created": CREATED_AT,
        "model": model,
    }
    if body.get("stream") is True:
        return await event_stream(
            request, _completion_events(frame, reply=reply, usage_asked=_usage_asked(body))
        )
    choice = {"index": 0, "text": reply.text, "logprobs": None, "finish_reason": "stop"}
    return json_response({**frame, "choices": [choice], "usage": _usage(reply)})


async def embeddings(request: web.Request) -> web.StreamResponse:
    """POST /v1/embeddings; vectors as floats or, as OpenAI's own client asks, in base64."""
    body = await json_object(request)
    model = _model_of(request, body)
    inputs = body.get("input")
    texts = [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(texts, list) or not texts:
        raise RequestError(400, "Missing or wrong field: 'input'.")
    in_base64 = body.get("encoding_format") == "base64"
    rows = [
        {"object": "embedding", "index": index, "embedding": _embedding(text, in_base64=in_base64)}
        for index, text in enumerate(texts)
    ]
    tokens = answer_in_words(request, list(texts_in(texts))).input_tokens
    produce(request, tokens, 0)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_response({"object": "list", "data": rows, "model": model, "usage": usage})


def models(identifier: str | None) -> web.Response:
    """GET /v1/models and /v1/models/{id}.

    Raises:
        RequestError: 404 for a model there is none of.
    """
    if identifier is None:
        return json_response({"object": "list", "data": [_model(name) for name in MODELS]})
    if identifier not in MODELS:
        raise RequestError(404, "The model does not exist.", code="model_not_found")
    return json_response(_model(identifier))


def _model(name: str) -> JsonObject:
    return {"id": name, "object": "model", "created": CREATED_AT, "owned_by": "mock"}


def _model_of(request: web.Request, body: JsonObject) -> str:
    """Return the model; on Azure's older paths it is the deployment in the path."""
    return request.match_info.get("deployment") or model_of(body)


def _usage(reply: Reply) -> JsonObject:
    return {
        "prompt_tokens": reply.input_tokens,
        "completion_tokens": reply.output_tokens,
        "total_tokens": reply.input_tokens + reply.output_tokens,
    }


def _usage_asked(body: JsonObject) -> bool:
    match body.get("stream_options"):
        case {"include_usage": True}:
            return True
        case _:
            return False


def _event(value: JsonObject) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def _tool_call(call: ToolCall, arguments: str) -> JsonObject:
    function = {"name": call.name, "arguments": arguments}
    return {"id": CALL_ID, "type": "function", "function": function}


def _chat_events(
    frame: JsonObject, *, reply: Reply, call: ToolCall | None, usage_asked: bool
) -> Iterator[bytes]:
    """Yield the chunks; with requested usage, each has `usage: null`, and one more the counts."""
    chunk = {**frame, "object": "chat.completion.chunk"}
    unused: JsonObject = {"usage": None} if usage_asked else {}

    def choice(delta: JsonObject, finish_reason: str | None = None) -> bytes:
        row = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event({**chunk, "choices": [row], **unused})

    yield choice({"role": "assistant", "content": ""})
    if call is None:
        for piece in reply.pieces:
            yield choice({"content": piece})
    else:
        yield choice({"tool_calls": [{"index": 0, **_tool_call(call, "")}]})
        for piece in call.pieces:
            yield choice({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    yield choice({}, "stop" if call is None else "tool_calls")
    if usage_asked:
        yield _event({**chunk, "choices": [], "usage": _usage(reply)})
    yield DONE


def _completion_events(frame: JsonObject, *, reply: Reply, usage_asked: bool) -> Iterator[bytes]:
    unused: JsonObject = {"usage": None} if usage_asked else {}

    def choice(text: str, finish_reason: str | None = None) -> bytes:
        row = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
        return _event({**frame, "choices": [row], **unused})

    for piece in reply.pieces:
        yield choice(piece)
    yield choice("", "stop")
    if usage_asked:
        yield _event({**frame, "choices": [], "usage": _usage(reply)})
    yield DONE


def _embedding(text: object, *, in_base64: bool) -> list[float] | str:
    vector = vector_of(text if isinstance(text, str) else orjson.dumps(text).decode())
    if not in_base64:
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
