"""What a protocol asks for and sends, as values that tests can compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from google.protobuf import struct_pb2

from sidecar._generated.envoy.extensions.filters.http.ext_proc.v3 import (
    processing_mode_pb2 as modes,
)
from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import NO_CHANGE, HeaderMutation, Headers, MetadataFields, Refusal
from sidecar.extproc import codec
from tests.support.events import Metadata


@dataclass(frozen=True, slots=True)
class JudgeHeaders:
    """Authorize; answer with `BodyRequired`, `RequestCleared` or `RequestRefused`."""

    headers: Headers
    has_body: bool
    source_address: str | None = None


@dataclass(frozen=True, slots=True)
class JudgeBody:
    """Inspect the whole body; answer with `RequestCleared` or `RequestRefused`.

    `may_judge_answer` tells whether the answer comes here, or can still be made to.
    """

    body: bytes
    may_judge_answer: bool = True


@dataclass(frozen=True, slots=True)
class OweRefusal:
    """A refusal of this kind is owed, and nothing else."""

    kind: ErrorKind


@dataclass(frozen=True, slots=True)
class JudgeResponseHeaders:
    """Say what becomes of the response.

    Answer with `ResponseCleared`, `ResponseStreamed`, `ResponseHeld` or `RequestRefused`.
    """

    headers: Headers
    has_body: bool
    may_stream: bool
    """Whether pieces may be let on one by one; else a body can only be held or let on whole."""


@dataclass(frozen=True, slots=True)
class JudgeResponsePiece:
    """Judge the next piece of a streamed body; answer with `ResponsePieceJudged`, at once."""

    body: bytes
    is_last: bool


@dataclass(frozen=True, slots=True)
class JudgeResponseBody:
    """Judge a held body; answer with `ResponseJudged` or `RequestRefused`."""

    body: bytes


@dataclass(frozen=True, slots=True)
class OverrideMode:
    """Standalone `mode_override`: stream the request body to us while the headers are held.

    Envoy 1.40 accepts FULL_DUPLEX_STREAMED only, with trailers SEND; response modes start from
    the configuration again, so the whole mode is always stated.
    """

    response_headers: bool
    response_body: bool = False


@dataclass(frozen=True, slots=True)
class ContinueRequestHeaders:
    """Answer the request headers.

    `response_headers` and `response_body` ask for those phases where they are off. Where an
    override came before, `request_body` says its part once more, since Envoy starts from its
    configuration again.
    """

    headers: HeaderMutation = NO_CHANGE
    metadata: Metadata = ()
    response_headers: bool = False
    response_body: bool = False
    request_body: bool = False
    clear_route_cache: bool = False


@dataclass(frozen=True, slots=True)
class ContinueRequestBody:
    """Answer a BUFFERED request body; `body` replaces it, None leaves it."""

    headers: HeaderMutation = NO_CHANGE
    body: bytes | None = None
    metadata: Metadata = ()
    clear_route_cache: bool = False


@dataclass(frozen=True, slots=True)
class StreamRequestBody:
    """Send a piece of the request body on (FULL_DUPLEX_STREAMED)."""

    body: bytes
    end_of_stream: bool


@dataclass(frozen=True, slots=True)
class ContinueRequestTrailers:
    """Answer the request trailers."""


@dataclass(frozen=True, slots=True)
class ContinueResponseHeaders:
    """Answer the response headers."""

    headers: HeaderMutation = NO_CHANGE
    metadata: Metadata = ()


@dataclass(frozen=True, slots=True)
class ContinueResponseBody:
    """Answer a piece of the response body that Envoy keeps (BUFFERED, STREAMED).

    `body` replaces it, None leaves it; headers can change in BUFFERED only.
    """

    headers: HeaderMutation = NO_CHANGE
    body: bytes | None = None
    metadata: Metadata = ()


@dataclass(frozen=True, slots=True)
class StreamResponseBody:
    """Send a piece of the response body on (FULL_DUPLEX_STREAMED)."""

    body: bytes
    end_of_stream: bool
    metadata: Metadata = ()


@dataclass(frozen=True, slots=True)
class ContinueResponseTrailers:
    """Answer the response trailers."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer the client from here with an `ImmediateResponse`."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class EndStream:
    """Nothing more is owed: end the stream with OK."""


@dataclass(frozen=True, slots=True)
class AbortStream:
    """End the stream with an error, so that Envoy fails closed (a plain end would fail open)."""


Question = (
    JudgeHeaders
    | JudgeBody
    | OweRefusal
    | JudgeResponseHeaders
    | JudgeResponsePiece
    | JudgeResponseBody
)
Reply = (
    OverrideMode
    | ContinueRequestHeaders
    | ContinueRequestBody
    | StreamRequestBody
    | ContinueRequestTrailers
    | ContinueResponseHeaders
    | ContinueResponseBody
    | StreamResponseBody
    | ContinueResponseTrailers
    | Refuse
)
Effect = Question | Reply | EndStream | AbortStream


def decoded(message: bytes) -> Reply:
    """Return what Envoy reads in *message*."""
    response = ext.ProcessingResponse.FromString(message)
    mode = response.mode_override
    asks = {
        "response_headers": mode.response_header_mode == modes.ProcessingMode.SEND,
        "response_body": mode.response_body_mode == modes.ProcessingMode.FULL_DUPLEX_STREAMED,
    }
    metadata = _metadata(response)
    match response.WhichOneof("response"):
        case None:
            return OverrideMode(**asks)
        case "request_headers":
            common = response.request_headers.response
            is_asked = mode.request_body_mode == modes.ProcessingMode.FULL_DUPLEX_STREAMED
            return ContinueRequestHeaders(
                _changes(common.header_mutation),
                metadata,
                **asks,
                request_body=is_asked,
                clear_route_cache=common.clear_route_cache,
            )
        case "request_body":
            return _request_body(response.request_body.response, metadata)
        case "response_headers":
            headers = _changes(response.response_headers.response.header_mutation)
            return ContinueResponseHeaders(headers, metadata)
        case "response_body":
            return _response_body(response.response_body.response, metadata)
        case "request_trailers":
            return ContinueRequestTrailers()
        case "response_trailers":
            return ContinueResponseTrailers()
        case _:
            return Refuse(_refusal(response.immediate_response, metadata))


def _request_body(
    common: ext.CommonResponse, metadata: Metadata
) -> ContinueRequestBody | StreamRequestBody:
    if common.body_mutation.HasField("streamed_response"):
        streamed = common.body_mutation.streamed_response
        return StreamRequestBody(streamed.body, streamed.end_of_stream)
    changed = _changes(common.header_mutation)
    return ContinueRequestBody(changed, _body(common), metadata, common.clear_route_cache)


def _response_body(
    common: ext.CommonResponse, metadata: Metadata
) -> ContinueResponseBody | StreamResponseBody:
    if common.body_mutation.HasField("streamed_response"):
        streamed = common.body_mutation.streamed_response
        return StreamResponseBody(streamed.body, streamed.end_of_stream, metadata)
    return ContinueResponseBody(_changes(common.header_mutation), _body(common), metadata)


def _body(common: ext.CommonResponse) -> bytes | None:
    return common.body_mutation.body if common.body_mutation.HasField("body") else None


def _changes(mutation: ext.HeaderMutation) -> HeaderMutation:
    written = tuple((one.header.key, one.header.raw_value) for one in mutation.set_headers)
    return HeaderMutation(written, tuple(mutation.remove_headers))


def _refusal(immediate: ext.ImmediateResponse, metadata: Metadata) -> Refusal:
    return Refusal(
        immediate.status.code,
        _changes(immediate.headers).set_headers,
        immediate.body,
        immediate.details,
        fields_of(metadata),
    )


def fields_of(metadata: Metadata) -> MetadataFields:
    """Encode *metadata*, always in the same order: a map has none."""
    return b"".join(codec.metadata_fields([pair]) for pair in sorted(metadata))


def pairs_of(fields: MetadataFields) -> dict[str, str | float]:
    """Return the names and values in encoded metadata."""
    pairs: dict[str, str | float] = {}
    for name, value in struct_pb2.Struct.FromString(fields).fields.items():
        is_text = value.WhichOneof("kind") == "string_value"
        pairs[name] = value.string_value if is_text else value.number_value
    return pairs


def _metadata(response: ext.ProcessingResponse) -> Metadata:
    """Return the metadata by name: in what order it is sent means nothing."""
    ours = response.dynamic_metadata.fields["egret"].struct_value
    return tuple(sorted(pairs_of(ours.SerializeToString()).items()))


def encoded(reply: Reply) -> bytes:  # noqa: PLR0911 - a kind a line
    """Return the message that the codec makes of *reply*."""
    match reply:
        case OverrideMode(response_headers, response_body):
            return codec.OVERRIDES[response_headers, response_body, False]
        case ContinueRequestHeaders():
            return codec.request_headers_answer(
                reply.headers.set_headers,
                reply.headers.remove_headers,
                fields_of(reply.metadata),
                response_headers=reply.response_headers,
                response_body=reply.response_body,
                request_body=reply.request_body,
                clear_route_cache=reply.clear_route_cache,
            )
        case ContinueRequestBody(headers, body, metadata, clear):
            return codec.request_body_answer(
                headers.set_headers,
                headers.remove_headers,
                body,
                fields_of(metadata),
                clear_route_cache=clear,
            )
        case StreamRequestBody(body, ends):
            (answer,) = codec.streamed_request_body(body, ends=ends)
            return answer if isinstance(answer, bytes) else b"".join(answer)
        case ContinueRequestTrailers():
            return codec.REQUEST_TRAILERS_ANSWER
        case ContinueResponseHeaders(headers, metadata):
            return codec.response_headers_answer(headers, fields_of(metadata))
        case ContinueResponseBody(headers, body, metadata):
            return codec.response_body_answer(headers, body, fields_of(metadata))
        case StreamResponseBody(body, ends, metadata):
            (answer,) = codec.streamed_response_body(body, ends=ends, metadata=fields_of(metadata))
            return answer if isinstance(answer, bytes) else b"".join(answer)
        case ContinueResponseTrailers():
            return codec.RESPONSE_TRAILERS_ANSWER
        case Refuse(refusal):
            return codec.immediate_response(refusal)
        case _:
            assert_never(reply)
