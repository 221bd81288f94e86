"""What telemetry adds to one exchange, step by step, without the gRPC server.

Run by `waterfall.py` as a program of its own, with `PROMETHEUS_MULTIPROC_DIR` set as for a worker,
a collector's endpoint and a number of rounds as its arguments: prints JSON, microseconds by step.

The differences are small beside a conversation and beside what the machine does meanwhile. So it
is CPU time of the thread that converses; steps take turns of ten conversations, in changing
order; each is compared with the turn of the same round in which nobody is told; and of the
tenth of all rounds that took least, all steps together, the middle counts: what disturbs the
machine does so for a while, and is none of ours. Spans leave on a thread of their own: sampled
exchanges have rounds of theirs, of which each ends when its spans have left, and that thread's
time stands by itself.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

import uvloop
from prometheus_client import CollectorRegistry
from typing_extensions import override

from loadtest.recorded import METADATA, worker_parts
from loadtest.stages import converse
from sidecar.checks.exchange_checks import ExchangeChecks
from sidecar.checks.parts import Parts
from sidecar.domain.report import ExchangeOutcome
from sidecar.settings.telemetry import TelemetrySettings
from sidecar.telemetry.exemplars import ExemplarFile
from sidecar.telemetry.logs import configure_logs
from sidecar.telemetry.recorder import Recorder

TURN: Final = 10
SAMPLED_TURN: Final = 250
"""Its spans fill less than half of the queue, and leave within a second or two."""
SAMPLED_ROUNDS_OF: Final = 60
"""For so many rounds of the others one of sampled exchanges, which takes as long as fifty."""
CALM_SHARE: Final = 10
POLL_SECONDS: Final = 0.05

OFF: Final = "nobody is told"
METRICS: Final = "metrics"
LOG_TENTH: Final = "metrics, log line of one in ten"
LOG_LINE: Final = "metrics, log line of each (default)"
UNSAMPLED: Final = "everything on, trace not sampled"
SAMPLED: Final = "everything on, trace sampled"
EXPORT: Final = "… and the thread that exports its spans"
STEPS: Final = (OFF, METRICS, LOG_TENTH, LOG_LINE, UNSAMPLED, SAMPLED, EXPORT)

_Round = dict[str, float]
"""Seconds by step."""

_TRACE: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


@dataclass(frozen=True, slots=True)
class _Step:
    """One way to be told, or not."""

    parts: Parts
    metadata: Mapping[str, str]
    registry: CollectorRegistry
    checks: type[ExchangeChecks] = ExchangeChecks

    async def turn(self, conversations: int) -> float:
        """Return the seconds that the conversing thread takes for one conversation."""
        # The last turn was another step's: the first finds nothing in the CPU's caches.
        await self._converse()
        began_at = time.thread_time()
        for _ in range(conversations):
            await self._converse()
        return (time.thread_time() - began_at) / conversations

    async def _converse(self) -> None:
        await converse(self.parts, self.checks(self.parts, self.metadata))

    def has_exported(self) -> bool:
        """Whether no span waits any more."""
        count = self.registry.get_sample_value
        recorded, *left = (
            count("egret_spans_total", {"state": state}) or 0
            for state in ("recorded", "exported", "failed", "dropped")
        )
        return recorded == sum(left)


class _Untold(ExchangeChecks):
    """Makes no report."""

    @override
    def _report(self, outcome: ExchangeOutcome) -> None:
        pass


class _Silent(Recorder):
    """Counts nothing as in flight."""

    @override
    def exchange_began(self) -> None:
        pass

    @override
    def exchange_ended(self) -> None:
        pass


def main() -> None:
    """Print the costs."""
    endpoint, rounds = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as place:
        steps = _steps(worker_parts(log), log, endpoint=endpoint, place=Path(place))
        costs = uvloop.run(_costs(steps, rounds))
        sys.stdout.write(json.dumps(costs))
        sys.stdout.flush()
        os._exit(0)  # the exporters would wait for their threads, one after another


def _steps(parts: Parts, log: BinaryIO, *, endpoint: str, place: Path) -> dict[str, _Step]:
    plain = TelemetrySettings()
    traced = TelemetrySettings(otlp_endpoint=endpoint)

    def step(
        settings: TelemetrySettings,
        *,
        level: str = "info",
        flags: str | None = None,
        kind: type[Recorder] = Recorder,
        checks: type[ExchangeChecks] = ExchangeChecks,
    ) -> _Step:
        configure_logs(level, log)
        registry = CollectorRegistry()
        exemplars = None if flags is None else ExemplarFile(place / f"exemplars_{flags}")
        recorder = kind(settings, registry=registry, exemplars=exemplars)
        # Envoy sends one only where it traces.
        trace = {} if flags is None else {"traceparent": f"{_TRACE}-{flags}"}
        return _Step(replace(parts, recorder=recorder), {**METADATA, **trace}, registry, checks)

    return {
        OFF: step(plain, level="error", kind=_Silent, checks=_Untold),
        METRICS: step(plain, level="error"),
        LOG_TENTH: step(TelemetrySettings(completed_log_share=0.1)),
        LOG_LINE: step(plain),
        UNSAMPLED: step(traced, flags="00"),
        SAMPLED: step(traced, flags="01"),
    }


async def _costs(steps: Mapping[str, _Step], rounds: int) -> dict[str, float]:
    unsampled = {name: step for name, step in steps.items() if name != SAMPLED}
    await _rounds(unsampled, rounds=2)  # what is worked out once and kept
    gc.collect()
    gc.freeze()  # as a worker does
    calm = calmest(await _rounds(unsampled, rounds=rounds))
    costs = {name: _middle(one[name] - one[OFF] for one in calm) for name in unsampled}
    costs[OFF] = _middle(one[OFF] for one in calm)
    return costs | await _sampled_costs(steps, rounds=max(3, rounds // SAMPLED_ROUNDS_OF))


async def _rounds(steps: Mapping[str, _Step], *, rounds: int) -> list[_Round]:
    """Return what a conversation of each step took in each round."""
    taken: list[_Round] = []
    names = list(steps)
    for _ in range(rounds):
        names.append(names.pop(0))  # whatever comes after what, it is not always the same
        taken.append({name: await steps[name].turn(TURN) for name in names})
    return taken


async def _sampled_costs(steps: Mapping[str, _Step], *, rounds: int) -> dict[str, float]:
    taken: list[_Round] = []
    for _ in range(rounds):
        one = {OFF: await steps[OFF].turn(SAMPLED_TURN)}
        before = _elsewhere()
        one[SAMPLED] = await steps[SAMPLED].turn(SAMPLED_TURN)
        while not steps[SAMPLED].has_exported():  # noqa: ASYNC110 - another thread's work
            await asyncio.sleep(POLL_SECONDS)
        one[EXPORT] = (_elsewhere() - before) / (SAMPLED_TURN + 1)
        taken.append(one)
    calm = calmest(taken)
    return {
        SAMPLED: _middle(one[SAMPLED] - one[OFF] for one in calm),
        EXPORT: _middle(one[EXPORT] for one in calm),
    }


def _elsewhere() -> float:
    """Return the CPU time of all threads but this one."""
    return time.process_time() - time.thread_time()


def calmest(rounds: list[_Round]) -> list[_Round]:
    """Return the tenth that took least, chosen by the whole of each round and by no step."""
    return sorted(rounds, key=lambda one: sum(one.values()))[: max(1, len(rounds) // CALM_SHARE)]


def _middle(seconds: Iterable[float]) -> float:
    return statistics.median(seconds) * 1e6


if __name__ == "__main__":
    main()
