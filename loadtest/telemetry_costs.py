"""What telemetry costs one exchange, step by step, without the gRPC server.

Run by `waterfall.py` as a program of its own, with `PROMETHEUS_MULTIPROC_DIR` set as for a worker
and a collector's endpoint as its argument: prints JSON, microseconds of CPU time by step. Steps
take turns, so that what else the machine does meets all of them alike. Spans are exported on a
thread whose time is counted as well.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO, Final

import uvloop
from prometheus_client import CollectorRegistry
from typing_extensions import override

from loadtest.recorded import METADATA, worker_parts
from loadtest.stages import CALLS, converse
from sidecar.checks.parts import Parts
from sidecar.settings import TelemetrySettings
from sidecar.telemetry.logs import configure_logs
from sidecar.telemetry.recorder import Recorder
from sidecar.telemetry.report import ExchangeReport

ROUNDS: Final = 20
POLL_SECONDS: Final = 0.05

OFF: Final = "everything off"
METRICS: Final = "metrics"
LOG_LINE: Final = "metrics, log line"
UNSAMPLED: Final = "metrics, log line, a trace that is not sampled"
SAMPLED: Final = "metrics, log line, a sampled trace"
STEPS: Final = (OFF, METRICS, LOG_LINE, UNSAMPLED, SAMPLED)

_TRACE: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


@dataclass(frozen=True, slots=True)
class _Step:
    parts: Parts
    metadata: Mapping[str, str]
    registry: CollectorRegistry

    def has_exported(self) -> bool:
        """Whether no span waits any more."""
        count = self.registry.get_sample_value
        recorded, *left = (
            count("egret_spans_total", {"state": state}) or 0
            for state in ("recorded", "exported", "failed", "dropped")
        )
        return recorded == sum(left)


class _Silent(Recorder):
    """Tells nobody anything: what an exchange costs that is not reported."""

    @override
    def record(self, report: ExchangeReport) -> None:
        pass

    @override
    def exchange_began(self) -> None:
        pass

    @override
    def exchange_ended(self) -> None:
        pass


def main() -> None:
    """Print the costs."""
    with tempfile.TemporaryFile() as log:
        parts = worker_parts(log)
        costs = uvloop.run(_costs(_steps(parts, log, endpoint=sys.argv[1])))
    json.dump(costs, sys.stdout)


def _steps(parts: Parts, log: BinaryIO, *, endpoint: str) -> dict[str, _Step]:
    plain = TelemetrySettings()
    traced = TelemetrySettings(otlp_endpoint=endpoint)

    def step(
        settings: TelemetrySettings,
        *,
        level: str = "info",
        flags: str = "00",
        kind: type[Recorder] = Recorder,
    ) -> _Step:
        configure_logs(level, log)
        registry = CollectorRegistry()
        recorder = kind(settings, registry=registry)
        metadata = {**METADATA, "traceparent": f"{_TRACE}-{flags}"}
        return _Step(replace(parts, recorder=recorder), metadata, registry)

    return {
        OFF: step(plain, kind=_Silent),
        METRICS: step(plain, level="error"),
        LOG_LINE: step(plain),
        UNSAMPLED: step(traced),
        SAMPLED: step(traced, flags="01"),
    }


async def _costs(steps: Mapping[str, _Step]) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            started_at = time.process_time()
            for _ in range(CALLS):
                await converse(step.parts, step.metadata)
            while not step.has_exported():  # noqa: ASYNC110 - another thread's work
                await asyncio.sleep(POLL_SECONDS)
            seconds[name].append(time.process_time() - started_at)
    return {name: statistics.median(spent) / CALLS * 1e6 for name, spent in seconds.items()}


if __name__ == "__main__":
    main()
