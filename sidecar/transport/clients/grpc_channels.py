"""Channels to gRPC servers, to addresses that were judged, with credentials as they are now."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import grpc.aio
from aiohttp.abc import AbstractResolver
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from sidecar.domain.remote_guardrails import RemoteEndpoint
from sidecar.guardrails.addresses import is_refused_address
from sidecar.guardrails.remote import RemoteCheckError, RemoteFault
from sidecar.guardrails.remote_checks.resolver import GuardedResolver, RefusedAddressError
from sidecar.guardrails.remote_checks.tls_files import TlsFiles, tls_context

RESOLVE_AGAIN_SECONDS: Final = 10.0
MAX_MESSAGE_BYTES: Final = 1024 * 1024
"""Of an answer, and of what a compressed one becomes (gRPC 1.85 checks both)."""
MAX_CHANNELS: Final = 256
CLOSE_SECONDS: Final = 30.0
"""What is under way on a channel that is replaced may end; no check takes longer than this."""

_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),  # a proxy of the environment would choose the address
    ("grpc.enable_retries", 0),  # tried again by the care around the check, within its time
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    # A server that comes back is found again soon; the default grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Not a pause, whatever its name: how long one attempt to connect may take (gRPC 1.85).
    ("grpc.min_reconnect_backoff_ms", 5_000),
)


@dataclass(frozen=True, slots=True)
class _Way:
    """Where a channel leads and what it shows there."""

    target: str
    credentials: grpc.ChannelCredentials | None


@dataclass(slots=True)
class _Open:
    channel: grpc.aio.Channel
    way: _Way
    judged_at: float


_Place = tuple[str, str | None, str | None, str | None]
"""URL and files; not headers, which belong to a call."""


class GrpcChannels:
    """One channel a server and identity. Used within a running event loop, closed at the end."""

    def __init__(
        self,
        *,
        resolver: AbstractResolver | None = None,
        clock: Callable[[], float] = time.monotonic,
        max_channels: int = MAX_CHANNELS,
    ) -> None:
        self._resolver = GuardedResolver(resolver or ThreadedResolver())
        self._clock = clock
        self._max_channels = max_channels
        self._tls = TlsFiles(_credentials, clock=clock)
        self._open: dict[_Place, _Open] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Close every connection."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        for one in self._open.values():
            await one.channel.close(None)
        await self._resolver.close()

    async def channel(self, endpoint: RemoteEndpoint) -> grpc.aio.Channel:
        """Return a channel to *endpoint*.

        Raises:
            RemoteCheckError: its name does not resolve, or to an address no check may have.
        """
        url = URL(endpoint.url)
        place = (endpoint.url, endpoint.ca_file, endpoint.cert_file, endpoint.key_file)
        credentials = await self._tls.get(endpoint) if url.scheme == "grpcs" else None
        known = self._open.get(place)
        if (
            known is not None
            and known.way.credentials is credentials
            and self._clock() - known.judged_at < RESOLVE_AGAIN_SECONDS
        ):
            return known.channel
        way = _Way(await self._target(url), credentials)
        known = self._open.get(place)  # another check may have opened it meanwhile
        if known is None or known.way != way:
            if known is None:
                self._make_room()
            else:
                self._close_later(known.channel)
            known = self._open[place] = _Open(_channel(url, way), way, self._clock())
        known.judged_at = self._clock()
        return known.channel

    def _make_room(self) -> None:
        """Close the channel that was not used for longest, of a policy long gone."""
        if len(self._open) >= self._max_channels:
            oldest = min(self._open, key=lambda place: self._open[place].judged_at)
            self._close_later(self._open.pop(oldest).channel)

    async def _target(self, url: URL) -> str:
        host, port = url.raw_host or "", url.port or 0
        try:
            found = await self._resolver.resolve(host, port, socket.AF_UNSPEC)
        except RefusedAddressError:
            raise RemoteCheckError("refused_address", RemoteFault.LOCAL) from None
        except OSError:
            raise RemoteCheckError("name_resolution", RemoteFault.TRANSIENT) from None
        addresses = sorted({one["host"] for one in found})
        # What the resolver let pass is judged once more as the text gRPC is given.
        if any(is_refused_address(one) for one in addresses):
            raise RemoteCheckError("refused_address", RemoteFault.LOCAL)
        six = [f"[{one}]:{port}" for one in addresses if ":" in one]
        four = [f"{one}:{port}" for one in addresses if ":" not in one]
        # A target is of one family: where a name has both, IPv4, which every network has.
        return f"ipv4:{','.join(four)}" if four else f"ipv6:{','.join(six)}"

    def _close_later(self, channel: grpc.aio.Channel) -> None:
        task = asyncio.get_running_loop().create_task(channel.close(CLOSE_SECONDS))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _channel(url: URL, way: _Way) -> grpc.aio.Channel:
    options = [*_OPTIONS, ("grpc.default_authority", url.authority)]
    if way.credentials is None:
        return grpc.aio.insecure_channel(way.target, options)
    # The name the certificate must be for; the target is an address.
    options.append(("grpc.ssl_target_name_override", url.raw_host or ""))
    return grpc.aio.secure_channel(way.target, way.credentials, options)


def _credentials(endpoint: RemoteEndpoint) -> grpc.ChannelCredentials:
    """Return the credentials in an endpoint's files. Blocks.

    Raises:
        OSError: a file is not there, or its content does not fit.
    """
    tls_context(endpoint)  # gRPC itself would only fail later, and without a reason
    return grpc.ssl_channel_credentials(
        root_certificates=_content(endpoint.ca_file),
        private_key=_content(endpoint.key_file),
        certificate_chain=_content(endpoint.cert_file),
    )


def _content(file: str | None) -> bytes | None:
    return None if file is None else Path(file).read_bytes()
