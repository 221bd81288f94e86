"""The I/O of one ext_proc stream: reads messages, sends answers, and keeps the deadlines.

It is the only place where a request waits: for Envoy in `receive` and `send`, for a slow check in
`wait_for`, which reads on meanwhile. One timer keeps the budgets of all waits.
"""

from __future__ import annotations

import asyncio
import enum
from collections import defaultdict
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import Refusal
from sidecar.extproc.phases import LATE, Answer, BodyMode, Event, Phase, RefusedError, Room
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


# By names of their own, as they are looked up for every message.
_NOTHING: Final = Event.NOTHING
_ENDED: Final = Phase.ENDED
_AWAIT_BODY: Final = Phase.AWAIT_BODY
_JUDGING_PIECE: Final = Phase.JUDGING_PIECE
_STREAMED: Final = BodyMode.FULL_DUPLEX_STREAMED


TURNS_ALONE: Final = 3
"""Turns of the loop in which a slow check may end before the stream is read meanwhile: most local
passes do, and a task that reads would cost more than the turns."""


MESSAGES_AT_ONCE: Final = 64
"""Messages that are read one behind the other before other requests get their turn: a client may
send its body in frames of one byte, each of which Envoy passes on as a message."""

PLACES_FOR_A_FREE_ONE: Final = 7
"""The most places of one organization among several for each place that is free: it leaves an
eighth. It may take all of fewer than eight places."""


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
    """One bidirectional gRPC call as bytes in and bytes out.

    `has_ended` once the peer has half-closed, and all its messages are taken. `room` counts the
    part of a long message that has come.
    """

    has_ended: bool
    room: Room | None

    def take(self) -> bytes | memoryview | None:
        """Return the next message if it has come, else None.

        Raises:
            RefusedError: there is no room for the rest of a message.
            StreamGoneError: the peer has reset the stream.
        """
        ...

    def arrival(self) -> asyncio.Future[None]:
        """Return a future of more to take, of the half-close, or of a reset."""
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
    """Seconds that all waits of one phase may take together, from its first wait on."""

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
    Phase.AWAIT_HEADERS: "authorize_seconds",
    Phase.JUDGING_HEADERS: "authorize_seconds",
    Phase.AWAIT_BODY: "body_seconds",
    Phase.JUDGING_BODY: "inspect_seconds",
    Phase.JUDGING_PIECE: "inspect_seconds",
    Phase.JUDGING_ANSWER: "inspect_seconds",
}


class ExtProcStream:
    """One stream of Envoy's; `is_broken` once reading has failed in another way than a reset."""

    # `_deadline` is the end of the phase's budget, `_due` the moment from which on the wait under
    # way is late. `_alarm` rings then or before, and is set again as long as it rings too early.
    __slots__ = (
        "_alarm",
        "_alarm_at",
        "_budgets",
        "_call",
        "_deadline",
        "_due",
        "_is_half_closed",
        "_timed_phase",
        "_waiting",
        "is_broken",
        "protocol",
    )

    def __init__(self, call: Call, protocol: ExtProcProtocol, budgets: Budgets) -> None:
        self.protocol = call.room = protocol
        self._call = call
        self._budgets = budgets
        self._is_half_closed = False
        self._timed_phase: Phase | None = None
        self._deadline: float | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._due: float | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
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
            if protocol.held_bytes:
                protocol.drop()
            if self._alarm is not None:
                self._alarm.cancel()
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
        if self._timed_phase is _JUDGING_PIECE:
            self._timed_phase = None  # the next piece may be here already, and has its own budget
        while event is _NOTHING:
            if protocol.outgoing:
                await self.send()
            if protocol.phase is _ENDED:
                event = Event.ENDED
            elif (received := self._take()) is None:
                await self._until(self._call.arrival())
            else:
                event = received
                if event is _NOTHING:
                    count += 1
                    if not count % MESSAGES_AT_ONCE:
                        await self._turn()
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

        Not while a piece of an answer is judged: the next one has to wait for its verdict.

        Raises:
            OvertakenError: Envoy answered the client itself; the check is cancelled.
            LateError: the check took longer than its budget, and is cancelled.
            CheckCancelledError: the check was cancelled from within.
        """
        judging = asyncio.ensure_future(check)
        judging.add_done_callback(self._wake)
        try:
            for _ in range(TURNS_ALONE):
                if not judging.done():
                    await asyncio.sleep(0)
            while not judging.done():
                # Not while answers wait to be sent: they would gather for as long as this takes.
                is_piece = self.protocol.phase is _JUDGING_PIECE
                if is_piece or self._is_half_closed or self.protocol.outgoing:
                    await self._until(asyncio.get_running_loop().create_future())
                elif (event := self._take()) is None:
                    await self._until(self._call.arrival())
                elif event is _NOTHING:
                    await self._turn()
                else:
                    raise OvertakenError(event)
        finally:
            if not judging.done():
                judging.cancel()
                # An error that it may still raise is not reported as lost.
                judging.add_done_callback(
                    lambda dropped: dropped.cancelled() or dropped.exception()
                )
        if judging.cancelled():
            raise CheckCancelledError
        return judging.result()

    async def outcome_of(self, steps: _Outcome | Awaitable[_Outcome]) -> _Outcome:
        """Return the outcome of work that is done already, or goes on in turns; as `wait_for`."""
        return steps if isinstance(steps, tuple) else await self.wait_for(steps)

    async def _turn(self) -> None:
        """Give others their turn; who always has more to send is late all the same."""
        loop = asyncio.get_running_loop()
        loop.call_soon(self._wake)
        await self._until(loop.create_future())

    def _take(self) -> Event | None:
        """Let the protocol receive what has come; return its event, None if nothing has come."""
        try:
            message = self._call.take()
            if message is None and not self._call.has_ended:
                return None
        except (StreamGoneError, RefusedError):
            raise
        except Exception:
            self.is_broken = True
            raise
        if message is not None:
            return self.protocol.receive(message)
        self._is_half_closed = True
        self.protocol.half_close()
        return _NOTHING

    async def _until(self, waiting: asyncio.Future[None]) -> None:
        """Wait for *waiting* as long as the phase allows; the end of a check ends the wait too.

        Raises:
            LateError: nothing came in time.
        """
        protocol, loop = self.protocol, asyncio.get_running_loop()
        phase = protocol.phase
        if phase is not self._timed_phase:  # its budget begins with its first wait
            self._timed_phase = phase
            seconds = self._budgets.of(phase)
            self._deadline = None if seconds is None else loop.time() + seconds
        due = self._deadline
        if due is not None:
            now = loop.time()
            if now >= due:
                raise LateError(LATE[phase])
            if phase is _AWAIT_BODY and protocol.request_mode is _STREAMED:
                due = min(due, now + self._budgets.body_idle_seconds)
            if self._alarm is None or due < self._alarm_at:
                self._set_alarm(due)
        self._due = due
        self._waiting = waiting
        await waiting

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm, self._alarm_at = asyncio.get_running_loop().call_at(at, self._ring), at

    def _ring(self) -> None:
        """End the wait under way if it is due; it mostly began after the alarm was set."""
        self._alarm = None
        if self._waiting is None or self._waiting.done() or self._due is None:
            return
        if asyncio.get_running_loop().time() < self._due:
            self._set_alarm(self._due)
        else:
            self._waiting.set_exception(LateError(LATE[self.protocol.phase]))

    def _wake(self, _: asyncio.Future[Any] | None = None) -> None:
        """End the wait under way: a check is done, or others had their turn."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class OverloadGuard:
    """Counts requests under judgement, and the bytes of bodies that are kept until a verdict.

    The bytes are those received: while a body is judged, it is in memory once or twice more.

    Owners (organizations) share the room by a dynamic threshold, as switches share a buffer: each
    may hold a fixed multiple of the bytes that are free. One alone leaves `reserved_bytes` free,
    and its share shrinks with each byte of others. The owner of few bytes, up to
    `reserved_bytes`, is refused only if the room is full.

    They share the places of requests in the same way. A place has an owner once the key is known;
    places without an owner count as free: their requests get an owner, or leave them, within the
    budget of the wait. While a worker has seen one owner only, nothing is left to others.
    """

    __slots__ = (
        "_first_owner",
        "_free_exchanges",
        "_has_several_owners",
        "_max_exchanges",
        "_max_held_bytes",
        "_owned_bytes",
        "_owned_exchanges",
        "_reserved_bytes",
        "_unshared_bytes",
        "exchanges",
        "held_bytes",
    )

    def __init__(
        self, *, max_exchanges: int, max_held_bytes: int, reserved_bytes: int = 0
    ) -> None:
        self._max_exchanges = max_exchanges
        self._max_held_bytes = max_held_bytes
        self._reserved_bytes = reserved_bytes
        self._unshared_bytes = max_held_bytes - reserved_bytes
        self._owned_bytes: defaultdict[str, int] = defaultdict(int)
        self._owned_exchanges: defaultdict[str, int] = defaultdict(int)
        self._free_exchanges = max_exchanges
        self._first_owner = ""
        self._has_several_owners = False
        self.exchanges = 0
        self.held_bytes = 0

    def begin(self) -> bool:
        """Count a request that is to be judged; return False if there is no room for it."""
        if self.exchanges >= self._max_exchanges:
            return False
        self.exchanges += 1
        return True

    def assign_place(self, owner: str) -> bool:
        """Count a request as one of *owner*; return whether that is within the owner's share."""
        free, self._first_owner = self._free_exchanges, self._first_owner or owner
        if owner != self._first_owner:
            self._has_several_owners = True
        self._free_exchanges = free - 1
        self._owned_exchanges[owner] = own = self._owned_exchanges[owner] + 1
        return own <= PLACES_FOR_A_FREE_ONE * free or not self._has_several_owners

    def end(self, owner: str = "") -> None:
        """Stop counting a request, of *owner*: it has its answer, or its client has left."""
        self.exchanges -= 1
        if not owner:
            return
        self._free_exchanges += 1
        if left := self._owned_exchanges[owner] - 1:
            self._owned_exchanges[owner] = left
        else:
            del self._owned_exchanges[owner]

    def hold(self, size: int, owner: str = "") -> bool:
        """Count *size* bytes more; return False, and count nothing, if there is no room.

        *owner* is empty until the key is known.
        """
        held = self.held_bytes + size
        if held > self._unshared_bytes:
            return self._hold_within(self._max_held_bytes, size, owner)
        if size:  # no owner exceeds its share of so few
            self.held_bytes = held
            self._owned_bytes[owner] += size
        return True

    def _hold_within(self, room: int, size: int, owner: str) -> bool:
        """Count *size* bytes more if *owner* has a share of *room* for them."""
        if not size:
            return True
        is_alone = owner and not self._has_several_owners
        free, reserve = room - self.held_bytes - size, 0 if is_alone else self._reserved_bytes
        own = self._owned_bytes[owner] + size
        if free < 0 or (own > reserve and own * reserve > (room - reserve) * free):
            return False
        self.held_bytes += size
        self._owned_bytes[owner] = own
        return True

    def hold_buffered(self, size: int, owner: str = "") -> bool:
        """Count *size* bytes more of an answer that Envoy keeps: it has as much room again.

        No client or provider slows it down, and its judgement has a budget: the reserve is free
        again in seconds. Requests, which may be slow, take none of it.
        """
        return self._hold_within(2 * self._max_held_bytes, size, owner)

    def hold_spare(self, size: int, owner: str = "") -> bool:
        """Count *size* bytes more if that leaves half of the room to bodies under judgement."""
        return self._hold_within(self._max_held_bytes // 2, size, owner)

    def assign(self, size: int, owner: str) -> bool:
        """Count *size* bytes without an owner as those of *owner*; return whether it has room."""
        self.release(size)
        if self.hold(size, owner):
            return True
        self.held_bytes += size
        self._owned_bytes[owner] += size
        return False

    def release(self, size: int, owner: str = "") -> None:
        """Stop counting *size* bytes."""
        self.held_bytes -= size
        if left := self._owned_bytes[owner] - size:
            self._owned_bytes[owner] = left
        else:
            del self._owned_bytes[owner]
