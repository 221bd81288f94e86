"""The streams of an HTTP/2 connection, and its sending side, which they share (RFC 9113).

Both keep the flow-control windows. Frames that are sent in one turn of the loop leave in a few
writes. `http2` reads the peer's frames.
"""

from __future__ import annotations

import asyncio
import enum
import struct
from collections import deque
from collections.abc import Sequence
from typing import Final, TypeAlias

from typing_extensions import override

Bytes: TypeAlias = bytes | memoryview
"""Bytes that were read, or are to be sent; many of them are a view, so that none is copied."""

MAX_FRAME_BYTES: Final = 16_384
"""HTTP/2's default, of both sides: a larger frame is refused, and none is sent."""
STREAM_WINDOW: Final = 1 << 20
CONNECTION_WINDOW: Final = 256 << 20
"""Bytes that the peer may send ahead of the application, by all of its connections together. One
stream that is not read fills its own window, and leaves the connection's to the others."""
FEW_BYTES: Final = CONNECTION_WINDOW // 16
"""A connection may have so many unread whatever the others have."""
GIVE_BACK_BYTES: Final = 3 * STREAM_WINDOW // 4
"""From here on the peer gets back what was read of a stream's window; each time wakes it."""
DEFAULT_WINDOW: Final = 65_535
"""Of both sides until they say otherwise (section 6.9.2)."""
MAX_CONTROL_BYTES: Final = 1 << 20
"""Of answers to pings and settings that a peer does not read; then its connection is closed."""
FLUSH_BYTES: Final = 1 << 18
"""Written at once, before the end of the loop's turn."""
AT_ONCE: Final = 64
"""Streams that are woken or ended in one turn of the loop: other connections have theirs."""
ANSWERS_AT_ONCE: Final = 4
"""Answers that leave in one write. If all that were read together left together, all requests of
a busy client would go back and forth as one, and Envoy and the worker take turns at being idle."""

FRAME_HEADER: Final = struct.Struct(">BHBBL")
UINT32: Final = struct.Struct(">L")

# Types of frames (section 6).
DATA, HEADERS, RST_STREAM, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x8
END_STREAM = 0x1
END_HEADERS = 0x4


class ErrorCode(enum.IntEnum):
    """Reasons of resets and of closed connections (section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
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


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame with its header (section 4.1)."""
    size = len(payload)
    return FRAME_HEADER.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


class Http2Stream:
    """One stream: pieces of the peer's body in, header blocks and bytes out.

    `fields` are the headers of the request. `left` are the bytes of its body that are still to
    come, if it has said how many.
    """

    __slots__ = (
        "_connection",
        "_pieces",
        "_read_bytes",
        "_reader",
        "_writer",
        "debt",
        "fields",
        "has_begun",
        "is_half_closed",
        "is_reset",
        "left",
        "number",
        "send_window",
        "task",
    )

    def __init__(
        self, connection: Http2Sender, number: int, fields: dict[bytes, bytes], left: int | None
    ) -> None:
        self.fields = fields
        self.left = left
        self.number = number
        self.send_window = 0  # beside the connection's initial one, which may change
        self.task: asyncio.Task[None] | None = None
        self.is_half_closed = self.is_reset = self.has_begun = False
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
        if self._read_bytes >= GIVE_BACK_BYTES:
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

        An empty one is not sent; `has_begun` once headers were. Trailers end the stream. Waits for
        the peer's windows, while the peer reads too slowly, and behind trailers for the answers to
        the other streams of a read.

        Raises:
            StreamResetError: the stream is gone.
        """
        connection, number = self._connection, self.number
        while connection.resumed is not None and not self.is_reset:
            await connection.resumed.wait()
        out: list[Bytes] = [frame(HEADERS, END_HEADERS, number, before)] if before else []
        self.has_begun = self.has_begun or bool(before)  # it is sent before any further wait
        size = sum(map(len, body))
        if size and not self.is_reset:
            if size <= min(MAX_FRAME_BYTES, self.room, connection.send_window):
                self.send_window -= size
                connection.send_window -= size
                out += (FRAME_HEADER.pack(0, size, DATA, 0, number), *body)
            else:
                out = await self._send_long(out, body, size)
        if self.is_reset:
            raise StreamResetError
        if after:
            out.append(frame(HEADERS, END_HEADERS | END_STREAM, number, after))
            if not self.is_half_closed:
                # The rest of the request is not wanted (section 8.1).
                out.append(frame(RST_STREAM, 0, number, UINT32.pack(ErrorCode.NO_ERROR)))
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
        longest = FRAME_HEADER.pack(0, MAX_FRAME_BYTES, DATA, 0, number)
        while not self.is_reset and size:
            room = min(size, self.room, connection.send_window, FLUSH_BYTES)
            if room <= 0:
                connection.send(*out)
                out = []
                connection.blocked[self] = None
                self._writer = connection.loop.create_future()
                await self._writer
                connection.blocked.pop(self, None)
                continue
            size -= room
            self.send_window -= room
            connection.send_window -= room
            while room:
                length = min(room, MAX_FRAME_BYTES)
                room -= length
                is_longest = length == MAX_FRAME_BYTES  # most are
                out.append(
                    longest if is_longest else FRAME_HEADER.pack(0, length, DATA, 0, number)
                )
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
        """Take a *piece* of the body, for which the peer has used *size* bytes of its window.

        Raises:
            Http2Error: the body is not as long as its headers say (section 8.1.1).
        """
        if self.left is not None:
            self.left -= len(piece)
            if self.left < 0 or (ends and self.left):
                raise Http2Error(ErrorCode.PROTOCOL_ERROR)
        self.debt += size
        self._read_bytes += size - len(piece)
        if piece:
            self._pieces.append(piece)
        elif self._read_bytes >= GIVE_BACK_BYTES:  # nothing but padding: no piece is taken
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


class Http2Sender(asyncio.BufferedProtocol):
    """The sending side of a connection, and the windows of all its streams.

    `send_window` is the peer's for all streams together, `initial_window` that of a new stream.
    `blocked` wait for a window; `resumed` is an event while the peer reads too slowly.
    `unanswered` are the numbers of streams that were read and may write in this turn. The peer has
    used `outstanding` bytes of the connection's window, of which `consumed` were read.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.send_window = self.initial_window = DEFAULT_WINDOW
        self.blocked: dict[Http2Stream, None] = {}
        self._to_look: deque[Http2Stream] = deque()
        self.unanswered: set[int] = set()
        self.resumed: asyncio.Event | None = None
        self.transport: asyncio.Transport | None = None
        self.is_encrypted = False
        self.streams: dict[int, Http2Stream] = {}
        self.outstanding: int = 0
        self.consumed = self._control_bytes = 0
        self._outgoing: list[Bytes] = []
        self._outgoing_bytes = self._answers = 0

    @override
    def pause_writing(self) -> None:
        self.resumed = asyncio.Event()

    @override
    def resume_writing(self) -> None:
        if self.resumed is not None:
            self.resumed.set()
            self.resumed = None

    def send(self, *frames: Bytes, is_answer: bool = False) -> None:
        """Write whole frames, together with all others of this turn of the loop.

        Streams that were read in one piece are answered a few at a time, each of which wakes Envoy
        once. After the last, the requests are counted and logged: Envoy does not wait for that.
        After the connection is lost frames are dropped.
        """
        is_first = not self._outgoing
        self._answers += is_answer
        self._outgoing += frames
        self._outgoing_bytes += sum(map(len, frames))
        is_due = self._answers >= ANSWERS_AT_ONCE or (is_answer and not self.unanswered)
        if is_due or self._outgoing_bytes >= FLUSH_BYTES:
            self.flush()
        elif is_first:
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write the frames that were sent so far."""
        if self._outgoing:
            if self.transport is None:
                pass
            elif self._outgoing_bytes < MAX_FRAME_BYTES or self.is_encrypted:
                self.transport.write(b"".join(self._outgoing))
            else:  # a long body is copied by the kernel alone
                self.transport.writelines(self._outgoing)
            self._outgoing = []
            self._outgoing_bytes = self._answers = 0

    def reply(self, frames: bytes) -> None:
        """Answer a control frame, of which a peer could send any number without reading."""
        transport = self.transport
        if transport is None or transport.get_write_buffer_size() < MAX_CONTROL_BYTES // 4:
            self._control_bytes = 0  # the peer has read them, but for so many
        self._control_bytes += len(frames)
        if self._control_bytes > MAX_CONTROL_BYTES:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM)
        self.send(frames)

    def forget(self, stream: Http2Stream) -> None:
        """Let go of a stream that has ended; its unread bytes count as read."""
        if self.streams.pop(stream.number, None) is not None:
            self.blocked.pop(stream, None)
            self.unanswered.discard(stream.number)
            self.credit(stream.debt)

    def give_back(self, stream: Http2Stream, size: int) -> None:
        """Let the peer send *size* bytes more on a stream whose body has not ended."""
        if self.streams.get(stream.number) is not stream:
            return  # `forget` has counted them
        if not stream.is_half_closed:
            self.send(frame(WINDOW_UPDATE, 0, stream.number, UINT32.pack(size)))
        stream.debt -= size
        self.credit(size)

    def credit(self, size: int) -> None:
        """Count bytes as read; the peer gets half of the connection's window back at a time."""
        self.consumed += size
        if self.consumed >= CONNECTION_WINDOW // 2:
            self.send(frame(WINDOW_UPDATE, 0, 0, UINT32.pack(self.consumed)))
            self.outstanding -= self.consumed
            self.consumed = 0

    def wake_blocked(self) -> None:
        """Let the streams that wait for a window look again, a few in each turn of the loop."""
        if not self._to_look and self.blocked:
            self.loop.call_soon(self._look)
        self._to_look = deque(self.blocked)

    def _look(self) -> None:
        for _ in range(min(AT_ONCE, len(self._to_look))):
            stream = self._to_look.popleft()
            if self.send_window > 0 and stream.room > 0 and stream in self.blocked:
                del self.blocked[stream]
                stream.wake_writer()
        if self._to_look:
            self.loop.call_soon(self._look)
