"""Sends each request of a list once, over a few connections, and adds up their CPU time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Final

import aiohttp
from pydantic import SecretStr

from loadtest.bench_stack import Gateway
from loadtest.figures import per_request_us
from loadtest.peers import Peer
from loadtest.processes import cpu_seconds
from sidecar.telemetry.names import MetricName
from sidecar.telemetry.traffic_stats import parse_snapshot

CONNECTIONS: Final = 16
"""As in other benches. A worker that waits after each request finds its caches cold."""
LONG_BODY_BYTES: Final = 512 * 1024
LONG_CONNECTIONS: Final = 4
"""For longer bodies: on a slow machine 16 of them at once wait for each other for seconds, up to
the time limit of the guardrails."""
SETTLE_SECONDS: Final = 1.2
"""Usage is written after the answers; CPU time is read once it is."""
TIMEOUT: Final = aiohttp.ClientTimeout(total=120)


@dataclass(frozen=True, slots=True)
class Contestant:
    """A gateway that receives requests.

    `cpu` returns its own CPU seconds, and Envoy's; `processes` all processes of both.
    """

    name: str
    url: str
    key: SecretStr
    cpu: Callable[[], tuple[float, float]]
    processes: Callable[[], tuple[int, ...]] = tuple
    headers: Mapping[str, str] = field(default_factory=dict)
    metrics_url: str = ""

    async def send(
        self, bodies: Sequence[bytes], own_headers: Iterable[Mapping[str, str]] = repeat({})
    ) -> int:
        """Send each of *bodies* once, with headers of its own; return how many did not get 200."""
        left, failed = zip(bodies, own_headers, strict=False), 0
        headers = {
            "content-type": "application/json",
            "authorization": f"Bearer {self.key.get_secret_value()}",
            **self.headers,
        }
        is_long = max(map(len, bodies), default=0) > LONG_BODY_BYTES
        connections = LONG_CONNECTIONS if is_long else CONNECTIONS
        connector = aiohttp.TCPConnector(limit=connections)
        async with aiohttp.ClientSession(
            connector=connector, headers=headers, timeout=TIMEOUT
        ) as client:

            async def one_connection() -> None:
                nonlocal failed
                for body, own in left:
                    try:
                        async with client.post(self.url, data=body, headers=own) as answer:
                            await answer.read()
                            failed += not answer.ok
                    except (aiohttp.ClientError, TimeoutError):
                        failed += 1

            await asyncio.gather(*(one_connection() for _ in range(connections)))
        return failed


def contestant(name: str, gateway: Gateway, *, policy: str = "") -> Contestant:
    """Return Egret on one side, with Envoy before it and a key of *policy*."""
    return Contestant(
        name,
        gateway.url,
        gateway.keys[policy],
        cpu=gateway.cpu_seconds,
        processes=gateway.family,
        metrics_url=gateway.metrics_url,
    )


def peer_contestant(peer: Peer) -> Contestant:
    """Return another gateway, without an Envoy."""

    def cpu() -> tuple[float, float]:
        return cpu_seconds(peer.processes()), 0.0

    target = peer.target
    return Contestant(
        peer.name,
        target.url,
        target.key,
        cpu=cpu,
        processes=peer.processes,
        headers=target.headers,
    )


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time of a request in microseconds: that of the gateway, and of Envoy before it."""

    own_us: float
    envoy_us: float
    failed: int


async def costs(
    contestants: Sequence[Contestant], bodies: Sequence[bytes], *, slices: int = 1
) -> dict[str, Cost]:
    """Send all *bodies* to each contestant; return their costs by name.

    They take turns after each of *slices* parts of the bodies, every second time backwards. A
    machine that is slower for some seconds is then slower for all of them.
    """
    before: dict[str, tuple[float, float]] = {}
    failed = dict.fromkeys((one.name for one in contestants), 0)
    after: dict[str, asyncio.Task[tuple[float, float]]] = {}
    async with asyncio.TaskGroup() as readings:
        for number in range(slices):
            for one in contestants[:: -1 if number % 2 else 1]:
                if number == 0:
                    before[one.name] = one.cpu()
                failed[one.name] += await one.send(bodies[number::slices])
                if number == slices - 1:
                    after[one.name] = readings.create_task(_settled_cpu(one))
    found: dict[str, Cost] = {}
    for name, reading in after.items():
        own, envoy = (
            per_request_us(now - then, len(bodies))
            for now, then in zip(reading.result(), before[name], strict=True)
        )
        found[name] = Cost(own, envoy, failed[name])
    return found


async def _settled_cpu(one: Contestant) -> tuple[float, float]:
    await asyncio.sleep(SETTLE_SECONDS)
    return one.cpu()


@dataclass(frozen=True, slots=True)
class TableCounts:
    """Counts of the tables of known messages, of all workers together, and their size.

    `hits` and `misses` are of messages, with short neighbours as one; `known_bytes` those of hits.
    """

    hits: float
    misses: float
    known_bytes: float
    evictions: float
    size_bytes: float

    def __sub__(self, before: TableCounts) -> TableCounts:
        """Return the counts since *before*, and the size of now."""
        return TableCounts(
            hits=self.hits - before.hits,
            misses=self.misses - before.misses,
            known_bytes=self.known_bytes - before.known_bytes,
            evictions=self.evictions - before.evictions,
            size_bytes=self.size_bytes,
        )

    @property
    def hit_rate(self) -> float:
        """The share of messages that were known; 0 if none was looked up."""
        looked_up = self.hits + self.misses
        return self.hits / looked_up if looked_up else 0.0


async def table_counts(one: Contestant) -> TableCounts | None:
    """Read the metrics of the workers; None where they have no table.

    Raises:
        aiohttp.ClientError: the page of metrics does not answer.
    """
    async with (
        aiohttp.ClientSession(timeout=TIMEOUT) as client,
        client.get(one.metrics_url) as answer,
    ):
        samples = parse_snapshot(await answer.text(), at=time.monotonic()).samples
    if MetricName.MESSAGE_TABLE_BYTES not in samples:
        return None

    def outcome(name: str) -> float:
        known = samples.get(f"{MetricName.KNOWN_MESSAGES}_total", {})
        return sum(value for labels, value in known.items() if ("outcome", name) in labels)

    def total(name: str) -> float:
        return sum(samples.get(name, {}).values())

    return TableCounts(
        hits=outcome("hit"),
        misses=outcome("miss"),
        known_bytes=total(f"{MetricName.KNOWN_MESSAGE_BYTES}_total"),
        evictions=total(f"{MetricName.KNOWN_MESSAGE_EVICTIONS}_total"),
        size_bytes=total(MetricName.MESSAGE_TABLE_BYTES),
    )
