from __future__ import annotations

import pytest
from google.protobuf import struct_pb2
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar._generated.envoy.config.core.v3 import base_pb2 as core
from sidecar._generated.envoy.data.ai.v3 import token_usage_pb2 as ai
from sidecar._generated.envoy.extensions.filters.http.ext_proc.v3 import (
    processing_mode_pb2 as modes,
)
from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from sidecar._generated.envoy.type.v3 import http_status_pb2
from sidecar.domain.errors import UnreadableMessageError
from sidecar.domain.http import HeaderMutation, Headers, Refusal
from sidecar.domain.usage import MAX_COUNT, USAGE_NAMESPACE, TokenCounts
from sidecar.extproc import codec
from sidecar.extproc.codec import METADATA_NAMESPACE
from sidecar.extproc.phases import BodyMode, Message, MessageKind
from tests.support import envoy_messages as envoy
from tests.support import events as on
from tests.support import replies as do
from tests.support.replies import encoded as encode

FIELDS = (
    (":method", b"POST"),
    ("x-name", b"J\xf6rg \xff"),
    ("x-name", b"again"),
    ("x-empty", b""),
)
MUTATION = HeaderMutation(
    set_headers=(("x-a", b"\xff\xfe"), ("x-b", b"")), remove_headers=("authorization", "x-api-key")
)
MUTATED = ext.HeaderMutation(
    set_headers=[
        core.HeaderValueOption(header=core.HeaderValue(key="x-a", raw_value=b"\xff\xfe")),
        core.HeaderValueOption(header=core.HeaderValue(key="x-b", raw_value=b"")),
    ],
    remove_headers=["authorization", "x-api-key"],
)
METADATA = (("verdict", "allowed"), ("egret_us", 12.5))


def metadata_struct() -> struct_pb2.Struct:
    """Return METADATA as Envoy's filter metadata: a struct by namespace."""
    struct = struct_pb2.Struct()
    struct.update({METADATA_NAMESPACE: {"verdict": "allowed", "egret_us": 12.5}})
    return struct


def with_metadata(response: ext.ProcessingResponse) -> ext.ProcessingResponse:
    """Return *response* with METADATA, by way of bytes: its pool is not the default one."""
    response.dynamic_metadata.MergeFromString(metadata_struct().SerializeToString())
    return response


# Decoding.


def decode(message: bytes) -> list[on.EnvoyEvent]:
    """Read a message; return what it says as events, the opening of a stream first."""
    read = codec.decode(message)
    event = _event(read)
    if read.modes is None:
        return [event]
    return [on.ExchangeOpened(*read.modes, read.is_observed), event]


def _event(read: Message) -> on.EnvoyEvent:
    headers = read.headers or Headers()
    match read.kind:
        case MessageKind.REQUEST_HEADERS:
            return on.RequestHeadersReceived(headers, read.ends, read.source_address)
        case MessageKind.REQUEST_BODY:
            return on.RequestBodyReceived(bytes(read.body), read.ends)
        case MessageKind.REQUEST_TRAILERS:
            return on.RequestTrailersReceived()
        case MessageKind.RESPONSE_HEADERS:
            return on.ResponseHeadersReceived(headers, read.ends)
        case MessageKind.RESPONSE_BODY:
            return on.ResponseBodyReceived(bytes(read.body), read.ends)
        case MessageKind.RESPONSE_TRAILERS:
            return on.ResponseTrailersReceived()


@pytest.mark.parametrize(
    ("message", "event"),
    [
        (
            envoy.request_headers(*FIELDS),
            on.RequestHeadersReceived(Headers(FIELDS), end_of_stream=False),
        ),
        (
            envoy.request_headers(ends=True),
            on.RequestHeadersReceived(Headers(), end_of_stream=True),
        ),
        (
            envoy.request_body(b"\x00\xff"),
            on.RequestBodyReceived(b"\x00\xff", end_of_stream=False),
        ),
        (envoy.request_body(b"", ends=True), on.RequestBodyReceived(b"", end_of_stream=True)),
        (
            ext.ProcessingRequest(request_trailers=ext.HttpTrailers()),
            on.RequestTrailersReceived(),
        ),
        (
            envoy.response_headers(*FIELDS, ends=True),
            on.ResponseHeadersReceived(Headers(FIELDS), end_of_stream=True),
        ),
        (
            ext.ProcessingRequest(response_body=ext.HttpBody(body=b"r", end_of_stream=True)),
            on.ResponseBodyReceived(b"r", end_of_stream=True),
        ),
        (
            ext.ProcessingRequest(response_trailers=ext.HttpTrailers()),
            on.ResponseTrailersReceived(),
        ),
    ],
    ids=[
        "request-headers",
        "request-headers-end",
        "request-body",
        "request-body-end",
        "request-trailers",
        "response-headers",
        "response-body",
        "response-trailers",
    ],
)
def test_each_kind_of_message_becomes_its_event(
    message: ext.ProcessingRequest, event: on.EnvoyEvent
) -> None:
    """Header order, repeated names, empty values and bytes that are no text are all kept."""
    assert decode(message.SerializeToString()) == [event]


def test_a_sender_that_is_not_envoy_may_use_value() -> None:
    """`raw_value` is preferred; `value` is UTF-8 text."""
    headers = core.HeaderMap(
        headers=[
            core.HeaderValue(key="x-a", value="é"),
            core.HeaderValue(key="x-b", value="text", raw_value=b"raw"),
        ]
    )
    message = ext.ProcessingRequest(request_headers=ext.HttpHeaders(headers=headers))
    assert decode(message.SerializeToString()) == [
        on.RequestHeadersReceived(
            Headers((("x-a", "é".encode()), ("x-b", b"raw"))), end_of_stream=False
        )
    ]


@pytest.mark.parametrize(
    ("attribute", "address"),
    [
        pytest.param("192.0.2.7:4711", "192.0.2.7", id="IPv4"),
        pytest.param("[2001:db8::7]:4711", "2001:db8::7", id="IPv6"),
        pytest.param("/run/egret/client.sock", None, id="a Unix socket"),
        pytest.param("192.0.2.7", None, id="without a port"),
        pytest.param("", None, id="empty"),
    ],
)
def test_the_clients_address_is_what_envoy_says_it_is(attribute: str, address: str | None) -> None:
    """The attribute of the filter, without its port; x-forwarded-for is anybody's word."""
    message = envoy.request_headers(("x-forwarded-for", b"198.51.100.1"))
    fields = message.attributes["envoy.filters.http.ext_proc"].fields
    fields["source.address"].string_value = attribute

    (event,) = decode(message.SerializeToString())

    assert isinstance(event, on.RequestHeadersReceived)
    assert event.source_address == address


@pytest.mark.parametrize("mode", BodyMode, ids=lambda mode: mode.value)
def test_the_first_message_of_a_stream_opens_the_exchange_with_its_body_modes(
    mode: BodyMode,
) -> None:
    """Every mode Envoy knows has a name here."""
    number = modes.ProcessingMode.BodySendMode.Value(mode.value)
    message = envoy.opening(envoy.request_headers(), request=number, response=envoy.STREAMED)
    assert decode(message.SerializeToString()) == [
        on.ExchangeOpened(request_body_mode=mode, response_body_mode=BodyMode.STREAMED),
        on.RequestHeadersReceived(Headers(), end_of_stream=False),
    ]


def test_a_stream_may_open_with_a_body() -> None:
    """request_header_mode SKIP: the first message is a request_body."""
    message = envoy.opening(envoy.request_body(b"a"), request=envoy.BUFFERED)
    assert decode(message.SerializeToString()) == [
        on.ExchangeOpened(BodyMode.BUFFERED, BodyMode.NONE),
        on.RequestBodyReceived(b"a", end_of_stream=False),
    ]


def test_observability_mode_is_told_to_the_exchange() -> None:
    """Nothing can be refused in it."""
    message = envoy.opening(envoy.request_headers())
    message.observability_mode = True
    assert decode(message.SerializeToString())[0] == on.ExchangeOpened(
        BodyMode.NONE, BodyMode.NONE, observability_mode=True
    )


@pytest.mark.parametrize(
    "message",
    [
        b"\xff\xff",
        b"not a message",
        b"",
        ext.ProcessingRequest(observability_mode=True).SerializeToString(),
        envoy.opening(ext.ProcessingRequest()).SerializeToString(),
        envoy.opening(envoy.request_headers(), request=99).SerializeToString(),  # type: ignore[arg-type]  # of a newer Envoy
        envoy.opening(envoy.request_headers(), response=99).SerializeToString(),  # type: ignore[arg-type]  # of a newer Envoy
        envoy.request_headers().SerializeToString()[:-1] + b"\x7f",
        b"\x12\x05\x0a\x03\x0a\x01\xff",  # a header's key that is no UTF-8
    ],
    ids=[
        "garbage",
        "text",
        "empty",
        "no-kind",
        "only-modes",
        "request-mode",
        "response-mode",
        "cut",
        "key",
    ],
)
def test_what_cannot_be_read_is_named_as_such(message: bytes) -> None:
    """One error for all of it; its text holds none of the message."""
    with pytest.raises(UnreadableMessageError) as caught:
        decode(message)
    assert str(caught.value) in {
        "",
        "no request is set",
        "unknown body mode 99",
    }


@given(st.binary(max_size=200))
def test_no_bytes_lead_to_any_other_error(message: bytes) -> None:
    """Whoever reaches the socket cannot crash a stream by what it sends."""
    try:
        events = decode(message)
    except UnreadableMessageError:
        return
    assert 1 <= len(events) <= 2


@given(data=st.data())
def test_a_damaged_message_leads_to_no_other_error(data: st.DataObject) -> None:
    """The same for messages that begin well."""
    message = bytearray(
        envoy.opening(envoy.request_headers(*FIELDS), request=envoy.BUFFERED).SerializeToString()
    )
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        events = decode(bytes(message))
    except UnreadableMessageError:
        return
    assert 1 <= len(events) <= 2


names = st.text(min_size=1, max_size=10)
fields = st.lists(st.tuples(names, st.binary(max_size=10)), max_size=4).map(tuple)


def read_or_refused(message: bytes) -> Message | None:
    """Return the message; None if it is refused."""
    try:
        return codec.decode(message)
    except UnreadableMessageError:
        return None


UNKNOWN_FIELD = b"\xa0\x06\x00"
"""Changes no message; only Protocol Buffers' own parser reads one that begins with it."""

FIELDS_BEHIND = st.lists(
    st.sampled_from([b"\x10\x01", b"\x10\x00", b"\x42\x00", b"\x18\x01", b"\x0a\x01a", b"\x10"]),
    max_size=2,
).map(b"".join)


@st.composite
def lengths(draw: st.DrawFn, length: int) -> bytes:
    """Return a length as Protocol Buffers write it, mostly right and as short as can be."""
    length += draw(st.sampled_from([0, 0, 0, 1, -1, 2, -2]))
    more = draw(st.sampled_from([0, 0, 0, 1, 4, 9]))
    written = b""
    while length > 0x7F or more > 0:
        written += bytes((length & 0x7F | 0x80,))
        length, more = length >> 7, more - 1
    return written + bytes((length,))


@given(st.data())
def test_a_long_body_is_cut_out_only_where_protocol_buffers_read_the_same(
    data: st.DataObject,
) -> None:
    """Lengths that are wrong or longer than needed, other fields, and fields in another order."""
    body = bytes(codec.LONG_BYTES)
    part = b"\x0a" + data.draw(lengths(len(body))) + body + data.draw(FIELDS_BEHIND)
    field = data.draw(st.sampled_from([b"\x22", b"\x2a"]))
    message = field + data.draw(lengths(len(part))) + part + data.draw(FIELDS_BEHIND)
    assert read_or_refused(message) == read_or_refused(UNKNOWN_FIELD + message)


@given(
    part=st.builds(ext.HttpBody, body=st.binary(max_size=300), end_of_stream=st.booleans())
    | st.builds(ext.HttpBody, body=st.integers(0, 70_000).map(bytes)),
    kind=st.sampled_from([MessageKind.REQUEST_BODY, MessageKind.RESPONSE_BODY]),
    has_context=st.booleans(),
)
def test_a_body_of_any_length_is_read_whole(
    *, part: ext.HttpBody, kind: MessageKind, has_context: bool
) -> None:
    """Envoy sends an empty `metadata_context` with each."""
    message = ext.ProcessingRequest()
    getattr(message, kind.value).CopyFrom(part)
    if has_context:
        message.metadata_context.SetInParent()
    data = message.SerializeToString()
    read = codec.decode(data)
    assert read == Message(kind, None, part.body, part.end_of_stream)
    assert read == codec.decode(UNKNOWN_FIELD + data)


@given(fields=fields)
def test_headers_come_out_as_they_went_in(fields: tuple[tuple[str, bytes], ...]) -> None:
    """Any name, any value, any repetition."""
    message = envoy.request_headers(*fields).SerializeToString()
    assert decode(message) == [on.RequestHeadersReceived(Headers(fields), end_of_stream=False)]


# Encoding.


@pytest.mark.parametrize(
    ("reply", "response"),
    [
        (
            do.OverrideMode(response_headers=False),
            ext.ProcessingResponse(
                mode_override=modes.ProcessingMode(
                    request_body_mode=modes.ProcessingMode.FULL_DUPLEX_STREAMED,
                    request_trailer_mode=modes.ProcessingMode.SEND,
                    response_header_mode=modes.ProcessingMode.SKIP,
                )
            ),
        ),
        (
            do.OverrideMode(response_headers=True),
            ext.ProcessingResponse(
                mode_override=modes.ProcessingMode(
                    request_body_mode=modes.ProcessingMode.FULL_DUPLEX_STREAMED,
                    request_trailer_mode=modes.ProcessingMode.SEND,
                    response_header_mode=modes.ProcessingMode.SEND,
                )
            ),
        ),
        (
            do.ContinueRequestHeaders(),
            ext.ProcessingResponse(request_headers=ext.HeadersResponse()),
        ),
        (
            do.ContinueRequestHeaders(headers=MUTATION, metadata=METADATA, response_headers=True),
            with_metadata(
                ext.ProcessingResponse(
                    request_headers=ext.HeadersResponse(
                        response=ext.CommonResponse(header_mutation=MUTATED)
                    ),
                    mode_override=modes.ProcessingMode(
                        response_header_mode=modes.ProcessingMode.SEND
                    ),
                )
            ),
        ),
        (
            do.ContinueRequestHeaders(headers=MUTATION, clear_route_cache=True),
            ext.ProcessingResponse(
                request_headers=ext.HeadersResponse(
                    response=ext.CommonResponse(header_mutation=MUTATED, clear_route_cache=True)
                )
            ),
        ),
        (
            do.ContinueRequestBody(headers=MUTATION, clear_route_cache=True),
            ext.ProcessingResponse(
                request_body=ext.BodyResponse(
                    response=ext.CommonResponse(header_mutation=MUTATED, clear_route_cache=True)
                )
            ),
        ),
        (do.ContinueRequestBody(), ext.ProcessingResponse(request_body=ext.BodyResponse())),
        (
            do.ContinueRequestBody(headers=MUTATION, body=b"", metadata=METADATA),
            with_metadata(
                ext.ProcessingResponse(
                    request_body=ext.BodyResponse(
                        response=ext.CommonResponse(
                            header_mutation=MUTATED, body_mutation=ext.BodyMutation(body=b"")
                        )
                    )
                )
            ),
        ),
        (
            do.StreamRequestBody(b"\x00\xff", end_of_stream=True),
            ext.ProcessingResponse(
                request_body=ext.BodyResponse(
                    response=ext.CommonResponse(
                        body_mutation=ext.BodyMutation(
                            streamed_response=ext.StreamedBodyResponse(
                                body=b"\x00\xff", end_of_stream=True
                            )
                        )
                    )
                )
            ),
        ),
        (
            do.StreamRequestBody(b"", end_of_stream=False),
            ext.ProcessingResponse(
                request_body=ext.BodyResponse(
                    response=ext.CommonResponse(
                        body_mutation=ext.BodyMutation(
                            streamed_response=ext.StreamedBodyResponse()
                        )
                    )
                )
            ),
        ),
        (
            do.ContinueRequestTrailers(),
            ext.ProcessingResponse(request_trailers=ext.TrailersResponse()),
        ),
        (
            do.ContinueResponseHeaders(),
            ext.ProcessingResponse(response_headers=ext.HeadersResponse()),
        ),
        (
            do.ContinueResponseHeaders(MUTATION),
            ext.ProcessingResponse(
                response_headers=ext.HeadersResponse(
                    response=ext.CommonResponse(header_mutation=MUTATED)
                )
            ),
        ),
        (do.ContinueResponseBody(), ext.ProcessingResponse(response_body=ext.BodyResponse())),
        (
            do.StreamResponseBody(b"r", end_of_stream=True),
            ext.ProcessingResponse(
                response_body=ext.BodyResponse(
                    response=ext.CommonResponse(
                        body_mutation=ext.BodyMutation(
                            streamed_response=ext.StreamedBodyResponse(
                                body=b"r", end_of_stream=True
                            )
                        )
                    )
                )
            ),
        ),
        (
            do.ContinueResponseTrailers(),
            ext.ProcessingResponse(response_trailers=ext.TrailersResponse()),
        ),
        (
            do.Refuse(
                Refusal(
                    status=429,
                    headers=(("retry-after", b"1"),),
                    body=b'{"error":{}}',
                    details="egret_body_too_large",
                    metadata=do.fields_of(METADATA),
                )
            ),
            with_metadata(
                ext.ProcessingResponse(
                    immediate_response=ext.ImmediateResponse(
                        status=http_status_pb2.HttpStatus(
                            code=http_status_pb2.StatusCode.TooManyRequests
                        ),
                        headers=ext.HeaderMutation(
                            set_headers=[
                                core.HeaderValueOption(
                                    header=core.HeaderValue(key="retry-after", raw_value=b"1")
                                )
                            ]
                        ),
                        body=b'{"error":{}}',
                        details="egret_body_too_large",
                    )
                )
            ),
        ),
    ],
    ids=[
        "override",
        "override-response",
        "request-headers",
        "request-headers-changed",
        "request-headers-routed",
        "request-body-routed",
        "request-body",
        "request-body-changed",
        "streamed-end",
        "streamed-empty",
        "request-trailers",
        "response-headers",
        "response-headers-changed",
        "response-body",
        "response-streamed",
        "response-trailers",
        "refuse",
    ],
)
def test_each_reply_is_exactly_its_message(
    reply: do.Reply, response: ext.ProcessingResponse
) -> None:
    """Nothing is left out and nothing else is said."""
    sent = ext.ProcessingResponse.FromString(encode(reply))
    assert _comparable(sent) == _comparable(response)


def _comparable(response: ext.ProcessingResponse) -> ext.ProcessingResponse:
    """Return *response* without an empty `response` or `header_mutation`: they mean the same."""
    for name in ("request_headers", "request_body", "response_headers", "response_body"):
        if response.HasField(name):
            answer = getattr(response, name)
            common = answer.response
            if common.header_mutation == ext.HeaderMutation():
                common.ClearField("header_mutation")
            if common == ext.CommonResponse():
                answer.ClearField("response")
    return response


@given(fields=fields, body=st.binary(max_size=20), code=st.integers(200, 599))
def test_header_values_are_never_written_as_value(
    fields: tuple[tuple[str, bytes], ...], body: bytes, code: int
) -> None:
    """Envoy 1.40 ignores `value` and would set an empty header."""
    mutation = HeaderMutation(set_headers=fields)
    refusal = Refusal(status=code, headers=fields, body=body, details="x")
    written = []
    for reply in (
        do.ContinueRequestHeaders(mutation),
        do.ContinueRequestBody(mutation),
        do.ContinueResponseHeaders(mutation),
        do.Refuse(refusal),
    ):
        response = ext.ProcessingResponse.FromString(encode(reply))
        written.append(
            (
                *response.request_headers.response.header_mutation.set_headers,
                *response.request_body.response.header_mutation.set_headers,
                *response.response_headers.response.header_mutation.set_headers,
                *response.immediate_response.headers.set_headers,
            )
        )
    assert [
        [(option.header.key, option.header.raw_value) for option in options] for options in written
    ] == [list(fields)] * 4
    assert not any(option.header.value for options in written for option in options)


@given(
    body=st.integers(0, 3 * codec.LONG_BYTES).map(bytes),
    ends=st.booleans(),
    is_request=st.booleans(),
)
def test_a_long_piece_is_the_same_message_in_parts(
    *, body: bytes, ends: bool, is_request: bool
) -> None:
    if is_request:
        part, (answer,) = "request_body", codec.streamed_request_body(memoryview(body), ends=ends)
    else:
        part, metadata = "response_body", codec.metadata_fields(METADATA)
        (answer,) = codec.streamed_response_body(memoryview(body), ends=ends, metadata=metadata)
    message = answer if isinstance(answer, bytes) else b"".join(answer)
    streamed = ext.StreamedBodyResponse(body=body, end_of_stream=ends)
    mutation = ext.BodyMutation(streamed_response=streamed)
    expected = ext.ProcessingResponse()
    getattr(expected, part).response.body_mutation.CopyFrom(mutation)
    expected = expected if is_request else with_metadata(expected)
    assert ext.ProcessingResponse.FromString(message) == expected


@settings(max_examples=300)
@given(
    size=st.one_of(st.integers(0, 300), st.integers(0, codec.LONG_BYTES)),
    ends=st.booleans(),
    part=st.sampled_from(["request_body", "response_body"]),
    has_context=st.booleans(),
    change=st.none() | st.tuples(st.integers(-12, 12), st.integers(0, 255)),
)
def test_a_piece_is_decoded_as_protocol_buffers_reads_it(
    *, size: int, ends: bool, part: str, has_context: bool, change: tuple[int, int] | None
) -> None:
    """Also with a byte of its frame changed, and one that is none then."""
    written = ext.ProcessingRequest()
    getattr(written, part).body = bytes(size)
    getattr(written, part).end_of_stream = ends
    if has_context:
        written.metadata_context.SetInParent()
    message = bytearray(written.SerializeToString())
    if change is not None and -len(message) <= change[0] < len(message):
        message[change[0]] = change[1]
    try:
        read = ext.ProcessingRequest.FromString(bytes(message))
    except DecodeError:
        read = ext.ProcessingRequest()
    kind = read.WhichOneof("request")
    if kind is None:
        with pytest.raises(UnreadableMessageError):
            codec.decode(bytes(message))
    elif kind in {"request_body", "response_body"} and not read.HasField("protocol_config"):
        decoded, expected = codec.decode(bytes(message)), getattr(read, kind)
        assert (decoded.kind, decoded.ends) == (kind, expected.end_of_stream)
        assert bytes(decoded.body) == expected.body
        assert decoded.is_observed == read.observability_mode


@given(code=st.integers(200, 599))
def test_a_refusal_always_says_its_status(code: int) -> None:
    """An absent status would be a 200, also for codes Envoy's enum has no name for."""
    refusal = Refusal(status=code, headers=(), body=b"", details="x")
    response = ext.ProcessingResponse.FromString(encode(do.Refuse(refusal)))
    assert response.immediate_response.status.code == code


# Answers that are judged.

WHOLE_MODE = modes.ProcessingMode(
    request_body_mode=modes.ProcessingMode.FULL_DUPLEX_STREAMED,
    request_trailer_mode=modes.ProcessingMode.SEND,
    response_header_mode=modes.ProcessingMode.SEND,
    response_body_mode=modes.ProcessingMode.FULL_DUPLEX_STREAMED,
    response_trailer_mode=modes.ProcessingMode.SEND,
)


def test_an_override_for_a_judged_answer_states_the_whole_mode() -> None:
    """Envoy takes no duplex body without its trailers."""
    encoded = encode(do.OverrideMode(response_headers=True, response_body=True))
    assert encoded == ext.ProcessingResponse(mode_override=WHOLE_MODE).SerializeToString()


def test_the_answer_to_the_headers_can_ask_for_the_response_as_well() -> None:
    """For a request without a body, which needs no other override."""
    encoded = encode(do.ContinueRequestHeaders(response_headers=True, response_body=True))
    response = ext.ProcessingResponse.FromString(encoded)
    asked = modes.ProcessingMode()
    asked.CopyFrom(WHOLE_MODE)
    asked.ClearField("request_body_mode")
    asked.ClearField("request_trailer_mode")
    assert response.mode_override == asked
    assert response.HasField("request_headers")


def test_where_an_override_came_before_the_second_one_states_the_whole_mode() -> None:
    """Envoy starts from its configuration: what the first said of the request would be lost."""
    reply = do.ContinueRequestHeaders(response_headers=True, response_body=True, request_body=True)
    response = ext.ProcessingResponse.FromString(encode(reply))
    assert response.mode_override == WHOLE_MODE
    assert response.HasField("request_headers")


def test_a_buffered_answer_is_replaced_with_its_headers() -> None:
    """In the one message that holds them all."""
    encoded = encode(do.ContinueResponseBody(MUTATION, b"changed", METADATA))
    wanted = ext.ProcessingResponse(
        response_body=ext.BodyResponse(
            response=ext.CommonResponse(
                header_mutation=MUTATED, body_mutation=ext.BodyMutation(body=b"changed")
            )
        )
    )
    assert ext.ProcessingResponse.FromString(encoded) == with_metadata(wanted)


@pytest.mark.parametrize(
    "reply",
    [
        do.ContinueResponseHeaders(metadata=METADATA),
        do.StreamResponseBody(b"r", end_of_stream=True, metadata=METADATA),
    ],
    ids=lambda reply: type(reply).__name__,
)
def test_metadata_goes_with_any_part_of_an_answer(reply: do.Reply) -> None:
    """The access log is written at the very end, and says what the answer came to."""
    response = ext.ProcessingResponse.FromString(encode(reply))
    wanted = with_metadata(ext.ProcessingResponse()).dynamic_metadata
    assert response.dynamic_metadata == wanted


def trailers_with(usage: ai.TokenUsage | bytes, namespace: str = USAGE_NAMESPACE) -> Message:
    """Return the trailers of an answer as they are read, with this metadata of Envoy's."""
    message = ext.ProcessingRequest(response_trailers=ext.HttpTrailers())
    typed = message.metadata_context.typed_filter_metadata[namespace]
    typed.type_url = "type.googleapis.com/envoy.data.ai.v3.TokenUsage"
    typed.value = usage if isinstance(usage, bytes) else usage.SerializeToString()
    return codec.decode(message.SerializeToString())


def token_usage(status: ai.TokenUsage.ExtractionStatus.ValueType) -> ai.TokenUsage:
    """Return the counts that Envoy's AI filter found in an answer."""
    usage = ai.TokenUsage(model="gpt-4o", extraction_status=status)
    usage.input_tokens.value, usage.output_tokens.value = 10, 1 << 60
    usage.input_token_details.cached_tokens.value = 4
    usage.input_token_details.cache_creation_tokens.value = 3
    usage.output_token_details.reasoning_tokens.value = 2
    return usage


def test_counts_of_envoys_ai_filter_come_with_the_trailers() -> None:
    """One that is larger than any database takes is cut."""
    assert trailers_with(token_usage(ai.TokenUsage.COMPLETE)).usage == (
        TokenCounts(10, MAX_COUNT, 4, 3, 2),
        "gpt-4o",
    )


@pytest.mark.parametrize(
    ("parts", "whole", "tokens"),
    [
        pytest.param((100, 50), 180, TokenCounts(100, 80), id="reasoning beside the output"),
        pytest.param((100, 50), 150, TokenCounts(100, 50), id="the sum of both"),
        pytest.param((100, 50), 10, TokenCounts(100, 50), id="a sum that is none"),
        pytest.param((8, None), 8, TokenCounts(8), id="input alone"),
        pytest.param((None, None), 8, TokenCounts(8), id="the sum alone"),
    ],
)
def test_the_providers_sum_counts_beyond_its_parts(
    parts: tuple[int | None, int | None], whole: int, tokens: TokenCounts
) -> None:
    """As an answer that a worker reads itself; the filter has a sum of both parts alone."""
    usage = ai.TokenUsage(extraction_status=ai.TokenUsage.COMPLETE)
    usage.provider_total_tokens.value = whole
    given, made = parts
    if given is not None:
        usage.input_tokens.value = given
    if given is not None and made is not None:
        usage.output_tokens.value, usage.total_tokens.value = made, given + made

    assert trailers_with(usage).usage == (tokens, "")


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(trailers_with(token_usage(ai.TokenUsage.PARTIAL)), id="not of all"),
        pytest.param(trailers_with(token_usage(ai.TokenUsage.COMPLETE), "other"), id="another's"),
        pytest.param(trailers_with(b"\xff"), id="no counts"),
    ],
)
def test_counts_that_are_not_of_the_whole_answer_are_none(message: Message) -> None:
    """They are estimated then, as with the access log."""
    assert message.usage is None
