"""Counts the work of one conversation in a worker; run by `counts.py` as a program of its own.

Prints JSON: for each conversation how many functions of Python and of C were called, how many
bytecodes ran, and how much memory was in use at its height. Clocks stand still and hashes have no
seed, so that nothing but code and data decides which way things go.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import tempfile
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import FrameType
from typing import Any, Final, TypeVar

from egret_tools.conversations import even_conversation
from msgspec import structs

from loadtest.access_log import entry, export
from loadtest.limits.roomy import LIMITS, Priced, roomy_limiter
from loadtest.recorded import (
    BODY,
    KEY,
    METADATA,
    PRINCIPAL,
    FixedPolicies,
    NoRemote,
    RecordedStream,
    body_message,
    headers_message,
    keys_with,
    worker_parts,
)
from loadtest.streams.recorded import EVENTS, STREAM_BODY, STREAM_POLICY, answer_messages
from loadtest.texts import chat_body
from sidecar.domain.limits import Limit, Reservation
from sidecar.domain.report import Clocks
from sidecar.domain.usage import DecisionKind, JudgedRequest
from sidecar.extproc.stream import OverloadGuard, StreamEnd
from sidecar.guardrails.message_table import SECRET_BYTES, MessageTable
from sidecar.guardrails.runner import GuardrailRunner
from sidecar.limits.limit_check import RequestCost
from sidecar.pipeline.dependencies import Worker
from sidecar.pipeline.request import serve
from sidecar.policy.parse import parse_policies
from sidecar.usage.access_log import decode_access_log
from sidecar.usage.records import record_of
from sidecar.worker.usage import UsageSettlement

PEAKS: Final = 15
WARM_UPS: Final = 20
"""Values that are computed once are no cost of a request."""
NOW: Final = 1_700_000_000.0
REQUEST_ID: Final = "281c65aa-ee35-47c8-aa29-34c341490461"
LONG_BYTES: Final = 8 * 1024
TURN_BYTES: Final = 64 * 1024
TURNS_SENT: Final = WARM_UPS + PEAKS + 4
_QUESTION: Final = b'"role":"user","content":"'
PERSONAL: Final = BODY.replace(_QUESTION, _QUESTION + b"Write to ann@example.org. ", 1)


DEMAND: Final = RequestCost(
    operation="chat", model="gpt-4o-mini", input_tokens=1_000, output_tokens=1_000, cost=10_000
)
"""At least the amounts that the chat takes."""
JUDGED: Final = JudgedRequest(
    request_id=REQUEST_ID,
    occurred_at=datetime.fromtimestamp(NOW, UTC),
    key_id=KEY.key_id,
    team_id=PRINCIPAL.team_id,
    organization_id=PRINCIPAL.organization_id,
    decision=DecisionKind.ALLOW,
    operation=DEMAND.operation,
    provider="openai",
    model=DEMAND.model,
    is_streamed=False,
    text_bytes=780,
    guardrails=None,
)

Play = Callable[[], Awaitable[None]]
_Taken = TypeVar("_Taken")


@dataclass(frozen=True, slots=True)
class Recorded:
    """The messages of Envoy, and the number of answers."""

    messages: tuple[bytes, ...]
    answers: int


CHAT: Final = Recorded((headers_message(), body_message()), answers=3)
LONG_CHAT: Final = Recorded((headers_message(), body_message(chat_body(LONG_BYTES))), answers=3)
REDACTED: Final = Recorded((headers_message(), body_message(PERSONAL)), answers=3)
TURNED_AWAY: Final = Recorded((headers_message(),), answers=1)
GUARDED_STREAM: Final = Recorded(
    (headers_message(), body_message(STREAM_BODY), *answer_messages()), answers=EVENTS + 5
)
"""Three for the request; of the answer its headers, each event and its end, but for the first
word, which leaves with the second."""
NO_KEY: Final = Recorded((headers_message(with_key=False),), answers=1)


def main() -> None:
    """Print the counts."""
    json.dump(of_each_conversation(_count), sys.stdout)


def of_each_conversation(take: Callable[[Play], Awaitable[_Taken]]) -> dict[str, _Taken]:
    """Return the result of *take* for each conversation, which is played warm first."""
    with tempfile.TemporaryFile() as log:
        plain = _timeless(worker_parts(log))
        limited = replace(plain, keys=keys_with(limits=LIMITS), prices=Priced())
        guarded = replace(
            plain,
            keys=keys_with(policy="window"),
            policies=FixedPolicies(parse_policies(STREAM_POLICY, expressions="trust")),
        )
        return asyncio.run(_of_each(plain, limited, guarded, take))


def _timeless(worker: Worker) -> Worker:
    return replace(
        worker,
        clocks=Clocks(monotonic=lambda: 0.0, wall=lambda: NOW),
        guardrail_runner=GuardrailRunner(remote=NoRemote(), clock=lambda: 0.0),
        new_request_id=lambda: REQUEST_ID,
    )


async def _of_each(
    plain: Worker,
    limited: Worker,
    guarded: Worker,
    take: Callable[[Play], Awaitable[_Taken]],
) -> dict[str, _Taken]:
    gc.disable()
    limiter = await roomy_limiter(PRINCIPAL, now=NOW, demand=DEMAND)
    limited = replace(limited, limiter=limiter)
    full = replace(plain, guard=OverloadGuard(max_exchanges=0, max_held_bytes=0))
    reserved = structs.replace(JUDGED, reserved=Reservation(195, 256, 3_048))
    plays = {
        "chat": _conversation(plain, CHAT),
        "chat of 8 KB": _conversation(plain, LONG_CHAT),
        "next turn of 64 KB": await _next_turn(plain),
        "redacted chat": _conversation(plain, REDACTED),
        "chat under limits": _conversation(limited, CHAT),
        "guarded stream": _conversation(guarded, GUARDED_STREAM),
        "one too many": _conversation(full, TURNED_AWAY),
        "no key": _conversation(plain, NO_KEY),
        "end of a chat": _end(plain, JUDGED),
        "end of a chat under limits": _end(limited, reserved),
    }
    taken: dict[str, _Taken] = {}
    for name, play in plays.items():
        for _ in range(WARM_UPS):
            await play()
        taken[name] = await take(play)
    return taken


async def _count(play: Play) -> dict[str, int]:
    calls, c_calls = await _calls(play)
    return {
        "calls": calls,
        "calls into C": c_calls,
        "bytecodes": await _bytecodes(play),
        "peak bytes": await _peak_bytes(play),
    }


async def _calls(play: Play) -> tuple[int, int]:
    counts = {"call": 0, "c_call": 0, "return": 0, "c_return": 0, "c_exception": 0}

    def profile(_: FrameType, event: str, __: Any) -> None:
        counts[event] += 1

    sys.setprofile(profile)
    try:
        await play()
    finally:
        sys.setprofile(None)
    return counts["call"], counts["c_call"]


async def _bytecodes(play: Play) -> int:
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
        nonlocal count
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        count += event == "opcode"
        return trace

    with _traced(trace):
        await play()
    return count


@contextmanager
def _traced(trace: Callable[..., Any]) -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


async def _peak_bytes(play: Play) -> int:
    """Return the least of a few peaks: a table that grows meanwhile is in one of them."""
    peaks: list[int] = []
    tracemalloc.start()
    try:
        await play()
        for _ in range(PEAKS):
            gc.collect()
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            await play()
            _, peak = tracemalloc.get_traced_memory()
            peaks.append(peak - before)
    finally:
        tracemalloc.stop()
    return min(peaks)


def _conversation(worker: Worker, recorded: Recorded) -> Play:
    async def converse() -> None:
        stream = RecordedStream(recorded.messages)
        end = await serve(stream, METADATA, worker)
        if end is not StreamEnd.COMPLETED or stream.written != recorded.answers:
            raise AssertionError(
                f"the recorded conversation went another way: {end}, {stream.written}"
            )

    return converse


async def _next_turn(worker: Worker) -> Play:
    """Return the second turn of a conversation, of which the table has the first each time."""
    talk = even_conversation(TURN_BYTES, seed=1, turns=2)
    first, then = [
        Recorded((headers_message(), body_message(talk.body(turn))), answers=4) for turn in (1, 2)
    ]
    table = MessageTable(max_bytes=1 << 20, secret=bytes(SECRET_BYTES))
    await _conversation(replace(worker, messages=table), first)()
    turns = [
        _conversation(replace(worker, messages=deepcopy(table)), then) for _ in range(TURNS_SENT)
    ]

    async def converse() -> None:
        await turns.pop()()

    return converse


def _end(worker: Worker, request: JudgedRequest) -> Play:
    """Return the handling of the access log entry of *request*, up to the disk."""
    message = export(entry(request))

    async def owner_limits(team_id: str, organization_id: str) -> tuple[Limit, ...]:
        raise NotImplementedError(team_id, organization_id)

    settlement = UsageSettlement(
        worker.prices,
        worker.recorder.metrics.usage,
        limiter=worker.limiter,
        keys=worker.keys,
        owner_limits=owner_limits,
    )

    async def end() -> None:
        batch = decode_access_log(message)
        if batch.unreadable or len(batch.ended) != 1:
            raise AssertionError("the recorded end was read another way")
        (ended,) = batch.ended
        settlement.exchange_ended(ended, record_of(ended))

    return end


if __name__ == "__main__":
    main()
