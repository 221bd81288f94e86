"""An HTTP/2 client as small as can be, for what other clients cannot send: trailers above all.

One request a connection. Header fields go out as literals (RFC 7541 section 6.2.2); of an
answer's fields only `:status` is read, which is always the first.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

Fields = Sequence[tuple[str, str]]

_DATA: Final = 0
_HEADERS: Final = 1
_RST_STREAM: Final = 3
_SETTINGS: Final = 4
_PING: Final = 6
_GOAWAY: Final = 7
_WINDOW_UPDATE: Final = 8

_END_STREAM: Final = 1
_ACK: Final = 1
_END_HEADERS: Final = 4
_PADDED: Final = 8
_PRIORITY: Final = 0x20

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_LARGEST_WINDOW: Final = 2**31 - 1
_STREAM: Final = 1

_STATIC_STATUSES: Final = {8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500}
"""Indexes of RFC 7541 appendix A."""
_HUFFMAN_DIGITS: Final = {
    "00000": "0", "00001": "1", "00010": "2", "011001": "3", "011010": "4",
    "011011": "5", "011100": "6", "011101": "7", "011110": "8", "011111": "9",
}  # fmt: skip
"""The digits' codes of RFC 7541 appendix B."""


@dataclass(frozen=True, slots=True)
class Http2Answer:
    """`is_request_sent` is False where the answer came before the request was out."""

    status: int
    body: bytes
    is_request_sent: bool


@dataclass
class _Talk:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    connection_window: int = 65535
    stream_window: int = 65535
    status: int = 0
    body: bytearray = field(default_factory=bytearray)
    is_over: bool = False

    def send(self, kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> None:
        head = struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream)
        self.writer.write(head + payload)

    async def take(self) -> None:
        """Read one frame and act on it."""
        head = await self.reader.readexactly(9)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        stream = int.from_bytes(head[5:], "big")
        payload = await self.reader.readexactly(length)
        if kind == _DATA:
            self.body += _unpadded(payload, flags)
        elif kind == _HEADERS:
            self.status = self.status or _status_in(_unpadded(payload, flags))
        else:
            self._control(kind, payload, is_ack=bool(flags & _ACK), stream=stream)
        is_end = kind in {_DATA, _HEADERS} and flags & _END_STREAM
        self.is_over = self.is_over or bool(is_end) or kind == _RST_STREAM

    def _control(self, kind: int, payload: bytes, *, is_ack: bool, stream: int) -> None:
        if kind == _SETTINGS and not is_ack:
            self._settle(payload)
        elif kind == _PING and not is_ack:
            self.send(_PING, payload, flags=_ACK)
        elif kind == _WINDOW_UPDATE:
            self._widen(stream, int.from_bytes(payload, "big"))
        elif kind == _GOAWAY and any(payload[4:8]):
            raise ConnectionError(f"GOAWAY with code {int.from_bytes(payload[4:8], 'big')}")

    def _settle(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == 4:  # SETTINGS_INITIAL_WINDOW_SIZE
                self.stream_window += value - 65535
        self.send(_SETTINGS, flags=_ACK)

    def _widen(self, stream: int, by: int) -> None:
        if stream == 0:
            self.connection_window += by
        else:
            self.stream_window += by


async def http2_request(
    port: int,
    ca_file: Path,
    *,
    fields: Fields,
    body: Sequence[bytes] = (),
    trailers: Fields = (),
) -> Http2Answer:
    """Send a request over TLS, a DATA frame a piece of *body*, and return the answer."""
    tls = ssl.create_default_context(cafile=str(ca_file))
    tls.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection("localhost", port, ssl=tls)
    try:
        talk = _Talk(reader, writer)
        settings = ((1, 0), (2, 0), (4, _LARGEST_WINDOW))  # no table, no push, a wide window
        writer.write(_PREFACE)
        talk.send(_SETTINGS, b"".join(struct.pack(">HI", *one) for one in settings))
        talk.send(_WINDOW_UPDATE, struct.pack(">I", _LARGEST_WINDOW - 65535))
        is_sent = await _send_request(talk, fields=fields, body=body, trailers=trailers)
        while not talk.is_over:
            await talk.take()
        return Http2Answer(talk.status, bytes(talk.body), is_sent)
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def _send_request(
    talk: _Talk, *, fields: Fields, body: Sequence[bytes], trailers: Fields
) -> bool:
    ends = _END_STREAM if not body and not trailers else 0
    talk.send(_HEADERS, _literals(fields), flags=_END_HEADERS | ends, stream=_STREAM)
    for index, piece in enumerate(body):
        is_last = index == len(body) - 1 and not trailers
        if not await _send_data(talk, piece, is_last=is_last):
            return False
    if trailers:
        flags = _END_HEADERS | _END_STREAM
        talk.send(_HEADERS, _literals(trailers), flags=flags, stream=_STREAM)
    await talk.writer.drain()
    return True


async def _send_data(talk: _Talk, piece: bytes, *, is_last: bool) -> bool:
    """Send a piece as the windows allow; False when the answer is over before that."""
    left = piece
    while True:
        room = min(16384, talk.connection_window, talk.stream_window)
        if left and room <= 0:
            await talk.take()
            if talk.is_over:
                return False
            continue
        now, left = left[:room], left[room:]
        talk.connection_window -= len(now)
        talk.stream_window -= len(now)
        talk.send(_DATA, now, flags=_END_STREAM if is_last and not left else 0, stream=_STREAM)
        await talk.writer.drain()
        if not left:
            return True


def _literals(fields: Fields) -> bytes:
    return b"".join(
        b"\x00" + _length(len(name)) + name.encode() + _length(len(value)) + value.encode()
        for name, value in fields
    )


def _length(number: int) -> bytes:
    """Encode an integer with a prefix of seven bits (RFC 7541 section 5.1)."""
    if number < 127:
        return bytes([number])
    out, number = bytearray([127]), number - 127
    while number >= 128:
        out.append(number % 128 + 128)
        number //= 128
    return bytes([*out, number])


def _unpadded(payload: bytes, flags: int) -> bytes:
    if flags & _PADDED:
        payload = payload[1 : len(payload) - payload[0]]
    return payload[5:] if flags & _PRIORITY else payload


def _status_in(block: bytes) -> int:
    while block[0] & 0xE0 == 0x20:  # a change of the table's size
        block = block[1:]
    if block[0] & 0x80:
        return _STATIC_STATUSES[block[0] & 0x7F]
    is_huffman, size = block[1] & 0x80, block[1] & 0x7F
    value = block[2 : 2 + size]
    if not is_huffman:
        return int(value)
    bits, digits, code = "".join(f"{byte:08b}" for byte in value), "", ""
    for bit in bits:
        code += bit
        if code in _HUFFMAN_DIGITS:
            digits, code = digits + _HUFFMAN_DIGITS[code], ""
    return int(digits)
