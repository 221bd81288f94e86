"""The provider's side of the mock: records, checks the credential, then answers by dialect."""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from sidecar.mock_llm import anthropic_api, openai_api
from sidecar.mock_llm.answering import BEHAVIOUR, RECEIVED, RequestError
from sidecar.mock_llm.behaviour import Behaviour
from sidecar.mock_llm.received import ReceivedRequest, ReceivedRequests

MAX_BODY_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ProviderKeys:
    """The credentials the mock accepts."""

    openai: str = field(repr=False)
    anthropic: str = field(repr=False)


def provider_app(
    keys: ProviderKeys, *, received: ReceivedRequests, behaviour: Behaviour
) -> web.Application:
    """Return the application that speaks as a provider."""
    app = web.Application(middlewares=[_gate(keys)], client_max_size=MAX_BODY_BYTES)
    app[RECEIVED] = received
    app[BEHAVIOUR] = behaviour
    app.add_routes(
        [
            web.post("/v1/chat/completions", openai_api.chat_completions),
            web.post("/v1/completions", openai_api.completions),
            web.post("/v1/embeddings", openai_api.embeddings),
            web.post("/v1/messages", anthropic_api.messages),
            web.post("/v1/messages/count_tokens", anthropic_api.count_tokens),
            web.get("/v1/models", _models),
            web.get("/v1/models/{id}", _models),
        ]
    )
    return app


def _gate(keys: ProviderKeys) -> Middleware:
    @web.middleware
    async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            await _record(request)
            _check_credential(request, keys)
            await _misbehave(request.app[BEHAVIOUR])
            return await handler(request)
        except web.HTTPException as error:
            return _error_response(request, RequestError(error.status, error.reason))
        except RequestError as error:
            return _error_response(request, error)

    return gate


async def _record(request: web.Request) -> None:
    headers = tuple(
        (name.decode("latin-1").lower(), value.decode("latin-1"))
        for name, value in request.raw_headers
    )
    body = await request.read()
    request.app[RECEIVED].add(
        ReceivedRequest(method=request.method, path=request.path_qs, headers=headers, body=body)
    )


def _check_credential(request: web.Request, keys: ProviderKeys) -> None:
    if _is_anthropic(request):
        given, wanted = request.headers.get("x-api-key", ""), keys.anthropic
    else:
        given, wanted = request.headers.get("authorization", ""), f"Bearer {keys.openai}"
    if not hmac.compare_digest(given.encode(), wanted.encode()):
        raise RequestError(401, "Incorrect API key provided.", code="invalid_api_key")


async def _misbehave(behaviour: Behaviour) -> None:
    if behaviour.delay.ms:
        await asyncio.sleep(behaviour.delay.ms / 1000)
    status = behaviour.take_failure()
    if status is not None:
        raise RequestError(status, "The mock was told to fail.")


def _is_anthropic(request: web.Request) -> bool:
    if request.path == "/v1/messages" or request.path.startswith("/v1/messages/"):
        return True
    return request.path.startswith("/v1/models") and "anthropic-version" in request.headers


def _error_response(request: web.Request, error: RequestError) -> web.Response:
    if _is_anthropic(request):
        return anthropic_api.error_response(error)
    return openai_api.error_response(error)


async def _models(request: web.Request) -> web.StreamResponse:
    identifier = request.match_info.get("id")
    if _is_anthropic(request):
        return anthropic_api.models(identifier)
    return openai_api.models(identifier)
