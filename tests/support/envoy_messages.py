"""`ProcessingRequest` and `ProcessingResponse` as Envoy would write and read them."""

from __future__ import annotations

from collections.abc import Iterable

from sidecar._generated.envoy.config.core.v3 import base_pb2 as core
from sidecar._generated.envoy.extensions.filters.http.ext_proc.v3 import (
    processing_mode_pb2 as modes,
)
from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext

NONE = modes.ProcessingMode.NONE
STREAMED = modes.ProcessingMode.STREAMED
BUFFERED = modes.ProcessingMode.BUFFERED
DUPLEX = modes.ProcessingMode.FULL_DUPLEX_STREAMED


def header_map(*fields: tuple[str, bytes]) -> core.HeaderMap:
    """Return headers as Envoy sends them: raw values only."""
    return core.HeaderMap(
        headers=[core.HeaderValue(key=name, raw_value=value) for name, value in fields]
    )


def request_headers(*fields: tuple[str, bytes], ends: bool = False) -> ext.ProcessingRequest:
    """Return a request_headers message."""
    return ext.ProcessingRequest(
        request_headers=ext.HttpHeaders(headers=header_map(*fields), end_of_stream=ends)
    )


def request_body(piece: bytes, *, ends: bool = False) -> ext.ProcessingRequest:
    """Return a request_body message."""
    return ext.ProcessingRequest(request_body=ext.HttpBody(body=piece, end_of_stream=ends))


def response_headers(*fields: tuple[str, bytes], ends: bool = False) -> ext.ProcessingRequest:
    """Return a response_headers message."""
    return ext.ProcessingRequest(
        response_headers=ext.HttpHeaders(headers=header_map(*fields), end_of_stream=ends)
    )


def opening(
    message: ext.ProcessingRequest,
    *,
    request: modes.ProcessingMode.BodySendMode.ValueType = NONE,
    response: modes.ProcessingMode.BodySendMode.ValueType = NONE,
) -> ext.ProcessingRequest:
    """Return *message* as the first of a stream with these body modes in the configuration."""
    message.protocol_config.request_body_mode = request
    message.protocol_config.response_body_mode = response
    return message


def responses(messages: Iterable[bytes]) -> list[ext.ProcessingResponse]:
    """Return what Envoy would read."""
    return [ext.ProcessingResponse.FromString(message) for message in messages]
