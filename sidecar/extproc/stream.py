"""The I/O of one ext_proc stream: reads messages, sends answers, and keeps the deadlines.

It is the only place where a request waits: for Envoy in `receive`,
for a slow check in `wait_for`, which reads on meanwhile.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import Refusal
from sidecar.extproc.phases import LATE, Answer, BodyMode, Event, Phase, RefusedError
from sidecar.extproc.protocol import ExtProcProtocol

_Value = TypeVar("_Value")
_Outcome = TypeVar("_Outcome", bound=tuple[object, ...])

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
STREAM_NAME: Final = "x-egret-stream"
"""Of the gRPC call's metadata: Envoy's own name of the request, which its access log has too.

Not the request id: an Envoy that keeps a client's would let it name, and so end, another request.
"""
CALL_METADATA: Final = (TRACEPARENT, TRACESTATE, STREAM_NAME)
"""The metadata of a call that are read; the server may leave out all others."""


# By names of their own: a member of an enumeration is slow to look up on Python 3.11.
_NOTHING: Final = Event.NOTHING
_ENDED: Final = Phase.ENDED


TURNS_ALONE: Final = 3
"""Turns of the loop in which a slow check may end before the stream is read meanwhile: most local
passes do, and a task that reads would cost more than the turns."""


MESSAGES_AT_ONCE: Final = 64
"""Messages that are read one behind the other before other requests get their turn: a client may
send its body in frames of one byte, each of which Envoy passes on as a message."""


class StreamEnd(enum.Enum):
    """The end of a stream."""

    COMPLETED = "completed"  # the last answer owed was given
    ABORTED = "aborted"  # with an error: Envoy fails closed; after a plain end it would fail open
    CANCELLED = "cancelled"  # Envoy has reset it: the client left


class StreamGoneError(Exception):
    """Envoy has reset the stream; no answer can reach it."""


class OvertakenError(Exception):
    """An event came that was not waited for: a local reply of Envoy, or the end."""

    def __init__(self, event: Event) -> None:
        super().__init__(event.name)
        self.event = event


class LateError(RefusedError):
    """A wait took longer than its budget."""


class CheckCancelledError(Exception):
    """A check was cancelled from within, for example with a look-up that it shared."""


class Call(Protocol):
    """One bidirectional gRPC call as bytes in and bytes out."""

    def take(self) -> bytes | memoryview | None:
        """Return the next message if it has come, and the server can see that; else None.

        Raises:
            RefusedError: there is no room for the rest of a message.
            StreamGoneError: the peer has reset the stream.
        """
        ...

    async def read(self) -> bytes | memoryview | None:
        """Return the next message, or None once the peer has half-closed.

        Raises:
            RefusedError: there is no room for the rest of a message.
            StreamGoneError: the peer has reset the stream.
        """
        ...

    async def write(self, messages: Sequence[Answer], *, ends: bool) -> None:
        """Send *messages* in order; with *ends* nothing follows them.

        Raises:
            StreamGoneError: the peer has reset the stream.
        """
        ...


class Handler(Protocol):
    """Judges one request and its answer over a stream, and words their refusals."""

    async def judge(self, stream: ExtProcStream) -> Refusal | None:
        """Carry request and answer to their ends; return the refusal that is owed, if any."""
        ...

    def note(self, error: Exception) -> ErrorKind:
        """Count and log *error*; return the kind of the refusal."""
        ...

    def refusal(self, kind: ErrorKind) -> Refusal:
        """Return the refusal of *kind* in the client's dialect; may come before the headers."""
        ...

    def finish(self, protocol: ExtProcProtocol, end: StreamEnd) -> None:
        """Report the request, once, however its stream ended."""
        ...


@dataclass(frozen=True, slots=True)
class Budgets:
    """Seconds that a request may wait in each of its waits."""

    authorize_seconds: float
    body_seconds: float
    body_idle_seconds: float
    """Between two pieces of a body; if Envoy keeps the body, it comes in one."""
    inspect_seconds: float

    def of(self, phase: Phase) -> float | None:
        """Return the budget of the wait in *phase*; None if Envoy's own timers rule."""
        name = _BUDGETS.get(phase)
        return None if name is None else getattr(self, name)


_BUDGETS: Final = {
    Phase.JUDGING_HEADERS: "authorize_seconds",
    Phase.AWAIT_BODY: "body_seconds",
    Phase.JUDGING_BODY: "inspect_seconds",
    Phase.JUDGING_ANSWER: "inspect_seconds",
}


class ExtProcStream:
    """One stream of Envoy's; `is_broken` once reading has failed in another way than a reset."""

    __slots__ = (
        "_budgets",
        "_call",
        "_deadline",
        "_is_half_closed",
        "_reading",
        "_timed_phase",
        "is_broken",
        "protocol",
    )

    def __init__(self, call: Call, protocol: ExtProcProtocol, budgets: Budgets) -> None:
        self.protocol = protocol
        self._call = call
        self._budgets = budgets
        self._reading: asyncio.Future[bytes | memoryview | None] | None = None
        self._is_half_closed = False
        self._timed_phase = protocol.phase
        self._deadline: float | None = None
        self.is_broken = False

    async def run(self, handler: Handler) -> StreamEnd:
        """Have *handler* judge the request; return how the stream must end.

        An exception ends in a refusal, or in a stream that is aborted: a plain end would let
        Envoy go on with a request that was not judged.
        """
        protocol = self.protocol
        end = StreamEnd.ABORTED
        try:
            try:
                refusal = await handler.judge(self)
            except StreamGoneError:
                raise
            except Exception as error:  # noqa: BLE001 - a bug is a refusal, never a pass
                kind, refusal = handler.note(error), None
                if not self.is_broken and protocol.may_refuse:
                    refusal = handler.refusal(kind)
                else:  # too late: Envoy must see an error
                    protocol.abort()
            if refusal is not None:
                protocol.refuse(refusal)
                await self.send()
            end = StreamEnd.ABORTED if protocol.is_aborted else StreamEnd.COMPLETED
        except asyncio.CancelledError:
            end = StreamEnd.CANCELLED
            raise
        except StreamGoneError:
            end = StreamEnd.CANCELLED
        except Exception as error:  # noqa: BLE001 - the last line: Envoy must see an error
            handler.note(error)
        finally:
            # Kept bytes are let go of, and work that still runs for this stream is cancelled.
            protocol.drop()
            if self._reading is not None:
                _drop(self._reading)
            handler.finish(protocol, end)
        return end

    async def receive(self, expected: Event | None = None) -> Event:
        """Send the answers owed, then read until a message asks for a decision; ENDED at the end.

        Raises:
            OvertakenError: another event than the *expected* one came: Envoy answered the client
                itself, or the stream has ended.
            RefusedError: the request cannot go on; `LateError` if a message came too late.
            ProtocolViolationError, UnreadableMessageError: Envoy broke the protocol.
            StreamGoneError: Envoy has reset the stream.
        """
        protocol, event, count = self.protocol, _NOTHING, 0
        while True:
            if protocol.outgoing:
                await self.send()
            if protocol.phase is _ENDED:
                event = Event.ENDED
            elif (message := await self._read()) is not None:
                event = protocol.receive(message)
            else:
                self._is_half_closed = True
                protocol.half_close()
            if event is not _NOTHING:
                break
            count += 1
            if not count % MESSAGES_AT_ONCE:
                await asyncio.sleep(0)
        if expected is not None and event is not expected:
            raise OvertakenError(event)
        return event

    async def send(self) -> None:
        """Send all answers owed at once, with the end of the stream if it has come."""
        protocol = self.protocol
        messages, protocol.outgoing = protocol.outgoing, []
        has_ended = protocol.phase is _ENDED and not protocol.is_aborted
        await self._call.write(messages, ends=has_ended)

    async def wait_for(self, check: Awaitable[_Value]) -> _Value:
        """Wait for a slow check, reading on so that a local reply or a reset ends it at once.

        Raises:
            OvertakenError: Envoy answered the client itself; the check is cancelled.
            LateError: the check took longer than its budget, and is cancelled.
            CheckCancelledError: the check was cancelled from within.
        """
        judging = asyncio.ensure_future(check)
        try:
            for _ in range(TURNS_ALONE):
                if not judging.done():
                    await asyncio.sleep(0)
            while not judging.done():
                await self._read_on(judging)
        finally:
            if not judging.done():
                _drop(judging)
        if judging.cancelled():
            raise CheckCancelledError
        return judging.result()

    async def outcome_of(self, steps: _Outcome | Awaitable[_Outcome]) -> _Outcome:
        """Return the outcome of work that is done already, or goes on in turns; as `wait_for`."""
        return steps if isinstance(steps, tuple) else await self.wait_for(steps)

    async def _read_on(self, judging: asyncio.Future[Any]) -> None:
        """Wait until *judging* is done or a message has come, which is received."""
        waits: list[asyncio.Future[Any]] = [judging]
        # Not while answers wait to be sent: they would gather for as long as the check takes.
        if self._reading is None and not self._is_half_closed and not self.protocol.outgoing:
            self._reading = asyncio.ensure_future(self._call.read())
        if self._reading is not None:
            waits.append(self._reading)
        seconds = self._remaining_seconds()
        done, _ = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise LateError(LATE[self.protocol.phase])
        if judging.done() or self._reading is None:
            return  # a verdict that comes with a message is taken first
        message = self._taken(self._reading)
        if message is None:
            self._is_half_closed = True
            self.protocol.half_close()
        elif (event := self.protocol.receive(message)) is not Event.NOTHING:
            raise OvertakenError(event)

    async def _read(self) -> bytes | memoryview | None:
        if self._reading is not None:
            seconds = self._remaining_seconds()
            done, _ = await asyncio.wait([self._reading], timeout=seconds)
            if not done:
                raise LateError(LATE[self.protocol.phase])
            return self._taken(self._reading)
        try:
            # The next message of a long body has mostly come, and needs no timer.
            if (message := self._call.take()) is not None:
                return message
            # Without a task beside us, as nothing else is waited for: the task and the wait for
            # it cost a third of all that judging a request costs.
            seconds = self._remaining_seconds()
            return await (self._call.read() if seconds is None else self._read_within(seconds))
        except (StreamGoneError, RefusedError):
            raise
        except Exception:
            self.is_broken = True
            raise

    async def _read_within(self, seconds: float) -> bytes | memoryview | None:
        """Read with a deadline, as `asyncio.timeout` does, without its object and its context."""
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("a stream is read by a task")
        cancels, is_late = task.cancelling(), False

        def give_up() -> None:
            nonlocal is_late
            is_late = True
            task.cancel()

        timer = task.get_loop().call_later(seconds, give_up)
        try:
            return await self._call.read()
        except asyncio.CancelledError:
            # A cancellation from outside, which came as well, goes on.
            if is_late and task.cancelling() <= cancels + 1:
                raise LateError(LATE[self.protocol.phase]) from None
            raise
        finally:
            timer.cancel()
            if is_late:
                task.uncancel()

    def _taken(
        self, reading: asyncio.Future[bytes | memoryview | None]
    ) -> bytes | memoryview | None:
        self._reading = None
        try:
            return reading.result()
        except (StreamGoneError, RefusedError):
            raise
        except Exception:
            self.is_broken = True
            raise

    def _remaining_seconds(self) -> float | None:
        """Return how long the wait of this phase may still take; its budget begins with it."""
        phase = self.protocol.phase
        if phase is not self._timed_phase:
            self._timed_phase = phase
            seconds = self._budgets.of(phase)
            if seconds is None:
                self._deadline = None
                return None
            self._deadline = asyncio.get_running_loop().time() + seconds
        elif self._deadline is None:
            return None
        else:
            seconds = max(0.0, self._deadline - asyncio.get_running_loop().time())
        is_streamed = self.protocol.request_mode is BodyMode.FULL_DUPLEX_STREAMED
        if phase is Phase.AWAIT_BODY and is_streamed:
            return min(seconds, self._budgets.body_idle_seconds)
        return seconds


def _drop(wait: asyncio.Future[Any]) -> None:
    """Cancel *wait*; an error that it may still raise is not reported as lost."""
    wait.cancel()
    wait.add_done_callback(lambda dropped: dropped.cancelled() or dropped.exception())


class OverloadGuard:
    """Counts requests under judgement, and the bytes of bodies that are kept until a verdict.

    The bytes are those received: while a body is judged, it is in memory once or twice more.
    """

    __slots__ = ("_max_exchanges", "_max_held_bytes", "exchanges", "held_bytes")

    def __init__(self, *, max_exchanges: int, max_held_bytes: int) -> None:
        self._max_exchanges = max_exchanges
        self._max_held_bytes = max_held_bytes
        self.exchanges = 0
        self.held_bytes = 0

    def begin(self) -> bool:
        """Count a request that is to be judged; return False if there is no room for it."""
        if self.exchanges >= self._max_exchanges:
            return False
        self.exchanges += 1
        return True

    def end(self) -> None:
        """Stop counting a request: it has its answer, or its client has left."""
        self.exchanges -= 1

    def hold(self, size: int) -> bool:
        """Count *size* bytes more; return False, and count nothing, if there is no room."""
        if size and self.held_bytes + size > self._max_held_bytes:
            return False
        self.held_bytes += size
        return True

    def hold_spare(self, size: int) -> bool:
        """Count *size* bytes more if that leaves half of the room to bodies under judgement."""
        if size and 2 * (self.held_bytes + size) > self._max_held_bytes:
            return False
        self.held_bytes += size
        return True

    def release(self, size: int) -> None:
        """Stop counting *size* bytes."""
        self.held_bytes -= size
