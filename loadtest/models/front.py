"""TLS before a model server that has none, which also records the answers of the model.

Providers speak TLS to Envoy. No code of Egret reads the answers here, so that the counts
found in it can be held against those that Egret recorded.
"""

from __future__ import annotations

import json
import secrets
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
from aiohttp import web
from egret_tools.devstack.credentials import ServerCertificate

LOOPBACK: Final = "127.0.0.1"
DATA: Final = b"data:"


@dataclass(frozen=True, slots=True)
class Said:
    """One answer as the model server sent it: its id, its text, and its own count of tokens.

    `request_id` is the value of `x-request-id`, which providers send and this server does not.
    """

    id: str
    request_id: str
    text: str
    input_tokens: int
    output_tokens: int


@dataclass(slots=True)
class ModelFront:
    """Where it listens, and the raw answers that have passed, by their `x-request-id`."""

    port: int = 0
    answers: dict[str, bytes] = field(default_factory=dict)

    def said(self) -> dict[str, Said]:
        """Return every answer that has counts, by its id."""
        answers = self.answers.items()
        found = (_said(request_id, list(_documents(raw))) for request_id, raw in answers)
        return {one.id: one for one in found if one is not None}


@asynccontextmanager
async def model_front(model_url: str, certificate: ServerCertificate) -> AsyncIterator[ModelFront]:
    """Listen on a free port of loopback until the block ends."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate.chain, certificate.private_key)
    front = ModelFront()
    async with aiohttp.ClientSession(model_url) as model:

        async def pass_on(request: web.Request) -> web.StreamResponse:
            return await _pass_on(request, model, front)

        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", pass_on)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, LOOPBACK, 0, ssl_context=tls)
            await site.start()
            front.port = runner.addresses[0][1]
            yield front
        finally:
            await runner.cleanup()


async def _pass_on(
    request: web.Request, model: aiohttp.ClientSession, front: ModelFront
) -> web.StreamResponse:
    raw = bytearray()
    request_id = f"req_{secrets.token_hex(8)}"
    headers = {"content-type": request.headers.get("content-type", "application/json")}
    sent = await request.read()
    async with model.request(request.method, request.path_qs, data=sent, headers=headers) as got:
        answer = web.StreamResponse(status=got.status)
        answer.content_type = got.content_type
        answer.headers["x-request-id"] = request_id
        await answer.prepare(request)
        async for piece in got.content.iter_any():
            raw += piece
            await answer.write(piece)
        await answer.write_eof()
    front.answers[request_id] = bytes(raw)
    return answer


def _documents(answer: bytes) -> Iterator[dict[str, Any]]:
    if not answer.startswith(DATA):
        yield json.loads(answer)
        return
    for line in answer.splitlines():
        if line.startswith(DATA) and b"[DONE]" not in line:
            yield json.loads(line.removeprefix(DATA))


def _said(request_id: str, documents: list[dict[str, Any]]) -> Said | None:
    choices = [choice for document in documents for choice in document.get("choices", ())]
    parts = [choice.get("delta") or choice.get("message") or {} for choice in choices]
    counts = [document["usage"] for document in documents if document.get("usage")]
    if not counts:
        return None
    return Said(
        id=documents[0]["id"],
        request_id=request_id,
        text="".join(part.get("content") or "" for part in parts),
        input_tokens=counts[-1]["prompt_tokens"],
        output_tokens=counts[-1]["completion_tokens"],
    )
