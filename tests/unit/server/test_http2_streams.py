from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import suppress

import h2.errors
import h2.events
import h2.settings
import pytest

from sidecar.server.http2_streams import (
    ANSWERS_AT_ONCE,
    CONNECTION_WINDOW,
    GIVE_BACK_BYTES,
    MAX_CONTROL_BYTES,
    MAX_FRAME_BYTES,
    STREAM_WINDOW,
    Http2Stream,
    StreamResetError,
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


async def test_a_peer_may_send_more_than_a_window_if_it_is_read() -> None:
    """Parts of the windows are given back, of the stream and of the connection."""
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
    for _ in range(GIVE_BACK_BYTES // MAX_FRAME_BYTES):
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
    peer.receive(HELLO + raw(0x1, 0x4, 1, POST) + padding * (GIVE_BACK_BYTES // 256))
    await asyncio.sleep(0.01)
    assert raw(0x8, 0, 1, struct.pack(">I", GIVE_BACK_BYTES)) in peer.transport.written


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


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    yield
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
