"""Load of a soak, and samples of the running stack: processes, Envoy, metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
from egret_tools.devstack.stack import StackFacts

from loadtest.generators import run_k6
from loadtest.load import Load, LoadError
from loadtest.soaking.stack import SoakStack
from sidecar.telemetry.names import MetricName
from sidecar.telemetry.traffic_stats import MetricsSnapshot, parse_snapshot

SCRIPT: Final = Path(__file__).with_name("soak.js")
OUTCOMES: Final = ("answered", "refused", "aborted", "bad")
STRANGERS: Final = "unknown_key"
"""The kind of requests with an unknown key, for which no usage is recorded."""
SECRET_TEXT: Final = f"sk-ant-api03-{'A1b2' * 23}AA-xyzxyzAA"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcomes of the requests of each kind, and their latency.

    `dropped` are those of an open loop for which no connection was free.
    """

    by_kind: Mapping[str, Mapping[str, int]]
    dropped: int
    seconds: float
    p50_ms: float
    p99_ms: float

    def total(self, *outcomes: str, strangers: bool = True) -> int:
        """Return how many came to one of *outcomes*."""
        return sum(
            counts[outcome]
            for kind, counts in self.by_kind.items()
            for outcome in outcomes
            if strangers or kind != STRANGERS
        )

    @property
    def requests(self) -> int:
        """All that were sent."""
        return self.total(*OUTCOMES)

    @property
    def rps(self) -> float:
        """Requests a second with the expected outcome."""
        return (self.requests - self.total("bad")) / self.seconds


async def put_mix(
    load: Load, stack: SoakStack, *, body: Path, seconds: float, scratch: Path
) -> Outcome:
    """Send the mix for so long.

    Raises:
        LoadError: k6 failed, or made no request.
    """
    environment = {
        "URL": stack.facts.url,
        "KEYS": json.dumps(dict(stack.keys)),
        "BODY_FILE": str(body),
        "SECRET_TEXT": SECRET_TEXT,
    }
    summary = await run_k6(SCRIPT, load, environment, seconds=seconds, scratch=scratch)
    return read_outcome(summary, seconds=seconds)


def read_outcome(summary: Mapping[str, Any], *, seconds: float) -> Outcome:
    """Read the object k6 hands to `handleSummary`. A counter that never came up is not in it.

    Raises:
        LoadError: not one request was made.
    """
    metrics = summary["metrics"]
    by_kind: dict[str, dict[str, int]] = {}
    for name, metric in metrics.items():
        kind, _, outcome = name.rpartition("_")
        if kind and outcome in OUTCOMES:
            counts = by_kind.setdefault(kind, dict.fromkeys(OUTCOMES, 0))
            counts[outcome] = int(metric["values"]["count"])
    if not by_kind:
        raise LoadError("k6 made no request")
    latency = metrics["http_req_duration"]["values"]
    dropped = metrics.get("dropped_iterations", {"values": {"count": 0}})
    return Outcome(
        by_kind=dict(sorted(by_kind.items())),
        dropped=int(dropped["values"]["count"]),
        seconds=seconds,
        p50_ms=latency["med"],
        p99_ms=latency["p(99)"],
    )


MB: Final = 1 << 20
_STATS: Final = {
    "egret_streams": "cluster.egret.upstream_rq_active",
    "egret_connections": "cluster.egret.upstream_cx_active",
    "egret_connections_lost": "cluster.egret.upstream_cx_destroy_remote_with_active_rq",
    "requests_active": "http.http.downstream_rq_active",
    "requests": "http.http.downstream_rq_total",
    "answers_5xx": "http.http.downstream_rq_5xx",
    "streams_failed": "http.http.ext_proc.egret.streams_failed",
    "message_timeouts": "http.http.ext_proc.egret.message_timeouts",
    "usage_logged": "access_logs.open_telemetry_access_log.egret.logs_written",
    "usage_dropped": "access_logs.open_telemetry_access_log.egret.logs_dropped",
}
_METRICS: Final = {
    "in_flight": MetricName.IN_FLIGHT_EXCHANGES,
    "tasks": MetricName.EVENT_LOOP_TASKS,
    "faults": f"{MetricName.EXCHANGE_FAULTS}_total",
    "usage_lost": f"{MetricName.USAGE_LOST}_total",
    "unnamed": f"{MetricName.ACCESS_LOG_UNMATCHED}_total",
    "unheard": f"{MetricName.USAGE_ORPHANED_VERDICTS}_total",
    "worker_deaths": f"{MetricName.WORKER_DEATHS}_total",
}
_DECISIONS: Final = f"{MetricName.LIMIT_DECISIONS}_total"
_FILTER: Final = "^(" + "|".join(name.replace(".", r"\.") for name in _STATS.values()) + ")$"


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """One process at one moment."""

    rss_mb: float
    files: int
    threads: int


@dataclass(frozen=True, slots=True)
class Sample:
    """Everything at one moment; `at` is in seconds of the monotonic clock.

    `files` of a process are its open file descriptors, sockets among them. `counts` are
    gauges and totals, of Envoy and of all workers together.
    """

    at: float
    processes: Mapping[str, ProcessSample]
    counts: Mapping[str, int]


class Sampler:
    """Looks at a stack whenever asked."""

    def __init__(self, facts: StackFacts, client: aiohttp.ClientSession) -> None:
        self._facts = facts
        self._client = client
        self._processes = dict(_processes(facts))

    async def take(self) -> Sample:
        """Look once.

        Raises:
            aiohttp.ClientError: Envoy or the supervisor does not answer.
            psutil.NoSuchProcess: a process is gone.
        """
        stats, page = await self._stats(), await self._page()
        counts = {name: stats.get(stat, 0) for name, stat in _STATS.items()}
        counts |= {
            name: int(sum(page.samples.get(metric, {}).values()))
            for name, metric in _METRICS.items()
        }
        counts["local_decisions"] = int(
            sum(
                value
                for labels, value in page.samples.get(_DECISIONS, {}).items()
                if ("counts", "local") in labels
            )
        )
        processes = {name: _look_at(process) for name, process in self._processes.items()}
        return Sample(time.monotonic(), processes, counts)

    async def _stats(self) -> dict[str, int]:
        query = {"filter": _FILTER, "format": "json"}
        async with self._client.get(f"{self._facts.admin_url}/stats", params=query) as answer:
            stats = (await answer.json(content_type=None))["stats"]
        return {one["name"]: int(one["value"]) for one in stats if "name" in one}

    async def _page(self) -> MetricsSnapshot:
        async with self._client.get(self._facts.metrics_url) as answer:
            return parse_snapshot(await answer.text(), at=time.monotonic())


def _processes(facts: StackFacts) -> list[tuple[str, psutil.Process]]:
    supervisor = psutil.Process(facts.workers_pid)
    config = str(facts.logs.parent / "envoy.yaml")
    envoys = [
        process
        for process in psutil.Process().children(recursive=True)
        if process.name() == "envoy" and config in process.cmdline()
    ]
    workers = [one for one in supervisor.children() if "sidecar.worker" in one.cmdline()]
    return [
        ("supervisor", supervisor),
        *((f"worker {number}", worker) for number, worker in enumerate(workers)),
        *(("envoy", envoy) for envoy in envoys),
    ]


def _look_at(process: psutil.Process) -> ProcessSample:
    with process.oneshot():
        return ProcessSample(
            process.memory_info().rss / MB, process.num_fds(), process.num_threads()
        )
