"""Fakes for the ports of a conversation: a judge that says what it is told, a stream in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from sidecar.checks.load import Load
from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import HeaderMutation, Headers
from sidecar.domain.mutations import Refusal
from sidecar.domain.report import FaultKind
from sidecar.exchange import events as on
from sidecar.transport.conversation import StreamGoneError
from sidecar.transport.judge import (
    AnswerVerdict,
    BodyVerdict,
    HeadersVerdict,
    ResponseHeadersVerdict,
)

V = TypeVar("V")

HeadersAnswer = Callable[[], HeadersVerdict | Awaitable[HeadersVerdict]]
BodyAnswer = Callable[[], BodyVerdict | Awaitable[BodyVerdict]]
WholeAnswer = Callable[[], AnswerVerdict | Awaitable[AnswerVerdict]]


def at_once(verdict: V) -> Callable[[], V]:
    """Return *verdict* without waiting."""
    return lambda: verdict


def awaited(verdict: V, until: asyncio.Event | None = None) -> Callable[[], Awaitable[V]]:
    """Return *verdict* after a turn of the loop, or once *until* is set."""

    async def judge() -> V:
        await (asyncio.sleep(0) if until is None else until.wait())
        return verdict

    return judge


def failing(error: BaseException) -> Callable[[], on.RequestRefused]:
    """Raise *error* when asked."""

    def judge() -> on.RequestRefused:
        raise error

    return judge


def failing_later(error: BaseException) -> Callable[[], Awaitable[on.RequestRefused]]:
    """Raise *error* when awaited."""

    async def judge() -> on.RequestRefused:
        await asyncio.sleep(0)
        raise error

    return judge


@dataclass
class Endless:
    """A check that never ends by itself; remembers that it began and that it was cancelled."""

    began: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self) -> on.RequestRefused:
        """Wait until cancelled."""
        self.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise AssertionError("nothing sets this event")


def roomy() -> Load:
    """Return the load of a worker with room for everything."""
    return Load(max_exchanges=1024, max_held_bytes=1 << 28)


def refusal_of(kind: ErrorKind) -> Refusal:
    """Return the refusal that `FakeJudge` words for *kind*."""
    return Refusal(
        status=kind.http_status,
        headers=(),
        body=kind.value.encode(),
        details=f"egret_{kind.value}",
    )


def word(kind: ErrorKind) -> on.RequestRefused:
    """Word a refusal."""
    return on.RequestRefused(refusal_of(kind))


@dataclass
class FakeJudge:
    """A judge with prepared answers that keeps what it was asked and told."""

    headers: HeadersAnswer
    body: BodyAnswer
    wording: Callable[[ErrorKind], on.RequestRefused] = word
    response: HeaderMutation = field(default_factory=HeaderMutation)
    answer: ResponseHeadersVerdict | None = None
    whole: WholeAnswer = field(default=at_once(on.ResponseJudged(HeaderMutation())))
    asked: list[object] = field(default_factory=list)
    source_addresses: list[str | None] = field(default_factory=list)
    faults: list[tuple[FaultKind, type[BaseException] | None]] = field(default_factory=list)
    closed: list[tuple[bool, bool]] = field(default_factory=list)
    """Pairs of `is_cancelled` and `is_answered`, one a call of `close`."""

    def judge_headers(
        self, headers: Headers, *, has_body: bool, source_address: str | None = None
    ) -> HeadersVerdict | Awaitable[HeadersVerdict]:
        """Give the prepared answer."""
        self.source_addresses.append(source_address)
        self.asked.append((headers, has_body))
        return self.headers()

    def judge_body(
        self, body: bytes, *, may_judge_answer: bool = True
    ) -> BodyVerdict | Awaitable[BodyVerdict]:
        """Give the prepared answer."""
        del may_judge_answer
        self.asked.append(body)
        return self.body()

    def judge_response_headers(
        self, headers: Headers, *, has_body: bool, may_stream: bool
    ) -> ResponseHeadersVerdict:
        """Change the response as prepared, or do with it what was prepared."""
        del has_body, may_stream
        self.asked.append(headers)
        return self.answer or on.ResponseCleared(self.response)

    def judge_response_piece(self, body: bytes, *, is_last: bool) -> on.ResponsePieceJudged:
        """Let the piece go on."""
        self.asked.append((body, is_last))
        return on.ResponsePieceJudged(body)

    def judge_response_body(self, body: bytes) -> AnswerVerdict | Awaitable[AnswerVerdict]:
        """Give the prepared answer."""
        self.asked.append(body)
        return self.whole()

    def word_refusal(self, kind: ErrorKind) -> on.RequestRefused:
        """Word a refusal."""
        self.asked.append(kind)
        return self.wording(kind)

    def note_fault(self, fault: FaultKind, error: BaseException | None = None) -> None:
        """Keep the fault."""
        self.faults.append((fault, None if error is None else type(error)))

    def close(self, *, is_cancelled: bool, is_answered: bool) -> None:
        """Keep how it ended."""
        self.closed.append((is_cancelled, is_answered))


class MemoryStream:
    """A gRPC stream whose other side is the test."""

    def __init__(self, *messages: bytes | None) -> None:
        """Begin with *messages* already there; None is a half-close."""
        self.written: list[bytes] = []
        self.is_gone = False
        self.has_ended = False
        self._is_half_closed = False
        self._incoming: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self._grown = asyncio.Condition()
        self.send(*messages)

    def send(self, *messages: bytes | BaseException | None) -> None:
        """Send as Envoy would; an exception is raised by `read`."""
        for message in messages:
            self._incoming.put_nowait(message)

    async def count(self, messages: int) -> None:
        """Wait until so many messages were written."""
        async with self._grown:
            await self._grown.wait_for(lambda: len(self.written) >= messages)

    async def drained(self) -> None:
        """Wait until all that was sent has been read."""
        await self._incoming.join()

    async def read(self) -> bytes | None:
        """Return the next message; a half-close stays one."""
        if self._is_half_closed:
            return None
        message = await self._incoming.get()
        self._incoming.task_done()
        if isinstance(message, BaseException):
            raise message
        self._is_half_closed = message is None
        return message

    async def write(self, messages: list[bytes], *, ends: bool) -> None:
        """Keep messages, or fail as a reset stream does; nothing may follow an end."""
        assert not self.has_ended
        if self.is_gone:
            raise StreamGoneError
        self.has_ended = ends
        async with self._grown:
            self.written.extend(messages)
            self._grown.notify_all()
