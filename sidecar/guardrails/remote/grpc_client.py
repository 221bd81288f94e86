"""The `grpc` guardrail: the client of `egret.guardrail.v1`."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import grpc
import grpc.aio
from aiohttp.abc import AbstractResolver
from aiohttp.resolver import ThreadedResolver
from google.protobuf.message import DecodeError
from yarl import URL

from sidecar._generated.egret.guardrail.v1 import guardrail_pb2 as guardrail
from sidecar.domain.finding import Finding
from sidecar.domain.guardrail_settings import GrpcSettings, RemoteEndpoint
from sidecar.domain.policy import Stage
from sidecar.domain.validation import is_refused_address
from sidecar.guardrails.remote.checks import (
    MAX_FINDINGS,
    MAX_MESSAGE_CHARACTERS,
    RemoteAnswer,
    RemoteCheckError,
    RemoteFault,
    RemoteRequest,
    RemoteTimeoutError,
    RemoteVerdict,
    with_byte_offsets,
)
from sidecar.guardrails.remote.http import (
    GuardedResolver,
    RefusedAddressError,
    TlsFileCache,
    tls_context,
)

RESOLVE_AGAIN_SECONDS: Final = 10.0
MAX_MESSAGE_BYTES: Final = 1024 * 1024
"""Of an answer, as it arrives and decompressed (gRPC 1.85 checks both)."""
MAX_CHANNELS: Final = 256
CLOSE_SECONDS: Final = 30.0
"""Calls on a channel that is replaced may end; no check takes longer than this."""

_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),  # a proxy of the environment would choose the address
    ("grpc.enable_retries", 0),  # tried again by `ResilientChecks`, within its time
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    # A server that comes back is found again soon; the default grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # The time limit of one attempt to connect, whatever its name (gRPC 1.85).
    ("grpc.min_reconnect_backoff_ms", 5_000),
)


@dataclass(frozen=True, slots=True)
class _Target:
    """The addresses of a channel, and the credentials for them."""

    addresses: str
    credentials: grpc.ChannelCredentials | None


@dataclass(slots=True)
class _Open:
    channel: grpc.aio.Channel
    target: _Target
    resolved_at: float


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
        self._tls = TlsFileCache(_credentials, clock=clock)
        self._open: dict[_Place, _Open] = {}
        self._resolving: dict[tuple[str, int], asyncio.Task[str]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Close every connection."""
        tasks = [*self._closing, *self._resolving.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
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
            and known.target.credentials is credentials
            and self._clock() - known.resolved_at < RESOLVE_AGAIN_SECONDS
        ):
            return known.channel
        try:
            addresses = await self._addresses(url)
        except RemoteCheckError as error:
            known = self._open.get(place)
            if known is None or error.fault is not RemoteFault.TRANSIENT:
                raise
            # Without an answer of the name server, the addresses that were checked last stay.
            addresses = known.target.addresses
        target = _Target(addresses, credentials)
        known = self._open.get(place)  # another check may have opened it meanwhile
        if known is None or known.target != target:
            if known is not None:
                self._close_later(known.channel)
            elif len(self._open) >= self._max_channels:  # the oldest is of a policy long gone
                oldest = min(self._open, key=lambda place: self._open[place].resolved_at)
                self._close_later(self._open.pop(oldest).channel)
            options = [*_OPTIONS, ("grpc.default_authority", url.authority)]
            if credentials is None:
                channel = grpc.aio.insecure_channel(target.addresses, options)
            else:
                # The name the certificate must be for; the target is an address.
                options.append(("grpc.ssl_target_name_override", url.raw_host or ""))
                channel = grpc.aio.secure_channel(target.addresses, credentials, options)
            known = self._open[place] = _Open(channel, target, self._clock())
        known.resolved_at = self._clock()
        return known.channel

    async def _addresses(self, url: URL) -> str:
        """Return the addresses of *url*, from one look-up for all checks that wait for them."""
        place = (url.raw_host or "", url.port or 0)

        def forget(task: asyncio.Task[str]) -> None:
            del self._resolving[place]
            if not task.cancelled():
                task.exception()  # retrieved: the checks that waited for it may be gone

        task = self._resolving.get(place)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._resolve(*place))
            task.add_done_callback(forget)
            self._resolving[place] = task
        return await asyncio.shield(task)

    async def _resolve(self, host: str, port: int) -> str:
        try:
            found = await self._resolver.resolve(host, port, socket.AF_UNSPEC)
        except RefusedAddressError:
            raise RemoteCheckError("refused_address", RemoteFault.LOCAL) from None
        except OSError:
            raise RemoteCheckError("name_resolution", RemoteFault.TRANSIENT) from None
        addresses = sorted({one["host"] for one in found})
        # Checked once more in the form that gRPC receives.
        if any(is_refused_address(one) for one in addresses):
            raise RemoteCheckError("refused_address", RemoteFault.LOCAL)
        six = [f"[{one}]:{port}" for one in addresses if ":" in one]
        four = [f"{one}:{port}" for one in addresses if ":" not in one]
        # A target is of one family: if a name has both, IPv4, which every network has.
        return f"ipv4:{','.join(four)}" if four else f"ipv6:{','.join(six)}"

    def _close_later(self, channel: grpc.aio.Channel) -> None:
        task = asyncio.get_running_loop().create_task(channel.close(CLOSE_SECONDS))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


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


CHECK_METHOD: Final = "/egret.guardrail.v1.GuardrailService/Check"
MAX_ANSWER_BYTES: Final = 128 * 1024
_TYPE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,39}")

_VERDICTS: Final[dict[int, RemoteVerdict]] = {
    guardrail.VERDICT_PASS: "pass",
    guardrail.VERDICT_FLAG: "flag",
    guardrail.VERDICT_REDACT: "redact",
    guardrail.VERDICT_BLOCK: "block",
}
_STAGES: Final[dict[Stage, guardrail.Stage.ValueType]] = {
    Stage.INPUT: guardrail.STAGE_INPUT,
    Stage.OUTPUT: guardrail.STAGE_OUTPUT,
}
_FAULTS: Final = {
    grpc.StatusCode.UNAVAILABLE: RemoteFault.TRANSIENT,
    grpc.StatusCode.ABORTED: RemoteFault.SERVER,
    grpc.StatusCode.INTERNAL: RemoteFault.SERVER,
    grpc.StatusCode.RESOURCE_EXHAUSTED: RemoteFault.SERVER,
    grpc.StatusCode.UNKNOWN: RemoteFault.SERVER,
    grpc.StatusCode.INVALID_ARGUMENT: RemoteFault.CONTENT,
    grpc.StatusCode.OUT_OF_RANGE: RemoteFault.CONTENT,
}
_TOO_LARGE: Final = re.compile(r"larger than max|exceeds maximum size")
"""In the text of a message that is above a limit of gRPC (C, Go, Java): ours for an answer, or the
server's for the request, 4 MiB by default."""


class GrpcChecks:
    """Asks guardrails over gRPC; a `RemoteChecks`."""

    def __init__(self, channels: GrpcChannels | None = None) -> None:
        self._channels = channels or GrpcChannels()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._channels.close()

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Ask the guardrail's server.

        Raises:
            RemoteCheckError: no connection, another status than OK, or an unusable answer.
        """
        settings = request.guardrail.settings
        if not isinstance(settings, GrpcSettings):
            raise RemoteCheckError("not_grpc", RemoteFault.LOCAL)
        channel = await self._channels.channel(settings.endpoint)
        # The answer stays bytes here: gRPC would report one it cannot parse as a status.
        call = channel.unary_unary(CHECK_METHOD, None, None)
        try:
            body: bytes = await call(
                check_request(request).SerializeToString(),
                metadata=tuple((name.lower(), value) for name, value in settings.endpoint.headers),
                timeout=request.guardrail.timeout_seconds,
            )
        except grpc.aio.AioRpcError as error:
            code = error.code()  # its text is the server's, and stays here
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise RemoteTimeoutError from None
            fault = _FAULTS.get(code, RemoteFault.ANSWER)
            is_exhausted = code is grpc.StatusCode.RESOURCE_EXHAUSTED
            if is_exhausted and _TOO_LARGE.search(error.details() or ""):
                fault = RemoteFault.CONTENT  # of that size: it must not open the breaker
            raise RemoteCheckError(f"grpc_{code.name.lower()}", fault) from None
        return read_answer(body, request)


def check_request(request: RemoteRequest) -> guardrail.CheckRequest:
    """Return the message that a server receives."""
    return guardrail.CheckRequest(
        guardrail=request.guardrail.name,
        stage=_STAGES[request.stage],
        request_id=request.about.request_id,
        key_id=request.about.key_id,
        model=request.about.model,
        texts=[
            guardrail.Text(role=part.role, text=part.content.decode())
            for part in request.subject.parts
        ],
    )


def read_answer(body: bytes, request: RemoteRequest) -> RemoteAnswer:
    """Return the answer, with spans in bytes instead of characters.

    Raises:
        RemoteCheckError: it is not a message of this form, or a span is outside its text.
    """
    if len(body) > MAX_ANSWER_BYTES:
        raise RemoteCheckError("answer_too_large", RemoteFault.CONTENT)
    try:
        answer = guardrail.CheckResponse.FromString(body)
    except DecodeError:
        raise RemoteCheckError("answer_invalid") from None
    verdict = _VERDICTS.get(answer.verdict)
    count = len(answer.findings)
    if (
        verdict is None
        or (verdict == "pass" and count)
        or (verdict == "redact" and not count)
        or not all(_TYPE.fullmatch(one.type) for one in answer.findings)
    ):
        raise RemoteCheckError("answer_invalid")
    if count > MAX_FINDINGS or len(answer.message) > MAX_MESSAGE_CHARACTERS:
        raise RemoteCheckError("answer_too_large", RemoteFault.CONTENT)
    findings = [
        Finding(request.guardrail.name, one.type, one.text, one.start, one.end)
        for one in answer.findings
    ]
    return RemoteAnswer(verdict, with_byte_offsets(findings, request.subject.parts))
