"""HTTP/2 connections as Envoy opens them (RFC 9113), one asyncio protocol each.

A connection reads frames, keeps the flow-control windows of both sides, and hands each stream to
the application as a `Http2Stream`. There is no thread and no object for a frame in between
(decision 56).

Only what gRPC from a proxy needs is there: no push, no priorities, no HTTP/1. A peer that breaks
the protocol loses its connection (section 5.4.1).
"""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias, cast

from typing_extensions import override

from sidecar.server.hpack import Field, HpackDecoder, HpackError

Bytes: TypeAlias = bytes | memoryview
"""Bytes that were read, or are to be sent; many of them are a view, so that none is copied."""

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_FRAME_BYTES: Final = 16_384
"""HTTP/2's default, of both sides: a larger frame is refused, and none is sent."""
MAX_BLOCK_BYTES: Final = 64 * 1024
"""Of the headers of a stream, encoded."""
MAX_STREAMS: Final = 65_536
"""Open at once on a connection; the bound of Envoy's circuit breaker in our configuration."""
STREAM_WINDOW: Final = 1 << 20
CONNECTION_WINDOW: Final = 256 << 20
"""Bytes that the peer may send ahead of the application. One stream that is not read fills its
own window, and leaves the connection's to the others."""
MAX_WINDOW: Final = (1 << 31) - 1
AWAY_PING: Final = b"goaway\0\0"
"""Sent behind GOAWAY: the peer answers it once it has read both."""
HANDSHAKE_SECONDS: Final = 10.0
"""A peer that has not sent its preface by then is cut off."""
CLOSE_SECONDS: Final = 10.0
"""A peer that has not read its last bytes by then is cut off."""
MAX_CONTROL_BYTES: Final = 1 << 20
"""Of answers to pings and settings that a peer does not read; then its connection is closed."""
FLUSH_BYTES: Final = 1 << 18
"""Written at once, before the end of the loop's turn."""
ANSWERS_AT_ONCE: Final = 4
"""Answers that leave in one write. If all that were read together left together, all requests of
a busy client would go back and forth as one, and Envoy and the worker take turns at being idle."""
HIGH_WATER_BYTES: Final = 1 << 20
"""From here on a stream that writes waits until the peer has read."""

_READ: Final = memoryview(bytearray(1 << 18))
"""All connections read into the same memory, so that it stays in the CPU's caches. What was read
is parsed at once, and what is kept of it is copied."""

_HEADER: Final = struct.Struct(">BHBBL")
_LONG: Final = struct.Struct(">L")
_SETTING: Final = struct.Struct(">HL")
_HEADER_BYTES: Final = 9

# Types of frames (section 6).
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PUSH_PROMISE, _PING = 0x0, 0x1, 0x3, 0x4, 0x5, 0x6
_GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0x7, 0x8, 0x9
_BLOCKS: Final = (_HEADERS, _CONTINUATION)

_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_WITH_PRIORITY = 0x20
_PRIORITY_BYTES: Final = 5
_PING_BYTES: Final = 8

# Settings (section 6.5.2).
_MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE = 0x3, 0x4
_DEFAULT_WINDOW: Final = 65_535


class ErrorCode(enum.IntEnum):
    """Reasons of resets and of closed connections (section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class Http2Error(Exception):
    """The peer has broken the protocol; its connection ends with this code."""

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code.name)
        self.code = code


class StreamResetError(Exception):
    """The stream is gone: the peer has reset it, or its connection is lost."""


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return _HEADER.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


_HELLO: Final = _frame(
    _SETTINGS,
    0,
    0,
    _SETTING.pack(_MAX_CONCURRENT_STREAMS, MAX_STREAMS)
    + _SETTING.pack(_INITIAL_WINDOW_SIZE, STREAM_WINDOW),
) + _frame(_WINDOW_UPDATE, 0, 0, _LONG.pack(CONNECTION_WINDOW - _DEFAULT_WINDOW))
_SETTINGS_ACK: Final = _frame(_SETTINGS, _ACK, 0)


class Http2Stream:
    """One stream: pieces of the peer's body in, header blocks and bytes out.

    `fields` are the headers of the request.
    """

    __slots__ = (
        "_connection",
        "_pieces",
        "_read_bytes",
        "_reader",
        "_writer",
        "debt",
        "fields",
        "is_half_closed",
        "is_reset",
        "number",
        "send_window",
        "task",
    )

    def __init__(self, connection: Http2Connection, number: int, fields: list[Field]) -> None:
        self.fields = fields
        self.number = number
        self.send_window = 0  # beside the connection's initial one, which may change
        self.task: asyncio.Task[None] | None = None
        self.is_half_closed = self.is_reset = False
        self.debt = 0
        self._connection = connection
        self._pieces: deque[bytes] = deque()
        self._read_bytes = 0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    def take(self) -> bytes | None:
        """Return the next piece of the body; None if none is here now.

        Raises:
            StreamResetError: the stream is gone.
        """
        if not self._pieces:
            if self.is_reset:
                raise StreamResetError
            return None
        piece = self._pieces.popleft()
        self._read_bytes += len(piece)
        if self._read_bytes >= STREAM_WINDOW // 2:
            self._give_back()
        return piece

    def _give_back(self) -> None:
        self._connection.give_back(self, self._read_bytes)
        self._read_bytes = 0

    def arrival(self) -> asyncio.Future[None]:
        """Return a future of the next piece, of the end of the body, or of a reset."""
        self._connection.unanswered.discard(self.number)
        self._reader = reader = self._connection.loop.create_future()
        return reader

    async def write(self, before: bytes, body: Sequence[Bytes], after: bytes) -> None:
        """Send a block of headers *before* the pieces of *body*, and trailers *after* them.

        An empty one is not sent. Trailers end the stream. Waits for the peer's windows, while the
        peer reads too slowly, and behind trailers for the answers to the other streams of a read.

        Raises:
            StreamResetError: the stream is gone.
        """
        connection, number = self._connection, self.number
        while connection.resumed is not None and not self.is_reset:
            await connection.resumed.wait()
        out: list[Bytes] = [_frame(_HEADERS, _END_HEADERS, number, before)] if before else []
        size = sum(map(len, body))
        if size and not self.is_reset:
            if size <= min(MAX_FRAME_BYTES, self.room, connection.send_window):
                self.send_window -= size
                connection.send_window -= size
                out += (_HEADER.pack(0, size, _DATA, 0, number), *body)
            else:
                out = await self._send_long(out, body, size)
        if self.is_reset:
            raise StreamResetError
        if after:
            out.append(_frame(_HEADERS, _END_HEADERS | _END_STREAM, number, after))
            if not self.is_half_closed:
                # The rest of the request is not wanted (section 8.1).
                out.append(_frame(_RST_STREAM, 0, number, _LONG.pack(ErrorCode.NO_ERROR)))
            connection.forget(self)
        if not self._pieces:  # else the answer to the next one leaves with this one
            connection.unanswered.discard(number)
        connection.send(*out, is_answer=True)
        if after and connection.unanswered:
            await asyncio.sleep(0)  # what is left of this stream waits for the others' answers

    async def _send_long(self, out: list[Bytes], body: Sequence[Bytes], size: int) -> list[Bytes]:
        """Send *out* and *body* as the windows allow; return the frames that are not sent yet."""
        connection, number = self._connection, self.number
        pieces = iter(body)
        piece = next(pieces, b"")
        while not self.is_reset and size:
            room = min(size, self.room, connection.send_window, FLUSH_BYTES)
            if room <= 0:
                connection.send(*out)
                out = []
                connection.blocked.add(self)
                self._writer = connection.loop.create_future()
                await self._writer
                connection.blocked.discard(self)
                continue
            size -= room
            self.send_window -= room
            connection.send_window -= room
            while room:
                length = min(room, MAX_FRAME_BYTES)
                room -= length
                out.append(_HEADER.pack(0, length, _DATA, 0, number))
                while length and length >= len(piece):
                    out.append(piece)
                    length -= len(piece)
                    piece = next(pieces, b"")
                if length:
                    view = memoryview(piece)
                    out.append(view[:length])
                    piece = view[length:]
            if size:
                connection.send(*out)
                out = []
                if connection.resumed is not None:
                    await connection.resumed.wait()
        return out

    def feed(self, piece: bytes, size: int, *, ends: bool) -> None:
        """Take a *piece* of the body, for which the peer has used *size* bytes of its window."""
        self.debt += size
        self._read_bytes += size - len(piece)
        if piece:
            self._pieces.append(piece)
        elif self._read_bytes >= STREAM_WINDOW // 2:  # nothing but padding: no piece is taken
            self._give_back()
        self.is_half_closed = ends
        _wake(self._reader)

    @property
    def room(self) -> int:
        """Return the peer's window; one that its settings made smaller may be negative (6.9.2)."""
        return self.send_window + self._connection.initial_window

    def wake_writer(self) -> None:
        """Let a writer look at the windows again."""
        _wake(self._writer)

    def reset(self) -> None:
        """End the stream: its task is cancelled."""
        self.is_reset = True
        _wake(self._writer)
        _wake(self._reader)
        if self.task is not None:
            self.task.cancel()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


class Http2Connection(asyncio.BufferedProtocol):
    """The server's side of one connection.

    `send_window` is the peer's, for all streams. `blocked` wait for a window; `resumed` is an
    event while the peer reads too slowly. `away_read` is set once the peer has read `go_away`.
    `unanswered` are the numbers of streams that were read and may write in this turn. *answer*
    runs as one of `tasks` for each stream.
    """

    def __init__(
        self,
        answer: Callable[[Http2Stream], Awaitable[None]],
        connections: set[Http2Connection],
    ) -> None:
        self.send_window = _DEFAULT_WINDOW
        self.blocked: set[Http2Stream] = set()
        self.unanswered: set[int] = set()
        self.resumed: asyncio.Event | None = None
        self.closed = asyncio.Event()
        self.away_read = asyncio.Event()
        self._answer = answer
        self._connections = connections
        self.loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, Http2Stream] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self._last = 0
        self._decoder = HpackDecoder()
        self._rest = b""
        self._is_encrypted = False
        self._block: tuple[int, int, bytes] | None = None
        self._expects_preface = True
        self._handshake: asyncio.TimerHandle | None = None
        self.initial_window = _DEFAULT_WINDOW
        self._outstanding = 0
        self._consumed = 0
        self._control_bytes = 0
        self._data_left = 0
        self._data_frame = 0, 0
        self._outgoing: list[Bytes] = []
        self._outgoing_bytes = self._answers = 0

    # The transport.

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, for uvloop's transports have no common class with asyncio's.
        self._transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self._is_encrypted = transport.get_extra_info("sslcontext") is not None
        connected = transport.get_extra_info("socket")
        if connected is not None and connected.family == socket.AF_UNIX:
            # Linux gives 208 KiB: a long body would wait several times for Envoy to read.
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, HIGH_WATER_BYTES)
        self._connections.add(self)
        self._handshake = self.loop.call_later(HANDSHAKE_SECONDS, self.abort)
        transport.write(_HELLO)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._handshake is not None:
            self._handshake.cancel()
        self._transport = None
        self.closed.set()
        self.away_read.set()
        self.resume_writing()
        for stream in list(self._streams.values()):
            stream.reset()
        self._streams.clear()
        self.blocked.clear()

    @override
    def pause_writing(self) -> None:
        self.resumed = asyncio.Event()

    @override
    def resume_writing(self) -> None:
        if self.resumed is not None:
            self.resumed.set()
            self.resumed = None

    @override
    def get_buffer(self, sizehint: int) -> memoryview:
        return _READ

    @override
    def buffer_updated(self, nbytes: int) -> None:
        data: Bytes = _READ[:nbytes]
        if self._rest:
            data = self._rest + data
        elif nbytes < MAX_FRAME_BYTES:
            data = bytes(data)  # whose parts take less time than those of a view
        try:
            at = self._read_preface(data) if self._expects_preface else 0
            if not self._expects_preface:
                at = self._read_frames(data, at)
        except Http2Error as error:
            self.close(error.code)
        except HpackError:
            self.close(ErrorCode.COMPRESSION_ERROR)
        else:
            self._rest = bytes(data[at:]) if at < len(data) else b""

    def send(self, *frames: Bytes, is_answer: bool = False) -> None:
        """Write whole frames, together with all others of this turn of the loop.

        Streams that were read in one piece are answered a few at a time, each of which wakes Envoy
        once. Behind the last come the ends of these requests, for which the peer need not wait.
        After the connection is lost frames are dropped.
        """
        is_first = not self._outgoing
        self._answers += is_answer
        self._outgoing += frames
        self._outgoing_bytes += sum(map(len, frames))
        is_due = self._answers >= ANSWERS_AT_ONCE or (is_answer and not self.unanswered)
        if is_due or self._outgoing_bytes >= FLUSH_BYTES:
            self._flush()
        elif is_first:
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._outgoing:
            if self._transport is None:
                pass
            elif self._outgoing_bytes < MAX_FRAME_BYTES or self._is_encrypted:
                self._transport.write(b"".join(self._outgoing))
            else:  # a long body is copied by the kernel alone
                self._transport.writelines(self._outgoing)
            self._outgoing = []
            self._outgoing_bytes = self._answers = 0

    def go_away(self) -> None:
        """Ask the peer for no new streams; those under way, and those it has begun, are served."""
        last = MAX_WINDOW  # "no error", while streams may still be on their way (section 6.8)
        self.send(
            _frame(_GOAWAY, 0, 0, _LONG.pack(last) + _LONG.pack(ErrorCode.NO_ERROR)),
            _frame(_PING, 0, 0, AWAY_PING),
        )

    def abort(self) -> None:
        """Close without sending what the peer has not read."""
        if self._transport is not None:
            self._transport.abort()

    def close(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Say why and close, once the peer has read it; open streams end."""
        if self._transport is None:
            return
        self.send(_frame(_GOAWAY, 0, 0, _LONG.pack(self._last) + _LONG.pack(code)))
        self._flush()
        self._transport.close()
        self.loop.call_later(CLOSE_SECONDS, self.abort)
        for stream in list(self._streams.values()):
            stream.reset()
        self._streams.clear()

    # Streams.

    def forget(self, stream: Http2Stream) -> None:
        """Let go of a stream that has ended; its unread bytes count as read."""
        if self._streams.pop(stream.number, None) is not None:
            self.blocked.discard(stream)
            self.unanswered.discard(stream.number)
            self._credit(stream.debt)

    def give_back(self, stream: Http2Stream, size: int) -> None:
        """Let the peer send *size* bytes more on a stream whose body has not ended."""
        if self._streams.get(stream.number) is not stream:
            return  # `forget` has counted them
        if not stream.is_half_closed:
            self.send(_frame(_WINDOW_UPDATE, 0, stream.number, _LONG.pack(size)))
        stream.debt -= size
        self._credit(size)

    def _credit(self, size: int) -> None:
        """Count bytes as read; the peer gets half of the connection's window back at a time."""
        self._consumed += size
        if self._consumed >= CONNECTION_WINDOW // 2:
            self.send(_frame(_WINDOW_UPDATE, 0, 0, _LONG.pack(self._consumed)))
            self._outstanding -= self._consumed
            self._consumed = 0

    # Frames.

    def _read_preface(self, data: Bytes) -> int:
        """Take the peer's preface once it is whole; return the place behind it."""
        if data[: len(PREFACE)] != PREFACE[: len(data)]:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR)
        if len(data) < len(PREFACE):
            return 0
        self._expects_preface = False
        if self._handshake is not None:
            self._handshake.cancel()
        return len(PREFACE)

    def _read_frames(self, data: Bytes, at: int) -> int:
        """Take all frames from *at* on, and the beginning of the last if it is of a body.

        Return the place behind them.
        """
        size = len(data)
        if self._data_left:
            end = min(self._data_left, size)
            self._data_left -= end
            number, flags = self._data_frame
            at = self._read_body(data, 0, end, number, 0 if self._data_left else flags)
        while size - at >= _HEADER_BYTES:
            high, low, kind, flags, number = _HEADER.unpack_from(data, at)
            length, number = high << 16 | low, number & MAX_WINDOW
            if length > MAX_FRAME_BYTES:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR)
            if self._block is not None and kind != _CONTINUATION:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR)  # a block is not interrupted (6.10)
            start = at + _HEADER_BYTES
            at = start + length
            if at > size:
                if kind != _DATA or flags & _PADDED:
                    return start - _HEADER_BYTES
                # The beginning of a body's frame is taken as a frame of its own.
                self._data_left, self._data_frame = at - size, (number, flags)
                at, flags = size, 0
            if kind == _DATA:
                at = self._read_body(data, start, at, number, flags)
            elif kind in _BLOCKS:
                self._on_headers(kind, number, flags, bytes(data[start:at]))
            else:
                self._on_other(kind, number, flags, bytes(data[start:at]))
        return at

    def _read_body(self, data: Bytes, start: int, end: int, number: int, flags: int) -> int:
        """Take a frame of a body, from *start* to *end*, and those that follow it, as one piece.

        Return the place behind them.
        """
        if flags or end == len(data):
            payload = bytes(data[start:end])
            if (stream := self._receiver(number, end - start)) is not None:
                piece = payload[_unpadded(payload)] if flags & _PADDED else payload
                stream.feed(piece, end - start, ends=bool(flags & _END_STREAM))
            return end
        view, last = memoryview(data), len(data)
        longest = _HEADER.pack(0, MAX_FRAME_BYTES, _DATA, 0, number)
        pieces = [view[start:end]]
        size = end - start
        while (start := end + _HEADER_BYTES) <= last:
            length = MAX_FRAME_BYTES
            if data[end:start] != longest:  # most are
                high, low, kind, flags, stream_number = _HEADER.unpack_from(data, end)
                length = high << 16 | low
                if kind != _DATA or flags or stream_number != number or length > MAX_FRAME_BYTES:
                    break
            if start + length > last:
                break
            end = start + length
            size += length
            pieces.append(view[start:end])
        if (stream := self._receiver(number, size)) is not None:
            stream.feed(b"".join(pieces), size, ends=False)
        return end

    def _receiver(self, number: int, size: int) -> Http2Stream | None:
        """Count *size* bytes of a body; return its stream unless that ignores them."""
        if not number or number > self._last:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR)
        self._outstanding += size
        if self._outstanding > CONNECTION_WINDOW:
            raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR)
        stream = self._streams.get(number)
        if stream is None or stream.is_half_closed:  # it was ended here, or is refused
            self._credit(size)
            return None
        if stream.debt + size > STREAM_WINDOW:
            raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR)
        self.unanswered.add(number)
        return stream

    def _on_headers(self, kind: int, number: int, flags: int, payload: bytes) -> None:
        """Take a block of headers, which may come in a frame and continuations of it."""
        if kind == _CONTINUATION:
            if self._block is None or self._block[0] != number:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR)
            _, first_flags, block = self._block
            block += payload
            if len(block) > MAX_BLOCK_BYTES:
                raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM)
        else:
            if not number % 2:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR)
            first_flags = flags
            block = payload[_unpadded(payload)] if flags & _PADDED else payload
            if flags & _WITH_PRIORITY:
                block = block[_PRIORITY_BYTES:]
        if not flags & _END_HEADERS:
            self._block = number, first_flags, block
            return
        self._block = None
        self._on_block(number, block, ends=bool(first_flags & _END_STREAM))

    def _on_block(self, number: int, block: bytes, *, ends: bool) -> None:
        fields = self._decoder.decode(block)  # of a refused stream as well: it changes the table
        if number <= self._last:
            stream = self._streams.get(number)
            if stream is not None:  # trailers, which gRPC gives no meaning in requests
                if not ends or stream.is_half_closed:
                    raise Http2Error(ErrorCode.PROTOCOL_ERROR)
                stream.feed(b"", 0, ends=True)
            return
        self._last = number
        if len(self._streams) >= MAX_STREAMS:
            self._reply(_frame(_RST_STREAM, 0, number, _LONG.pack(ErrorCode.REFUSED_STREAM)))
            return
        stream = Http2Stream(self, number, fields)
        self._streams[number] = stream
        if ends:
            stream.feed(b"", 0, ends=True)
        stream.task = task = self.loop.create_task(self._answer_stream(stream))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _answer_stream(self, stream: Http2Stream) -> None:
        try:
            await self._answer(stream)
        finally:
            if self._streams.get(stream.number) is stream:  # the answer was not brought to its end
                self.forget(stream)
                reset = _LONG.pack(ErrorCode.INTERNAL_ERROR)
                self.send(_frame(_RST_STREAM, 0, stream.number, reset))

    def _on_other(self, kind: int, number: int, flags: int, payload: bytes) -> None:
        if kind == _WINDOW_UPDATE:
            self._on_window_update(number, payload)
        elif kind == _RST_STREAM:
            if not number or number > self._last or len(payload) != _LONG.size:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR)
            if (stream := self._streams.get(number)) is not None:
                self.forget(stream)
                stream.reset()
        elif kind == _SETTINGS:
            if not flags & _ACK:
                self._on_settings(payload)
        elif kind == _PING:
            if len(payload) != _PING_BYTES or number:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR)
            if not flags & _ACK:
                self._reply(_frame(_PING, _ACK, 0, payload))
            elif payload == AWAY_PING:
                self.away_read.set()
        elif kind == _PUSH_PROMISE:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR)
        # Others are ignored: priorities, GOAWAY (the peer opens no more streams), unknown ones
        # (section 4.1).

    def _on_settings(self, payload: bytes) -> None:
        if len(payload) % _SETTING.size:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR)
        for name, value in _SETTING.iter_unpack(payload):
            if name == _INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR)
                self.initial_window = value
        self._wake_blocked()
        self._reply(_SETTINGS_ACK)

    def _on_window_update(self, number: int, payload: bytes) -> None:
        if len(payload) != _LONG.size:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR)
        more = _LONG.unpack(payload)[0] & MAX_WINDOW
        if not number:
            self.send_window += more
            if not more or self.send_window > MAX_WINDOW:
                raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR)
        elif (stream := self._streams.get(number)) is not None:
            stream.send_window += more
            if not more or stream.room > MAX_WINDOW:
                raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR)
            stream.wake_writer()
            return
        self._wake_blocked()

    def _wake_blocked(self) -> None:
        """Let the streams that wait for the connection's window look again."""
        if self.send_window > 0:
            for stream in [one for one in self.blocked if one.room > 0]:
                self.blocked.discard(stream)
                stream.wake_writer()

    def _reply(self, frames: bytes) -> None:
        """Answer a control frame, of which a peer could send any number without reading."""
        transport = self._transport
        if transport is None or transport.get_write_buffer_size() < MAX_CONTROL_BYTES // 4:
            self._control_bytes = 0  # the peer has read them, but for so many
        self._control_bytes += len(frames)
        if self._control_bytes > MAX_CONTROL_BYTES:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM)
        self.send(frames)


def _unpadded(payload: bytes) -> slice:
    """Return the place of a payload between its padding (section 6.1)."""
    if not payload or payload[0] >= len(payload):
        raise Http2Error(ErrorCode.PROTOCOL_ERROR)
    return slice(1, len(payload) - payload[0])
