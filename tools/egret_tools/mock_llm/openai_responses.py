"""OpenAI's Responses API: whole, as typed events, and about a stored response."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import orjson
from aiohttp import web

from egret_tools.mock_llm.answering import (
    RECEIVED,
    JsonObject,
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
from egret_tools.mock_llm.words import CREATED_AT, MODELS, Reply, reply_to, texts_in


async def create(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses."""
    body = await json_object(request)
    model = model_of(body)
    call = called_tool(request, openai_call(body, body.get("input")))
    reply = _reply(request, body, call)
    number = request.app[RECEIVED].count
    response = _Response(f"resp_mock_{number}", model, reply, call)
    if body.get("stream") is True:
        return await event_stream(request, _events(response))
    return json_response(response.as_json("completed"))


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
    return json_response(_Response(identifier, MODELS[0], reply).as_json(status))


async def deleted(request: web.Request) -> web.StreamResponse:
    """DELETE /v1/responses/{id}."""
    return json_response({"id": request.match_info["id"], "object": "response", "deleted": True})


async def conversation(request: web.Request) -> web.StreamResponse:
    """POST /v1/conversations, and of one that exists: any id is one that was made."""
    await json_object(request)
    identifier = request.match_info.get("id", "conv_mock")
    made = {"object": "conversation", "created_at": CREATED_AT, "metadata": {}}
    return json_response({"id": identifier, **made})


async def input_items(request: web.Request) -> web.StreamResponse:
    """GET /v1/responses/{id}/input_items, and the items of a conversation."""
    del request
    ends = {"first_id": None, "last_id": None, "has_more": False}
    return json_response({"object": "list", "data": [], **ends})


def _reply(request: web.Request, body: JsonObject, call: ToolCall | None = None) -> Reply:
    given = body.get("input")
    if not isinstance(given, str):
        given = required(body, "input", list)
    texts = [*texts_in(body.get("instructions")), *texts_in(given)]
    return answer_in_words(request, texts, call)


def _text_part(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


@dataclass(frozen=True, slots=True)
class _Response:
    """A response of one item: a message, or the call of a function."""

    identifier: str
    model: str
    reply: Reply
    call: ToolCall | None = None

    def item(self, status: str) -> JsonObject:
        """Return the item as it stands at its beginning or its end."""
        ended = status == "completed"
        if self.call is not None:
            return {
                "id": self.identifier.replace("resp", "fc"),
                "type": "function_call",
                "status": status,
                "call_id": CALL_ID,
                "name": self.call.name,
                "arguments": self.call.json if ended else "",
            }
        return {
            "id": self.identifier.replace("resp", "msg"),
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [_text_part(self.reply.text)] if ended else [],
        }

    def as_json(self, status: str) -> JsonObject:
        """Return the response; output and usage are there once it is completed."""
        ended, reply = status == "completed", self.reply
        usage = {
            "input_tokens": reply.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": reply.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": reply.input_tokens + reply.output_tokens,
        }
        return {
            "id": self.identifier,
            "object": "response",
            "created_at": CREATED_AT,
            "status": status,
            "model": self.model,
            "output": [self.item(status)] if ended else [],
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


def _events(response: _Response) -> Iterator[bytes]:
    for number, (kind, fields) in enumerate(_typed(response)):
        event = {"type": kind, "sequence_number": number, **fields}
        yield b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n"


def _typed(response: _Response) -> Iterator[tuple[str, JsonObject]]:
    unfinished = response.as_json("in_progress")
    begun, ended = response.item("in_progress"), response.item("completed")
    item: JsonObject = {"output_index": 0}
    yield "response.created", {"response": unfinished}
    yield "response.in_progress", {"response": unfinished}
    yield "response.output_item.added", {**item, "item": begun}
    place: JsonObject = {"item_id": begun["id"], **item}
    yield from _pieces(response.reply, response.call, place)
    yield "response.output_item.done", {**item, "item": ended}
    yield "response.completed", {"response": response.as_json("completed")}


def _pieces(
    reply: Reply, call: ToolCall | None, place: JsonObject
) -> Iterator[tuple[str, JsonObject]]:
    if call is not None:
        for piece in call.pieces:
            yield "response.function_call_arguments.delta", {**place, "delta": piece}
        done = {**place, "name": call.name, "arguments": call.json}
        yield "response.function_call_arguments.done", done
        return
    part: JsonObject = {**place, "content_index": 0}
    yield "response.content_part.added", {**part, "part": _text_part("")}
    for piece in reply.pieces:
        yield "response.output_text.delta", {**part, "delta": piece, "logprobs": []}
    yield "response.output_text.done", {**part, "text": reply.text, "logprobs": []}
    yield "response.content_part.done", {**part, "part": _text_part(reply.text)}
