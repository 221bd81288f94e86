"""The shape of a recorded conversation: an HTTP request as Envoy shows it, or a bare script."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from sidecar._generated.envoy.config.core.v3 import base_pb2 as core
from sidecar._generated.envoy.extensions.filters.http.ext_proc.v3 import (
    processing_mode_pb2 as modes,
)
from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext

Fields = tuple[tuple[str, str], ...]
BodyMode: TypeAlias = modes.ProcessingMode.BodySendMode.ValueType

NONE: Final = modes.ProcessingMode.NONE
STREAMED: Final = modes.ProcessingMode.STREAMED
BUFFERED: Final = modes.ProcessingMode.BUFFERED
PARTIAL: Final = modes.ProcessingMode.BUFFERED_PARTIAL
DUPLEX: Final = modes.ProcessingMode.FULL_DUPLEX_STREAMED

EXT_PROC: Final = "envoy.filters.http.ext_proc"
JSON: Final[Fields] = (("content-type", "application/json"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Modes:
    """The processing mode of the filter's configuration; an override may change it."""

    request_body: BodyMode = NONE
    response_body: BodyMode = NONE
    response_headers: bool = False
    observability: bool = False
    is_told: bool = True
    """Whether the first message has `protocol_config`, as Envoy >= 1.33 sends it."""


DEFAULT: Final = Modes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The provider's answer; Envoy shows it only as far as the processing mode says."""

    body: bytes = b""
    status: int = 200
    headers: Fields = JSON
    cut: int = 1
    has_trailers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """An HTTP request and its answer, to be played as Envoy would in the mode that rules."""

    name: str
    headers: Fields
    body: bytes | None = None
    cut: int = 1
    """Into how many pieces the body comes; 0 is one byte each."""
    has_trailers: bool = False
    modes: Modes = DEFAULT
    source: str | None = "192.0.2.7:4711"
    answer: Answer | None = None
    metadata: Fields | None = None
    """Of the gRPC call; None is Envoy's: the stream's name and a sampled trace."""
    ended: Mapping[str, str] = field(default_factory=dict)
    """Attributes of the access-log record that differ from the usual ones."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send these bytes as one message."""

    message: bytes
    label: str


@dataclass(frozen=True, slots=True)
class Read:
    """Read this many answers."""

    count: int = 1


@dataclass(frozen=True, slots=True)
class HalfClose:
    """Send nothing more."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Cancel the call."""


@dataclass(frozen=True, slots=True)
class Sql:
    """Run a statement as an administrator, and wait until the worker has noticed."""

    statement: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait until the server has read what was sent, and before it answers."""


Step = Send | Pause | Read | HalfClose | Reset | Sql


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """Messages in an order that no good Envoy would choose."""

    name: str
    steps: tuple[Step, ...]
    metadata: Fields | None = None
    ended: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """A conversation that is played while others have begun and wait."""

    name: str
    waiting: int
    """How many others; they send nothing, and half-close in the end."""
    played: Exchange


Conversation = Exchange | Script | Crowd


def request_id(name: str) -> str:
    """Return the id that Envoy gives the request of a conversation."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"request {name}"))


def trace_id(name: str) -> str:
    """Return the trace of a conversation."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"trace {name}").hex


def stream_metadata(name: str, *, is_sampled: bool = True) -> Fields:
    """Return the metadata with which Envoy opens the call."""
    flags = "01" if is_sampled else "00"
    return (
        ("x-egret-stream", f"stream {name}"),
        ("traceparent", f"00-{trace_id(name)}-{trace_id(name)[:16]}-{flags}"),
        ("x-envoy-expected-rq-timeout-ms", "10000"),
    )


def pieces_of(body: bytes, cut: int) -> tuple[bytes, ...]:
    """Return *body* in as many pieces; 0 is one byte each."""
    size = 1 if cut == 0 else max(1, -(-len(body) // cut))
    return tuple(body[at : at + size] for at in range(0, len(body), size)) or (b"",)


def header_map(fields: Fields) -> core.HeaderMap:
    """Return headers as Envoy sends them: raw values only."""
    return core.HeaderMap(
        headers=[
            core.HeaderValue(key=name, raw_value=value.encode("latin-1")) for name, value in fields
        ]
    )


def opening_message(exchange: Exchange) -> bytes:
    """Return the first message of a stream."""
    message = ext.ProcessingRequest()
    message.metadata_context.SetInParent()
    message.request_headers.headers.CopyFrom(header_map(exchange.headers))
    message.request_headers.end_of_stream = exchange.body is None
    if exchange.source is not None:
        fields = message.attributes[EXT_PROC].fields
        fields["source.address"].string_value = exchange.source
    if exchange.modes.is_told:
        message.protocol_config.request_body_mode = exchange.modes.request_body
        message.protocol_config.response_body_mode = exchange.modes.response_body
        message.protocol_config.SetInParent()
    message.observability_mode = exchange.modes.observability
    return message.SerializeToString(deterministic=True)


def request_body(piece: bytes, *, ends: bool) -> bytes:
    """Return a piece of a request's body."""
    body = ext.HttpBody(body=piece, end_of_stream=ends)
    return ext.ProcessingRequest(request_body=body).SerializeToString()


def request_trailers() -> bytes:
    """Return the trailers of a request."""
    trailers = ext.HttpTrailers(trailers=header_map((("x-checksum", "abc"),)))
    return ext.ProcessingRequest(request_trailers=trailers).SerializeToString()


def response_headers(answer: Answer) -> bytes:
    """Return the headers of an answer."""
    fields = ((":status", str(answer.status)), *answer.headers)
    headers = ext.HttpHeaders(headers=header_map(fields), end_of_stream=not answer.body)
    return ext.ProcessingRequest(response_headers=headers).SerializeToString()


def response_body(piece: bytes, *, ends: bool) -> bytes:
    """Return a piece of an answer's body."""
    body = ext.HttpBody(body=piece, end_of_stream=ends)
    return ext.ProcessingRequest(response_body=body).SerializeToString()


def response_trailers() -> bytes:
    """Return the trailers of an answer."""
    trailers = ext.HttpTrailers(trailers=header_map((("x-checksum", "abc"),)))
    return ext.ProcessingRequest(response_trailers=trailers).SerializeToString()
