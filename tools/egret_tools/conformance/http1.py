"""A client over HTTP/1.1 that sends exactly the bytes of a case."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import h11

from egret_tools.conformance.wire import HUNG_UP, BrokenOffError, Outgoing, RawHeaders, Received

READ_BYTES: Final = 1 << 16


class Http1Connection:
    """One connection; kept alive from request to request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(our_role=h11.CLIENT, max_incomplete_event_size=1 << 20)

    async def exchange(self, request: Outgoing) -> Received:
        """Send while reading: an answer may come before the body has ended."""
        sending = asyncio.ensure_future(self._send(request))
        try:
            if request.leaves_after_pieces is not None:
                await sending
                await self.close()
                return HUNG_UP
            received = await self._receive()
            self._begin_next()
            return received
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError, h11.ProtocolError):
                await sending

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _send(self, request: Outgoing) -> None:
        head = h11.Request(
            method=request.method, target=request.path, headers=_request_headers(request)
        )
        await self._write(head)
        async for piece in request.paced():
            await self._write(h11.Data(data=piece))
        if request.leaves_after_pieces is None:
            await self._write(h11.EndOfMessage(headers=list(request.trailers)))

    async def _write(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        self._writer.write(self._http.send(event) or b"")
        await self._writer.drain()

    async def _receive(self) -> Received:
        status, body = 0, bytearray()
        headers: RawHeaders = ()
        while True:
            event = await self._next_event()
            match event:
                case h11.Response():
                    status, headers = event.status_code, tuple(event.headers)
                case h11.Data():
                    body += event.data
                case h11.EndOfMessage():
                    return Received(status, headers, bytes(body))
                case None:
                    return Received(status, headers, bytes(body), is_whole=False)
                case _:
                    continue  # 100 Continue

    async def _next_event(self) -> object:
        """Return the next event, or None where the connection ended in the middle."""
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError:
                return None
            if event is not h11.NEED_DATA:
                return None if isinstance(event, h11.ConnectionClosed) else event
            try:
                data = await self._reader.read(READ_BYTES)
            except OSError as error:
                raise BrokenOffError from error
            self._http.receive_data(data)

    def _begin_next(self) -> None:
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()


def _request_headers(request: Outgoing) -> list[tuple[bytes, bytes]]:
    headers = [(b"host", b"localhost"), *request.headers]
    if request.length is not None:
        headers.append((b"content-length", str(request.length).encode()))
    elif not request.ends_with_headers:
        headers.append((b"transfer-encoding", b"chunked"))
    return headers


async def connect_http1(port: int) -> Http1Connection:
    """Open a connection to a port of loopback."""
    return Http1Connection(*await asyncio.open_connection("127.0.0.1", port))
