"""Finds why a server does not serve a mode: sends it one ordinary exchange, as Envoy would.

Envoy's counters say that an answer was wrong, and not which; here the messages are seen.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import grpc.aio

from egret_tools.conformance.modes import Mode, whole_mode
from egret_tools.conformance.target import Target, UnixTarget
from sidecar._generated.envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import (
    ProcessingMode,
)
from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext

METHOD: Final = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
ANSWER_SECONDS: Final = 5.0
_BODY: Final = b'{"model":"conformance","messages":[{"role":"user","content":"Good morning."}]}'
_DUPLEX: Final = "FULL_DUPLEX_STREAMED"


async def diagnosis(
    target: Target, mode: Mode, *, path: str, headers: tuple[tuple[str, str], ...]
) -> str | None:
    """Return what is wrong with the answers of a server in a mode; None if nothing is."""
    messages = list(_messages(mode, path, headers))
    name = ""
    try:
        async with _stream(target) as call:
            # A server may have ended the stream by then; its answers say why.
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                for _, message in messages:
                    await call.write(message.SerializeToString())
            for name, _ in messages:
                async with asyncio.timeout(ANSWER_SECONDS):
                    raw = await call.read()
                problem = _problem(raw, name, mode)
                if problem is not None:
                    return f"your server {problem}"
    except TimeoutError:
        return f"your server did not answer `{name}` within {ANSWER_SECONDS:g} s"
    except grpc.aio.AioRpcError as error:
        return f"your server ended the stream with {error.code().name}"
    return None


@asynccontextmanager
async def _stream(target: Target) -> AsyncIterator[Any]:
    if isinstance(target, UnixTarget):
        address = f"unix:{target.path}"
    else:
        address = f"{target.host}:{target.port}"
    async with grpc.aio.insecure_channel(address) as channel:
        method: Any = channel.stream_stream(
            METHOD, request_serializer=None, response_deserializer=None
        )
        call = method()
        try:
            yield call
        finally:
            call.cancel()


def _messages(
    mode: Mode, path: str, headers: tuple[tuple[str, str], ...]
) -> Iterator[tuple[str, ext.ProcessingRequest]]:
    """Yield the messages of one exchange in this mode, each with its name."""
    fields = whole_mode(mode.fields)
    first = ext.ProcessingRequest()
    pseudo = ((":method", "POST"), (":path", path), (":authority", "conformance"))
    _add_headers(first.request_headers, (*pseudo, ("content-type", "application/json"), *headers))
    for name in ("request_body_mode", "response_body_mode"):
        number = ProcessingMode.BodySendMode.Value(fields[name])
        setattr(first.protocol_config, name, number)
    yield "request_headers", first
    if fields["request_body_mode"] != "NONE":
        yield (
            "request_body",
            ext.ProcessingRequest(request_body=ext.HttpBody(body=_BODY, end_of_stream=True)),
        )
    if fields["response_header_mode"] == "SEND":
        answer = ext.ProcessingRequest()
        pairs = ((":status", "200"), ("content-type", "application/json"))
        _add_headers(answer.response_headers, pairs)
        yield "response_headers", answer
    if fields["response_body_mode"] != "NONE":
        yield (
            "response_body",
            ext.ProcessingRequest(response_body=ext.HttpBody(body=b"{}", end_of_stream=True)),
        )


def _add_headers(message: ext.HttpHeaders, headers: tuple[tuple[str, str], ...]) -> None:
    for name, value in headers:
        message.headers.headers.add(key=name, raw_value=value.encode("latin-1"))


def _problem(raw: object, expected: str, mode: Mode) -> str | None:
    if not isinstance(raw, bytes):
        return f"ended the stream without an answer to `{expected}`"
    answer = ext.ProcessingResponse.FromString(raw)
    kind = answer.WhichOneof("response")
    if kind == "immediate_response":
        status = answer.immediate_response.status.code
        credential = ", so check the credential in --key or -H" if status in {401, 403} else ""
        return f"refused an ordinary request with {status}{credential}"
    if kind is None and not answer.HasField("mode_override"):
        return f"answered `{expected}` with an empty message: no member of `response` is set"
    if kind != expected and kind is not None:
        return f"answered `{expected}` with `{kind}`"
    is_duplex = whole_mode(mode.fields).get(f"{expected}_mode") == _DUPLEX
    if is_duplex and expected.endswith("_body"):
        mutation = getattr(answer, expected).response.body_mutation
        if not mutation.HasField("streamed_response"):
            return (
                f"answered `{expected}` without a `streamed_response`: in {_DUPLEX} Envoy "
                "sends on only the body that comes back"
            )
    return None
