"""Shared counters of limits in Valkey, by Lua scripts."""

from __future__ import annotations

import asyncio
import importlib.resources
from collections.abc import Callable, Sequence
from typing import Any, Final, Never, assert_never

import msgspec
import structlog

from sidecar.domain.limits import Limit, Measure, sliding_seconds
from sidecar.domain.usage import UnmatchedEnd
from sidecar.limits.budgets import THRESHOLDS
from sidecar.limits.limit_check import CalendarWindow, ConcurrencyWindow, LimitCheck, SlidingWindow
from sidecar.limits.store import (
    Acquire,
    Acquired,
    Adjustment,
    Exhausted,
    LimitReading,
    LimitsUnavailableError,
    Reply,
    State,
    Uninitialized,
)
from sidecar.settings.stores import ValkeySettings
from sidecar.storage.valkey import VALKEY_UNAVAILABLE, Client, Subscriber, open_valkey, patient

SLOT_SECONDS: Final = 600
"""How long a request holds its slot at most. If a client leaves in the moment of its verdict,
Envoy's log does not name the request."""
NAME_SECONDS: Final = 60
"""How long the name of a take is kept: a worker voids it within a second, or as soon as the server
answers again. And that of an end: Envoy sends its entry again for ten seconds."""
SENDER_SECONDS: Final = 86_400
"""How long the last number of a worker is kept. It sends a batch again until it has a reply."""
_PER_LIMIT: Final = 7
_PER_SEEN: Final = 4
_PERCENTAGES: Final = ",".join(map(str, THRESHOLDS))

_log = structlog.get_logger(__name__)


class ValkeyLimits:
    """Implements `LimitStore`."""

    def __init__(self, client: Client, *, operation_seconds: float) -> None:
        self._operation_seconds = operation_seconds
        self._take = client.register_script(_script("limits.lua"))
        self._adjust = client.register_script(_script("limits_adjust.lua"))
        self._begin = client.register_script(_script("limits_begin.lua"))
        self._name = client.register_script(_script("limits_name.lua"))
        self._look = client.register_script(_script("limits_look.lua"))

    async def take(self, scope: str, acquires: Sequence[Acquire], *, name: str) -> Reply:
        """Take all units that *acquires* request, or none; `void` finds the take by its *name*.

        Raises:
            LimitsUnavailableError: no answer in time; it may have been taken all the same.
        """
        keys = [
            *(_key(scope, acquire.check.limit) for acquire in acquires),
            _name_key(scope, name),
        ]
        arguments: list[str | int] = []
        for one in acquires:
            check = one.check
            kind, detail = _detail(check, one.member)
            arguments += (kind, check.limit.amount, one.cost, one.ahead, check.reserve, detail)
        answer = await self._run(self._take, keys, [*arguments, NAME_SECONDS])
        outcome, index, numbers = int(answer[0]), int(answer[1]) - 1, answer[2:]
        if outcome == _UNKNOWN:
            return Uninitialized(index, start=int(numbers[3]))
        states: list[State] = []
        for at in range(0, len(numbers), _PER_LIMIT):
            ahead, left, reset_us, used, reported, passed, begun_us = map(
                int, numbers[at : at + _PER_LIMIT]
            )
            states.append(
                State(ahead, left, reset_us / 1e6, used, reported, passed, begun_us / 1e6)
            )
        is_taken = outcome == _TAKEN
        return Acquired(tuple(states)) if is_taken else Exhausted(index, tuple(states))

    async def void(self, scope: str, names: Sequence[str]) -> tuple[tuple[int, ...] | None, ...]:
        """Void takes by name; return the units each took ahead, None if it was not made.

        Raises:
            LimitsUnavailableError: no answer in time.
        """
        keys = [_name_key(scope, name) for name in names]
        found = await self._run(self._name, keys, [NAME_SECONDS, ""])
        return tuple(map(_units, found))

    async def claim(self, scope: str, names: Sequence[str], *, sender: str) -> tuple[bool, ...]:
        """Claim the ends of requests by name for *sender*; return of each whether it is its own.

        Raises:
            LimitsUnavailableError: no answer in time; asked again, the answer is the same.
        """
        keys = [f"egret:limit-end:{{{scope}}}:{name}" for name in names]
        owners = await self._run(self._name, keys, [NAME_SECONDS, sender])
        return tuple(owner == sender.encode() for owner in owners)

    async def begin(self, scope: str, check: LimitCheck, *, start: int, used: int) -> None:
        """Begin a counter with the use since *start*, unless it has begun.

        Raises:
            LimitsUnavailableError: no answer in time.
        """
        borders = check.window.borders if isinstance(check.window, CalendarWindow) else ()
        end = next((border for border in borders if border > start), start)
        await self._run(self._begin, [_key(scope, check.limit)], [start, end, used])

    async def adjust(
        self, scope: str, changes: Sequence[Adjustment], *, sender: str, number: int
    ) -> None:
        """Apply *changes* once: a *number* that *sender* has used before changes nothing.

        Raises:
            LimitsUnavailableError: no answer in time.
        """
        keys = [
            *(_key(scope, change.limit) for change in changes),
            f"egret:limit-sender:{{{scope}}}:{sender}",
        ]
        arguments = [value for change in changes for value in _changed(change)]
        failed = await self._run(self._adjust, keys, [*arguments, number, SENDER_SECONDS])
        if failed:
            _log.warning("limits.adjustments_failed", count=int(failed))

    async def look(self, scope: str, checks: Sequence[LimitCheck]) -> LimitReading:
        """Return the status of limits, and change nothing.

        Raises:
            LimitsUnavailableError: no answer in time.
        """
        keys = [_key(scope, check.limit) for check in checks]
        arguments = [
            value
            for check in checks
            for kind, detail in (_detail(check, ""),)
            for value in (kind, check.limit.amount, detail)
        ]
        now, *numbers = await self._run(self._look, keys, arguments)
        states: list[State | None] = []
        for at in range(0, len(numbers), _PER_SEEN):
            is_known, remaining, reset_us, used = map(int, numbers[at : at + _PER_SEEN])
            states.append(State(0, remaining, reset_us / 1e6, used) if is_known else None)
        return LimitReading(int(now) / 1e6, tuple(states))

    async def _run(self, script: Any, keys: list[str], arguments: list[Any]) -> Any:
        try:
            async with asyncio.timeout(self._operation_seconds):
                return await script(keys=keys, args=arguments)
        except VALKEY_UNAVAILABLE as error:
            raise LimitsUnavailableError(type(error).__name__) from error


def _units(found: bytes) -> tuple[int, ...] | None:
    """Return the units between commas; None for a take that was not made.

    None as well for what no worker has written: the worker would end, and so would the next one.
    """
    try:
        return tuple(map(int, found.split(b","))) if found else None
    except ValueError:
        _log.warning("limits.take_unreadable", bytes=len(found))
        return None


_TAKEN: Final = 1
_UNKNOWN: Final = 2


def _script(name: str) -> str:
    return importlib.resources.files("sidecar.storage").joinpath(name).read_text(encoding="utf-8")


def _key(scope: str, limit: Limit) -> str:
    # The text in braces selects the node of a cluster: limits of an organization stay together.
    return f"egret:limit:{{{scope}}}:{limit.id}"


def _name_key(scope: str, name: str) -> str:
    return f"egret:limit-take:{{{scope}}}:{name}"


def _detail(check: LimitCheck, member: str) -> tuple[str, str]:
    match check.window:
        case SlidingWindow(window_seconds=window, at_once=at_once):
            return "s", f"{window * 1_000_000}/{at_once}"
        case CalendarWindow(borders):
            periods = ",".join(map(str, borders))
            is_budget = check.limit.measure is Measure.COST
            return "c", f"{periods}/{_PERCENTAGES}" if is_budget else periods
        case ConcurrencyWindow():
            return "n", f"{member}/{SLOT_SECONDS}"
        case _:
            assert_never(check.window)


def _changed(change: Adjustment) -> tuple[str | int, ...]:
    limit = change.limit
    if limit.measure is Measure.CONCURRENT:
        return "n", limit.amount, 0, change.member
    window = sliding_seconds(limit.window)
    if window is not None:
        age = round(change.age_seconds * 1_000_000)
        return "s", limit.amount, change.amount, f"{window * 1_000_000}/{age}/{limit.at_once}"
    taken_at = round(change.taken_at * 1_000_000)
    return "c", limit.amount, change.amount, f"{change.period_start}/{taken_at}"


ENDS_TOPIC: Final = "egret:ends"
MAX_WAITING: Final = 10_000
"""Beyond, the oldest are not published."""
MAX_MESSAGE: Final = 256
RETRY_SECONDS: Final = 0.25


class ValkeyEnds:
    """Implements `WorkerBroadcast`; `run_publisher` and `run_subscriber` run beside it."""

    def __init__(self, settings: ValkeySettings) -> None:
        self._settings = settings
        self._waiting: list[UnmatchedEnd] = []
        self._is_there_any = asyncio.Event()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(tuple[UnmatchedEnd, ...])

    def publish(self, ends: Sequence[UnmatchedEnd]) -> None:
        """Send *ends* to all workers, soon."""
        self._waiting.extend(ends)
        del self._waiting[:-MAX_WAITING]
        self._is_there_any.set()

    async def run_publisher(self) -> Never:
        """Publish ends until cancelled; they wait while Valkey is away."""
        async with open_valkey(patient(self._settings)) as client:
            while True:
                await self._is_there_any.wait()
                some = self._waiting[:MAX_MESSAGE]
                try:
                    await client.publish(ENDS_TOPIC, self._encoder.encode(some))
                except VALKEY_UNAVAILABLE:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                # By name: the oldest may have gone meanwhile.
                sent = {end.stream for end in some}
                self._waiting = [end for end in self._waiting if end.stream not in sent]
                if not self._waiting:
                    self._is_there_any.clear()

    async def run_subscriber(self, on_ends: Callable[[Sequence[UnmatchedEnd]], None]) -> Never:
        """Receive ends of all workers, this one included, until cancelled."""

        def decode(message: bytes) -> None:
            try:
                ends = self._decoder.decode(message)
            except (ValueError, RecursionError):  # msgspec's own, or a text that is not UTF-8
                _log.warning("ends.unreadable", bytes=len(message))
                return
            on_ends(ends)

        await Subscriber(self._settings, {ENDS_TOPIC: decode}).run()
