"""A provider that streams: chat completions over HTTP/1.1, each event at its time, little else.

    python -m loadtest.streams.provider SOCKET

A program of its own. `seed` of a request is its events a second and `max_tokens` how many of
them; each has the time it was sent (`created`, nanoseconds of the monotonic clock), so that the
receiver can compute its delay. `stream_options` work as at a real provider.

Each event is early or late by up to half of the time between two, by a series of random numbers
that is the same in each run: streams in phase would measure how long they wait for each other.
"""

from __future__ import annotations

import asyncio
import sys
import time
from itertools import cycle
from random import Random
from typing import Any, Final

import orjson
import uvloop
from egret_tools.benign_text import benign_text
from typing_extensions import override

HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
END: Final = b"0\r\n\r\n"
DELTAS: Final = tuple(
    orjson.dumps({"content": f" {word}"}).decode() for word in benign_text(4_000).split()
)
_BEFORE: Final = (
    '{"id":"chatcmpl-bench","object":"chat.completion.chunk","created":%d,'
    '"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_bench",'
)
_CHOICE: Final = '"choices":[{"index":0,"delta":%s,"logprobs":null,"finish_reason":%s}]'
_COUNTS: Final = (
    '"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":9,"total_tokens":18}}'
)
_JITTER: Final = Random(1)  # noqa: S311 - no secret


def main() -> None:
    """Serve until it is stopped."""
    uvloop.run(_serve(sys.argv[1]))


async def _serve(socket: str) -> None:
    server = await asyncio.get_running_loop().create_unix_server(_Connection, socket)
    await server.serve_forever()


class _Connection(asyncio.Protocol):
    """One request after another."""

    def __init__(self) -> None:
        self._received = b""
        self._timer: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport

    @override
    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        # Envoy sends a length or chunks; either way the body is whole when it is JSON.
        if separator and body:
            try:
                asked: dict[str, Any] = orjson.loads(_unchunked(head, body))
            except ValueError:
                return
            self._received = b""
            self._begin(asked)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self, asked: dict[str, Any]) -> None:
        self._pause = 1 / asked["seed"]
        self._left: int = asked["max_tokens"]
        self._has_usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        self._words = cycle(DELTAS)
        self._transport.write(HEAD + self._choice('{"role":"assistant","content":""}'))
        self._due = asyncio.get_running_loop().time()
        self._next()

    def _next(self) -> None:
        """Send one event, and wait for the time of the next by the clock, not by this one."""
        if self._left == 0:
            self._timer = None
            self._transport.write(self._ending())
            return
        self._left -= 1
        self._transport.write(self._choice(next(self._words)))
        self._due += self._pause
        at = self._due + self._pause * (_JITTER.random() - 0.5)
        self._timer = asyncio.get_running_loop().call_at(at, self._next)

    def _choice(self, delta: str, reason: str = "null") -> bytes:
        usage = ',"usage":null}' if self._has_usage else "}"
        return _event(_BEFORE % time.monotonic_ns() + _CHOICE % (delta, reason) + usage)

    def _ending(self) -> bytes:
        usage = _event(_BEFORE % time.monotonic_ns() + _COUNTS) if self._has_usage else b""
        return self._choice("{}", '"stop"') + usage + _event("[DONE]") + END


def _event(data: str) -> bytes:
    event = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(event), event)


def _unchunked(head: bytes, body: bytes) -> bytes:
    if b"chunked" not in head.lower():
        return body
    pieces: list[bytes] = []
    while body and (size := int(body.partition(b"\r\n")[0] or b"0", 16)):
        start = body.index(b"\r\n") + 2
        pieces.append(body[start : start + size])
        body = body[start + size + 2 :]
    return b"".join(pieces)


if __name__ == "__main__":
    main()
