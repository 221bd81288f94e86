"""A client over HTTP/2 without TLS that sends exactly the frames of a case."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from egret_tools.conformance.wire import HUNG_UP, BrokenOffError, Outgoing, RawHeaders, Received

READ_BYTES: Final = 1 << 16
_STATUS: Final = b":status"


class Http2Connection:
    """One connection, with one stream at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self._http = h2.connection.H2Connection(config=config)
        self._has_window = asyncio.Event()
        self._http.initiate_connection()
        self._flush()

    async def exchange(self, request: Outgoing) -> Received:
        """Send while reading: an answer may come before the body has ended."""
        stream = self._http.get_next_available_stream_id()
        sending = asyncio.ensure_future(self._send(request, stream))
        try:
            if request.leaves_after_pieces is not None:
                await sending
                self._http.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
                self._flush()
                return HUNG_UP
            return await self._receive(stream)
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError, h2.exceptions.ProtocolError):
                await sending

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _send(self, request: Outgoing, stream: int) -> None:
        headers = _request_headers(request)
        self._http.send_headers(stream, headers, end_stream=request.ends_with_headers)
        self._flush()
        async for piece in request.paced():
            await self._send_piece(piece, stream)
        if request.leaves_after_pieces is not None or request.ends_with_headers:
            return
        if request.trailers:
            self._http.send_headers(stream, list(request.trailers), end_stream=True)
        else:
            self._http.end_stream(stream)
        self._flush()

    async def _send_piece(self, piece: bytes, stream: int) -> None:
        sent = 0
        while sent < len(piece):
            room = min(
                self._http.local_flow_control_window(stream), self._http.max_outbound_frame_size
            )
            if not room:
                self._has_window.clear()
                await self._has_window.wait()
                continue
            self._http.send_data(stream, piece[sent : sent + room])
            sent += room  # without a copy of the rest, of which a long body would make hundreds
            self._flush()
            await self._writer.drain()

    async def _receive(self, stream: int) -> Received:
        status, body = 0, bytearray()
        headers: RawHeaders = ()
        while True:
            for event in await self._next_events():
                match event:
                    case h2.events.ResponseReceived(stream_id=number) if number == stream:
                        headers = tuple(
                            (bytes(name), bytes(value)) for name, value in event.headers
                        )
                        status = int(dict(headers)[_STATUS])
                    case h2.events.DataReceived(stream_id=number) if number == stream:
                        body += event.data or b""
                        self._http.acknowledge_received_data(
                            event.flow_controlled_length or 0, stream
                        )
                    case h2.events.StreamEnded(stream_id=number) if number == stream:
                        self._flush()
                        return Received(status, headers, bytes(body))
                    case h2.events.StreamReset(stream_id=number) if number == stream:
                        # NO_ERROR after a whole answer only ends our side (RFC 9113 section 8.1).
                        return Received(status, headers, bytes(body), is_whole=False)
                    case h2.events.ConnectionTerminated():
                        raise BrokenOffError
                    case _:
                        continue
            self._flush()

    async def _next_events(self) -> list[h2.events.Event]:
        try:
            data = await self._reader.read(READ_BYTES)
            if not data:
                raise BrokenOffError
            events = self._http.receive_data(data)
        except (OSError, h2.exceptions.ProtocolError) as error:
            raise BrokenOffError from error
        self._has_window.set()
        return events

    def _flush(self) -> None:
        self._writer.write(self._http.data_to_send())


def _request_headers(request: Outgoing) -> list[tuple[bytes, bytes]]:
    headers = [
        (b":method", request.method.encode()),
        (b":scheme", b"http"),
        (b":authority", b"localhost"),
        (b":path", request.path.encode()),
        *request.headers,
    ]
    if request.length is not None:
        headers.append((b"content-length", str(request.length).encode()))
    return headers


async def connect_http2(port: int) -> Http2Connection:
    """Open a connection to a port of loopback."""
    return Http2Connection(*await asyncio.open_connection("127.0.0.1", port))
