"""What each stage of one exchange costs in a worker, without the gRPC server.

Run by `waterfall.py` as a program of its own, with `PROMETHEUS_MULTIPROC_DIR` set as for a worker:
prints JSON, microseconds by stage, and of a whole conversation that nothing watches. The stages
are timed where they stand, in whole conversations: alone in a loop each would find its code and
values in the CPU's caches and cost half as much.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any, Final

import uvloop

from loadtest.recorded import (
    METADATA,
    RecordedStream,
    body_message,
    headers_message,
    worker_parts,
)
from loadtest.stopwatch import Stopwatch
from sidecar.checks import admission, exchange_checks, inspection
from sidecar.checks.exchange_checks import ExchangeChecks
from sidecar.checks.ledger import Ledger
from sidecar.checks.parts import Parts
from sidecar.exchange.machine import Exchange
from sidecar.guardrails.runner import Inspector
from sidecar.telemetry.logs import ExchangeLog
from sidecar.telemetry.metrics import Metrics
from sidecar.transport import conversation
from sidecar.transport.conversation import Budgets, Conversation
from sidecar.transport.judge import Ending

BATCHES: Final = 40
CALLS: Final = 250
ANSWERS: Final = 3
"""Override of the mode, the headers, the body."""
MESSAGES: Final = (headers_message(), body_message())
BUDGETS: Final = Budgets(
    authorize_seconds=2, body_seconds=30, body_idle_seconds=10, inspect_seconds=5
)
MAX_BODY_BYTES: Final = 1 << 20

WHOLE: Final = "whole"
REST: Final = "conversation loop"
STAGES: Final[tuple[tuple[Any, str, str], ...]] = (
    (conversation, "decode", "decode 2 messages"),
    (Exchange, "receive", "machine"),
    (ExchangeChecks, "__init__", "checks: begin"),
    (ExchangeChecks, "judge_headers", "checks: route"),
    (exchange_checks, "admit", "key: cache, policy"),
    (admission, "present", "key: find, parse"),
    (admission, "judge", "key: judge"),
    (ExchangeChecks, "judge_body", "checks: body"),
    (inspection, "read_request", "read the body"),
    (Inspector, "inspect", "guardrails"),
    (exchange_checks, "strip", "plan the answer"),
    (Ledger, "metadata", "plan the answer"),
    (conversation, "encode", "encode 3 messages"),
    (ExchangeChecks, "close", "report"),
    (Metrics, "exchange_began", "metrics"),
    (Metrics, "exchange_ended", "metrics"),
    (Metrics, "record", "metrics"),
    (ExchangeLog, "completed", "log line"),
)
"""Owner, attribute, and the stage its own time counts for; callees named here are taken out."""


def main() -> None:
    """Print the costs."""
    with tempfile.TemporaryFile() as log:
        costs = uvloop.run(_costs(worker_parts(log)))
    json.dump(costs, sys.stdout)


async def _costs(parts: Parts) -> dict[str, float]:
    whole_us = await _whole_us(parts)
    return {**await _stage_costs(parts), WHOLE: whole_us}


async def _whole_us(parts: Parts) -> float:
    seconds: list[float] = []
    for _ in range(BATCHES):
        started_at = time.perf_counter()
        for _ in range(CALLS):
            await converse(parts, ExchangeChecks(parts, METADATA))
        seconds.append(time.perf_counter() - started_at)
    return min(seconds) / CALLS * 1e6


async def _stage_costs(parts: Parts) -> dict[str, float]:
    """Return the microseconds of each stage in the fastest batch, which was disturbed least."""
    watch = Stopwatch(REST)
    batches: list[dict[str, float]] = []
    with watch.on(STAGES):
        for _ in range(BATCHES):
            watch.reset()
            for _ in range(CALLS):
                await converse(parts, ExchangeChecks(parts, METADATA))
            batches.append(watch.seconds())
    fastest = min(batches, key=lambda seconds: sum(seconds.values()))
    return {stage: seconds / CALLS * 1e6 for stage, seconds in fastest.items()}


async def converse(parts: Parts, judge: ExchangeChecks) -> None:
    """Hold one conversation from beginning to end."""
    stream = RecordedStream(MESSAGES)
    ending = await Conversation(
        stream=stream,
        exchange=Exchange(max_body_bytes=MAX_BODY_BYTES, wants_response_headers=False),
        judge=judge,
        budgets=BUDGETS,
        load=parts.load,
    ).run()
    if ending is not Ending.COMPLETED or stream.written != ANSWERS:
        raise AssertionError(f"the recorded conversation went another way: {ending}")


if __name__ == "__main__":
    main()
