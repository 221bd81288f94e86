"""Clients that read streams, many at once, and note when each event was sent and when it came."""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit

from egret_tools.cli.bench import percentile
from typing_extensions import override

from loadtest.figures import Figures, per_request_us

MOST_GROWTH_MS: Final = 5.0
LEAST_SHARE: Final = 0.97
"""Of the events due in a second; an event late by seconds counts as missing."""

_MS: Final = 1e-6


@dataclass(frozen=True, slots=True)
class StreamCell:
    """One load on one target. CPU seconds are user and system time."""

    load: StreamLoad
    seen: Seen
    worker_cpu_seconds: float
    envoy_cpu_seconds: float


def stream_figures(cell: StreamCell) -> Figures:
    """Return the figures of one cell by itself."""
    seen = cell.seen
    chunks = len(seen.came)
    steady = [
        (sent, newest, came)
        for sent, newest, came in zip(seen.sent, seen.newest, seen.came, strict=True)
        if seen.steady <= sent < seen.until
    ]
    delays = [(sent, (came - sent) * _MS) for sent, _, came in steady]
    return {
        **_percentiles("ttft", [one * _MS for one in seen.first]),
        **_percentiles("first_word", [one * _MS for one in seen.first_word]),
        **_percentiles("delay", [delay for _, delay in delays]),
        **_percentiles("release", [(came - newest) * _MS for _, newest, came in steady]),
        "growth_ms": _growth_ms(seen, delays),
        "chunks_per_s": _rate(cell),
        "worker_cpu_us_per_chunk": per_request_us(cell.worker_cpu_seconds, chunks),
        "envoy_cpu_us_per_chunk": per_request_us(cell.envoy_cpu_seconds, chunks),
        "failed": seen.failed,
    }


def added(figures: Figures, baseline: Figures) -> Figures:
    """Return the addition of a target to the *baseline* of the same load."""
    names = [f"{name}_{part}_ms" for name in _ADDED for part in ("p50", "p95")]
    return {f"added_{name}": figures[name] - baseline[name] for name in names}


def holds(cell: StreamCell) -> bool:
    """Return whether events came as fast as they were sent, the last as soon as the first."""
    figures = stream_figures(cell)
    is_whole = figures["chunks_per_s"] >= LEAST_SHARE * cell.load.chunks_per_second
    return is_whole and figures["growth_ms"] <= MOST_GROWTH_MS and not cell.seen.failed


_ADDED: Final = ("ttft", "first_word", "delay", "release")


def _percentiles(name: str, values: Sequence[float]) -> Figures:
    return {f"{name}_p{part}_ms": percentile(values, part) for part in (50, 95)}


def _growth_ms(seen: Seen, delays: Sequence[tuple[int, float]]) -> float:
    """Return how much longer events take in the last quarter of the time than in the first."""
    quarter = (seen.until - seen.steady) / 4
    early = [delay for sent, delay in delays if sent < seen.steady + quarter]
    late = [delay for sent, delay in delays if sent >= seen.until - quarter]
    return statistics.median(late) - statistics.median(early)


def _rate(cell: StreamCell) -> float:
    seen = cell.seen
    within = sum(1 for came in seen.came if seen.steady <= came < seen.until)
    return within / (seen.until - seen.steady) * 1e9


_EVENT: Final = re.compile(rb'"created":([0-9]+),')
_LONGEST: Final = 40
"""Bytes of a mark that may be cut in two."""
_GOOD: Final = b"HTTP/1.1 200 OK"
_END: Final = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class StreamLoad:
    """So many streams at once, each of `rate` events a second, for so many seconds.

    They begin at random times over the length of the first, the same in each run, and count from
    then on: requests that came at once, or events in phase, would wait for each other.
    """

    streams: int
    rate: int
    seconds: float
    stream_seconds: float = 5.0

    @property
    def events(self) -> int:
        """Events of one stream."""
        return int(self.rate * self.stream_seconds)

    @property
    def chunks_per_second(self) -> int:
        """Events a second of all streams together."""
        return self.streams * self.rate


@dataclass(slots=True)
class Seen:
    """Events as clients received them.

    Times are nanoseconds of the monotonic clock, which processes share.

    All streams run between `steady` and `until`; events are kept of the whole time.
    `sent`, `came` and `newest` go together, event by event: when it left the provider, when it
    came, and when the newest event of its stream had left by then. Of each stream `first` and
    `first_word` are the times from its request to the first event and to the first word.
    """

    steady: int = 0
    until: int = 0
    sent: array[int] = field(default_factory=lambda: array("q"))
    came: array[int] = field(default_factory=lambda: array("q"))
    newest: array[int] = field(default_factory=lambda: array("q"))
    first: list[int] = field(default_factory=list[int])
    first_word: list[int] = field(default_factory=list[int])
    failed: int = 0

    def add(self, marks: list[tuple[int, int]], *, asked: int) -> None:
        """Take a whole stream: when each of its events was sent, and when it came."""
        if self.steady <= asked < self.until:
            self.first.append(marks[0][1] - asked)
            self.first_word.append(marks[1][1] - asked)
        newest = 0
        for sent, came in marks:
            while newest + 1 < len(marks) and marks[newest + 1][0] <= came:
                newest += 1
            self.sent.append(sent)
            self.came.append(came)
            self.newest.append(marks[newest][0])


async def read_streams(
    load: StreamLoad, *, url: str, key: str, headers: Mapping[str, str] | None = None
) -> Seen:
    """Put the load on and return the times of its events."""
    target = urlsplit(url)
    body = json.dumps(
        {
            "model": "gpt-4o-mini",
            "messages": [{"role": "user", "content": "Tell me a story."}],
            "stream": True,
            "max_tokens": load.events,
            "seed": load.rate,
        }
    ).encode()
    head = (
        f"POST {target.path} HTTP/1.1\r\nhost: {target.netloc}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        + "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        + "\r\n"
    )
    steady = time.monotonic_ns() + int(load.stream_seconds * 1e9)
    seen = Seen(steady=steady, until=steady + int(load.seconds * 1e9))
    loop = asyncio.get_running_loop()
    clients: list[_Client] = []
    starts = Random(1)  # noqa: S311 - no secret
    for _ in range(load.streams):
        _, client = await loop.create_connection(
            lambda: _Client(head.encode() + body, seen),
            target.hostname or "",
            target.port or 0,
        )
        clients.append(client)
        loop.call_later(starts.uniform(0, load.stream_seconds), client.begin)
    async with asyncio.timeout(load.seconds + 4 * load.stream_seconds + 10):
        await asyncio.gather(*(client.is_over for client in clients))
    return seen


class _Client(asyncio.Protocol):
    """One stream after another on one connection, until the time is over."""

    def __init__(self, request: bytes, seen: Seen) -> None:
        self.is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._seen = seen
        self._rest = b""
        self._marks: list[tuple[int, int]] = []
        self._asked_ns = 0

    @override
    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if not self.is_over.done():
            self._seen.failed += 1
            self.is_over.set_result(None)

    def begin(self) -> None:
        """Ask for a stream."""
        self._marks = []
        self._rest = b""
        self._asked_ns = time.monotonic_ns()
        self._transport.write(self._request)

    @override
    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        text = self._rest + data
        if not self._marks and not text.startswith(_GOOD[: len(text)]):
            self._transport.close()
            return
        end = 0
        for mark in _EVENT.finditer(text):
            self._marks.append((int(mark[1]), now))
            end = mark.end()
        if self._marks:  # before, it is still the headers
            text = text[max(end, len(text) - _LONGEST) :]
        self._rest = text
        if text.endswith(_END):
            self._finish()

    def _finish(self) -> None:
        if len(self._marks) < 2:  # noqa: PLR2004 - the first event and a word
            self._seen.failed += 1
        else:
            self._seen.add(self._marks, asked=self._asked_ns)
        if time.monotonic_ns() < self._seen.until:
            self.begin()
        else:
            self.is_over.set_result(None)
            self._transport.close()
