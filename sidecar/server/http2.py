"""HTTP/2 connections as Envoy opens them (RFC 9113), one asyncio protocol each.

A connection reads frames and hands each stream to the application as a `Http2Stream`. There is no
thread and no object for a frame in between (decision 56).

Only what gRPC from a proxy needs is there: no push, no priorities, no HTTP/1. A peer that breaks
the protocol loses its connection (section 5.4.1).
"""

from __future__ import annotations

import asyncio
import functools
import re
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, cast

from typing_extensions import override

from sidecar.server.hpack import Field, HpackDecoder, HpackError
from sidecar.server.http2_streams import (
    AT_ONCE,
    CONNECTION_WINDOW,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FEW_BYTES,
    FRAME_HEADER,
    HEADERS,
    MAX_FRAME_BYTES,
    RST_STREAM,
    STREAM_WINDOW,
    UINT32,
    WINDOW_UPDATE,
    Bytes,
    ErrorCode,
    Http2Error,
    Http2Sender,
    Http2Stream,
    frame,
)

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_BLOCK_BYTES: Final = 64 * 1024
"""Of the headers of a stream, encoded."""
MAX_FIELDS: Final = 256
"""Of a block; Envoy sends about ten."""
MAX_LENGTH_DIGITS: Final = 18
MAX_CONTINUATIONS: Final = 64
"""Of a block: in frames of a byte, or of none, it would cost far more than its size."""
MAX_RESETS: Final = 4_096
"""By the peer, a second: more than a worker serves requests. Each begins and ends a stream."""
MAX_BLOCKED: Final = 2_048
"""Streams that wait for the peer's windows at once: of a peer that reads, a few do."""
MAX_CONTROL_FRAMES: Final = 2_048
"""In one read: a peer that sends bodies, or reads them, has far fewer. Resets do not count."""
MAX_CONNECTIONS: Final = 4_096
"""Of a worker; an Envoy has one for each of its threads."""
MAX_STREAMS: Final = 65_536
"""Open at once on a connection; the bound of Envoy's circuit breaker in our configuration."""
MAX_WINDOW: Final = (1 << 31) - 1
AWAY_PING: Final = b"goaway\0\0"
"""Sent behind GOAWAY: the peer answers it once it has read both."""
HANDSHAKE_SECONDS: Final = 10.0
"""A peer that has not sent its preface by then is cut off."""
CLOSE_SECONDS: Final = 10.0
"""A peer that has not read its last bytes by then is cut off."""
HIGH_WATER_BYTES: Final = 1 << 20
"""From here on a stream that writes waits until the peer has read."""
KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000),
)
"""Of a connection over TCP. A machine that vanishes sends no FIN: without these its exchanges
would keep their places and bytes until a restart. An idle connection ends after a minute, and so
does one whose bytes are not acknowledged for that long."""

_READ: Final = memoryview(bytearray(1 << 18))
"""All connections read into the same memory, so that it stays in the CPU's caches. What was read
is parsed at once, and what is kept of it is copied."""

# Types of frames (section 6), beside those that a stream sends.
_PRIORITY, _SETTINGS, _PUSH_PROMISE, _PING, _GOAWAY, _CONTINUATION = 0x2, 0x4, 0x5, 0x6, 0x7, 0x9
_BLOCKS: Final = (HEADERS, _CONTINUATION)
_RULES: Final[dict[int, tuple[bool | None, int, int]]] = {
    _PRIORITY: (True, 5, 5),
    RST_STREAM: (True, 4, 4),
    _SETTINGS: (False, 0, MAX_FRAME_BYTES),
    _PING: (False, 8, 8),
    _GOAWAY: (False, 8, MAX_FRAME_BYTES),
    WINDOW_UPDATE: (None, 4, 4),
}
"""Of each type whether it is of a stream, None for either, and the least and most bytes it has."""

_ACK = 0x1
_PADDED = 0x8
_WITH_PRIORITY = 0x20
_PRIORITY_BYTES: Final = 5

# Settings (section 6.5.2).
_SETTING: Final = struct.Struct(">HL")
_ENABLE_PUSH, _MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 0x2, 0x3, 0x4, 0x5
_ANY: Final = 0, (1 << 32) - 1
_VALUES: Final = {_ENABLE_PUSH: (0, 1), _MAX_FRAME_SIZE: (MAX_FRAME_BYTES, (1 << 24) - 1)}
_HELLO: Final = frame(
    _SETTINGS,
    0,
    0,
    _SETTING.pack(_MAX_CONCURRENT_STREAMS, MAX_STREAMS)
    + _SETTING.pack(_INITIAL_WINDOW_SIZE, STREAM_WINDOW),
) + frame(WINDOW_UPDATE, 0, 0, UINT32.pack(CONNECTION_WINDOW - DEFAULT_WINDOW))
_SETTINGS_ACK: Final = frame(_SETTINGS, _ACK, 0)


class Http2Connection(Http2Sender):
    """The server's side of one connection.

    `away_read` is set once the peer has read `go_away`. *answer* runs as one of `tasks` for each
    stream.
    """

    def __init__(
        self,
        answer: Callable[[Http2Stream], Awaitable[None]],
        connections: set[Http2Connection],
    ) -> None:
        super().__init__()
        self.closed = asyncio.Event()
        self.away_read = asyncio.Event()
        self._answer = answer
        self._connections = connections
        self.tasks: set[asyncio.Task[None]] = set()
        self._last = 0
        self._decoder = HpackDecoder()
        self._checked_fields: list[Field] | None = None
        self._held: dict[bytes, bytes] = {}
        self._left: int | None = None
        self._rest = b""
        self._block: tuple[int, int, bytes] | None = None
        self._continuations = self._controls = 0
        self._resets, self._resets_until = 0, 0.0
        self._has_grown = self._has_raised = False
        self._expects_preface = True
        self._handshake: asyncio.TimerHandle | None = None
        self._data_left = 0
        self._data_frame = 0, 0

    # The transport.

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, for uvloop's transports have no common class with asyncio's.
        self.transport = transport = cast("asyncio.Transport", transport)
        if len(self._connections) >= MAX_CONNECTIONS:
            transport.abort()
            return
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self.is_encrypted = transport.get_extra_info("sslcontext") is not None
        connected = transport.get_extra_info("socket")
        if connected is not None and connected.family == socket.AF_UNIX:
            # Linux gives 208 KiB: a long body would wait several times for Envoy to read.
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, HIGH_WATER_BYTES)
        elif connected is not None:
            for option in KEEPALIVE:
                connected.setsockopt(*option)
        self._connections.add(self)
        self._handshake = self.loop.call_later(HANDSHAKE_SECONDS, self.abort)
        transport.write(_HELLO)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._handshake is not None:
            self._handshake.cancel()
        self.transport = None
        self.closed.set()
        self.away_read.set()
        self.resume_writing()
        self._reset_all()

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
                self._controls = 0
                if self._has_grown or len(self.blocked) > MAX_BLOCKED:
                    self._look_at_windows()
        except Http2Error as error:
            self.close(error.code)
        except HpackError:
            self.close(ErrorCode.COMPRESSION_ERROR)
        else:
            self._rest = bytes(data[at:]) if at < len(data) else b""

    def _look_at_windows(self) -> None:
        """Do once for all frames of a read what takes a step for each stream."""
        if len(self.blocked) > MAX_BLOCKED:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM)
        if self._has_raised:
            self._has_raised = False
            highest = max((one.send_window for one in self.streams.values()), default=0)
            if highest + self.initial_window > MAX_WINDOW:  # section 6.9.2
                raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR)
        self._has_grown = False
        self.wake_blocked()

    def go_away(self) -> None:
        """Ask the peer for no new streams; those under way, and those it has begun, are served."""
        last = MAX_WINDOW  # "no error", while streams may still be on their way (section 6.8)
        self.send(
            frame(_GOAWAY, 0, 0, UINT32.pack(last) + UINT32.pack(ErrorCode.NO_ERROR)),
            frame(_PING, 0, 0, AWAY_PING),
        )

    def abort(self) -> None:
        """Close without sending what the peer has not read."""
        if self.transport is not None:
            self.transport.abort()

    def close(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Say why and close, once the peer has read it; open streams end."""
        if self.transport is None:
            return
        self.send(frame(_GOAWAY, 0, 0, UINT32.pack(self._last) + UINT32.pack(code)))
        self.flush()
        self.transport.close()
        self.loop.call_later(CLOSE_SECONDS, self.abort)
        self._reset_all()

    def _reset_all(self) -> None:
        doomed = deque(self.streams.values())
        self.streams.clear()
        self.blocked.clear()
        for stream in doomed:
            stream.is_reset = True
        self._reset_some(doomed)

    def _reset_some(self, doomed: deque[Http2Stream]) -> None:
        """End the tasks of a few streams in each turn of the loop: others wait meanwhile."""
        for _ in range(min(AT_ONCE, len(doomed))):
            doomed.popleft().reset()
        if doomed:
            self.loop.call_soon(self._reset_some, doomed)

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
        while size - at >= FRAME_HEADER.size:
            high, low, kind, flags, number = FRAME_HEADER.unpack_from(data, at)
            length, number = high << 16 | low, number & MAX_WINDOW
            if length > MAX_FRAME_BYTES:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR)
            if self._block is not None and kind != _CONTINUATION:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR)  # a block is not interrupted (6.10)
            start = at + FRAME_HEADER.size
            at = start + length
            if at > size:
                if kind != DATA or flags & _PADDED:
                    return start - FRAME_HEADER.size
                # The beginning of a body's frame is taken as a frame of its own.
                self._data_left, self._data_frame = at - size, (number, flags)
                at, flags = size, 0
            if kind == DATA:
                at = self._read_body(data, start, at, number, flags)
            elif kind in _BLOCKS:
                self._on_headers(kind, number, flags, bytes(data[start:at]))
            else:
                self._controls += kind != RST_STREAM
                if self._controls > MAX_CONTROL_FRAMES:
                    raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM)
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
                stream.feed(piece, end - start, ends=bool(flags & END_STREAM))
            return end
        view, last = memoryview(data), len(data)
        longest = FRAME_HEADER.pack(0, MAX_FRAME_BYTES, DATA, 0, number)
        pieces = [view[start:end]]
        size = end - start
        while (start := end + FRAME_HEADER.size) <= last:
            length = MAX_FRAME_BYTES
            if data[end:start] != longest:  # most are
                high, low, kind, flags, stream_number = FRAME_HEADER.unpack_from(data, end)
                length = high << 16 | low
                if kind != DATA or flags or stream_number != number or length > MAX_FRAME_BYTES:
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
        if not number % 2 or number > self._last:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR)
        self.outstanding += size
        if self.outstanding > CONNECTION_WINDOW:
            raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR)
        stream = self.streams.get(number)
        if stream is None:  # it was ended here, or is refused
            self.credit(size)
            return None
        if stream.is_half_closed:
            raise Http2Error(ErrorCode.STREAM_CLOSED)
        if stream.debt + size > STREAM_WINDOW:
            raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR)
        if self.outstanding - self.consumed > FEW_BYTES and self._are_all_full():
            self.credit(size)
            self.forget(stream)
            stream.reset()
            reset = UINT32.pack(ErrorCode.ENHANCE_YOUR_CALM)
            self.send(frame(RST_STREAM, 0, number, reset))
            return None
        self.unanswered.add(number)
        return stream

    def _are_all_full(self) -> bool:
        unread = sum(one.outstanding - one.consumed for one in self._connections)
        return unread > CONNECTION_WINDOW

    def _on_headers(self, kind: int, number: int, flags: int, payload: bytes) -> None:
        """Take a block of headers, which may come in a frame and continuations of it."""
        if kind == _CONTINUATION:
            if self._block is None or self._block[0] != number:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR)
            _, first_flags, block = self._block
            block += payload
            self._continuations += 1
            if len(block) > MAX_BLOCK_BYTES or self._continuations > MAX_CONTINUATIONS:
                raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM)
        else:
            if not number % 2:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR)
            first_flags, self._continuations = flags, 0
            block = payload[_unpadded(payload)] if flags & _PADDED else payload
            if flags & _WITH_PRIORITY:
                block = block[_PRIORITY_BYTES:]
        if not flags & END_HEADERS:
            self._block = number, first_flags, block
            return
        self._block = None
        self._on_block(number, block, ends=bool(first_flags & END_STREAM))

    def _on_block(self, number: int, block: bytes, *, ends: bool) -> None:
        fields = self._decoder.decode(block)  # of a refused stream as well: it changes the table
        if number > self._last and fields is self._checked_fields:
            self._open(number, ends=ends)
            return
        if len(fields) > MAX_FIELDS:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM)
        names = next(zip(*fields, strict=True), ())
        if number <= self._last:  # trailers, which gRPC gives no meaning in requests
            stream = self.streams.get(number)
            if stream is not None and stream.is_half_closed:
                raise Http2Error(ErrorCode.STREAM_CLOSED)
            if not ends or not _are_of(names, is_request=False):
                raise Http2Error(ErrorCode.PROTOCOL_ERROR)
            if stream is not None:
                stream.feed(b"", 0, ends=True)
            return
        held = dict(fields)
        length = held.get(b"content-length", b"0")
        if not (
            _are_of(names, is_request=True)
            and held[b":path"]
            and held.get(b"te", b"trailers") == b"trailers"
            and length.isdigit()
            and len(length) <= MAX_LENGTH_DIGITS
        ):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR)
        self._checked_fields, self._held = fields, held
        self._left = int(length) if b"content-length" in held else None
        self._open(number, ends=ends)

    def _open(self, number: int, *, ends: bool) -> None:
        """Begin a stream with the fields that were checked last, which Envoy repeats."""
        self._last = number
        if len(self.streams) >= MAX_STREAMS:
            self.reply(frame(RST_STREAM, 0, number, UINT32.pack(ErrorCode.REFUSED_STREAM)))
            return
        stream = Http2Stream(self, number, self._held, self._left)
        self.streams[number] = stream
        if ends:
            stream.feed(b"", 0, ends=True)
        stream.task = task = self.loop.create_task(self._answer_stream(stream))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _answer_stream(self, stream: Http2Stream) -> None:
        try:
            await self._answer(stream)
        finally:
            if self.streams.get(stream.number) is stream:  # the answer was not brought to its end
                self.forget(stream)
                reset = UINT32.pack(ErrorCode.INTERNAL_ERROR)
                self.send(frame(RST_STREAM, 0, stream.number, reset))

    def _on_other(self, kind: int, number: int, flags: int, payload: bytes) -> None:
        is_of_stream, least, most = _RULES.get(kind, (None, 0, MAX_FRAME_BYTES))
        if not least <= len(payload) <= most:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR)
        if is_of_stream is not None and is_of_stream != bool(number):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR)
        if kind == WINDOW_UPDATE:
            self._on_window_update(number, payload)
        elif kind == RST_STREAM:
            self._on_reset(number)
        elif kind == _SETTINGS:
            if not flags & _ACK:
                self._on_settings(payload)
            elif payload:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR)
        elif kind == _PING:
            if not flags & _ACK:
                self.reply(frame(_PING, _ACK, 0, payload))
            elif payload == AWAY_PING:
                self.away_read.set()
        elif kind == _PUSH_PROMISE:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR)
        # Others are ignored: priorities, GOAWAY (the peer opens no more streams), unknown ones
        # (section 4.1).

    def _check_begun(self, number: int) -> None:
        if not number % 2 or number > self._last:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR)  # the stream is idle (section 5.1)

    def _on_reset(self, number: int) -> None:
        self._check_begun(number)
        stream = self.streams.get(number)
        if stream is None:
            return
        self.forget(stream)
        stream.reset()
        self._resets += 1
        if self._resets > MAX_RESETS:
            now = self.loop.time()
            if now < self._resets_until:
                raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM)
            self._resets, self._resets_until = 1, now + 1

    def _on_settings(self, payload: bytes) -> None:
        if len(payload) % _SETTING.size:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR)
        for name, value in _SETTING.iter_unpack(payload):
            if name == _INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR)
                if value > self.initial_window:
                    self._has_grown = self._has_raised = True
                self.initial_window = value
            elif not _VALUES.get(name, _ANY)[0] <= value <= _VALUES.get(name, _ANY)[1]:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR)
        self.reply(_SETTINGS_ACK)

    def _on_window_update(self, number: int, payload: bytes) -> None:
        more = UINT32.unpack(payload)[0] & MAX_WINDOW
        if number:
            self._check_begun(number)
        if not more:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR)
        if not number:
            self._has_grown = self._has_grown or self.send_window <= 0
            self.send_window += more
            if self.send_window > MAX_WINDOW:
                raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR)
        elif (stream := self.streams.get(number)) is not None:
            stream.send_window += more
            if stream.room > MAX_WINDOW:
                raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR)
            stream.wake_writer()


_PSEUDO: Final = {b":method", b":scheme", b":path", b":authority"}
_OF_CONNECTIONS: Final = {
    b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade",
}  # fmt: skip
_NAME: Final = re.compile(rb":?[!-9;-@\[-~]+")


@functools.lru_cache(maxsize=64)
def _are_of(names: tuple[bytes, ...], *, is_request: bool) -> bool:
    """Return whether a request, or its trailers, may have fields of these names (section 8).

    A peer sends the same few lists again and again.
    """
    pseudo = [one for one in names if one.startswith(b":")]
    needed = _PSEUDO - {b":authority"} if is_request else set[bytes]()
    return (
        names[: len(pseudo)] == tuple(pseudo)
        and len(pseudo) == len(set(pseudo))
        and needed <= set(pseudo) <= (_PSEUDO if is_request else needed)
        and _OF_CONNECTIONS.isdisjoint(names)
        and all(map(_NAME.fullmatch, names))
    )


def _unpadded(payload: bytes) -> slice:
    """Return the place of a payload between its padding (section 6.1)."""
    if not payload or payload[0] >= len(payload):
        raise Http2Error(ErrorCode.PROTOCOL_ERROR)
    return slice(1, len(payload) - payload[0])
