"""A handler of requests that says what it is told, for streams and servers without a pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import HeaderMutation, Refusal
from sidecar.domain.report import FaultKind
from sidecar.extproc.phases import Event, Phase
from sidecar.extproc.protocol import ExtProcProtocol
from sidecar.extproc.stream import (
    Budgets,
    Call,
    ExtProcStream,
    OverloadGuard,
    OvertakenError,
    StreamEnd,
)
from sidecar.pipeline.request import fault_of
from tests.support import events as on
from tests.support import replies as do
from tests.support.conversation import MAX_BODY_BYTES, forward, roomy

V = TypeVar("V")

HeadersVerdict = on.BodyRequired | on.RequestCleared | on.RequestRefused
BodyVerdict = on.RequestCleared | on.RequestRefused
AnswerVerdict = on.ResponseJudged | on.RequestRefused
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


def refusal_of(kind: ErrorKind) -> Refusal:
    """Return the refusal that `ScriptedHandler` words for *kind*."""
    return Refusal(
        status=kind.spec.status,
        headers=(),
        body=kind.value.encode(),
        details=f"egret_{kind.value}",
    )


@dataclass
class ScriptedHandler:
    """A handler with prepared verdicts that keeps what it was asked and told."""

    headers: HeadersAnswer
    body: BodyAnswer
    wording: Callable[[ErrorKind], Refusal] = refusal_of
    response: HeaderMutation = field(default_factory=HeaderMutation)
    answer: on.ResponseCleared | on.ResponseStreamed | on.ResponseHeld | None = None
    whole: WholeAnswer = field(default=at_once(on.ResponseJudged(HeaderMutation())))
    asked: list[object] = field(default_factory=list)
    source_addresses: list[str | None] = field(default_factory=list)
    faults: list[tuple[FaultKind, type[BaseException] | None]] = field(default_factory=list)
    closed: list[tuple[StreamEnd, bool]] = field(default_factory=list)
    """How the stream ended and whether the request was answered, one a call of `finish`."""
    protocols: list[ExtProcProtocol] = field(default_factory=list)

    async def judge(self, stream: ExtProcStream) -> Refusal | None:
        """Give the prepared verdicts."""
        self.protocols.append(stream.protocol)
        try:
            refusal = await self._judge_request(stream)
            if refusal is not None:
                return refusal
            event = await stream.receive()
        except OvertakenError as overtaken:
            event = overtaken.event
        return await self._judge_answer(event, stream)

    async def _judge_request(self, stream: ExtProcStream) -> Refusal | None:
        protocol = stream.protocol
        await stream.receive(Event.REQUEST_HEADERS)
        headers = protocol.headers
        self.asked.append((headers, protocol.has_body))
        self.source_addresses.append(protocol.source_address)
        first: HeadersVerdict = await _settled(self.headers(), stream)
        verdict: BodyVerdict
        if isinstance(first, on.BodyRequired):
            protocol.require_body(first.headers.remove_headers, judges_answer=first.judges_answer)
            if protocol.phase is Phase.AWAIT_BODY:
                await stream.receive(Event.REQUEST_BODY)
            self.asked.append(protocol.body())
            verdict = await _settled(self.body(), stream)
        else:
            verdict = first
        if isinstance(verdict, on.RequestRefused):
            return verdict.refusal
        forward(protocol, verdict.mutations, judges_answer=verdict.judges_answer)
        return None

    async def _judge_answer(self, event: Event, stream: ExtProcStream) -> Refusal | None:
        protocol = stream.protocol
        while event is not Event.ENDED:
            match event:
                case Event.ANSWER_HEADERS:
                    self._take_headers(protocol)
                case Event.ANSWER_PIECE:
                    self.take_piece(protocol)
                case Event.ANSWER_BODY:
                    self.asked.append(protocol.body())
                    verdict: AnswerVerdict = await _settled(self.whole(), stream)
                    if isinstance(verdict, on.RequestRefused):
                        return verdict.refusal
                    fields = do.fields_of(verdict.metadata)
                    protocol.send_answer(verdict.headers, verdict.body, fields)
                case _:
                    raise AssertionError(event)
            event = await stream.receive()
        return None

    def _take_headers(self, protocol: ExtProcProtocol) -> None:
        self.asked.append(protocol.answer_headers)
        match self.answer or on.ResponseCleared(self.response):
            case on.ResponseCleared(headers):
                protocol.pass_answer(headers)
            case on.ResponseStreamed(headers):
                protocol.stream_answer(headers)
            case on.ResponseHeld(unheld):
                protocol.hold_answer(unheld)

    def take_piece(self, protocol: ExtProcProtocol) -> None:
        """Let the piece go on."""
        self.asked.append((protocol.piece, protocol.piece_is_last))
        protocol.send_piece(protocol.piece)

    def note(self, error: Exception) -> ErrorKind:
        """Keep the fault, as the pipeline counts it."""
        fault, kind = fault_of(error)
        if fault is not None:
            is_logged = fault not in UNLOGGED
            self.faults.append((fault, type(error) if is_logged else None))
        return kind

    def refusal(self, kind: ErrorKind) -> Refusal:
        """Word a refusal."""
        self.asked.append(kind)
        return self.wording(kind)

    def finish(self, protocol: ExtProcProtocol, end: StreamEnd) -> None:
        """Keep how it ended."""
        self.closed.append((end, protocol.is_answered))


UNLOGGED = {FaultKind.DEADLINE, FaultKind.UNSUPPORTED_MODE, FaultKind.TOO_MANY_BYTES}


async def _settled(verdict: V | Awaitable[V], stream: ExtProcStream) -> V:
    return await stream.wait_for(verdict) if isinstance(verdict, Awaitable) else verdict


async def next_message(call: Call) -> bytes | memoryview | None:
    """Wait for a message and return it; None once the peer has half-closed."""
    while (message := call.take()) is None and not call.has_ended:
        await call.arrival()
    return message


def scripted(
    handler: ScriptedHandler,
    budgets: Budgets,
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
    wants_answer_headers: bool = False,
    guard: OverloadGuard | None = None,
) -> Callable[[Call, Mapping[str, str]], Awaitable[StreamEnd]]:
    """Return the function that the server calls for each stream: *handler* judges them all."""

    async def serve(call: Call, metadata: Mapping[str, str]) -> StreamEnd:
        del metadata
        protocol = ExtProcProtocol(
            max_body_bytes=max_body_bytes,
            wants_answer_headers=wants_answer_headers,
            room=guard or roomy(),
        )
        return await ExtProcStream(call, protocol, budgets).run(handler)

    return serve
