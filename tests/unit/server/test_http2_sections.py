"""What a peer may send, and what ends its connection, by the sections of RFC 9113 and RFC 7541.

The sections and cases are those that the h2spec tool asks for.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Final

import hpack
import pytest

from sidecar.server import http2
from sidecar.server.http2 import (
    MAX_CONTINUATIONS,
    MAX_CONTROL_FRAMES,
    MAX_FIELDS,
    PREFACE,
)
from sidecar.server.http2_streams import MAX_FRAME_BYTES, ErrorCode
from tests.support.http2_peer import HELLO, POST, TRAILERS, Http2Peer, closed_with, collect, raw

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, WITH_PRIORITY = 0x4, 0x8, 0x20
WHOLE = END_STREAM | END_HEADERS
LATER: Final = 0x10001

SERVES: Final = None
PROTOCOL, FLOW, SIZE = (
    ErrorCode.PROTOCOL_ERROR,
    ErrorCode.FLOW_CONTROL_ERROR,
    ErrorCode.FRAME_SIZE_ERROR,
)
CLOSED, COMPRESSION, CALM = (
    ErrorCode.STREAM_CLOSED,
    ErrorCode.COMPRESSION_ERROR,
    ErrorCode.ENHANCE_YOUR_CALM,
)

FIELDS: Final = ((":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "egret"))


def block(*fields: tuple[str, str], huffman: bool = False) -> bytes:
    """Return *fields* as literals that join no table, names as they are."""
    return hpack.Encoder().encode([(*one, True) for one in fields], huffman=huffman)


def asking(*fields: tuple[str, str], flags: int = WHOLE) -> bytes:
    """Return the headers of stream 1."""
    return raw(HEADERS, flags, 1, block(*fields))


def setting(name: int, value: int) -> bytes:
    """Return a frame with one setting."""
    return raw(SETTINGS, 0, 0, struct.pack(">HL", name, value))


def number(value: int) -> bytes:
    """Return four bytes, such as those of a code or of a window."""
    return struct.pack(">L", value)


def without(name: str) -> tuple[tuple[str, str], ...]:
    """Return the fields of a request but for one."""
    return tuple(one for one in FIELDS if one[0] != name)


OPEN: Final = raw(HEADERS, END_HEADERS, 1, POST)
ASKED: Final = raw(HEADERS, WHOLE, 1, POST)
RESET: Final = raw(RST_STREAM, 0, 1, number(8))
LONG: Final = ("x-long", "l" * 9_000)

CASES: Final[dict[str, tuple[bytes, ErrorCode | None]]] = {
    # RFC 9113, starting.
    "3.4 a preface and empty settings": (HELLO, SERVES),
    "3.4 no preface": (b"GET / HTTP/1.1\r\n", PROTOCOL),
    "3.4 half a preface": (b"PRI * HTTP/1", PROTOCOL),
    "3.4 a preface with a wrong end": (PREFACE[:-2] + b"xx", PROTOCOL),
    # Frames.
    "4.1 a frame of an unknown type": (HELLO + raw(0xFA, 0, 0, b"?" * 8), SERVES),
    "4.1 an unknown type on a stream": (HELLO + OPEN + raw(0xFA, 0xFF, 1, b"?"), SERVES),
    "4.1 flags that are not defined": (HELLO + raw(PING, 0x16, 0, bytes(8)), SERVES),
    "4.1 the reserved bit of a stream's number": (HELLO + raw(PING, 0, 1 << 31, bytes(8)), SERVES),
    "4.2 data of the largest size": (HELLO + OPEN + raw(DATA, 0, 1, bytes(16_384)), SERVES),
    "4.2 data beyond the largest size": (HELLO + OPEN + raw(DATA, 0, 1, bytes(16_385)), SIZE),
    "4.2 headers beyond the largest size": (
        HELLO + raw(HEADERS, END_HEADERS, 1, bytes(16_385)), SIZE,
    ),
    "4.2 settings beyond the largest size": (HELLO + raw(SETTINGS, 0, 0, bytes(16_386)), SIZE),
    "4.3 a damaged block": (HELLO + raw(HEADERS, END_HEADERS, 1, b"\x80"), COMPRESSION),
    "4.3 another frame within a block": (
        HELLO + raw(HEADERS, 0, 1, POST) + raw(PING, 0, 0, bytes(8)), PROTOCOL,
    ),
    "4.3 a block of another stream within a block": (
        HELLO + raw(HEADERS, 0, 1, POST) + raw(HEADERS, END_HEADERS, 3, POST), PROTOCOL,
    ),
    "4.3 a priority within a block": (
        HELLO + raw(HEADERS, 0, 1, POST) + raw(PRIORITY, 0, 1, bytes(5)), PROTOCOL,
    ),
    "4.3 an unknown frame within a block": (
        HELLO + raw(HEADERS, 0, 1, POST) + raw(0xFA, 0, 0), PROTOCOL,
    ),
    # States of streams.
    "5.1 idle: data": (HELLO + raw(DATA, 0, 1, b"x"), PROTOCOL),
    "5.1 idle: a reset": (HELLO + RESET, PROTOCOL),
    "5.1 idle: a window": (HELLO + raw(WINDOW_UPDATE, 0, 1, number(100)), PROTOCOL),
    "5.1 idle: a continuation": (HELLO + raw(CONTINUATION, END_HEADERS, 1, POST), PROTOCOL),
    "5.1 idle: a priority": (HELLO + raw(PRIORITY, 0, 1, bytes(5)), SERVES),
    "5.1 idle: data on a stream of ours": (HELLO + ASKED + raw(DATA, 0, 2, b"x"), PROTOCOL),
    "5.1 idle: a reset of a stream of ours": (
        HELLO + raw(HEADERS, WHOLE, 3, POST) + raw(RST_STREAM, 0, 2, number(8)), PROTOCOL,
    ),
    "5.1 half-closed: data": (HELLO + ASKED + raw(DATA, 0, 1, b"x"), CLOSED),
    "5.1 half-closed: empty data": (HELLO + ASKED + raw(DATA, END_STREAM, 1), CLOSED),
    "5.1 half-closed: headers": (HELLO + ASKED + ASKED, CLOSED),
    "5.1 half-closed by data: headers": (
        HELLO + OPEN + raw(DATA, END_STREAM, 1, b"x") + ASKED, CLOSED,
    ),
    "5.1 half-closed: a window": (HELLO + ASKED + raw(WINDOW_UPDATE, 0, 1, number(9)), SERVES),
    "5.1 half-closed: a priority": (HELLO + ASKED + raw(PRIORITY, 0, 1, bytes(5)), SERVES),
    "5.1 half-closed: a reset": (HELLO + ASKED + RESET, SERVES),
    "5.1 half-closed: a continuation": (
        HELLO + ASKED + raw(CONTINUATION, END_HEADERS, 1, POST), PROTOCOL,
    ),
    # A stream that was reset may have frames on their way: they change nothing.
    "5.1 closed: data": (HELLO + OPEN + RESET + raw(DATA, 0, 1, b"x"), SERVES),
    "5.1 closed: trailers": (
        HELLO + OPEN + RESET + raw(HEADERS, WHOLE, 1, block(("x-end", "1"))), SERVES,
    ),
    "5.1 closed: a window": (HELLO + OPEN + RESET + raw(WINDOW_UPDATE, 0, 1, number(9)), SERVES),
    "5.1 closed: a reset": (HELLO + OPEN + RESET + RESET, SERVES),
    "5.1 closed: a priority": (HELLO + OPEN + RESET + raw(PRIORITY, 0, 1, bytes(5)), SERVES),
    "5.1 closed: headers of a request": (HELLO + OPEN + RESET + OPEN, PROTOCOL),
    "5.1 closed: a whole request": (HELLO + OPEN + RESET + ASKED, PROTOCOL),
    "5.1.1 an even number": (HELLO + raw(HEADERS, WHOLE, 2, POST), PROTOCOL),
    "5.1.1 no number": (HELLO + raw(HEADERS, WHOLE, 0, POST), PROTOCOL),
    "5.1.1 a number smaller than one before": (
        HELLO + raw(HEADERS, WHOLE, 5, POST) + raw(HEADERS, WHOLE, 3, POST), PROTOCOL,
    ),
    "5.1.1 numbers that skip some": (HELLO + raw(HEADERS, WHOLE, 77, POST), SERVES),
    "5.3.2 a stream that depends on itself": (
        HELLO + OPEN + raw(PRIORITY, 0, 1, number(1) + b"\0"), SERVES,
    ),
    "5.4.1 GOAWAY of the peer": (HELLO + raw(GOAWAY, 0, 0, bytes(8)), SERVES),
    "5.5 an unknown setting": (HELLO + setting(0xFF, 1), SERVES),
    # Data.
    "6.1 data without a stream": (HELLO + raw(DATA, 0, 0, b"x"), PROTOCOL),
    "6.1 several frames": (HELLO + OPEN + raw(DATA, 0, 1, b"x") * 3, SERVES),
    "6.1 an empty frame": (HELLO + OPEN + raw(DATA, END_STREAM, 1), SERVES),
    "6.1 padding": (HELLO + OPEN + raw(DATA, PADDED | END_STREAM, 1, b"\x02x\0\0"), SERVES),
    "6.1 nothing but padding": (HELLO + OPEN + raw(DATA, PADDED, 1, b"\x02\0\0"), SERVES),
    "6.1 padding as long as its frame": (HELLO + OPEN + raw(DATA, PADDED, 1, b"\x02x"), PROTOCOL),
    "6.1 padding without its length": (HELLO + OPEN + raw(DATA, PADDED, 1), PROTOCOL),
    # Headers.
    "6.2 a block in one frame": (HELLO + ASKED, SERVES),
    "6.2 padding": (
        HELLO + raw(HEADERS, WHOLE | PADDED, 1, b"\x02" + POST + b"\0\0"), SERVES,
    ),
    "6.2 a priority": (
        HELLO + raw(HEADERS, WHOLE | WITH_PRIORITY, 1, bytes(5) + POST), SERVES,
    ),
    "6.2 padding and a priority": (
        HELLO + raw(HEADERS, WHOLE | PADDED | WITH_PRIORITY, 1, b"\x01" + bytes(5) + POST + b"\0"),
        SERVES,
    ),
    "6.2 padding longer than its frame": (
        HELLO + raw(HEADERS, WHOLE | PADDED, 1, b"\x09" + POST[:8]), PROTOCOL,
    ),
    "6.2 half a priority": (HELLO + raw(HEADERS, WHOLE | WITH_PRIORITY, 1, bytes(3)), PROTOCOL),
    "6.2 an empty block": (HELLO + raw(HEADERS, WHOLE, 1), PROTOCOL),
    # Priorities.
    "6.3 a priority": (HELLO + OPEN + raw(PRIORITY, 0, 1, bytes(5)), SERVES),
    "6.3 no stream": (HELLO + raw(PRIORITY, 0, 0, bytes(5)), PROTOCOL),
    "6.3 another length": (HELLO + OPEN + raw(PRIORITY, 0, 1, bytes(4)), SIZE),
    # Resets.
    "6.4 a reset": (HELLO + OPEN + RESET, SERVES),
    "6.4 a code that is not defined": (HELLO + OPEN + raw(RST_STREAM, 0, 1, number(255)), SERVES),
    "6.4 no stream": (HELLO + raw(RST_STREAM, 0, 0, number(8)), PROTOCOL),
    "6.4 another length": (HELLO + OPEN + raw(RST_STREAM, 0, 1, bytes(3)), SIZE),
    # Settings.
    "6.5 an acknowledgement": (HELLO + raw(SETTINGS, ACK, 0), SERVES),
    "6.5 an acknowledgement with settings": (HELLO + raw(SETTINGS, ACK, 0, bytes(6)), SIZE),
    "6.5 a stream": (HELLO + raw(SETTINGS, 0, 1), PROTOCOL),
    "6.5 half a setting": (HELLO + raw(SETTINGS, 0, 0, bytes(5)), SIZE),
    "6.5.2 a table of no size": (HELLO + setting(1, 0), SERVES),
    "6.5.2 push": (HELLO + setting(2, 1), SERVES),
    "6.5.2 no push": (HELLO + setting(2, 0), SERVES),
    "6.5.2 push of another value": (HELLO + setting(2, 2), PROTOCOL),
    "6.5.2 streams": (HELLO + setting(3, 0), SERVES),
    "6.5.2 the largest initial window": (HELLO + setting(4, (1 << 31) - 1), SERVES),
    "6.5.2 an initial window beyond it": (HELLO + setting(4, 1 << 31), FLOW),
    "6.5.2 the largest frame": (HELLO + setting(5, (1 << 24) - 1), SERVES),
    "6.5.2 a frame larger than that": (HELLO + setting(5, 1 << 24), PROTOCOL),
    "6.5.2 a frame smaller than the smallest": (HELLO + setting(5, 16_383), PROTOCOL),
    "6.5.2 a list of headers": (HELLO + setting(6, 100), SERVES),
    "6.5.3 one setting twice": (
        HELLO + raw(SETTINGS, 0, 0, struct.pack(">HLHL", 4, 100, 4, 65_535)), SERVES,
    ),
    # Promises.
    "6.6 a promise of a client": (HELLO + raw(PUSH_PROMISE, END_HEADERS, 1, bytes(4)), PROTOCOL),
    # Pings.
    "6.7 a ping": (HELLO + raw(PING, 0, 0, b"12345678"), SERVES),
    "6.7 an answer": (HELLO + raw(PING, ACK, 0, b"12345678"), SERVES),
    "6.7 a stream": (HELLO + raw(PING, 0, 1, bytes(8)), PROTOCOL),
    "6.7 another length": (HELLO + raw(PING, 0, 0, bytes(6)), SIZE),
    # The end of a connection.
    "6.8 with words": (HELLO + raw(GOAWAY, 0, 0, bytes(8) + b"bye"), SERVES),
    "6.8 a stream": (HELLO + raw(GOAWAY, 0, 1, bytes(8)), PROTOCOL),
    "6.8 another length": (HELLO + raw(GOAWAY, 0, 0, bytes(7)), SIZE),
    # Windows.
    "6.9 of the connection": (HELLO + raw(WINDOW_UPDATE, 0, 0, number(1)), SERVES),
    "6.9 of a stream": (HELLO + OPEN + raw(WINDOW_UPDATE, 0, 1, number(1)), SERVES),
    "6.9 of the connection by nothing": (HELLO + raw(WINDOW_UPDATE, 0, 0, number(0)), PROTOCOL),
    "6.9 of a stream by nothing": (HELLO + OPEN + raw(WINDOW_UPDATE, 0, 1, number(0)), PROTOCOL),
    "6.9 another length": (HELLO + raw(WINDOW_UPDATE, 0, 0, bytes(3)), SIZE),
    "6.9 another length on a stream": (HELLO + OPEN + raw(WINDOW_UPDATE, 0, 1, bytes(5)), SIZE),
    "6.9.1 of the connection beyond all bounds": (
        HELLO + raw(WINDOW_UPDATE, 0, 0, number((1 << 31) - 1)), FLOW,
    ),
    "6.9.1 of a stream beyond all bounds": (
        HELLO + OPEN + raw(WINDOW_UPDATE, 0, 1, number((1 << 31) - 1)), FLOW,
    ),
    "6.9.1 of the connection up to them": (
        HELLO + raw(WINDOW_UPDATE, 0, 0, number((1 << 31) - 65_536)), SERVES,
    ),
    "6.9.2 settings lift a stream's window beyond them": (
        HELLO + OPEN + raw(WINDOW_UPDATE, 0, 1, number(0x7FFF0000)) + setting(4, 0x10000), FLOW,
    ),
    "6.9.2 settings below what was sent": (HELLO + ASKED + setting(4, 1), SERVES),
    # Continuations.
    "6.10 two": (
        HELLO + raw(HEADERS, END_STREAM, 1, POST[:3]) + raw(CONTINUATION, 0, 1, POST[3:5])
        + raw(CONTINUATION, END_HEADERS, 1, POST[5:]), SERVES,
    ),
    "6.10 an empty one": (
        HELLO + raw(HEADERS, END_STREAM, 1, POST) + raw(CONTINUATION, END_HEADERS, 1), SERVES,
    ),
    "6.10 no stream": (
        HELLO + raw(HEADERS, 0, 1, POST) + raw(CONTINUATION, END_HEADERS, 0), PROTOCOL,
    ),
    "6.10 another stream": (
        HELLO + raw(HEADERS, 0, 1, POST) + raw(CONTINUATION, END_HEADERS, 3, POST), PROTOCOL,
    ),
    "6.10 behind a whole block": (
        HELLO + ASKED + raw(CONTINUATION, END_HEADERS, 1, POST), PROTOCOL,
    ),
    "6.10 behind data": (
        HELLO + OPEN + raw(DATA, 0, 1, b"x") + raw(CONTINUATION, END_HEADERS, 1), PROTOCOL,
    ),
    "6.10 another frame behind one": (
        HELLO + raw(HEADERS, 0, 1, POST) + raw(CONTINUATION, 0, 1) + raw(DATA, 0, 1), PROTOCOL,
    ),
    # Requests.
    "8.1 a body": (HELLO + OPEN + raw(DATA, END_STREAM, 1, b"x"), SERVES),
    "8.1 trailers": (
        HELLO + OPEN + raw(DATA, 0, 1, b"x") + asking(("x-end", "1")), SERVES,
    ),
    "8.1 trailers without a body": (HELLO + OPEN + asking(("x-end", "1")), SERVES),
    "8.1 trailers that do not end the stream": (
        HELLO + OPEN + asking(("x-end", "1"), flags=END_HEADERS), PROTOCOL,
    ),
    "8.1 headers twice": (HELLO + OPEN * 2, PROTOCOL),
    "8.1 trailers with a pseudo-header": (HELLO + OPEN + asking((":path", "/")), PROTOCOL),
    "8.1.1 a length that is right": (
        HELLO + asking(*FIELDS, ("content-length", "4"), flags=END_HEADERS)
        + raw(DATA, 0, 1, b"12") + raw(DATA, END_STREAM, 1, b"34"), SERVES,
    ),
    "8.1.1 a length of nothing": (HELLO + asking(*FIELDS, ("content-length", "0")), SERVES),
    "8.1.1 a shorter body": (
        HELLO + asking(*FIELDS, ("content-length", "4"), flags=END_HEADERS)
        + raw(DATA, END_STREAM, 1, b"1"), PROTOCOL,
    ),
    "8.1.1 a longer body": (
        HELLO + asking(*FIELDS, ("content-length", "1"), flags=END_HEADERS)
        + raw(DATA, 0, 1, b"1") + raw(DATA, 0, 1, b"2"), PROTOCOL,
    ),
    "8.1.1 a shorter body behind headers that were sent before": (
        HELLO + asking(*FIELDS, ("content-length", "1"), flags=END_HEADERS)
        + raw(DATA, END_STREAM, 1, b"1")
        + raw(HEADERS, WHOLE, 3, block(*FIELDS, ("content-length", "1"))), PROTOCOL,
    ),
    "8.1.1 no body": (HELLO + asking(*FIELDS, ("content-length", "1")), PROTOCOL),
    "8.1.1 a length that is none": (HELLO + asking(*FIELDS, ("content-length", "x")), PROTOCOL),
    "8.1.1 a length of many digits": (
        HELLO + asking(*FIELDS, ("content-length", "9" * 5_000)), PROTOCOL,
    ),
    "8.2.1 a name in upper case": (HELLO + asking(*FIELDS, ("X-Up", "1")), PROTOCOL),
    "8.2.1 a name with a space": (HELLO + asking(*FIELDS, ("x y", "1")), PROTOCOL),
    "8.2.1 an empty name": (HELLO + asking(*FIELDS, ("", "1")), PROTOCOL),
    "8.2.1 a name with a colon in it": (HELLO + asking(*FIELDS, ("x:y", "1")), PROTOCOL),
    "8.2.2 connection": (HELLO + asking(*FIELDS, ("connection", "close")), PROTOCOL),
    "8.2.2 proxy-connection": (HELLO + asking(*FIELDS, ("proxy-connection", "x")), PROTOCOL),
    "8.2.2 keep-alive": (HELLO + asking(*FIELDS, ("keep-alive", "timeout=5")), PROTOCOL),
    "8.2.2 transfer-encoding": (
        HELLO + asking(*FIELDS, ("transfer-encoding", "chunked")), PROTOCOL,
    ),
    "8.2.2 upgrade": (HELLO + asking(*FIELDS, ("upgrade", "h2c")), PROTOCOL),
    "8.2.2 te for trailers": (HELLO + asking(*FIELDS, ("te", "trailers")), SERVES),
    "8.2.2 te for another": (HELLO + asking(*FIELDS, ("te", "trailers, deflate")), PROTOCOL),
    "8.3 an unknown pseudo-header": (HELLO + asking(*FIELDS, (":test", "1")), PROTOCOL),
    "8.3 a pseudo-header of answers": (HELLO + asking(*FIELDS, (":status", "200")), PROTOCOL),
    "8.3 a pseudo-header behind another field": (
        HELLO + asking(("x-a", "1"), *FIELDS), PROTOCOL,
    ),
    "8.3.1 no method": (HELLO + asking(*without(":method")), PROTOCOL),
    "8.3.1 no scheme": (HELLO + asking(*without(":scheme")), PROTOCOL),
    "8.3.1 no path": (HELLO + asking(*without(":path")), PROTOCOL),
    "8.3.1 no authority": (HELLO + asking(*without(":authority")), SERVES),
    "8.3.1 an empty path": (HELLO + asking(*without(":path"), (":path", "")), PROTOCOL),
    "8.3.1 the method twice": (HELLO + asking(FIELDS[0], *FIELDS), PROTOCOL),
    "8.3.1 the scheme twice": (HELLO + asking(FIELDS[1], *FIELDS), PROTOCOL),
    "8.3.1 the path twice": (HELLO + asking(FIELDS[2], *FIELDS), PROTOCOL),
    # A flood of what is allowed (section 10.5).
    "10.5 a block without an end": (
        HELLO + raw(HEADERS, 0, 1, POST) + raw(CONTINUATION, 0, 1, bytes(MAX_FRAME_BYTES)) * 5,
        CALM,
    ),
    "10.5 a block in frames of nothing": (
        HELLO + raw(HEADERS, 0, 1, POST) + raw(CONTINUATION, 0, 1) * (MAX_CONTINUATIONS + 1), CALM,
    ),
    "10.5 a block of many fields": (
        HELLO + raw(HEADERS, WHOLE, 1, POST + b"\x90" * (MAX_FIELDS + 1)), CALM,
    ),
    "10.5 settings without an end": (HELLO + raw(SETTINGS, 0, 0) * (MAX_CONTROL_FRAMES + 1), CALM),
    "10.5 windows that grow by a byte": (
        HELLO + raw(WINDOW_UPDATE, 0, 0, number(1)) * (MAX_CONTROL_FRAMES + 1), CALM,
    ),
    # RFC 7541.
    "HPACK 2.3.3 an index beyond the table": (
        HELLO + raw(HEADERS, WHOLE, 1, b"\xff\x00"), COMPRESSION,
    ),
    "HPACK 2.3.3 a name beyond the table": (
        HELLO + raw(HEADERS, WHOLE, 1, b"\x7f\x40\x01a"), COMPRESSION,
    ),
    "HPACK 4.2 a size of the table behind a field": (
        HELLO + raw(HEADERS, WHOLE, 1, POST + b"\x20"), COMPRESSION,
    ),
    "HPACK 4.2 a size of the table before all fields": (
        HELLO + raw(HEADERS, WHOLE, 1, b"\x20" + POST), SERVES,
    ),
    "HPACK 4.4 a field larger than the table": (
        HELLO + raw(HEADERS, WHOLE, 1, hpack.Encoder().encode([*FIELDS, LONG])), SERVES,
    ),
    "HPACK 5.1 an integer without an end": (
        HELLO + raw(HEADERS, WHOLE, 1, b"\xff" + b"\xff" * 9), COMPRESSION,
    ),
    "HPACK 5.2 Huffman code": (
        HELLO + raw(HEADERS, WHOLE, 1, block(*FIELDS, huffman=True)), SERVES,
    ),
    "HPACK 5.2 padding of more than seven bits": (
        HELLO + raw(HEADERS, WHOLE, 1, b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"),
        COMPRESSION,
    ),
    "HPACK 5.2 padding of zeros": (
        HELLO + raw(HEADERS, WHOLE, 1, b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"),
        COMPRESSION,
    ),
    "HPACK 5.2 the end of a string within it": (
        HELLO + raw(HEADERS, WHOLE, 1, b"\x00\x85\xf2\xb2\x4a\x87\xff\xff\xff\xff\xfa\xff\x01"),
        COMPRESSION,
    ),
    "HPACK 5.2 a string cut short": (HELLO + raw(HEADERS, WHOLE, 1, b"\x00\x05ab"), COMPRESSION),
    "HPACK 6.1 index zero": (HELLO + raw(HEADERS, WHOLE, 1, b"\x80"), COMPRESSION),
    "HPACK 6.2.1 a field that joins the table": (
        HELLO + raw(HEADERS, WHOLE, 1, POST + b"\x40\x01a\x01b\xbe"), SERVES,
    ),
    "HPACK 6.2.2 a field that does not": (
        HELLO + raw(HEADERS, WHOLE, 1, POST + b"\x00\x01a\x01b"), SERVES,
    ),
    "HPACK 6.2.3 a field that never may": (
        HELLO + raw(HEADERS, WHOLE, 1, POST + b"\x10\x01a\x01b"), SERVES,
    ),
    "HPACK 6.3 a size beyond the settings": (
        HELLO + raw(HEADERS, WHOLE, 1, b"\x3f\xe2\x1f" + POST), COMPRESSION,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_a_peer_is_served_or_loses_its_connection_as_the_standard_says(case: str) -> None:
    """One that is served has an answer to a ping, and to a request that comes afterwards."""
    sent, code = CASES[case]
    peer = Http2Peer(collect)
    peer.receive(sent)
    if code is not SERVES:
        assert closed_with(peer) is code
        return
    peer.receive(raw(PING, 0, 0, b"are you?"))
    await asyncio.sleep(0.01)
    assert closed_with(peer) is None
    del peer.transport.written[: peer.transport.written.index(raw(PING, ACK, 0, b"are you?"))]
    peer.receive(raw(HEADERS, WHOLE, LATER, POST))
    await asyncio.sleep(0.01)
    assert raw(HEADERS, WHOLE, LATER, TRAILERS) in peer.transport.written


async def test_a_peer_that_resets_too_many_streams_at_once_loses_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each begins and ends a stream."""
    monkeypatch.setattr(http2, "MAX_RESETS", 4)
    frames = [
        raw(HEADERS, END_HEADERS, one, POST) + raw(RST_STREAM, 0, one, number(8))
        for one in range(1, 19, 2)
    ]
    peer = Http2Peer(collect)
    peer.receive(HELLO + b"".join(frames[:-1]))
    assert closed_with(peer) is None
    peer.receive(frames[-1])
    assert closed_with(peer) is CALM
