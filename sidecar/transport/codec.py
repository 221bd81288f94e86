"""The only place where protobuf meets our own types.

`ProcessingRequest` bytes become events, replies become `ProcessingResponse` bytes. Field rules
that Envoy 1.40 enforces and its API text does not say are noted where they are obeyed.
"""

from __future__ import annotations

from typing import Final, assert_never

from google.protobuf.message import DecodeError

from sidecar._generated.envoy.config.core.v3 import base_pb2 as core
from sidecar._generated.envoy.extensions.filters.http.ext_proc.v3 import (
    processing_mode_pb2 as modes,
)
from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from sidecar._generated.envoy.type.v3 import http_status_pb2 as status
from sidecar.domain.errors import UnreadableMessageError
from sidecar.domain.http import HeaderMutation, Headers
from sidecar.domain.mutations import Metadata, Refusal
from sidecar.exchange import effects as do
from sidecar.exchange import events as on

METADATA_NAMESPACE: Final = "egret"
"""Must be listed in the filter's `metadata_options.receiving_namespaces.untyped`."""

SOURCE_ATTRIBUTE: Final = "source.address"
"""Must be listed in the filter's `request_attributes`; written as `192.0.2.1:4711`."""
_FILTER: Final = "envoy.filters.http.ext_proc"
"""Whose attributes they are, whatever name the filter was given (Envoy 1.40)."""

_BODY_MODES: Final = {
    number: on.BodyMode(name) for name, number in modes.ProcessingMode.BodySendMode.items()
}
_SEND: Final = modes.ProcessingMode.SEND
_SKIP: Final = modes.ProcessingMode.SKIP


def decode(message: bytes) -> list[on.EnvoyEvent]:
    """Turn one `ProcessingRequest` into events; the first of a stream also opens the exchange.

    Raises:
        UnreadableMessageError: not a `ProcessingRequest`, or one of a kind we do not know.
    """
    try:
        request = ext.ProcessingRequest.FromString(message)
    except DecodeError as error:
        raise UnreadableMessageError from error
    event = _event(request)
    if request.HasField("protocol_config"):
        opened = on.ExchangeOpened(
            request_body_mode=_body_mode(request.protocol_config.request_body_mode),
            response_body_mode=_body_mode(request.protocol_config.response_body_mode),
            observability_mode=request.observability_mode,
        )
        return [opened, event]
    return [event]


def _body_mode(number: modes.ProcessingMode.BodySendMode.ValueType) -> on.BodyMode:
    """Enums are open in proto3: an Envoy newer than us may send a number we have no name for."""
    mode = _BODY_MODES.get(number)
    if mode is None:
        raise UnreadableMessageError(f"unknown body mode {number}")
    return mode


def _event(request: ext.ProcessingRequest) -> on.EnvoyEvent:
    match request.WhichOneof("request"):
        case "request_headers":
            http = request.request_headers
            return on.RequestHeadersReceived(
                _headers(http.headers), http.end_of_stream, _source_address(request)
            )
        case "request_body":
            return on.RequestBodyReceived(
                request.request_body.body, request.request_body.end_of_stream
            )
        case "request_trailers":
            return on.RequestTrailersReceived()
        case "response_headers":
            http = request.response_headers
            return on.ResponseHeadersReceived(_headers(http.headers), http.end_of_stream)
        case "response_body":
            return on.ResponseBodyReceived(
                request.response_body.body, request.response_body.end_of_stream
            )
        case "response_trailers":
            return on.ResponseTrailersReceived()
        case _:
            raise UnreadableMessageError("no request is set")


def _source_address(request: ext.ProcessingRequest) -> str | None:
    """Return the client's address without its port; for a Unix socket there is none.

    Never a header: what a client writes into x-forwarded-for is its own word, and where Envoy
    trusts a proxy's, it has become this attribute already.
    """
    if _FILTER not in request.attributes:
        return None
    text = request.attributes[_FILTER].fields[SOURCE_ATTRIBUTE].string_value
    host, _, port = text.rpartition(":")
    return host.removeprefix("[").removesuffix("]") if port.isdigit() else None


def _headers(message: core.HeaderMap) -> Headers:
    """Envoy fills `raw_value`; `value` is only read for senders that are not Envoy."""
    return Headers(
        tuple(
            (header.key, header.raw_value or header.value.encode()) for header in message.headers
        )
    )


def _override(*, response_headers: bool, response_body: bool) -> bytes:
    mode = modes.ProcessingMode(response_header_mode=_SEND if response_headers else _SKIP)
    _ask_for_request_body(mode)
    if response_body:
        _ask_for_response_body(mode)
    return ext.ProcessingResponse(mode_override=mode).SerializeToString()


# Envoy takes no FULL_DUPLEX_STREAMED where it may not send the trailers.
def _ask_for_request_body(mode: modes.ProcessingMode) -> None:
    mode.request_body_mode = modes.ProcessingMode.FULL_DUPLEX_STREAMED
    mode.request_trailer_mode = _SEND


def _ask_for_response_body(mode: modes.ProcessingMode) -> None:
    mode.response_body_mode = modes.ProcessingMode.FULL_DUPLEX_STREAMED
    mode.response_trailer_mode = _SEND


_OVERRIDES: Final = {
    (headers, body): _override(response_headers=headers, response_body=body)
    for headers in (False, True)
    for body in (False, True)
}
"""The same few messages for every exchange."""


def encode(reply: do.Reply) -> bytes:
    """Turn one reply into the bytes of a `ProcessingResponse`."""
    match reply:
        case do.OverrideMode(response_headers, response_body):
            return _OVERRIDES[response_headers, response_body]
        case (
            do.ContinueRequestHeaders()
            | do.ContinueRequestBody()
            | do.StreamRequestBody()
            | do.ContinueRequestTrailers()
        ):
            return _request_answer(reply).SerializeToString()
        case do.Refuse(refusal):
            return _immediate_response(refusal).SerializeToString()
        case _:
            return _response_answer(reply).SerializeToString()


def _request_answer(
    reply: do.ContinueRequestHeaders
    | do.ContinueRequestBody
    | do.StreamRequestBody
    | do.ContinueRequestTrailers,
) -> ext.ProcessingResponse:
    response = ext.ProcessingResponse()
    match reply:
        case do.ContinueRequestHeaders():
            _answer_headers(response, reply)
        case do.ContinueRequestBody(headers, body, metadata, clear_route_cache):
            common = response.request_body.response
            _mutate(common.header_mutation, headers)
            common.clear_route_cache = clear_route_cache
            if body is not None:
                common.body_mutation.body = body
            _write_metadata(response, metadata)
            response.request_body.SetInParent()
        case do.StreamRequestBody(body, end_of_stream):
            streamed = response.request_body.response.body_mutation.streamed_response
            streamed.body = body
            streamed.end_of_stream = end_of_stream
        case do.ContinueRequestTrailers():
            response.request_trailers.SetInParent()
        case _:
            assert_never(reply)
    return response


def _answer_headers(response: ext.ProcessingResponse, reply: do.ContinueRequestHeaders) -> None:
    common = response.request_headers.response
    _mutate(common.header_mutation, reply.headers)
    common.clear_route_cache = reply.clear_route_cache
    _write_metadata(response, reply.metadata)
    response.request_headers.SetInParent()
    if reply.response_headers:
        response.mode_override.response_header_mode = _SEND
    if reply.response_body:
        _ask_for_response_body(response.mode_override)
    if reply.request_body:
        _ask_for_request_body(response.mode_override)


def _response_answer(
    reply: do.ContinueResponseHeaders
    | do.ContinueResponseBody
    | do.StreamResponseBody
    | do.ContinueResponseTrailers,
) -> ext.ProcessingResponse:
    response = ext.ProcessingResponse()
    match reply:
        case do.ContinueResponseHeaders(headers, metadata):
            _mutate(response.response_headers.response.header_mutation, headers)
            response.response_headers.SetInParent()
            _write_metadata(response, metadata)
        case do.ContinueResponseBody(headers, body, metadata):
            common = response.response_body.response
            _mutate(common.header_mutation, headers)
            if body is not None:
                common.body_mutation.body = body
            response.response_body.SetInParent()
            _write_metadata(response, metadata)
        case do.StreamResponseBody(body, end_of_stream, metadata):
            streamed = response.response_body.response.body_mutation.streamed_response
            streamed.body = body
            streamed.end_of_stream = end_of_stream
            _write_metadata(response, metadata)
        case do.ContinueResponseTrailers():
            response.response_trailers.SetInParent()
        case _:
            assert_never(reply)
    return response


def _immediate_response(refusal: Refusal) -> ext.ProcessingResponse:
    response = ext.ProcessingResponse()
    immediate = response.immediate_response
    # An absent status, or one below 200, becomes 200 in Envoy: a refusal would look like success.
    immediate.status.code = status.StatusCode.ValueType(refusal.status)
    immediate.body = refusal.body
    immediate.details = refusal.details
    _mutate(immediate.headers, HeaderMutation(set_headers=refusal.headers))
    _write_metadata(response, refusal.metadata)
    return response


def _mutate(message: ext.HeaderMutation, mutation: HeaderMutation) -> None:
    message.remove_headers.extend(mutation.remove_headers)
    for name, value in mutation.set_headers:
        option = message.set_headers.add()
        option.header.key = name
        # Only `raw_value`: a header set through `value` goes upstream empty (Envoy 1.40).
        option.header.raw_value = value


def _write_metadata(response: ext.ProcessingResponse, metadata: Metadata) -> None:
    if metadata:
        namespace = response.dynamic_metadata.fields[METADATA_NAMESPACE].struct_value
        for name, value in metadata:
            if isinstance(value, str):
                namespace.fields[name].string_value = value
            else:
                namespace.fields[name].number_value = value
