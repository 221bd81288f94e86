"""One POST of JSON to a guardrail's server, and the bytes of an answer that is one.

Connections are pooled by server and identity. How many there are is bounded by the care around
each check, not here: a shared bound would let one slow server starve the others.
"""

from __future__ import annotations

import time
from typing import Final, Self

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from sidecar.domain.remote_guardrails import RemoteEndpoint
from sidecar.guardrails.addresses import is_refused_address
from sidecar.guardrails.remote import RemoteCheckError, RemoteFault
from sidecar.guardrails.remote_checks.resolver import GuardedResolver, RefusedAddressError
from sidecar.guardrails.remote_checks.tls_files import TlsFiles, tls_context

RESOLVE_AGAIN_SECONDS: Final = 10
_JSON: Final = "application/json"
_STATUS_OK: Final = 200
_STATUS_SERVER_ERROR: Final = 500
_TOO_MANY_REQUESTS: Final = 429
_TRANSIENT_STATUSES: Final = frozenset({502, 503, 504})
"""Said by a proxy that reached nobody, or by a server that took nothing up (RFC 9110 15.6)."""


class HttpClient:
    """Posts to the servers of guardrails. Built within a running event loop, closed at the end."""

    def __init__(self, *, resolver: AbstractResolver | None = None) -> None:
        connector = aiohttp.TCPConnector(
            limit=0,
            resolver=GuardedResolver(resolver or ThreadedResolver()),
            ttl_dns_cache=RESOLVE_AGAIN_SECONDS,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # the check's own limit holds
            auto_decompress=False,  # a small answer must not become a large one
        )
        self._tls = TlsFiles(tls_context, clock=time.monotonic)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def post(self, endpoint: RemoteEndpoint, body: bytes, *, max_bytes: int) -> bytes:
        """Return the body of the answer, of at most *max_bytes*. Redirects are not followed.

        Raises:
            RemoteCheckError: no connection, or no JSON with status 200.
        """
        if is_refused_address(URL(endpoint.url).raw_host or ""):
            raise RemoteCheckError("refused_address", RemoteFault.LOCAL)
        try:
            return await self._post(endpoint, body, max_bytes)
        except aiohttp.ClientError as error:
            raise _connection_problem(error) from None

    async def _post(self, endpoint: RemoteEndpoint, body: bytes, max_bytes: int) -> bytes:
        async with self._session.post(
            endpoint.url,
            data=body,
            headers={
                "accept": _JSON,
                **dict(endpoint.headers),
                "content-type": _JSON,
                "accept-encoding": "identity",
            },
            allow_redirects=False,
            ssl=await self._tls.get(endpoint) if endpoint.url.startswith("https") else True,
        ) as response:
            _check(response)
            return await _read(response, max_bytes)


def _check(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status != _STATUS_OK:
        raise RemoteCheckError(f"status_{status}", _status_fault(status))
    if response.content_type != _JSON:
        raise RemoteCheckError("content_type")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise RemoteCheckError("content_encoding")


def _status_fault(status: int) -> RemoteFault:
    if status in _TRANSIENT_STATUSES:
        return RemoteFault.TRANSIENT
    if status >= _STATUS_SERVER_ERROR or status == _TOO_MANY_REQUESTS:
        return RemoteFault.SERVER
    return RemoteFault.ANSWER


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    answer = bytearray()
    async for chunk in response.content.iter_chunked(8_192):
        answer += chunk
        if len(answer) > max_bytes:
            response.close()  # not reused: the rest is still on its way
            raise RemoteCheckError("answer_too_large")
    return bytes(answer)


def _connection_problem(error: aiohttp.ClientError) -> RemoteCheckError:
    match error:
        case aiohttp.ClientConnectorError(os_error=RefusedAddressError()):
            return RemoteCheckError("refused_address", RemoteFault.LOCAL)
        case aiohttp.ClientSSLError():
            return RemoteCheckError("tls", RemoteFault.SERVER)
        case aiohttp.ClientConnectorDNSError():
            return RemoteCheckError("name_resolution", RemoteFault.TRANSIENT)
        case aiohttp.InvalidURL():
            return RemoteCheckError("url", RemoteFault.LOCAL)
        case aiohttp.ClientConnectionError():
            return RemoteCheckError("connection", RemoteFault.TRANSIENT)
        case _:
            return RemoteCheckError("http", RemoteFault.SERVER)
