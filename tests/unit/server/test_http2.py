from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import h2.errors
import h2.events
import h2.settings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.server import http2
from sidecar.server.http2 import (
    AWAY_PING,
    CLOSE_SECONDS,
    HANDSHAKE_SECONDS,
    MAX_BLOCKED,
    Http2Connection,
)
from sidecar.server.http2_streams import (
    AT_ONCE,
    CONNECTION_WINDOW,
    FEW_BYTES,
    MAX_FRAME_BYTES,
    STREAM_WINDOW,
    ErrorCode,
    Http2Stream,
)
from tests.support.http2_peer import (
    HELLO,
    OPENING,
    POST,
    TRAILERS,
    Http2Peer,
    closed_with,
    collect,
    echo,
    raw,
    read,
    started,
    upload,
    wait,
)
from tests.support.key_world import VirtualLoop


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


async def test_an_answer_that_returns_too_early_is_an_error_of_ours() -> None:
    """The peer must not take it for an end."""

    async def answer(stream: Http2Stream) -> None:
        await stream.write(OPENING, [b"half"], b"")

    peer = await started(answer)
    peer.request(ends=True)
    await peer.settle()
    (reset,) = peer.of(h2.events.StreamReset)
    assert reset.error_code == h2.errors.ErrorCodes.INTERNAL_ERROR  # type: ignore[attr-defined] # of its kind


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


async def test_padding_and_priorities_are_left_out() -> None:
    """No proxy sends them; the standard allows them."""
    peer = Http2Peer(echo)
    headers = raw(0x1, 0x4 | 0x8 | 0x20, 1, b"\x02" + b"\0" * 5 + POST + b"\0\0")
    peer.receive(HELLO + headers + raw(0x0, 0x1 | 0x8, 1, b"\x03abc\0\0\0"))
    await asyncio.sleep(0.01)
    assert raw(0x0, 0, 1, b"abc") in peer.transport.written


async def test_a_block_of_headers_may_come_in_pieces() -> None:
    """And the next stream's behind it as a whole."""
    peer = Http2Peer(echo)
    pieces = raw(0x1, 0x1, 1, POST[:3]) + raw(0x9, 0, 1, POST[3:5]) + raw(0x9, 0x4, 1, POST[5:])
    peer.receive(HELLO + pieces + raw(0x1, 0x4 | 0x1, 3, POST))
    await asyncio.sleep(0.01)
    assert closed_with(peer) is None
    assert peer.transport.written.count(TRAILERS) == 2


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


async def test_a_peer_that_ignores_the_connections_window_loses_its_connection() -> None:
    """Many streams, each within its own window, would fill the memory as well."""
    peer = Http2Peer(wait)
    peer.receive(HELLO + raw(0x1, 0x4, 1, POST))
    peer.connection.outstanding = CONNECTION_WINDOW - 5  # of other streams
    peer.receive(raw(0x0, 0, 1, b"x" * 5))
    assert closed_with(peer) is None
    peer.receive(raw(0x0, 0, 1, b"x"))
    assert closed_with(peer) is ErrorCode.FLOW_CONTROL_ERROR


async def test_bodies_that_nobody_reads_have_a_bound_over_all_connections() -> None:
    """The stream that would pass it is reset; the others, and other connections, go on."""
    full, peer = Http2Peer(wait), await started(collect)
    full.connection.outstanding = CONNECTION_WINDOW - FEW_BYTES
    peer.connections.add(full.connection)
    peer.connection.outstanding = FEW_BYTES  # of other streams
    first, second = peer.request(), peer.request()
    upload(peer, first, b"x")
    await peer.settle()
    full.connection.outstanding = 0
    upload(peer, second, b"y")
    await peer.settle()

    (reset,) = peer.of(h2.events.StreamReset)
    assert (reset.stream_id, reset.error_code) == (first, ErrorCode.ENHANCE_YOUR_CALM)  # type: ignore[attr-defined]
    assert peer.body(second) == b"y"


async def test_a_connection_too_many_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "MAX_CONNECTIONS", 0)
    peer = Http2Peer(echo)
    assert (peer.transport.is_aborted, peer.connections) == (True, set())


async def test_streams_that_wait_for_a_window_are_woken_a_few_in_each_turn() -> None:
    """However many wait, another connection has its turn in between; a reader's own have room."""
    peer = await started(collect)
    peer.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    await peer.settle()
    for _ in range(3 * AT_ONCE):
        upload(peer, peer.request(), b"x")
    await peer.settle()
    assert len(peer.connection.blocked) == 3 * AT_ONCE
    # Neither a repeated setting nor a larger window of the connection makes room for them.
    peer.receive(raw(0x4, 0, 0) * 1000 + raw(0x8, 0, 0, b"\0\0\0\1") * 1000)
    await asyncio.sleep(0)
    assert len(peer.connection.blocked) == 3 * AT_ONCE
    peer.receive(raw(0x4, 0, 0, b"\0\x04\0\0\0\1"))
    left = []
    for _ in range(4):
        await asyncio.sleep(0)
        left.append(len(peer.connection.blocked))
    assert left == [2 * AT_ONCE, AT_ONCE, 0, 0]


async def test_a_peer_of_which_too_many_streams_wait_for_a_window_loses_its_connection() -> None:
    """A peer that reads has a few; the end of each would take others' time."""
    peer = Http2Peer(collect)
    peer.receive(HELLO + raw(0x4, 0, 0, b"\0\x04\0\0\0\0"))
    for number in range(1, 2 * MAX_BLOCKED + 3, 2):
        peer.receive(raw(0x1, 0x4, number, POST) + raw(0x0, 0x1, number, b"x"))
    for _ in range(3):
        await asyncio.sleep(0)
    peer.receive(raw(0x6, 0, 0, bytes(8)))
    assert closed_with(peer) is ErrorCode.ENHANCE_YOUR_CALM


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


@pytest.mark.parametrize(
    ("sent", "is_cut_off"),
    [(b"", True), (HELLO[:20], True), (HELLO, False)],
    ids=["nothing", "half of it", "its preface"],
)
def test_a_peer_that_does_not_send_its_preface_in_time_is_cut_off(
    sent: bytes, *, is_cut_off: bool
) -> None:
    """It would hold a connection for nothing; any other may be silent for as long as it likes."""
    loop = VirtualLoop()
    peer = loop.call(lambda: Http2Peer(echo))
    loop.call(lambda: peer.receive(sent))
    loop.now += HANDSHAKE_SECONDS - 0.1
    loop.settle()
    early = peer.transport.is_aborted
    loop.now += 0.2
    loop.settle()
    loop.close()

    assert (early, peer.transport.is_aborted) == (False, is_cut_off)


def test_a_peer_that_does_not_read_the_end_of_a_connection_is_cut_off() -> None:
    """Its last bytes wait for a while, and not for ever."""
    loop = VirtualLoop()
    peer = loop.call(lambda: Http2Peer(echo))
    loop.call(peer.connection.close)
    loop.now += CLOSE_SECONDS + 0.1
    loop.settle()
    loop.close()

    assert (peer.transport.is_closed, peer.transport.is_aborted) == (True, True)


async def test_a_machine_that_vanishes_is_noticed_within_a_minute() -> None:
    """It sends no end of its connection: only the kernel's probes find out."""
    connections: set[Http2Connection] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Http2Connection(echo, connections), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await reader.readexactly(1)
        (accepted,) = connections
        assert accepted.transport is not None
        connected = accepted.transport.get_extra_info("socket")
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, interval, probes, unacknowledged = (
            connected.getsockopt(socket.IPPROTO_TCP, option)
            for option in (
                socket.TCP_KEEPIDLE,
                socket.TCP_KEEPINTVL,
                socket.TCP_KEEPCNT,
                socket.TCP_USER_TIMEOUT,
            )
        )
        assert idle + interval * probes <= 60
        assert 0 < unacknowledged <= 60_000
        accepted.abort()
        await accepted.closed.wait()
        writer.close()
