"""The providers' side of the mock: records, checks the credential, then answers by dialect."""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from egret_tools.mock_llm import (
    anthropic_api,
    bedrock_api,
    gemini_api,
    openai_api,
    openai_responses,
)
from egret_tools.mock_llm.answering import (
    BEHAVIOUR,
    NUMBER,
    PRODUCED,
    RECEIVED,
    RequestError,
    raw_answer,
)
from egret_tools.mock_llm.behaviour import Behaviour
from egret_tools.mock_llm.produced import PREFIX, ProducedTokens
from egret_tools.mock_llm.received import ReceivedRequest, ReceivedRequests

VERTEX_AI: Final = "/projects/{project}/locations/{location}"
MAX_BODY_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderKeys:
    """The credentials the mock accepts, each where that provider's API has it."""

    openai: str = field(repr=False)
    anthropic: str = field(repr=False)
    azure: str = field(repr=False)
    gemini: str = field(repr=False)
    bedrock: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Api:
    """How a provider is given its credential, and how it words errors."""

    header: str
    value: str
    error_response: Callable[[RequestError], web.Response]


def provider_app(
    keys: ProviderKeys,
    *,
    received: ReceivedRequests,
    produced: ProducedTokens,
    behaviour: Behaviour,
) -> web.Application:
    """Return the application that speaks as all providers."""
    app = web.Application(middlewares=[_gate(keys)], client_max_size=MAX_BODY_BYTES)
    app[RECEIVED] = received
    app[PRODUCED] = produced
    app[BEHAVIOUR] = behaviour
    app.on_response_prepare.append(_name_request)
    _add_routes(app)
    return app


def _add_routes(app: web.Application) -> None:
    routes = [
        web.get("/v1/models", _models),
        web.get("/v1/models/{id}", _models),
        web.get("/v1beta/models", gemini_api.models),
        web.get("/v1beta/models/{id}", gemini_api.models),
        web.post("/model/{id}/converse", bedrock_api.converse),
        web.post("/model/{id}/converse-stream", bedrock_api.converse_stream),
        web.post("/model/{id}/invoke", bedrock_api.invoke),
        web.post("/model/{id}/invoke-with-response-stream", bedrock_api.invoke_stream),
    ]
    for root in ("/v1", "/v1beta/openai", "/openai/v1", "/openai/deployments/{deployment}"):
        routes += _openai_routes(root)
    for root in ("/v1beta", "/v1"):
        routes += _gemini_routes(f"{root}/models/{{model}}")
        routes += [
            web.post(f"{root}/interactions", gemini_api.interaction),
            web.post(f"{root}/cachedContents", gemini_api.cached_content),
            web.get(f"{root}/cachedContents/{{id}}", gemini_api.cached_content),
            web.delete(f"{root}/cachedContents/{{id}}", gemini_api.cached_content),
        ]
    for root in ("/v1", "/anthropic/v1"):
        routes += [
            web.post(f"{root}/messages", anthropic_api.messages),
            web.post(f"{root}/messages/count_tokens", anthropic_api.count_tokens),
        ]
    for root in (f"/v1beta1{VERTEX_AI}", f"/v1{VERTEX_AI}"):
        routes += _gemini_routes(f"{root}/publishers/google/models/{{model}}")
        claude = f"{root}/publishers/anthropic/models"
        routes += [
            web.post(f"{claude}/count-tokens:rawPredict", anthropic_api.count_tokens),
            web.post(f"{claude}/{{model}}:rawPredict", anthropic_api.messages),
            web.post(f"{claude}/{{model}}:streamRawPredict", anthropic_api.messages),
            web.post(f"{root}/endpoints/openapi/chat/completions", openai_api.chat_completions),
        ]
    for route in routes:
        more = {**route.kwargs, "expect_handler": _on_expect}
        app.add_routes([web.RouteDef(route.method, route.path, route.handler, more)])


async def _on_expect(request: web.Request) -> None:
    """Send 100 Continue if the client expects it; ignore other expectations (RFC 9110 10.1.1)."""
    if request.headers.get("expect", "").strip().lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer has not begun


def _openai_routes(root: str) -> list[web.RouteDef]:
    return [
        web.post(f"{root}/chat/completions", openai_api.chat_completions),
        web.post(f"{root}/completions", openai_api.completions),
        web.post(f"{root}/embeddings", openai_api.embeddings),
        web.post(f"{root}/moderations", openai_api.moderations),
        web.post(f"{root}/images/generations", openai_api.images),
        web.post(f"{root}/responses", openai_responses.create),
        web.post(f"{root}/responses/input_tokens", openai_responses.input_tokens),
        web.get(f"{root}/responses/{{id}}", openai_responses.stored),
        web.delete(f"{root}/responses/{{id}}", openai_responses.deleted),
        web.post(f"{root}/responses/{{id}}/cancel", openai_responses.stored),
        web.get(f"{root}/responses/{{id}}/input_items", openai_responses.input_items),
        web.post(f"{root}/conversations", openai_responses.conversation),
        web.post(f"{root}/conversations/{{id}}", openai_responses.conversation),
        web.post(f"{root}/conversations/{{id}}/items", openai_responses.input_items),
        web.get(f"{root}/conversations/{{id}}/items", openai_responses.input_items),
    ]


def _gemini_routes(model: str) -> list[web.RouteDef]:
    return [
        web.post(f"{model}:generateContent", gemini_api.generate_content),
        web.post(f"{model}:streamGenerateContent", gemini_api.stream_generate_content),
        web.post(f"{model}:countTokens", gemini_api.count_tokens),
        web.post(f"{model}:embedContent", gemini_api.embed_content),
        web.post(f"{model}:batchEmbedContents", gemini_api.batch_embed_contents),
    ]


def _gate(keys: ProviderKeys) -> Middleware:
    @web.middleware
    async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[NUMBER] = request.app[PRODUCED].begin()
        try:
            await _record(request)
            _check_credential(request, keys)
            await _misbehave(request.app[BEHAVIOUR])
            await _fail_on_demand(request)
            if (raw := request.app[BEHAVIOUR].raw) is not None:
                return await raw_answer(request, raw)
            response = await handler(request)
        except web.HTTPException as error:
            words = RequestError(error.status, error.reason)
            return _api_of(request, keys).error_response(words)
        except RequestError as error:
            return _api_of(request, keys).error_response(error)
        _compress(request, response)
        request.app[PRODUCED].complete(request[NUMBER])
        return response

    return gate


async def _name_request(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["x-request-id"] = f"{PREFIX}{request[NUMBER]}"


def _compress(request: web.Request, response: web.StreamResponse) -> None:
    if request.app[BEHAVIOUR].is_compressing and isinstance(response, web.Response):
        response.enable_compression(web.ContentCoding.gzip)


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
    api = _api_of(request, keys)
    given = request.headers.get(api.header, "")
    if not hmac.compare_digest(given.encode(), api.value.encode()):
        raise RequestError(401, "Incorrect API key provided.", code="invalid_api_key")


async def _misbehave(behaviour: Behaviour) -> None:
    if behaviour.delay.ms:
        await asyncio.sleep(behaviour.delay.ms / 1000)
    status = behaviour.take_failure()
    if status is not None:
        raise RequestError(status, "The mock was told to fail.")


_FAILING_MODEL: Final = re.compile(
    rb'"model" *: *"mock-status-([45][0-9][0-9])"|/mock-status-([45][0-9][0-9])[:/]'
)


async def _fail_on_demand(request: web.Request) -> None:
    """Fail if the model is `mock-status-503` or alike, in the body or the path.

    Raises:
        RequestError: with that status.
    """
    asked = _FAILING_MODEL.search(await request.read()) or _FAILING_MODEL.search(
        request.path.encode()
    )
    if asked is not None:
        raise RequestError(int(asked[1] or asked[2]), "The model of this name always fails.")


def _api_of(request: web.Request, keys: ProviderKeys) -> _Api:
    path = request.path
    if _is_anthropic(request):
        return _Api("x-api-key", keys.anthropic, anthropic_api.error_response)
    if path.startswith("/v1beta/openai/"):
        return _Api("x-goog-api-key", keys.gemini, openai_api.error_response)
    if _is_gemini(request):
        return _Api("x-goog-api-key", keys.gemini, gemini_api.error_response)
    if path.startswith(("/v1beta1/projects/", "/v1/projects/")):
        words = anthropic_api if "/publishers/anthropic/" in path else gemini_api
        return _Api("authorization", f"Bearer {keys.gemini}", words.error_response)
    if path.startswith("/anthropic/"):
        return _Api("api-key", keys.azure, anthropic_api.error_response)
    if path.startswith("/model/"):
        return _Api("authorization", f"Bearer {keys.bedrock}", bedrock_api.error_response)
    if path.startswith("/openai/"):
        return _Api("api-key", keys.azure, openai_api.error_response)
    return _Api("authorization", f"Bearer {keys.openai}", openai_api.error_response)


def _is_gemini(request: web.Request) -> bool:
    """Return whether it is Google's API, by a method after the model or Google's own header."""
    if request.path.startswith("/v1beta/"):
        return True
    if request.path.startswith(("/v1/interactions", "/v1/cachedContents")):
        return True
    if not request.path.startswith("/v1/models"):
        return False
    return request.method == "POST" or "x-goog-api-key" in request.headers


def _is_anthropic(request: web.Request) -> bool:
    if request.path == "/v1/messages" or request.path.startswith("/v1/messages/"):
        return True
    return request.path.startswith("/v1/models") and "anthropic-version" in request.headers


async def _models(request: web.Request) -> web.StreamResponse:
    if _is_gemini(request):
        return await gemini_api.models(request)
    identifier = request.match_info.get("id")
    if _is_anthropic(request):
        return anthropic_api.models(identifier)
    return openai_api.models(identifier)
