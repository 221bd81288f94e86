"""The HTTP client of remote guardrails: TLS files, address checks, DNS."""

from __future__ import annotations

import asyncio
import ssl
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, Self, TypeVar

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from typing_extensions import override
from yarl import URL

from sidecar.domain.guardrail_settings import RemoteEndpoint
from sidecar.domain.validation import is_refused_address
from sidecar.guardrails.remote.checks import RemoteCheckError, RemoteFault
from sidecar.telemetry.logs import get_logger

LOOK_SECONDS: Final = 10.0
"""How often files are checked for a change; a rotated certificate has hours of overlap."""

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""A bundle of all public authorities is a quarter of a megabyte."""

Built = TypeVar("Built")
_Files = tuple[str | None, str | None, str | None]
_Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(slots=True)
class _Loaded(Generic[Built]):
    value: Built
    stamp: _Stamp
    checked_at: float


class TlsFileCache(Generic[Built]):
    """Keeps the result of *build* for the TLS files of an endpoint until the files change."""

    def __init__(
        self, build: Callable[[RemoteEndpoint], Built], *, clock: Callable[[], float]
    ) -> None:
        """Read with *build*, which blocks and raises OSError or ValueError; monotonic *clock*."""
        self._build = build
        self._clock = clock
        self._loaded: dict[_Files, _Loaded[Built]] = {}
        self._lock = asyncio.Lock()

    async def get(self, endpoint: RemoteEndpoint) -> Built:
        """Return the same object until the files change; the last good one if they cannot be read.

        Raises:
            RemoteCheckError: they cannot be read, and never could.
        """
        files = (endpoint.ca_file, endpoint.cert_file, endpoint.key_file)
        known = self._loaded.get(files)
        if known is not None and self._clock() - known.checked_at < LOOK_SECONDS:
            return known.value
        async with self._lock:
            known = self._loaded.get(files)
            try:
                # Stamped before it is read: a file replaced meanwhile is read again next time.
                stamp = await asyncio.to_thread(_stamp_of, files)
                if known is None or stamp != known.stamp:
                    value = await asyncio.to_thread(self._build, endpoint)
                    known = self._loaded[files] = _Loaded(value, stamp, self._clock())
            except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
                get_logger().warning(
                    "guardrails.tls_files_not_read",
                    error_type=type(error).__name__,
                    keeps_last_good=known is not None,
                )
                if known is None:
                    raise RemoteCheckError("tls_files", RemoteFault.LOCAL) from None
            known.checked_at = self._clock()
            return known.value


def tls_context(endpoint: RemoteEndpoint) -> ssl.SSLContext:
    """Return a client's context for *endpoint*: its authorities, and its identity if it has one.

    Raises:
        OSError: a file is not there, is no certificate or key, or the two do not fit.
    """
    context = ssl.create_default_context(cafile=endpoint.ca_file)
    if endpoint.cert_file is not None:
        # With a password, or OpenSSL asks on the terminal for that of an encrypted key, and waits.
        context.load_cert_chain(endpoint.cert_file, endpoint.key_file, password="")
    return context


def _stamp_of(files: _Files) -> _Stamp:
    """Return values that change with the files' content.

    Raises:
        OSError: one is not there, or no file of a certificate's size.
    """
    stamps: list[tuple[int, int, int] | None] = []
    for file in files:
        if file is None:
            stamps.append(None)
            continue
        found = Path(file).stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE_BYTES:
            raise OSError("no file of a certificate's size")  # a pipe or a device would never end
        stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
    return tuple(stamps)


class RefusedAddressError(OSError):
    """A name that resolves to a refused address."""


class GuardedResolver(AbstractResolver):
    """Resolves names; refuses one that has any address for which *refuses* is true.

    The connection goes to the very addresses that were checked, so that a second look-up with
    another answer (DNS rebinding) changes nothing.
    """

    def __init__(
        self, resolver: AbstractResolver, *, refuses: Callable[[str], bool] = is_refused_address
    ) -> None:
        self._resolver = resolver
        self._refuses = refuses

    @override
    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        """Return the addresses of *host*.

        Raises:
            RefusedAddressError: one of them is refused, by default one that is link-local, a
                metadata server's or no host's.
            OSError: the name does not resolve.
        """
        results = await self._resolver.resolve(host, port, family)  # type: ignore[arg-type]  # aiohttp passes an int
        if any(self._refuses(result["host"]) for result in results):
            raise RefusedAddressError("refused address")
        return results

    @override
    async def close(self) -> None:
        """Close the resolver below."""
        await self._resolver.close()


RESOLVE_AGAIN_SECONDS: Final = 10
_JSON: Final = "application/json"
_STATUS_OK: Final = 200
_STATUS_SERVER_ERROR: Final = 500
_TOO_MANY_REQUESTS: Final = 429
_CONTENT_STATUSES: Final = frozenset({400, 413, 422})
"""Sent for a text that is too long for the server or its model, or that a filter before it stops;
also for a policy that does not fit the server."""
_TRANSIENT_STATUSES: Final = frozenset({502, 503, 504})
"""Sent by a proxy that reached no server, or a server that processed nothing (RFC 9110 15.6)."""


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
        self._tls = TlsFileCache(tls_context, clock=time.monotonic)

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
        headers = {
            "accept": _JSON,
            **dict(endpoint.headers),
            "content-type": _JSON,
            "accept-encoding": "identity",
        }
        is_tls = endpoint.url.startswith("https")
        try:
            async with self._session.post(
                endpoint.url,
                data=body,
                headers=headers,
                allow_redirects=False,
                ssl=await self._tls.get(endpoint) if is_tls else True,
            ) as response:
                _check(response)
                answer = bytearray()
                async for chunk in response.content.iter_chunked(8_192):
                    answer += chunk
                    if len(answer) > max_bytes:
                        response.close()  # not reused: the rest is still on its way
                        raise RemoteCheckError("answer_too_large", RemoteFault.CONTENT)
                return bytes(answer)
        except aiohttp.ClientError as error:
            raise _connection_problem(error) from None


def _check(response: aiohttp.ClientResponse) -> None:
    """Refuse every answer but JSON with status 200, as it is.

    Raises:
        RemoteCheckError: it is another one.
    """
    status = response.status
    if status in _TRANSIENT_STATUSES:
        raise RemoteCheckError(f"status_{status}", RemoteFault.TRANSIENT)
    if status >= _STATUS_SERVER_ERROR or status == _TOO_MANY_REQUESTS:
        raise RemoteCheckError(f"status_{status}", RemoteFault.SERVER)
    if status in _CONTENT_STATUSES:
        raise RemoteCheckError(f"status_{status}", RemoteFault.CONTENT)
    if status != _STATUS_OK:
        raise RemoteCheckError(f"status_{status}")
    if response.content_type != _JSON:
        raise RemoteCheckError("content_type")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise RemoteCheckError("content_encoding")


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
