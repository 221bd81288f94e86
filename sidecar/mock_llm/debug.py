"""The debug endpoint: what the provider received, and what it shall do next. Loopback only."""

from __future__ import annotations

from typing import Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from sidecar.mock_llm.answering import BEHAVIOUR, RECEIVED, json_response
from sidecar.mock_llm.behaviour import Answer, Behaviour, Delay, Failure
from sidecar.mock_llm.received import MAX_KEPT, ReceivedRequests

DEFAULT_LIMIT: Final = 20

_Order = TypeVar("_Order", bound=BaseModel)


def debug_app(*, received: ReceivedRequests, behaviour: Behaviour) -> web.Application:
    """Return the application that shows and steers the mock."""
    app = web.Application()
    app[RECEIVED] = received
    app[BEHAVIOUR] = behaviour
    app.add_routes(
        [
            web.get("/last", _last),
            web.get("/requests", _requests),
            web.get("/count", _count),
            web.delete("/requests", _clear),
            web.post("/delay", _delay),
            web.post("/status", _status),
            web.post("/answer", _answer),
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
    raw = request.query.get("limit", str(DEFAULT_LIMIT))
    if not raw.isascii() or not raw.isdigit():
        return json_response({"error": "limit is a whole number"}, status=400)
    limit = min(int(raw[:9]), MAX_KEPT)
    return json_response([kept.as_json() for kept in request.app[RECEIVED].newest(limit)])


async def _count(request: web.Request) -> web.Response:
    return json_response({"count": request.app[RECEIVED].count})


async def _clear(request: web.Request) -> web.Response:
    request.app[RECEIVED].clear()
    return web.Response(status=204)


async def _delay(request: web.Request) -> web.Response:
    request.app[BEHAVIOUR].delay = await _order(request, Delay)
    return web.Response(status=204)


async def _status(request: web.Request) -> web.Response:
    request.app[BEHAVIOUR].failure = await _order(request, Failure)
    return web.Response(status=204)


async def _answer(request: web.Request) -> web.Response:
    request.app[BEHAVIOUR].answer = await _order(request, Answer)
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
