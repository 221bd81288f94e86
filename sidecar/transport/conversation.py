"""The loop between a gRPC stream, an exchange and its judge; the same for every engine.

It reads messages, feeds the machine, performs effects in order, and keeps the budgets. While a
verdict is waited for it goes on reading, so that a local reply or a half-close is seen at once.
Whatever raises ends in a refusal or an aborted stream: a plain return would let Envoy go on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Final, Protocol, assert_never

from sidecar.checks.load import Load
from sidecar.domain.errors import ErrorKind, UnreadableMessageError
from sidecar.domain.report import FaultKind
from sidecar.exchange import effects as do
from sidecar.exchange import events as on
from sidecar.exchange.machine import Exchange
from sidecar.exchange.phase import Phase, ProtocolViolationError
from sidecar.exchange.response import UnexpectedResponseError
from sidecar.transport.codec import decode, encode
from sidecar.transport.judge import Ending, Judge

_VERDICTS: Final = (
    on.BodyRequired,
    on.RequestCleared,
    on.RequestRefused,
    on.ResponseCleared,
    on.ResponseStreamed,
    on.ResponseHeld,
    on.ResponsePieceJudged,
    on.ResponseJudged,
)
_BODIES: Final = (on.RequestBodyReceived, on.ResponseBodyReceived)


class StreamGoneError(Exception):
    """The peer reset the stream; nobody is left to answer."""


class Stream(Protocol):
    """One bidirectional gRPC call as bytes in and bytes out."""

    async def read(self) -> bytes | None:
        """Return the next message, or None once the peer has half-closed."""
        ...

    async def write(self, messages: list[bytes], *, ends: bool) -> None:
        """Send *messages* in order; *ends* tells that nothing will follow them.

        Raises:
            StreamGoneError: the peer has reset the stream.
        """
        ...


@dataclass(frozen=True, slots=True)
class Budgets:
    """Seconds an exchange may wait in each of its waits."""

    authorize_seconds: float
    body_seconds: float
    body_idle_seconds: float
    """Between two pieces of a body; where Envoy keeps the body, it comes in one."""
    inspect_seconds: float

    def of(self, phase: Phase) -> float | None:
        """Return the budget of the wait in *phase*; None where Envoy's own timers rule."""
        match phase:
            case Phase.JUDGING_HEADERS:
                return self.authorize_seconds
            case Phase.AWAIT_REQUEST_BODY:
                return self.body_seconds
            case Phase.JUDGING_BODY | Phase.JUDGING_ANSWER:
                return self.inspect_seconds
            case _:
                return None


class Conversation:
    """Drives one exchange from the first message of a stream to its end."""

    def __init__(
        self, *, stream: Stream, exchange: Exchange, judge: Judge, budgets: Budgets, load: Load
    ) -> None:
        self._stream = stream
        self._exchange = exchange
        self._judge = judge
        self._budgets = budgets
        self._load = load
        self._held_bytes = 0
        self._events: deque[on.Event] = deque()
        self._reading: asyncio.Future[bytes | None] | None = None
        self._judging: asyncio.Future[on.ChecksEvent] | None = None
        self._is_half_closed = False
        self._phase = exchange.phase
        self._deadline: float | None = None
        self._ending: Ending | None = None

    async def run(self) -> Ending:
        """Converse until nothing more is owed; return how the stream must end."""
        ending = Ending.ABORTED
        try:
            ending = await self._converse()
        except asyncio.CancelledError:
            ending = Ending.CANCELLED
            raise
        except StreamGoneError:
            ending = Ending.CANCELLED
        except Exception as error:  # noqa: BLE001 - the last line: Envoy must see an error
            self._judge.note_fault(FaultKind.EXCEPTION, error)
        finally:
            self._drop_waits()
            self._load.hold(-self._held_bytes)
            is_answered = not self._exchange.is_unanswered
            # Completed without an answer: a local reply of Envoy overtook the judgement.
            is_overtaken = ending is Ending.COMPLETED and not is_answered
            self._judge.close(
                is_cancelled=ending is Ending.CANCELLED or is_overtaken, is_answered=is_answered
            )
        return ending

    async def _converse(self) -> Ending:
        while True:
            if not self._events:
                self._events.extend(await self._next_events())
            event = self._events.popleft()
            if isinstance(event, _BODIES):
                event = self._admitted(event)
            replies = self._advance(event)
            if replies:
                # All at once, with the end of the stream: what comes in one piece is read in one.
                ends = self._ending is Ending.COMPLETED
                await self._stream.write(replies, ends=ends)
            if self._ending is not None:
                return self._ending

    async def _next_events(self) -> list[on.Event]:
        seconds = self._remaining_seconds()
        if self._judging is None and self._reading is None:
            return await self._read(seconds)
        if self._reading is None and not self._is_half_closed:
            self._reading = asyncio.ensure_future(self._stream.read())
        waits = [wait for wait in (self._judging, self._reading) if wait is not None]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if self._judging is not None and self._judging.done():
            judging, self._judging = self._judging, None
            return [self._verdict(judging)]
        if self._reading is not None and self._reading.done():
            reading, self._reading = self._reading, None
            return self._decoded(reading.result())
        return self._late()

    async def _read(self, seconds: float | None) -> list[on.Event]:
        """Read without a task beside us: nothing else is waited for.

        The task and what waits for it cost a third of all that judging a request costs.
        """
        if seconds is None:
            return self._decoded(await self._stream.read())
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                message = await self._stream.read()
        except TimeoutError:
            if not limit.expired():
                raise
            return self._late()
        return self._decoded(message)

    def _late(self) -> list[on.Event]:
        self._judge.note_fault(FaultKind.DEADLINE)
        return [on.DeadlinePassed()]

    def _remaining_seconds(self) -> float | None:
        phase = self._exchange.phase
        if phase is not self._phase:
            self._phase = phase
            budget = self._budgets.of(phase)
            now = asyncio.get_running_loop().time()
            self._deadline = None if budget is None else now + budget
        if self._deadline is None:
            return None
        seconds = max(0.0, self._deadline - asyncio.get_running_loop().time())
        if phase is Phase.AWAIT_REQUEST_BODY and self._exchange.comes_in_pieces:
            return min(seconds, self._budgets.body_idle_seconds)
        return seconds

    def _admitted(self, event: on.RequestBodyReceived | on.ResponseBodyReceived) -> on.Event:
        """Return *event*, or a fault where there is no room for the body in it."""
        size = self._exchange.would_hold(event)
        if size and not self._load.may_hold(size):
            self._judge.note_fault(FaultKind.TOO_MANY_BYTES)
            return on.Faulted(ErrorKind.OVERLOADED)
        return event

    def _account(self) -> None:
        """Tell the worker what this exchange keeps now."""
        held = self._exchange.held_bytes
        if held != self._held_bytes:
            self._load.hold(held - self._held_bytes)
            self._held_bytes = held

    def _decoded(self, message: bytes | None) -> list[on.Event]:
        if message is None:
            self._is_half_closed = True
            return [on.StreamClosed()]
        try:
            return list(decode(message))
        except UnreadableMessageError as error:
            self._judge.note_fault(FaultKind.UNREADABLE_MESSAGE, error)
            return [on.Faulted()]

    def _verdict(self, judging: asyncio.Future[on.ChecksEvent]) -> on.Event:
        if judging.cancelled():
            # A check was cancelled from within, say with a look-up it shared; we were not.
            self._judge.note_fault(FaultKind.EXCEPTION, asyncio.CancelledError())
            return on.Faulted()
        error = judging.exception()
        if error is not None:
            self._judge.note_fault(FaultKind.EXCEPTION, error)
            return on.Faulted()
        return judging.result()

    def _effects(self, event: on.Event) -> list[do.Effect]:
        try:
            effects = self._exchange.receive(event)
        except (ProtocolViolationError, UnexpectedResponseError) as error:
            self._judge.note_fault(FaultKind.PROTOCOL_VIOLATION, error)
            effects = self._exchange.receive(on.Faulted())
        if self._held_bytes or isinstance(event, _BODIES):
            self._account()
        return effects

    def _advance(self, event: on.Event) -> list[bytes]:
        """Perform what *event* brings about; return what Envoy is to be told."""
        replies: list[bytes] = []
        for effect in self._effects(event):
            match effect:
                case (
                    do.JudgeHeaders()
                    | do.JudgeBody()
                    | do.WordRefusal()
                    | do.JudgeResponseHeaders()
                    | do.JudgeResponsePiece()
                    | do.JudgeResponseBody()
                ):
                    self._ask(effect)
                case do.AbandonJudgement():
                    self._drop_judging()
                case do.EndStream():
                    self._ending = Ending.COMPLETED
                case do.AbortStream():
                    self._ending = Ending.ABORTED
                case _:
                    replies.append(encode(effect))
        return replies

    def _ask(self, question: do.Question) -> None:
        try:
            answer = self._put(question)
        except Exception as error:  # noqa: BLE001 - any bug of a check is a refusal, not a pass
            self._judge.note_fault(FaultKind.EXCEPTION, error)
            self._events.appendleft(on.Faulted())
            return
        if isinstance(answer, _VERDICTS):
            self._events.appendleft(answer)
        else:
            self._judging = asyncio.ensure_future(answer)

    def _put(self, question: do.Question) -> on.ChecksEvent | Awaitable[on.ChecksEvent]:
        match question:
            case do.JudgeHeaders(headers, has_body, source):
                return self._judge.judge_headers(headers, has_body=has_body, source_address=source)
            case do.JudgeBody(body, may_judge_answer):
                return self._judge.judge_body(body, may_judge_answer=may_judge_answer)
            case do.WordRefusal(kind):
                if kind is ErrorKind.UNSUPPORTED_PROCESSING_MODE:
                    self._judge.note_fault(FaultKind.UNSUPPORTED_MODE)
                return self._judge.word_refusal(kind)
            case do.JudgeResponseHeaders(headers, has_body, may_stream):
                return self._judge.judge_response_headers(
                    headers, has_body=has_body, may_stream=may_stream
                )
            case do.JudgeResponsePiece(body, is_last):
                return self._judge.judge_response_piece(body, is_last=is_last)
            case do.JudgeResponseBody(body):
                return self._judge.judge_response_body(body)
            case _:
                assert_never(question)

    def _drop_judging(self) -> None:
        if self._judging is not None:
            _drop(self._judging)
            self._judging = None

    def _drop_waits(self) -> None:
        self._drop_judging()
        if self._reading is not None:
            _drop(self._reading)
            self._reading = None


def _drop(wait: asyncio.Future[Any]) -> None:
    """Cancel *wait*; what it may still raise concerns nobody, and is not reported as lost."""
    wait.cancel()
    wait.add_done_callback(lambda dropped: dropped.cancelled() or dropped.exception())
