"""OpenAI's Responses API: whole, as typed events, and about a stored response."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
from aiohttp import web

from egret_tools.mock_llm.answering import (
    RECEIVED,
    JsonObject,
    answer_in_words,
    event_stream,
    json_object,
    json_response,
    model_of,
    produce,
    required,
)
from egret_tools.mock_llm.words import CREATED_AT, MODELS, Reply, reply_to, texts_in


async def create(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses."""
    body = await json_object(request)
    model = model_of(body)
    reply = _reply(request, body)
    number = request.app[RECEIVED].count
    identifier = f"resp_mock_{number}"
    if body.get("stream") is True:
        events = _events(identifier, model=model, reply=reply)
        return await event_stream(request, events)
    return json_response(_response(identifier, model=model, reply=reply, status="completed"))


async def input_tokens(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses/input_tokens."""
    tokens = _reply(request, await json_object(request)).input_tokens
    produce(request, 0, 0)
    return json_response({"object": "response.input_tokens", "input_tokens": tokens})


async def stored(request: web.Request) -> web.StreamResponse:
    """GET /v1/responses/{id} and POST /v1/responses/{id}/cancel: any id is one that was made."""
    reply = reply_to([], words=None)
    status = "cancelled" if request.path.endswith("/cancel") else "completed"
    identifier = request.match_info["id"]
    return json_response(_response(identifier, model=MODELS[0], reply=reply, status=status))


async def deleted(request: web.Request) -> web.StreamResponse:
    """DELETE /v1/responses/{id}."""
    return json_response({"id": request.match_info["id"], "object": "response", "deleted": True})


async def input_items(request: web.Request) -> web.StreamResponse:
    """GET /v1/responses/{id}/input_items."""
    del request
    ends = {"first_id": None, "last_id": None, "has_more": False}
    return json_response({"object": "list", "data": [], **ends})


def _reply(request: web.Request, body: JsonObject) -> Reply:
    given = body.get("input")
    if not isinstance(given, str):
        given = required(body, "input", list)
    texts = [*texts_in(body.get("instructions")), *texts_in(given)]
    return answer_in_words(request, texts)


def _text_part(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _item(identifier: str, *, status: str, content: list[JsonObject]) -> JsonObject:
    return {
        "id": identifier.replace("resp", "msg"),
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def _response(identifier: str, *, model: str, reply: Reply, status: str) -> JsonObject:
    ended = status == "completed"
    whole = [_item(identifier, status=status, content=[_text_part(reply.text)])]
    usage = {
        "input_tokens": reply.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": reply.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": reply.input_tokens + reply.output_tokens,
    }
    return {
        "id": identifier,
        "object": "response",
        "created_at": CREATED_AT,
        "status": status,
        "model": model,
        "output": whole if ended else [],
        "usage": usage if ended else None,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
    }


def _events(identifier: str, *, model: str, reply: Reply) -> Iterator[bytes]:
    for number, (kind, fields) in enumerate(_typed(identifier, model=model, reply=reply)):
        event = {"type": kind, "sequence_number": number, **fields}
        yield b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n"


def _typed(identifier: str, *, model: str, reply: Reply) -> Iterator[tuple[str, JsonObject]]:
    unfinished = _response(identifier, model=model, reply=reply, status="in_progress")
    begun = _item(identifier, status="in_progress", content=[])
    ended = _item(identifier, status="completed", content=[_text_part(reply.text)])
    item: JsonObject = {"output_index": 0}
    part: JsonObject = {"item_id": begun["id"], "output_index": 0, "content_index": 0}
    yield "response.created", {"response": unfinished}
    yield "response.in_progress", {"response": unfinished}
    yield "response.output_item.added", {**item, "item": begun}
    yield "response.content_part.added", {**part, "part": _text_part("")}
    for piece in reply.pieces:
        yield "response.output_text.delta", {**part, "delta": piece, "logprobs": []}
    yield "response.output_text.done", {**part, "text": reply.text, "logprobs": []}
    yield "response.content_part.done", {**part, "part": _text_part(reply.text)}
    yield "response.output_item.done", {**item, "item": ended}
    whole = _response(identifier, model=model, reply=reply, status="completed")
    yield "response.completed", {"response": whole}
