from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.server.grpc_wire import (
    VIEWED_BYTES,
    GrpcStatus,
    GrpcWireError,
    MessageReader,
    framed,
    status_headers,
    timeout_seconds,
)

LIMIT = 1_000


def reader() -> MessageReader:
    """Return a reader of messages up to the limit."""
    return MessageReader(max_message_bytes=LIMIT)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut *data* at the given places."""
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(places)]


def feed(wire: MessageReader, pieces: Sequence[bytes]) -> list[bytes]:
    """Return the messages of *pieces*."""
    return [bytes(message) for piece in pieces for message in wire.feed(piece)]


@given(
    st.lists(st.binary(max_size=40), max_size=6),
    st.lists(st.integers(0, 300), max_size=12),
)
def test_messages_are_the_same_however_their_bytes_arrive(
    messages: list[bytes], cuts: list[int]
) -> None:
    """Several messages in a chunk, one message over several, prefixes cut anywhere."""
    wire = reader()
    assert feed(wire, pieces_of(b"".join(framed(messages)), cuts)) == messages
    assert wire.is_between_messages


@given(
    st.lists(st.integers(0, 3 * VIEWED_BYTES), max_size=4),
    st.lists(st.integers(0, 12 * VIEWED_BYTES), max_size=6),
)
def test_long_messages_are_the_same_however_their_bytes_arrive(
    sizes: list[int], cuts: list[int]
) -> None:
    messages = [bytes([number]) * size for number, size in enumerate(sizes)]
    wire = MessageReader(max_message_bytes=3 * VIEWED_BYTES)
    assert feed(wire, pieces_of(b"".join(framed(messages)), cuts)) == messages
    assert wire.is_between_messages


def test_a_message_in_parts_is_framed_as_one() -> None:
    parts = (b"head", memoryview(b"body"), b"")
    assert b"".join(framed([parts, b"next"])) == b"".join(framed([b"headbody", b"next"]))


@given(st.binary(min_size=1, max_size=40), st.integers(1, 44))
def test_a_message_that_is_cut_short_is_noticed(message: bytes, kept: int) -> None:
    """A peer that ends within a message has not sent it."""
    data = b"".join(framed([message]))
    wire = reader()
    assert wire.feed(data[: min(kept, len(data) - 1)]) == []
    assert not wire.is_between_messages


@pytest.mark.parametrize("size", [1, 5, 6, 2_000], ids=["byte", "prefix", "more", "whole"])
def test_a_message_over_the_limit_is_refused_by_its_prefix(size: int) -> None:
    """Nothing of it is kept while it comes."""
    data = b"".join(framed([bytes(LIMIT + 1)]))
    pieces = pieces_of(data, list(range(0, len(data), size)))
    with pytest.raises(GrpcWireError, match="a message of 1001 bytes; 1000 are taken") as caught:
        feed(reader(), pieces)
    assert caught.value.status is GrpcStatus.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("flag", [1, 2, 255])
def test_a_compressed_message_is_refused(flag: int) -> None:
    """No encoding is negotiated: what its bytes mean is anybody's guess."""
    with pytest.raises(GrpcWireError) as caught:
        reader().feed(bytes((flag, 0, 0, 0, 1, 0)))
    assert caught.value.status is GrpcStatus.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("text", "encoded"),
    [("plain", b"plain"), ("50 %\n", b"50 %25%0A"), ("é", b"%C3%A9")],
    ids=["plain", "percent", "unicode"],
)
def test_a_status_message_is_percent_encoded(text: str, encoded: bytes) -> None:
    """A line break in a trailer would end the stream with a reset."""
    assert status_headers(GrpcStatus.INTERNAL, text) == [
        (b"grpc-status", b"13"),
        (b"grpc-message", encoded),
    ]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"2H", 7200.0), (b"3M", 180.0), (b"1S", 1.0), (b"200m", 0.2), (b"5u", 5e-6), (b"7n", 7e-9)],
)
def test_a_deadline_has_one_of_six_units(value: bytes, seconds: float) -> None:
    """As gRPC writes them."""
    assert timeout_seconds(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"1", b"S", b"123456789S", b"-1S", b"1s", b"1 S"])
def test_a_deadline_of_another_form_is_refused(value: bytes) -> None:
    """A deadline that was not understood must not become none."""
    with pytest.raises(GrpcWireError) as caught:
        timeout_seconds(value)
    assert caught.value.status is GrpcStatus.INVALID_ARGUMENT
