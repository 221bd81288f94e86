"""Counts what one conversation makes a worker do; run by `counts.py` as a program of its own.

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
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, Final

from loadtest.recorded import (
    BODY,
    METADATA,
    NoRemote,
    RecordedStream,
    body_message,
    headers_message,
    worker_parts,
)
from loadtest.texts import chat_body
from sidecar.checks.exchange_checks import ExchangeChecks
from sidecar.checks.ledger import Clocks
from sidecar.checks.load import Load
from sidecar.checks.parts import Parts
from sidecar.exchange.machine import Exchange
from sidecar.guardrails.inspect import Inspector
from sidecar.transport.conversation import Budgets, Conversation
from sidecar.transport.judge import Ending

WARM_UPS: Final = 20
"""What is worked out once and kept is not what a request costs."""
MAX_BODY_BYTES: Final = 1 << 20
BUDGETS: Final = Budgets(
    authorize_seconds=2, body_seconds=30, body_idle_seconds=10, inspect_seconds=5
)
NOW: Final = 1_700_000_000.0
LONG_BYTES: Final = 8 * 1024
_QUESTION: Final = b'"role":"user","content":"'
PERSONAL: Final = BODY.replace(_QUESTION, _QUESTION + b"Write to ann@example.org. ", 1)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What Envoy sends, and how many answers it gets."""

    messages: tuple[bytes, ...]
    answers: int
    finds_room: bool = True


CONVERSATIONS: Final = {
    "chat": Recorded((headers_message(), body_message()), answers=3),
    "chat of 8 KB": Recorded((headers_message(), body_message(chat_body(LONG_BYTES))), answers=3),
    "redacted chat": Recorded((headers_message(), body_message(PERSONAL)), answers=3),
    "one too many": Recorded((headers_message(),), answers=1, finds_room=False),
    "no key": Recorded((headers_message(with_key=False),), answers=1),
}


def main() -> None:
    """Print the counts."""
    with tempfile.TemporaryFile() as log:
        parts = _timeless(worker_parts(log))
        counts = asyncio.run(_counts(parts))
    json.dump(counts, sys.stdout)


def _timeless(parts: Parts) -> Parts:
    return replace(
        parts,
        clocks=Clocks(monotonic=lambda: 0.0, wall=lambda: NOW),
        inspector=Inspector(remote=NoRemote(), clock=lambda: 0.0),
        new_request_id=lambda: "281c65aa-ee35-47c8-aa29-34c341490461",
    )


async def _counts(parts: Parts) -> dict[str, dict[str, int]]:
    gc.disable()
    return {name: await _count(parts, recorded) for name, recorded in CONVERSATIONS.items()}


async def _count(parts: Parts, recorded: Recorded) -> dict[str, int]:
    if not recorded.finds_room:
        parts = replace(parts, load=Load(max_exchanges=0, max_held_bytes=0))

    async def converse() -> None:
        await _converse(parts, recorded)

    for _ in range(WARM_UPS):
        await converse()
    calls, c_calls = await _calls(converse)
    return {
        "calls": calls,
        "calls into C": c_calls,
        "bytecodes": await _bytecodes(converse),
        "peak bytes": await _peak_bytes(converse),
    }


async def _calls(converse: Callable[[], Awaitable[None]]) -> tuple[int, int]:
    counts = {"call": 0, "c_call": 0, "return": 0, "c_return": 0, "c_exception": 0}

    def profile(_: FrameType, event: str, __: Any) -> None:
        counts[event] += 1

    sys.setprofile(profile)
    try:
        await converse()
    finally:
        sys.setprofile(None)
    return counts["call"], counts["c_call"]


async def _bytecodes(converse: Callable[[], Awaitable[None]]) -> int:
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
        nonlocal count
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        count += event == "opcode"
        return trace

    with _traced(trace):
        await converse()
    return count


@contextmanager
def _traced(trace: Callable[..., Any]) -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


async def _peak_bytes(converse: Callable[[], Awaitable[None]]) -> int:
    tracemalloc.start()
    try:
        await converse()
        gc.collect()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        await converse()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - before


async def _converse(parts: Parts, recorded: Recorded) -> None:
    stream = RecordedStream(recorded.messages)
    ending = await Conversation(
        stream=stream,
        exchange=Exchange(max_body_bytes=MAX_BODY_BYTES, wants_response_headers=False),
        judge=ExchangeChecks(parts, METADATA),
        budgets=BUDGETS,
        load=parts.load,
    ).run()
    if ending is not Ending.COMPLETED or stream.written != recorded.answers:
        raise AssertionError(f"the recorded conversation went another way: {ending}")


if __name__ == "__main__":
    main()
