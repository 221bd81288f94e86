"""Shared by all dialects: reading the body, waiting, and writing streams."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

import orjson
from aiohttp import web

from egret_tools.mock_llm.behaviour import Behaviour, Raw
from egret_tools.mock_llm.produced import ProducedTokens
from egret_tools.mock_llm.received import ReceivedRequests
from egret_tools.mock_llm.tool_calls import ToolCall
from egret_tools.mock_llm.words import Reply, reply_to

CUT_SECONDS: Final = 0.05

BEHAVIOUR: Final = web.AppKey("behaviour", Behaviour)
RECEIVED: Final = web.AppKey("received", ReceivedRequests)
PRODUCED: Final = web.AppKey("produced", ProducedTokens)

NUMBER: Final = web.RequestKey("number", int)
"""Under which a request keeps its number among those that tokens were produced for."""

JsonObject = Mapping[str, object]


class RequestError(Exception):
    """The request is wrong; the dialect words the answer."""

    def __init__(self, status: int, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


async def json_object(request: web.Request) -> JsonObject:
    """Return the body as an object.

    Raises:
        RequestError: 400 when it is not one.
    """
    try:
        value: object = orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        raise RequestError(400, "The body is not valid JSON.") from None
    if not isinstance(value, dict):
        raise RequestError(400, "The body is not a JSON object.")
    return value


def required(body: JsonObject, name: str, kind: type[str | list[object]]) -> object:
    """Return the field *name*.

    Raises:
        RequestError: 400 when it is missing or of another kind.
    """
    value = body.get(name)
    if not isinstance(value, kind):
        raise RequestError(400, f"Missing or wrong field: '{name}'.")
    return value


def model_of(body: JsonObject) -> str:
    """Return the model that the request names.

    Raises:
        RequestError: 400 when none is named.
    """
    return str(required(body, "model", str))


def called_tool(request: web.Request, call: ToolCall | None) -> ToolCall | None:
    """Return *call*, or None if a test has set the words of the answer."""
    return None if request.app[BEHAVIOUR].answer is not None else call


def answer_in_words(request: web.Request, texts: list[str], call: ToolCall | None = None) -> Reply:
    """Return the reply to *texts*, in the arguments of a call if there is one; note its tokens."""
    answer = request.app[BEHAVIOUR].answer
    words = None if answer is None else answer.text
    reply = reply_to(texts, words=words if call is None else call.json)
    produce(request, reply.input_tokens, reply.output_tokens)
    return reply


def produce(request: web.Request, input_tokens: int, output_tokens: int) -> None:
    """Note the tokens of the answer to *request*."""
    request.app[PRODUCED].answer(
        request[NUMBER], input_tokens=input_tokens, output_tokens=output_tokens
    )


def json_response(value: object, *, status: int = 200) -> web.Response:
    """Answer with a JSON document."""
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


async def event_stream(
    request: web.Request,
    events: Iterable[bytes],
    *,
    content_type: str = "text/event-stream; charset=utf-8",
) -> web.StreamResponse:
    """Answer with events, each in a write of its own."""
    headers = {"content-type": content_type, "cache-control": "no-cache"}
    response = web.StreamResponse(headers=headers)
    if request.app[BEHAVIOUR].is_compressing:
        response.enable_compression(web.ContentCoding.gzip)
    return await _written(request, response, events)


async def raw_answer(request: web.Request, raw: Raw) -> web.StreamResponse:
    """Answer with the bytes that a test has set."""
    response = web.StreamResponse(status=raw.status, headers=raw.headers)
    if not raw.is_cut:
        return await _written(request, response, raw.chunks)
    await response.prepare(request)
    for chunk in raw.chunks:
        await response.write(chunk)
    if request.transport is not None:
        await asyncio.sleep(CUT_SECONDS)  # written bytes leave before the connection closes
        request.transport.abort()
    return response


async def _written(
    request: web.Request, response: web.StreamResponse, pieces: Iterable[bytes]
) -> web.StreamResponse:
    await response.prepare(request)
    pause_seconds = request.app[BEHAVIOUR].delay.event_ms / 1000
    try:
        for piece in pieces:
            await response.write(piece)
            if pause_seconds:
                await asyncio.sleep(pause_seconds)
        await response.write_eof()
    except (ConnectionError, asyncio.CancelledError):
        request.app[RECEIVED].broken_off += 1
        raise
    return response
