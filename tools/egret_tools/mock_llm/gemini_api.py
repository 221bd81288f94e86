"""The Gemini API: content whole, as server-sent events and as one long array; tokens, vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    produce,
    required,
)
from egret_tools.mock_llm.tool_calls import ToolCall, gemini_call
from egret_tools.mock_llm.words import GEMINI_MODELS, Reply, texts_in, vector_of

STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


def error_response(error: RequestError) -> web.Response:
    """Word an error as Google's APIs do."""
    status = STATUSES.get(error.status, "INTERNAL")
    detail = {"code": error.status, "message": error.message, "status": status}
    return json_response({"error": detail}, status=error.status)


async def generate_content(request: web.Request) -> web.StreamResponse:
    """POST …/models/{model}:generateContent."""
    body = await json_object(request)
    call = called_tool(request, gemini_call(body))
    reply = _reply(request, body, call)
    part = _part(reply.text, call)
    return json_response(_chunk(request, part=part, reply=reply, ends=True))


async def stream_generate_content(request: web.Request) -> web.StreamResponse:
    """POST …/models/{model}:streamGenerateContent, with `alt=sse` as events."""
    body = await json_object(request)
    call = called_tool(request, gemini_call(body))
    reply = _reply(request, body, call)
    pieces = reply.pieces if call is None else [reply.text]  # a call is not cut
    chunks = (
        orjson.dumps(
            _chunk(request, part=_part(piece, call), reply=reply, ends=index == len(pieces))
        )
        for index, piece in enumerate(pieces, 1)
    )
    if request.query.get("alt") == "sse":
        return await event_stream(request, (b"data: " + chunk + b"\r\n\r\n" for chunk in chunks))
    return await event_stream(request, _array(chunks), content_type="application/json")


async def count_tokens(request: web.Request) -> web.StreamResponse:
    """POST …/models/{model}:countTokens."""
    body = await json_object(request)
    nested = body.get("generateContentRequest")
    reply = _reply(request, nested if isinstance(nested, dict) else body)
    produce(request, 0, 0)
    return json_response({"totalTokens": reply.input_tokens})


async def embed_content(request: web.Request) -> web.StreamResponse:
    """POST …/models/{model}:embedContent."""
    return json_response({"embedding": _embedding(await json_object(request))})


async def batch_embed_contents(request: web.Request) -> web.StreamResponse:
    """POST …/models/{model}:batchEmbedContents."""
    asked = required(await json_object(request), "requests", list)
    rows = asked if isinstance(asked, list) else []
    return json_response({"embeddings": [_embedding(row) for row in rows]})


async def models(request: web.Request) -> web.StreamResponse:
    """GET …/models and …/models/{id}.

    Raises:
        RequestError: 404 for a model there is none of.
    """
    identifier = request.match_info.get("id")
    if identifier is None:
        return json_response({"models": [_model(name) for name in GEMINI_MODELS]})
    if identifier not in GEMINI_MODELS:
        raise RequestError(404, "The model does not exist.")
    return json_response(_model(identifier))


async def cached_content(request: web.Request) -> web.StreamResponse:
    """POST /v1beta/cachedContents, GET and DELETE of one: any id is one that was made."""
    model = (await json_object(request)).get("model") if request.method == "POST" else None
    name = f"cachedContents/{request.match_info.get('id', 'mock')}"
    usage = {"totalTokenCount": 7}
    return json_response({"name": name, "model": model or "", "usageMetadata": usage})


async def interaction(request: web.Request) -> web.StreamResponse:
    """POST /v1beta/interactions, whole or in events."""
    body = await json_object(request)
    texts = [*texts_in(body.get("system_instruction")), *texts_in(body.get("input"))]
    reply = answer_in_words(request, texts, None)
    usage = {
        "total_input_tokens": reply.input_tokens,
        "total_output_tokens": reply.output_tokens,
        "total_tokens": reply.input_tokens + reply.output_tokens,
    }
    made = {
        "id": "interaction-mock",
        "model": body.get("model"),
        "status": "completed",
        "usage": usage,
    }
    if body.get("stream") is not True:
        content = [{"type": "text", "text": reply.text}]
        return json_response({**made, "steps": [{"type": "model_output", "content": content}]})
    events: list[JsonObject] = [
        {
            "event_type": "interaction.created",
            "interaction": {"id": made["id"], "status": "in_progress"},
        },
        {"event_type": "step.start", "index": 0, "step": {"type": "model_output"}},
        *(
            {"event_type": "step.delta", "index": 0, "delta": {"type": "text", "text": one}}
            for one in reply.pieces
        ),
        {"event_type": "step.stop", "index": 0},
        {"event_type": "interaction.completed", "interaction": made},
    ]
    data = (
        f"event: {event['event_type']}\ndata: ".encode() + orjson.dumps(event) + b"\n\n"
        for event in events
    )
    return await event_stream(request, (*data, b"data: [DONE]\n\n"))


def _model(name: str) -> JsonObject:
    return {"name": f"models/{name}", "version": "1", "displayName": name}


def _part(text: str, call: ToolCall | None) -> JsonObject:
    if call is None:
        return {"text": text}
    return {"functionCall": {"name": call.name, "args": call.arguments}}


def _reply(request: web.Request, body: JsonObject, call: ToolCall | None = None) -> Reply:
    system = body.get("systemInstruction", body.get("system_instruction"))
    texts = [*texts_in(system), *texts_in(required(body, "contents", list))]
    return answer_in_words(request, texts, call)


def _embedding(body: JsonObject) -> JsonObject:
    return {"values": vector_of("".join(texts_in(body.get("content"))))}


def _chunk(request: web.Request, *, part: JsonObject, reply: Reply, ends: bool) -> JsonObject:
    content = {"parts": [part], "role": "model"}
    candidate = {"content": content, "index": 0} | ({"finishReason": "STOP"} if ends else {})
    usage = {
        "promptTokenCount": reply.input_tokens,
        "candidatesTokenCount": reply.output_tokens,
        "totalTokenCount": reply.input_tokens + reply.output_tokens,
    }
    return {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": request.match_info["model"],
        "responseId": f"mock-{request.app[RECEIVED].count}",
    }


def _array(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the pieces of one JSON array, cut where Google cuts them."""
    opening = b"["
    for chunk in chunks:
        yield opening + chunk
        opening = b"\n,\r\n"
    yield b"\n]"
