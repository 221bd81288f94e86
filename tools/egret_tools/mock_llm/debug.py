"""The debug endpoint, on loopback only: received requests, and the next behaviour."""

from __future__ import annotations

from typing import Final, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ValidationError

from egret_tools.mock_llm.answering import BEHAVIOUR, PRODUCED, RECEIVED, json_response
from egret_tools.mock_llm.behaviour import Answer, Behaviour, Compression, Delay, Failure, Raw
from egret_tools.mock_llm.produced import ProducedTokens
from egret_tools.mock_llm.received import MAX_KEPT, ReceivedRequests

DEFAULT_LIMIT: Final = 20
MAX_ORDER_BYTES: Final = 32 * 1024 * 1024
"""An answer of ten megabytes, in base64."""

_Order = TypeVar("_Order", bound=BaseModel)


def debug_app(
    *, received: ReceivedRequests, produced: ProducedTokens, behaviour: Behaviour
) -> web.Application:
    """Return the application that shows and steers the mock."""
    app = web.Application(client_max_size=MAX_ORDER_BYTES)
    app[RECEIVED] = received
    app[PRODUCED] = produced
    app[BEHAVIOUR] = behaviour
    app.add_routes(
        [
            web.get("/last", _last),
            web.get("/requests", _requests),
            web.get("/count", _count),
            web.delete("/requests", _clear),
            web.get("/produced", _produced),
            web.post("/delay", _setting("delay", Delay)),
            web.post("/status", _setting("failure", Failure)),
            web.post("/answer", _setting("answer", Answer)),
            web.post("/compression", _compression),
            web.post("/raw", _setting("raw", Raw)),
            web.delete("/behaviour", _reset),
        ]
    )
    return app


async def _last(request: web.Request) -> web.Response:
    last = request.app[RECEIVED].last()
    if last is None:
        return json_response({"error": "the provider has received nothing yet"}, status=404)
    return json_response(last.as_json())


async def _requests(request: web.Request) -> web.Response:
    limit = min(_whole(request, "limit", DEFAULT_LIMIT), MAX_KEPT)
    return json_response([kept.as_json() for kept in request.app[RECEIVED].newest(limit)])


async def _produced(request: web.Request) -> web.Response:
    rows = request.app[PRODUCED].rows(
        start=_whole(request, "start", 0), limit=_whole(request, "limit", DEFAULT_LIMIT)
    )
    return json_response(rows)


def _whole(request: web.Request, name: str, default: int) -> int:
    raw = request.query.get(name, str(default))
    if not raw.isascii() or not raw.isdigit():
        raise web.HTTPBadRequest(text=f"{name} is a whole number")
    return int(raw[:9])


async def _count(request: web.Request) -> web.Response:
    received = request.app[RECEIVED]
    return json_response({"count": received.count, "broken_off": received.broken_off})


async def _clear(request: web.Request) -> web.Response:
    request.app[RECEIVED].clear()
    return web.Response(status=204)


def _setting(name: str, kind: type[BaseModel]) -> Handler:
    """Return the handler that sets a part of the behaviour to the *kind* of order it receives."""

    async def handler(request: web.Request) -> web.Response:
        setattr(request.app[BEHAVIOUR], name, await _order(request, kind))
        return web.Response(status=204)

    return handler


async def _compression(request: web.Request) -> web.Response:
    request.app[BEHAVIOUR].is_compressing = (await _order(request, Compression)).gzip
    return web.Response(status=204)


async def _reset(request: web.Request) -> web.Response:
    request.app[BEHAVIOUR].reset()
    return web.Response(status=204)


async def _order(request: web.Request, kind: type[_Order]) -> _Order:
    try:
        return kind.model_validate_json(await request.read())
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False)
        )
        raise web.HTTPBadRequest(text=faults) from None
