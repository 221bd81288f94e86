"""Decodes Envoy's protobuf messages into our own types, and encodes the answers.

`ProcessingRequest` bytes become a `Message`, answers become `ProcessingResponse` bytes: the steps
of a request import no protobuf. Rules that Envoy 1.40 enforces and its API text does not state are
noted where they are obeyed.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import product
from operator import attrgetter, itemgetter
from typing import Final, TypeAlias

from google.protobuf import struct_pb2
from google.protobuf.message import DecodeError

# Not imported, the classes of header fields are built anew for each message: 5 KB, measured.
from sidecar._generated.envoy.config.core.v3 import base_pb2 as _base_pb2  # noqa: F401 # pyright: ignore[reportUnusedImport]
from sidecar._generated.envoy.data.ai.v3 import token_usage_pb2 as ai
from sidecar._generated.envoy.extensions.filters.http.ext_proc.v3 import (
    processing_mode_pb2 as modes,
)
from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from sidecar._generated.envoy.type.v3 import http_status_pb2 as status
from sidecar.domain.errors import UnreadableMessageError
from sidecar.domain.http import (
    NO_CHANGE,
    HeaderFields,
    HeaderMutation,
    Headers,
    MetadataFields,
    Refusal,
)
from sidecar.domain.usage import MAX_COUNT, USAGE_NAMESPACE, TokenCounts
from sidecar.extproc.phases import Answer, BodyMode, Message, MessageKind
from sidecar.extproc.wire_format import (
    DOUBLE,
    STRUCT_VALUE,
    around,
    before_value,
    entry_key,
    read_varint,
)

METADATA_NAMESPACE: Final = "egret"
"""Must be listed in the filter's `metadata_options.receiving_namespaces.untyped`."""

SOURCE_ATTRIBUTE: Final = "source.address"
"""Must be listed in the filter's `request_attributes`; written as `192.0.2.1:4711`."""

_FILTER: Final = "envoy.filters.http.ext_proc"
"""The key of the filter's attributes, whatever name the filter was given (Envoy 1.40)."""


LONG_BYTES: Final = 4_096
"""A message of more is read without Protocol Buffers, whose parser copies a body twice; a body of
more is sent without being copied into its message."""

MAX_CHUNK_BYTES: Final = 62_000
"""Envoy's API recommends streamed pieces of at most 64 KiB; stay under with the framing."""

_KINDS: Final[dict[str | None, MessageKind]] = {kind.value: kind for kind in MessageKind}
# By names of their own, as they are looked up for every message.
_REQUEST_HEADERS: Final = MessageKind.REQUEST_HEADERS
_REQUEST_BODY: Final = MessageKind.REQUEST_BODY
_RESPONSE_TRAILERS: Final = MessageKind.RESPONSE_TRAILERS
_WITH_HEADERS: Final = frozenset({_REQUEST_HEADERS, MessageKind.RESPONSE_HEADERS})
_WITH_BODY: Final = frozenset({_REQUEST_BODY, MessageKind.RESPONSE_BODY})
_BODY_MODES: Final = {
    number: BodyMode(name) for name, number in modes.ProcessingMode.BodySendMode.items()
}
_BODY_FIELDS: Final = {
    ext.ProcessingRequest.DESCRIPTOR.fields_by_name[kind.value].number << 3 | 2: kind
    for kind in _WITH_BODY
}
_BODY_TAG: Final = ext.HttpBody.DESCRIPTOR.fields_by_name["body"].number << 3 | 2
_ENDS: Final = (b"\x10\x01", b"")
_NO_CONTEXT: Final = (b"\x42\x00", b"")
_SEND: Final = modes.ProcessingMode.SEND


class _Pieces(dict[int, tuple[bytes, bytes, int, int]]):
    """The bytes around the body in a message as Envoy sends nearly all pieces, and its place.

    By the length of the message: it decides the two lengths in front of the body, so that nothing
    else is in a message that begins and ends so. Protocol Buffers takes twice as long to read it.
    """

    def __init__(self, kind: MessageKind, *, ends: bool) -> None:
        self.kind = kind
        self.ends = ends

    def __missing__(self, length: int) -> tuple[bytes, bytes, int, int]:
        found = (b"\x00", b"", 0, 0)  # no message begins so
        for size in range(max(length - _MAX_AROUND, 0), length):
            request = ext.ProcessingRequest()
            request.metadata_context.SetInParent()
            part: ext.HttpBody = getattr(request, self.kind)
            part.body, part.end_of_stream = bytes(size), self.ends
            written = request.SerializeToString()
            if len(written) == length:
                behind = _ENDS[0 if self.ends else 1] + _NO_CONTEXT[0]
                end = length - len(behind)
                found = written[: end - size], behind, end - size, end
        self[length] = found
        return found


_MAX_AROUND: Final = 16
_PIECES: Final = {
    bytes([tag]): _Pieces(kind, ends=kind is _REQUEST_BODY) for tag, kind in _BODY_FIELDS.items()
}
"""By the first byte: pieces of answers go on, a request's body mostly comes in one piece."""

_raw_field: Final = attrgetter("key", "raw_value")
_raw_value: Final = itemgetter(1)


def decode(message: bytes | memoryview) -> Message:  # noqa: C901 - a branch for each part of a message
    """Read one `ProcessingRequest`.

    Raises:
        UnreadableMessageError: not a `ProcessingRequest`, or one of an unknown kind or mode.
    """
    length = len(message)
    if length > LONG_BYTES:
        if (long := _long_body(message)) is not None:
            return long
    elif (pieces := _PIECES.get((message := bytes(message))[:1])) is not None:
        before, behind, start, end = pieces[length]
        if message.startswith(before) and message.endswith(behind):
            return Message(pieces.kind, None, message[start:end], pieces.ends)
    try:
        request = ext.ProcessingRequest.FromString(bytes(message))
    except DecodeError as error:
        raise UnreadableMessageError from error
    try:
        kind = _KINDS[request.WhichOneof("request")]
    except KeyError:
        raise UnreadableMessageError("no request is set") from None
    headers: Headers | None = None
    source_address: str | None = None
    body, ends = b"", False
    if kind in _WITH_HEADERS:
        is_request = kind is _REQUEST_HEADERS
        http = request.request_headers if is_request else request.response_headers
        fields: HeaderFields = tuple(map(_raw_field, http.headers.headers))
        if not all(map(_raw_value, fields)):
            # Envoy fills `raw_value`; `value` is only read for senders that are not Envoy.
            fields = tuple(
                (one.key, one.raw_value or one.value.encode()) for one in http.headers.headers
            )
        headers, ends = Headers(fields), http.end_of_stream
        if _FILTER in request.attributes:
            # Never from a header: a client may write anything into x-forwarded-for, and where
            # Envoy trusts a proxy's, it has become this attribute already. A Unix socket has none.
            address = request.attributes[_FILTER].fields[SOURCE_ATTRIBUTE].string_value
            host, _, port = address.rpartition(":")
            if port.isdigit():
                source_address = host.removeprefix("[").removesuffix("]")
    elif kind in _WITH_BODY:
        part = request.request_body if kind is _REQUEST_BODY else request.response_body
        body, ends = part.body, part.end_of_stream
    usage = _usage(request) if kind is _RESPONSE_TRAILERS else None
    opened: tuple[BodyMode, BodyMode] | None = None
    if request.HasField("protocol_config"):
        config = request.protocol_config
        try:
            opened = (
                _BODY_MODES[config.request_body_mode],
                _BODY_MODES[config.response_body_mode],
            )
        except KeyError as number:
            # Enums are open in proto3: a newer Envoy may send a number that has no name here.
            raise UnreadableMessageError(f"unknown body mode {number}") from None
    is_observed = request.observability_mode
    return Message(kind, headers, body, ends, source_address, opened, is_observed, usage)


def _usage(request: ext.ProcessingRequest) -> tuple[TokenCounts, str] | None:
    """Return the counts of a whole answer; None if the AI filter could not read all of them."""
    typed, found = request.metadata_context.typed_filter_metadata, ai.TokenUsage()
    if USAGE_NAMESPACE not in typed:
        return None
    try:
        found.ParseFromString(typed[USAGE_NAMESPACE].value)
    except DecodeError:
        return None
    if found.extraction_status != ai.TokenUsage.COMPLETE:
        return None
    given, made = found.input_token_details, found.output_token_details
    # As `LogEntry` has it: the provider's sum may be larger than its parts, or come alone.
    whole, total = found.provider_total_tokens.value, found.total_tokens.value
    counts = (
        found.input_tokens.value if found.HasField("input_tokens") else whole,
        found.output_tokens.value + (max(0, whole - total) if total else 0),
        given.cached_tokens.value, given.cache_creation_tokens.value, made.reasoning_tokens.value,
    )  # fmt: skip
    return TokenCounts(*[min(one, MAX_COUNT) for one in counts]), found.model


def _long_body(message: bytes | memoryview) -> Message | None:
    """Return a view of the body in its message; None if that has another form than Envoy's.

    Its field and the body within have a tag and a length each (Protocol Buffers, "Encoding"),
    `end_of_stream` may follow the body, and an empty `metadata_context` all of it.
    """
    kind = _BODY_FIELDS.get(message[0])
    if kind is None:
        return None
    try:
        size, at = read_varint(message, 1)
        end = at + size
        size, start = read_varint(message, at + 1)
    except (IndexError, ValueError):
        return None
    stop = start + size
    flag = message[stop:end]
    if (
        message[at] != _BODY_TAG
        or stop > end
        or end > len(message)
        or flag not in _ENDS
        or message[end:] not in _NO_CONTEXT
    ):
        return None
    return Message(kind, None, memoryview(message)[start:stop], bool(flag))


_Asked: TypeAlias = tuple[bool, bool, bool, bool]
"""Whether Envoy shall send the response's headers, body and trailers, and the request's body."""


def _ask(mode: modes.ProcessingMode, asked: _Asked) -> None:
    response_headers, response_body, response_trailers, request_body = asked
    if response_headers:
        mode.response_header_mode = _SEND
    if response_body:
        mode.response_body_mode = modes.ProcessingMode.FULL_DUPLEX_STREAMED
    if response_body or response_trailers:  # Envoy rejects a streamed body without its trailers
        mode.response_trailer_mode = _SEND
    if request_body:
        mode.request_body_mode = modes.ProcessingMode.FULL_DUPLEX_STREAMED
        mode.request_trailer_mode = _SEND


def _override(asked: _Asked) -> bytes:
    response = ext.ProcessingResponse()
    response.mode_override.response_header_mode = modes.ProcessingMode.SKIP
    _ask(response.mode_override, asked)
    return response.SerializeToString()


OVERRIDES: Final = {
    (headers, body, trailers): _override((headers, body, trailers, True))
    for headers, body, trailers in product((False, True), repeat=3)
}
"""Standalone `mode_override`, by whether Envoy shall send response headers, body and trailers.

The request body is streamed here while the headers are held. Envoy 1.40 accepts
FULL_DUPLEX_STREAMED only, with trailers SEND; response modes start from the configuration again,
so the whole mode is always stated."""


def request_headers_answer(  # noqa: PLR0913 - the phases that Envoy may be asked for
    added: HeaderFields = (),
    removed: tuple[str, ...] = (),
    metadata: MetadataFields = b"",
    *,
    response_headers: bool = False,
    response_body: bool = False,
    response_trailers: bool = False,
    request_body: bool = False,
    clear_route_cache: bool = False,
) -> bytes:
    """Answer the request headers.

    `response_headers`, `response_body` and `response_trailers` ask for those phases where they are
    off. If an override came before, `request_body` states its part once more, since Envoy starts
    from its configuration again.
    """
    asked = (response_headers, response_body, response_trailers, request_body)
    return _headers_answer(added, removed, asked, clear_route_cache) + _dynamic(metadata)


@lru_cache(maxsize=64)  # most requests lose the same headers; a client may name others, of 60 KB
def _headers_answer(
    added: HeaderFields,
    removed: tuple[str, ...],
    asked: _Asked,
    clear_route_cache: bool,  # noqa: FBT001 - a cached call takes its arguments by position
) -> bytes:
    response = ext.ProcessingResponse()
    common = response.request_headers.response
    _mutate(common.header_mutation, added, removed)
    common.clear_route_cache = clear_route_cache
    _ask(response.mode_override, asked)
    return response.SerializeToString()


def request_body_answer(
    added: HeaderFields = (),
    removed: tuple[str, ...] = (),
    body: bytes | None = None,
    metadata: MetadataFields = b"",
    *,
    clear_route_cache: bool = False,
) -> bytes:
    """Answer a BUFFERED request body; *body* replaces it, None leaves it."""
    response = ext.ProcessingResponse()
    common = response.request_body.response
    _mutate(common.header_mutation, added, removed)
    common.clear_route_cache = clear_route_cache
    if body is not None:
        common.body_mutation.body = body
    return response.SerializeToString() + _dynamic(metadata)


def response_headers_answer(
    headers: HeaderMutation = NO_CHANGE, metadata: MetadataFields = b""
) -> bytes:
    """Answer the response headers."""
    return _changed_headers(headers.set_headers, headers.remove_headers) + _dynamic(metadata)


@lru_cache(maxsize=64)  # most answers change nothing
def _changed_headers(added: HeaderFields, removed: tuple[str, ...]) -> bytes:
    response = ext.ProcessingResponse()
    _mutate(response.response_headers.response.header_mutation, added, removed)
    response.response_headers.SetInParent()
    return response.SerializeToString()


def response_body_answer(
    headers: HeaderMutation = NO_CHANGE, body: bytes | None = None, metadata: MetadataFields = b""
) -> bytes:
    """Answer a piece of the response body that Envoy keeps (BUFFERED, STREAMED).

    *body* replaces it, None leaves it; headers can change in BUFFERED only.
    """
    response = ext.ProcessingResponse()
    common = response.response_body.response
    _mutate(common.header_mutation, headers.set_headers, headers.remove_headers)
    if body is not None:
        common.body_mutation.body = body
    response.response_body.SetInParent()
    return response.SerializeToString() + _dynamic(metadata)


def streamed_request_body(body: bytes | memoryview, *, ends: bool) -> list[Answer]:
    """Send bytes of the request body on (FULL_DUPLEX_STREAMED)."""
    last = _LAST_OF_REQUEST if ends else _PIECE_OF_REQUEST
    return _streamed(_PIECE_OF_REQUEST, last, body, b"")


def streamed_response_body(
    body: bytes | memoryview, *, ends: bool, metadata: MetadataFields = b""
) -> list[Answer]:
    """Send bytes of the response body on, likewise; *metadata* comes with the last."""
    last = _LAST_OF_RESPONSE if ends else _PIECE_OF_RESPONSE
    return _streamed(_PIECE_OF_RESPONSE, last, body, metadata)


def _streamed(
    tags: tuple[bytes, ...],
    last: tuple[bytes, ...],
    body: bytes | memoryview,
    metadata: MetadataFields,
) -> list[Answer]:
    """Return the messages with *body* in pieces, one even if it is empty."""
    answers: list[Answer] = []
    while len(body) > MAX_CHUNK_BYTES:
        body = memoryview(body)
        answers.append((around(tags, MAX_CHUNK_BYTES), body[:MAX_CHUNK_BYTES]))
        body = body[MAX_CHUNK_BYTES:]
    parts = around(last, len(body)), body, _dynamic(metadata)
    answers.append(parts if len(body) > LONG_BYTES else b"".join(parts))
    return answers


REQUEST_TRAILERS_ANSWER: Final = ext.ProcessingResponse(
    request_trailers=ext.TrailersResponse()
).SerializeToString()
RESPONSE_TRAILERS_ANSWER: Final = ext.ProcessingResponse(
    response_trailers=ext.TrailersResponse()
).SerializeToString()


def immediate_response(refusal: Refusal) -> bytes:
    """Answer the client from here."""
    response = ext.ProcessingResponse()
    immediate = response.immediate_response
    # An absent status, or one below 200, becomes 200 in Envoy: a refusal would look like success.
    immediate.status.code = status.StatusCode.ValueType(refusal.status)
    immediate.body = refusal.body
    immediate.details = refusal.details
    _mutate(immediate.headers, refusal.headers)
    return response.SerializeToString() + _dynamic(refusal.metadata)


def _mutate(
    message: ext.HeaderMutation, added: HeaderFields, removed: tuple[str, ...] = ()
) -> None:
    message.remove_headers.extend(removed)
    for name, value in added:
        option = message.set_headers.add()
        option.header.key = name
        # Only `raw_value`: a header set through `value` goes upstream empty (Envoy 1.40).
        option.header.raw_value = value


def metadata_fields(pairs: Iterable[tuple[str, str | float | bytes]]) -> MetadataFields:
    """Encode names and values as fields of a `Struct`; such fields may be joined.

    Bytes are the encoded fields of a struct within.
    """
    fields: list[bytes] = []
    for name, value in pairs:
        if isinstance(value, str):
            text = value.encode()
            fields += (before_value(name, len(text)), text)
        elif type(value) is bytes:
            fields += (around((STRUCT_VALUE, entry_key(name), b"\x0a"), len(value)), value)
        else:
            fields += (before_value(name, None), DOUBLE.pack(value))
    return b"".join(fields)


def _dynamic(metadata: MetadataFields) -> bytes:
    """Return `dynamic_metadata` with these fields in our namespace, to follow any answer.

    The fields of a message may come in any order (Protocol Buffers, "Encoding"): most of these
    are encoded once for all requests of a key.
    """
    return around(_METADATA, len(metadata)) + metadata if metadata else b""


_NAMED: Final = struct_pb2.Struct(
    fields={METADATA_NAMESPACE: struct_pb2.Value()}
).SerializeToString()[2:-1]
"""The start of an entry of `Struct.fields`: the key with our namespace, the tag of the value."""
_METADATA: Final = (b"\x2a", _NAMED, b"\x0a", b"\x42")
"""Tags around the fields, from the inside: `Value.struct_value`, the entry's value, the entry of
`Struct.fields`, `ProcessingResponse.dynamic_metadata`."""


def _tags(direction: str, *, ends: bool) -> tuple[bytes, ...]:
    """Return the tags around a streamed piece of a body, from the inside."""
    streamed = ext.StreamedBodyResponse.DESCRIPTOR.fields_by_name
    last = bytes((streamed["end_of_stream"].number << 3, 1)) if ends else b""
    path = (
        ext.BodyMutation.DESCRIPTOR.fields_by_name["streamed_response"],
        ext.CommonResponse.DESCRIPTOR.fields_by_name["body_mutation"],
        ext.BodyResponse.DESCRIPTOR.fields_by_name["response"],
        ext.ProcessingResponse.DESCRIPTOR.fields_by_name[direction],
    )
    outer = tuple(bytes((field.number << 3 | 2,)) for field in path)
    return (last + bytes((streamed["body"].number << 3 | 2,)), *outer)


_PIECE_OF_REQUEST: Final = _tags("request_body", ends=False)
_LAST_OF_REQUEST: Final = _tags("request_body", ends=True)
_PIECE_OF_RESPONSE: Final = _tags("response_body", ends=False)
_LAST_OF_RESPONSE: Final = _tags("response_body", ends=True)
