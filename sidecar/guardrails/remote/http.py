"""The HTTP client of remote guardrails: TLS files, address checks, DNS."""

from __future__ import annotations

import asyncio
import ipaddress
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
from sidecar.guardrails.remote.checks import RemoteCheckError, RemoteFault
from sidecar.telemetry.logs import get_logger

LOOK_SECONDS: Final = 10.0
"""How often files are looked at for a change; a rotated certificate has hours of overlap."""

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""A bundle of all public authorities is a quarter of a megabyte."""

_T = TypeVar("_T")
_Files = tuple[str | None, str | None, str | None]
_Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(slots=True)
class _Read(Generic[_T]):
    value: _T
    stamp: _Stamp
    looked_at: float


class TlsFiles(Generic[_T]):
    """What *build* makes of the files of an endpoint; the same object until they change."""

    def __init__(
        self, build: Callable[[RemoteEndpoint], _T], *, clock: Callable[[], float]
    ) -> None:
        """Read with *build*, which blocks and raises OSError or ValueError; monotonic *clock*."""
        self._build = build
        self._clock = clock
        self._read: dict[_Files, _Read[_T]] = {}
        self._lock = asyncio.Lock()

    async def get(self, endpoint: RemoteEndpoint) -> _T:
        """Return what the files hold.

        Raises:
            RemoteCheckError: they cannot be read, and never could.
        """
        files = (endpoint.ca_file, endpoint.cert_file, endpoint.key_file)
        known = self._read.get(files)
        if known is not None and self._clock() - known.looked_at < LOOK_SECONDS:
            return known.value
        async with self._lock:
            return await self._look(endpoint, files)

    async def _look(self, endpoint: RemoteEndpoint, files: _Files) -> _T:
        known = self._read.get(files)
        try:
            # Stamped before it is read: what is replaced meanwhile is read again next time.
            stamp = await asyncio.to_thread(_stamp, files)
            if known is not None and stamp == known.stamp:
                known.looked_at = self._clock()
                return known.value
            value = await asyncio.to_thread(self._build, endpoint)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            get_logger().warning(
                "guardrails.tls_files_not_read",
                error_type=type(error).__name__,
                keeps_last_good=known is not None,
            )
            if known is None:
                raise RemoteCheckError("tls_files", RemoteFault.LOCAL) from None
            known.looked_at = self._clock()
            return known.value
        self._read[files] = _Read(value, stamp, self._clock())
        return value


def tls_context(endpoint: RemoteEndpoint) -> ssl.SSLContext:
    """Return a client's context for *endpoint*: its authorities, and its identity if it has one.

    Raises:
        OSError: a file is not there, is no certificate or key, or the two do not fit.
    """
    context = ssl.create_default_context(cafile=endpoint.ca_file)
    if endpoint.cert_file is not None:
        context.load_cert_chain(endpoint.cert_file, endpoint.key_file)
    return context


def _stamp(files: _Files) -> _Stamp:
    return tuple(None if file is None else _stamp_of(Path(file)) for file in files)


def _stamp_of(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE_BYTES:
        raise OSError("no file of a certificate's size")  # a pipe or a device would never end
    return found.st_mtime_ns, found.st_size, found.st_ino


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_REFUSED_NETWORKS: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",  # link-local; 169.254.169.254 is the metadata server of most clouds
        "fe80::/10",  # link-local
        "fd00:ec2::254/128",  # AWS metadata over IPv6
        "fd20:ce::254/128",  # Google metadata over IPv6
        "100.100.100.200/32",  # Alibaba metadata
        "168.63.129.16/32",  # Azure wire server
        "192.0.0.192/32",  # Oracle metadata
        "0.0.0.0/8",
        "::/128",
        "224.0.0.0/4",
        "ff00::/8",
        "255.255.255.255/32",
    )
)


_ENDS_IN_IPV4: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "64:ff9b::/96",  # NAT64 (RFC 6052)
        "64:ff9b:1::/48",  # NAT64 within a network (RFC 8215), with a prefix of 96 bits
        "::/96",  # IPv4-compatible (RFC 4291 2.5.5.1); :: and ::1 are in it as well
    )
)


def is_refused_address(text: str) -> bool:
    """Tell whether *text* is an address no remote check may have; names are not judged.

    Loopback and private networks are allowed: in a cluster, that is where their servers live.
    """
    try:
        address: _Address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        # The same host, written as IPv4-mapped or -compatible, 6to4, NAT64 or Teredo.
        address = _embedded_ipv4(address) or address
    return any(
        address.version == network.version and address in network for network in _REFUSED_NETWORKS
    )


def _embedded_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.is_loopback:
        return None
    if any(address in network for network in _ENDS_IN_IPV4):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)


class RefusedAddressError(OSError):
    """A name that resolves to an address no remote check may have."""


class GuardedResolver(AbstractResolver):
    """Resolves names; refuses one that has any address no remote check may have.

    The connection goes to the very addresses judged here, so that a second look-up with another
    answer (DNS rebinding) changes nothing.
    """

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    @override
    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        """Return the addresses of *host*.

        Raises:
            RefusedAddressError: one of them is link-local, a metadata server's or no host's.
            OSError: the name does not resolve.
        """
        results = await self._resolver.resolve(host, port, family)  # type: ignore[arg-type]  # an int is what aiohttp passes
        if any(is_refused_address(result["host"]) for result in results):
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
