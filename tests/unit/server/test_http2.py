from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import suppress

import h2.errors
import h2.events
import h2.settings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.server.http2 import (
    ANSWERS_AT_ONCE,
    AWAY_PING,
    CONNECTION_WINDOW,
    MAX_CONTROL_BYTES,
    MAX_FRAME_BYTES,
    PREFACE,
    STREAM_WINDOW,
    ErrorCode,
    Http2Stream,
    StreamResetError,
)
from tests.support.http2_peer import Http2Peer, raw

OPENING = b"\x88"
TRAILERS = b"\x00\x0bgrpc-status\x010"


async def read(stream: Http2Stream) -> bytes | memoryview | None:
    """Return the next piece of the body, None behind the last."""
    while (piece := stream.take()) is None and not stream.is_half_closed:
        await stream.arrival()
    return piece


async def echo(stream: Http2Stream) -> None:
    """Send the body back as it comes."""
    opening = OPENING
    while (piece := await read(stream)) is not None:
        await stream.write(opening, [piece], b"")
        opening = b""
    await stream.write(opening, [], TRAILERS)


async def collect(stream: Http2Stream) -> None:
    """Send the body back once all of it is here."""
    pieces: list[bytes | memoryview] = []
    while (piece := await read(stream)) is not None:
        pieces.append(piece)
    await stream.write(OPENING, pieces, TRAILERS)


async def wait(stream: Http2Stream) -> None:
    """Never answer."""
    del stream
    await asyncio.Event().wait()


async def started(answer: object = echo) -> Http2Peer:
    """Return a connection whose settings have been exchanged."""
    peer = Http2Peer(answer)  # type: ignore[arg-type] # one of the functions above
    peer.start()
    await peer.settle()
    return peer


def upload(peer: Http2Peer, number: int, body: bytes) -> None:
    """Send a body that fits into the windows, and end the stream."""
    for start in range(0, len(body), MAX_FRAME_BYTES):
        peer.client.send_data(number, body[start : start + MAX_FRAME_BYTES])
    peer.client.end_stream(number)


HELLO = PREFACE + raw(0x4, 0, 0)
POST = b"\x83\x86\x84\x41\x05egret"
"""POST http://egret/ in HPACK."""


def closed_with(peer: Http2Peer) -> ErrorCode | None:
    """Return the code of the GOAWAY that closed the connection."""
    at = bytes(peer.transport.written).rfind(b"\x00\x00\x08\x07\x00\x00\x00\x00\x00")
    if not peer.transport.is_closed or at < 0:
        return None
    return ErrorCode(struct.unpack(">I", peer.transport.written[at + 13 : at + 17])[0])


async def test_a_body_comes_back_with_headers_and_trailers() -> None:
    peer = await started()
    number = peer.request()
    upload(peer, number, b"hello")
    await peer.settle()

    assert peer.body(number) == b"hello"
    (trailers,) = peer.of(h2.events.TrailersReceived)
    assert dict(trailers.headers) == {"grpc-status": "0"}  # type: ignore[attr-defined] # of its kind
    assert not peer.of(h2.events.StreamReset)


@given(st.integers(1, 400))
def test_frames_may_be_cut_anywhere(size: int) -> None:
    """The kernel delivers bytes, not frames."""

    async def converse() -> bytes:
        peer = Http2Peer(echo)
        peer.client.initiate_connection()
        number = peer.request()
        upload(peer, number, bytes(range(256)) * 3)
        peer.send(size=size)
        await peer.settle()
        return peer.body(number)

    assert asyncio.run(converse()) == bytes(range(256)) * 3


@given(st.integers(1, 60_000), st.integers(200, 70_000))
def test_a_long_body_comes_back_whole_however_it_is_cut(length: int, size: int) -> None:
    """Its last frame ends the stream, wherever the kernel cuts it."""

    async def converse() -> None:
        peer = await started(collect)
        number, body = peer.request(), (bytes(range(251)) * 240)[:length]
        frames = [body[at : at + MAX_FRAME_BYTES] for at in range(0, length, MAX_FRAME_BYTES)]
        for index, frame in enumerate(frames, 1):
            peer.client.send_data(number, frame, end_stream=index == len(frames))
        peer.send(size=size)
        await peer.settle()
        assert peer.of(h2.events.StreamEnded)
        assert peer.body(number) == body

    asyncio.run(converse())


async def test_answers_to_one_read_leave_together_before_any_of_their_streams_goes_on() -> None:
    """A stream that waits for more, or for another check, keeps none of them back for long."""
    written: list[bool] = []

    async def answer(stream: Http2Stream) -> None:
        if await read(stream) == b"later":
            await read(stream)
        await stream.write(OPENING, [b"done"], TRAILERS)
        written.append(bool(peer.transport.written))

    peer = await started(answer)
    for body in (b"later", b"now", b"now"):
        peer.client.send_data(peer.request(), body)
    peer.send()
    for _ in range(3):
        await asyncio.sleep(0)
    assert written == [True, True]
    assert peer.transport.written.count(b"done") == 2

    peer.send()
    peer.client.send_data(1, b"more")
    await peer.settle()
    assert written == [True, True, True]


async def test_answers_to_a_read_of_many_streams_leave_a_few_at_a_time() -> None:
    """The peer goes on with the first of them while the others are answered."""

    async def answer(stream: Http2Stream) -> None:
        await read(stream)
        writes.append(peer.transport.writes - before)
        await stream.write(OPENING, [b"done"], TRAILERS)

    writes: list[int] = []
    peer = await started(answer)
    for _ in range(2 * ANSWERS_AT_ONCE + 1):
        peer.client.send_data(peer.request(), b"now")
    peer.send()
    before = peer.transport.writes
    await asyncio.sleep(0)
    assert writes == [0] * ANSWERS_AT_ONCE + [1] * ANSWERS_AT_ONCE + [2]
    assert peer.transport.writes == before + 3


async def test_answers_to_pieces_of_one_stream_that_came_together_leave_together() -> None:
    """As those of an answer's headers and its first event."""
    peer = await started()
    number = peer.request()
    peer.client.send_data(number, b"one")
    peer.client.send_data(number, b"two")
    peer.send()
    before = peer.transport.writes
    await asyncio.sleep(0)
    assert peer.transport.writes == before + 1
    peer.send()
    assert peer.body(number) == b"onetwo"


async def test_a_long_body_waits_for_the_peers_window_and_others_do_not() -> None:
    """Of two streams one is not acknowledged by the peer."""
    peer = await started(collect)
    slow, quick = peer.request(), peer.request()
    long = b"x" * 100_000
    upload(peer, slow, long)
    upload(peer, quick, b"short")
    await peer.settle()
    # The connection's window is the default of 65,535 bytes: the long answer has used all of it.
    assert len(peer.body(slow)) + len(peer.body(quick)) == 65_535
    peer.client.increment_flow_control_window(10_000)
    await peer.settle()
    assert peer.body(quick) == b"short"
    assert not peer.of(h2.events.TrailersReceived)[1:]

    peer.client.increment_flow_control_window(100_000)
    peer.client.increment_flow_control_window(100_000, slow)
    await peer.settle()
    assert peer.body(slow) == long
    assert not peer.connection.blocked


async def test_a_body_that_is_sent_in_two_parts_is_sent_once() -> None:
    """The second part is smaller than a frame, and the window then larger than all of it."""
    peer = await started(collect)
    peer.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 4_000})
    await peer.settle()
    number, body = peer.request(), bytes(range(250)) * 40
    upload(peer, number, body)
    await peer.settle()
    assert peer.body(number) == body[:4_000]
    peer.client.increment_flow_control_window(20_000, number)
    await peer.settle()
    assert peer.body(number) == body


async def test_a_larger_window_in_later_settings_lets_a_long_body_go_on() -> None:
    peer = await started(collect)
    peer.client.increment_flow_control_window(1 << 20)
    number = peer.request()
    upload(peer, number, b"x" * 90_000)
    await peer.settle()
    assert len(peer.body(number)) == 65_535

    peer.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100_000})
    await peer.settle()
    assert len(peer.body(number)) == 90_000


async def test_settings_may_make_the_window_of_an_open_stream_smaller_than_nothing() -> None:
    """What the peer has received counts against the new window (RFC 9113 section 6.9.2)."""
    peer = await started(collect)
    peer.client.increment_flow_control_window(1 << 20)
    number = peer.request()
    upload(peer, number, b"x" * 90_000)
    await peer.settle()
    peer.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10_000})
    await peer.settle()
    peer.client.increment_flow_control_window(60_000, number)
    await peer.settle()
    assert len(peer.body(number)) == 10_000 + 60_000


async def test_a_peer_may_send_more_than_a_window_if_it_is_read() -> None:
    """Half a window is given back at a time, of the stream and of the connection."""
    peer = await started(collect)
    peer.client.increment_flow_control_window(1 << 30)
    number, sent = peer.request(), 0
    peer.client.increment_flow_control_window(1 << 30, number)
    while sent < 3 * STREAM_WINDOW:
        room = min(peer.client.local_flow_control_window(number), MAX_FRAME_BYTES)
        peer.client.send_data(number, b"y" * room)
        sent += room
        await peer.settle(rounds=2)
    peer.client.end_stream(number)
    await peer.settle()
    assert len(peer.body(number)) == sent


@pytest.mark.parametrize("size", [9_000, MAX_FRAME_BYTES, 70_000])
async def test_a_peer_gets_back_the_bytes_it_sent_however_they_were_cut(size: int) -> None:
    """More would let it send more than its window, for which it would lose its connection."""

    async def drain(stream: Http2Stream) -> None:
        while await read(stream) is not None:
            pass
        await stream.write(OPENING, [], TRAILERS)

    peer = await started(drain)
    number = peer.request()
    for _ in range(3 * STREAM_WINDOW // 4 // MAX_FRAME_BYTES):
        peer.client.send_data(number, bytes(MAX_FRAME_BYTES))
    peer.send(size=size)
    await peer.settle()
    assert STREAM_WINDOW // 2 < peer.client.local_flow_control_window(number) <= STREAM_WINDOW


async def test_a_long_answer_takes_time_in_proportion_to_its_length() -> None:
    """Sixteen megabytes: a copy of the rest for each frame would be eight gigabytes."""
    sent = 16 << 20

    async def answer(stream: Http2Stream) -> None:
        await stream.write(OPENING, [bytes(sent)], TRAILERS)

    peer = await started(answer)
    peer.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: sent})
    peer.client.increment_flow_control_window(sent)
    number = peer.request(ends=True)
    async with asyncio.timeout(60):
        while len(peer.body(number)) < sent:
            await peer.settle(rounds=1)


async def test_a_reset_cancels_the_answer_and_nothing_else() -> None:
    ended: list[str] = []

    async def answer(stream: Http2Stream) -> None:
        try:
            await read(stream)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        ended.append("answered")
        await stream.write(OPENING, [], TRAILERS)

    peer = await started(answer)
    first, second = peer.request(), peer.request()
    await peer.settle()
    peer.client.reset_stream(first)
    peer.client.end_stream(second)
    await peer.settle()

    assert sorted(ended) == ["answered", "cancelled"]
    assert not peer.connection.tasks


async def test_a_lost_connection_cancels_all_answers_and_writes_are_in_vain() -> None:
    failed: list[type[Exception]] = []

    async def answer(stream: Http2Stream) -> None:
        try:
            await read(stream)
        finally:
            try:
                await stream.write(OPENING, [b"late"], TRAILERS)
            except StreamResetError as error:
                failed.append(type(error))

    peer = await started(answer)
    peer.request()
    await peer.settle()
    tasks = tuple(peer.connection.tasks)
    peer.connection.connection_lost(None)
    await asyncio.wait(tasks, timeout=60)

    assert failed == [StreamResetError]
    assert not peer.connections


async def test_an_answer_that_returns_too_early_is_an_error_of_ours() -> None:
    """The peer must not take it for an end."""

    async def answer(stream: Http2Stream) -> None:
        await stream.write(OPENING, [b"half"], b"")

    peer = await started(answer)
    peer.request(ends=True)
    await peer.settle()
    (reset,) = peer.of(h2.events.StreamReset)
    assert reset.error_code == h2.errors.ErrorCodes.INTERNAL_ERROR  # type: ignore[attr-defined] # of its kind


async def test_an_answer_before_the_end_of_the_request_tells_the_peer_to_stop() -> None:
    """Its later bytes, and its own end, are ignored."""

    async def answer(stream: Http2Stream) -> None:
        await stream.write(OPENING, [b"enough"], TRAILERS)

    peer = await started(answer)
    number = peer.request()
    upload(peer, number, b"z" * 1000)
    await peer.settle()
    assert peer.body(number) == b"enough"
    assert not peer.transport.is_closed


async def test_trailers_of_a_request_end_its_body() -> None:
    peer = await started()
    number = peer.request()
    peer.client.send_data(number, b"hello")
    peer.client.send_headers(number, [("x-more", "1")], end_stream=True)
    await peer.settle()
    assert peer.body(number) == b"hello"
    assert peer.of(h2.events.TrailersReceived)


async def test_pings_are_answered_and_unknown_frames_ignored() -> None:
    peer = await started()
    peer.client.ping(b"12345678")
    await peer.settle()
    assert peer.of(h2.events.PingAckReceived)
    peer.receive(raw(0x2, 0, 1, b"\0" * 5) + raw(0xFA, 0, 0, b"?"))
    peer.receive(raw(0x7, 0, 0, b"\0" * 8))
    assert not peer.transport.is_closed


async def test_a_peer_that_reads_no_answers_to_its_pings_is_cut_off() -> None:
    peer = Http2Peer(echo)
    ping = raw(0x6, 0, 0, b"12345678")
    peer.receive(HELLO + ping * (2 * MAX_CONTROL_BYTES // len(ping)))
    assert peer.transport.is_closed
    assert len(peer.transport.written) < 2 * MAX_CONTROL_BYTES


async def test_a_ping_is_answered_while_long_answers_wait_to_be_read() -> None:
    """They are longer than the bound of answers to pings: it does not count them."""

    async def answer(stream: Http2Stream) -> None:
        await stream.write(OPENING, [bytes(MAX_CONTROL_BYTES)], TRAILERS)

    peer = Http2Peer(answer)
    window = raw(0x4, 0, 0, b"\0\x04\0\x80\0\0") + raw(0x8, 0, 0, struct.pack(">I", 1 << 28))
    peer.receive(HELLO + window)
    for number in (1, 3, 5):
        peer.receive(raw(0x1, 0x4 | 0x1, number, POST if number == 1 else b"\x83\x86\x84\xbe"))
    await asyncio.sleep(0.01)
    assert len(peer.transport.written) > 2 * MAX_CONTROL_BYTES
    peer.receive(raw(0x6, 0, 0, b"12345678"))
    await asyncio.sleep(0.01)
    assert not peer.transport.is_closed
    assert raw(0x6, 0x1, 0, b"12345678") in peer.transport.written


async def test_padding_and_priorities_are_left_out() -> None:
    """No proxy sends them; the standard allows them."""
    peer = Http2Peer(echo)
    headers = raw(0x1, 0x4 | 0x8 | 0x20, 1, b"\x02" + b"\0" * 5 + POST + b"\0\0")
    peer.receive(HELLO + headers + raw(0x0, 0x1 | 0x8, 1, b"\x03abc\0\0\0"))
    await asyncio.sleep(0.01)
    assert raw(0x0, 0, 1, b"abc") in peer.transport.written


async def test_a_block_of_headers_may_come_in_pieces() -> None:
    peer = Http2Peer(echo)
    pieces = raw(0x1, 0x1, 1, POST[:3]) + raw(0x9, 0, 1, POST[3:5]) + raw(0x9, 0x4, 1, POST[5:])
    peer.receive(HELLO + pieces)
    await asyncio.sleep(0.01)
    assert TRAILERS in peer.transport.written


BROKEN = {
    "no preface": (b"GET / HTTP/1.1\r\n", ErrorCode.PROTOCOL_ERROR),
    "half a preface": (b"PRI * HTTP/1", ErrorCode.PROTOCOL_ERROR),
    "a huge frame": (HELLO + raw(0x0, 0, 1, bytes(16_385)), ErrorCode.FRAME_SIZE_ERROR),
    "headers on stream 0": (HELLO + raw(0x1, 0x4, 0, POST), ErrorCode.PROTOCOL_ERROR),
    "headers on an even stream": (HELLO + raw(0x1, 0x4, 2, POST), ErrorCode.PROTOCOL_ERROR),
    "a body without headers": (HELLO + raw(0x0, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
    "a reset without headers": (HELLO + raw(0x3, 0, 1, b"\0" * 4), ErrorCode.PROTOCOL_ERROR),
    "padding longer than its frame": (
        HELLO + raw(0x1, 0x4 | 0x8, 1, b"\x09" + POST[:8]), ErrorCode.PROTOCOL_ERROR,
    ),
    "a block that is interrupted": (
        HELLO + raw(0x1, 0, 1, POST) + raw(0x6, 0, 0, b"\0" * 8), ErrorCode.PROTOCOL_ERROR,
    ),
    "a continuation of nothing": (HELLO + raw(0x9, 0x4, 1, POST), ErrorCode.PROTOCOL_ERROR),
    "a continuation of another stream": (
        HELLO + raw(0x1, 0, 1, POST) + raw(0x9, 0x4, 3, POST), ErrorCode.PROTOCOL_ERROR,
    ),
    "a block without an end": (
        HELLO + raw(0x1, 0, 1, POST) + raw(0x9, 0, 1, b"\0" * MAX_FRAME_BYTES) * 5,
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "a damaged block": (HELLO + raw(0x1, 0x4, 1, b"\x80"), ErrorCode.COMPRESSION_ERROR),
    "headers twice": (
        HELLO + raw(0x1, 0x4, 1, POST) * 2, ErrorCode.PROTOCOL_ERROR,
    ),
    "a pushed promise": (HELLO + raw(0x5, 0x4, 1, b"\0" * 4), ErrorCode.PROTOCOL_ERROR),
    "a short ping": (HELLO + raw(0x6, 0, 0, b"\0"), ErrorCode.FRAME_SIZE_ERROR),
    "half a setting": (HELLO + raw(0x4, 0, 0, b"\0" * 5), ErrorCode.FRAME_SIZE_ERROR),
    "a window beyond all bounds": (
        HELLO + raw(0x8, 0, 0, b"\x7f\xff\xff\xff"), ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "an initial window beyond all bounds": (
        HELLO + raw(0x4, 0, 0, b"\0\x04\xff\xff\xff\xff"), ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "a window that grows by nothing": (
        HELLO + raw(0x8, 0, 0, b"\0" * 4), ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "a stream's window that grows by nothing": (
        HELLO + raw(0x1, 0x4, 1, POST) + raw(0x8, 0, 1, b"\0" * 4), ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "half a window": (HELLO + raw(0x8, 0, 0, b"\0"), ErrorCode.FRAME_SIZE_ERROR),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
async def test_a_peer_that_breaks_the_protocol_loses_its_connection(name: str) -> None:
    sent, code = BROKEN[name]
    peer = Http2Peer(wait)
    peer.receive(sent)
    assert closed_with(peer) is code


async def test_a_peer_that_ignores_a_streams_window_loses_its_connection() -> None:
    """Its body would fill the memory while nothing reads it."""
    peer = Http2Peer(wait)
    peer.receive(HELLO + raw(0x1, 0x4, 1, POST))
    frame = raw(0x0, 0, 1, b"x" * MAX_FRAME_BYTES)
    for _ in range(STREAM_WINDOW // MAX_FRAME_BYTES):
        peer.receive(frame)
    assert closed_with(peer) is None
    peer.receive(frame)
    assert closed_with(peer) is ErrorCode.FLOW_CONTROL_ERROR


async def test_frames_of_a_long_body_that_come_in_one_read_count_as_if_apart() -> None:
    """Of streams that take turns, and up to the last byte of a stream's window."""
    peer = await started(collect)
    first, second = peer.request(), peer.request()
    await peer.settle()
    one, two = (
        raw(0x0, 0, number, bytes([number]) * MAX_FRAME_BYTES) for number in (first, second)
    )
    peer.receive(2 * one + two + one + 2 * two + raw(0x0, 1, second) + one)
    await peer.settle()
    assert peer.body(second) == bytes([second]) * (3 * MAX_FRAME_BYTES)
    assert not peer.body(first)

    peer = Http2Peer(wait)
    frames = raw(0x0, 0, 1, b"x" * MAX_FRAME_BYTES) * (STREAM_WINDOW // MAX_FRAME_BYTES + 1)
    peer.receive(HELLO + raw(0x1, 0x4, 1, POST) + frames)
    assert closed_with(peer) is ErrorCode.FLOW_CONTROL_ERROR


async def test_bytes_of_streams_that_are_reset_unread_are_given_back() -> None:
    """Or the connection's window would be used up by clients that leave."""
    peer = Http2Peer(wait)
    peer.receive(HELLO)
    body = raw(0x0, 0, 0, bytes(MAX_FRAME_BYTES))
    frames = STREAM_WINDOW // MAX_FRAME_BYTES
    for index in range(CONNECTION_WINDOW // STREAM_WINDOW + 2):
        number = struct.pack(">I", 2 * index + 1)
        block = POST if not index else b"\x83\x86\x84\xbe"
        peer.receive(raw(0x1, 0x4, 2 * index + 1, block))
        peer.receive((body[:5] + number + body[9:]) * frames)
        peer.receive(raw(0x3, 0, 2 * index + 1, b"\0\0\0\x08"))
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert closed_with(peer) is None
    assert not peer.connection.tasks


async def test_bytes_taken_after_their_stream_was_reset_are_given_back_once() -> None:
    """Twice, and the window would grow until the peer has to close the connection."""
    streams: list[Http2Stream] = []

    async def answer(stream: Http2Stream) -> None:
        streams.append(stream)
        await wait(stream)

    peer = Http2Peer(answer)
    peer.receive(HELLO)
    peer.transport.written.clear()
    count = CONNECTION_WINDOW // STREAM_WINDOW * 3 // 4
    for index in range(count):
        number = 2 * index + 1
        peer.receive(raw(0x1, 0x4, number, b"\x83\x86\x84\xbe" if index else POST))
        await asyncio.sleep(0)
        body = raw(0x0, 0, number, bytes(MAX_FRAME_BYTES)) * (STREAM_WINDOW // MAX_FRAME_BYTES)
        peer.receive(body + raw(0x3, 0, number, b"\0\0\0\x08"))
        for _ in range(STREAM_WINDOW // MAX_FRAME_BYTES + 1):
            with suppress(StreamResetError):
                streams[-1].take()
    update = raw(0x8, 0, 0, bytes(4))[:-4]
    given = [int.from_bytes(one[:4]) for one in bytes(peer.transport.written).split(update)[1:]]
    assert 0 < sum(given) <= count * STREAM_WINDOW


async def test_padding_without_data_is_given_back() -> None:
    """No piece of the body is there to be taken."""
    peer = Http2Peer(wait)
    padding = raw(0x0, 0x8, 1, b"\xff" + bytes(255))
    peer.receive(HELLO + raw(0x1, 0x4, 1, POST) + padding * (STREAM_WINDOW // 512))
    await asyncio.sleep(0.01)
    assert raw(0x8, 0, 1, struct.pack(">I", STREAM_WINDOW // 2)) in peer.transport.written


async def test_streams_are_served_after_go_away_until_the_connection_closes() -> None:
    """They were on their way when the peer was asked to open no more."""
    peer = await started()
    peer.connection.go_away()
    peer.receive(raw(0x1, 0x4 | 0x1, 1, POST))
    await asyncio.sleep(0.01)
    assert TRAILERS in peer.transport.written
    peer.connection.close()
    assert closed_with(peer) is ErrorCode.NO_ERROR


async def test_a_peer_answers_a_ping_once_it_has_read_that_it_should_go_away() -> None:
    """Until then it may begin streams."""
    peer = await started()
    peer.connection.go_away()
    peer.receive(raw(0x6, 0x1, 0, b"anything"))
    await asyncio.sleep(0)
    assert peer.transport.written.endswith(raw(0x6, 0, 0, AWAY_PING))
    assert not peer.connection.away_read.is_set()
    peer.receive(raw(0x6, 0x1, 0, AWAY_PING))
    assert peer.connection.away_read.is_set()


async def test_of_a_peer_that_is_gone_no_answer_is_awaited() -> None:
    peer = await started()
    peer.connection.go_away()
    peer.connection.connection_lost(None)
    assert peer.connection.away_read.is_set()


async def test_a_writer_waits_while_the_peer_reads_too_slowly() -> None:
    written: list[int] = []

    async def answer(stream: Http2Stream) -> None:
        opening = OPENING
        for number in range(3):
            await stream.write(opening, [b"piece"], b"")
            opening = b""
            written.append(number)
        await stream.write(b"", [], TRAILERS)

    peer = await started(answer)
    peer.connection.pause_writing()
    peer.request(ends=True)
    await peer.settle()
    assert written == []
    peer.connection.resume_writing()
    await peer.settle()
    assert written == [0, 1, 2]


async def test_the_ends_of_streams_wait_as_well_while_the_peer_reads_too_slowly() -> None:
    peer = await started()
    peer.connection.pause_writing()
    number = peer.request(ends=True)
    await peer.settle()
    assert not peer.of(h2.events.ResponseReceived)
    peer.connection.resume_writing()
    await peer.settle()
    assert peer.of(h2.events.StreamEnded)
    assert number not in peer.connection.unanswered


async def test_a_connection_that_is_closed_does_not_wait_for_long_to_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A transport that closes waits for its peer to read, for ever."""
    monkeypatch.setattr("sidecar.server.http2.CLOSE_SECONDS", 0.0)
    peer = Http2Peer(echo)
    peer.receive(HELLO + raw(0x0, 0, 0))
    await asyncio.sleep(0.01)
    assert peer.transport.is_closed
    assert peer.transport.is_aborted


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    yield
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
