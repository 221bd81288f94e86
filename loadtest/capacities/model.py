"""From what a request costs to what so many of them need: arithmetic alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from loadtest.capacities.servers import ServerCosts
from loadtest.capacities.traffic import KeyTraffic, LimitTraffic, rates
from sidecar.settings.stores import CacheSettings, PostgresSettings, ValkeySettings

HALF: Final = 0.5
"""How busy anything is planned to be: the other half is for bursts, and for what fails."""
POD_CORES: Final = 8
ANSWER_SECONDS: Final = 2.0
"""From a request's first byte to its answer's last; a chat model's streams take longer."""
STREAMS_A_CONNECTION: Final = 100
"""Of HTTP/2 to a provider."""
POSTGRES_CORES: Final = 16
POSTGRES_CONNECTIONS: Final = 500
"""Without a pooler. Each is a process."""
MILLION: Final = 1e6


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is asked for, and by how many."""

    rps: int
    keys: int
    teams: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What a request costs on an engine, in microseconds of CPU, and a worker's memory."""

    engine: str
    worker_us: float
    envoy_us: float
    worker_mb: float

    @property
    def worker_rps(self) -> float:
        """Return what a worker takes that is as busy as planned."""
        return HALF * MILLION / self.worker_us


@dataclass(frozen=True, slots=True)
class Need:
    """What a scale needs. Rates are a second."""

    workers: int
    envoy_cores: float
    pods: int
    clients: float
    clients_a_pod: float
    provider_connections: float
    memory_gb: float
    l1_hit_share: float
    valkey_keys: float
    valkey_limits: float
    valkey_cores: float
    valkey_connections: int
    postgres_loads: float
    postgres_rows: float
    postgres_cores: float
    postgres_connections: int


def need(
    scale: Scale, measured: Measured, costs: ServerCosts, *, keys: KeyTraffic, limits: LimitTraffic
) -> Need:
    """Return what *scale* needs, from what one worker at its planned rate was seen to ask."""
    workers = math.ceil(scale.rps / measured.worker_rps)
    envoy_cores = scale.rps * measured.envoy_us / MILLION / HALF
    pods = math.ceil((workers + envoy_cores) / POD_CORES)
    # A single worker may have less to do than one that is as busy as planned.
    busy = scale.rps / measured.worker_rps
    loads = busy * keys.loads_a_second
    calls = busy * limits.calls
    stored = shared_misses(scale, rate=measured.worker_rps, loads=loads)
    clients = scale.rps * ANSWER_SECONDS
    return Need(
        workers=workers,
        envoy_cores=envoy_cores,
        pods=pods,
        clients=clients,
        clients_a_pod=clients / pods,
        provider_connections=clients / STREAMS_A_CONNECTION,
        memory_gb=workers * measured.worker_mb / 1024,
        l1_hit_share=keys.hit_share,
        valkey_keys=loads,
        valkey_limits=calls,
        valkey_cores=(loads * costs.shared_key + calls * costs.limit_call) / MILLION / HALF,
        valkey_connections=workers * ValkeySettings().pool_size,
        postgres_loads=stored,
        postgres_rows=scale.rps,
        postgres_cores=(stored * costs.key_load + scale.rps * costs.usage_row) / MILLION / HALF,
        # One more of each worker listens for changes.
        postgres_connections=workers * (PostgresSettings().pool_size + 1),
    )


def shared_misses(scale: Scale, *, rate: float, loads: float) -> float:
    """Return how many of the fleet's *loads* find nothing in Valkey, a second.

    A key lies there for so long, then its next load is of PostgreSQL. Loads are spread over keys
    as those of one worker with *rate* requests a second are: a key that is asked for seldom is
    loaded each time, one that is asked for often only as it ages.
    """
    life = CacheSettings().l2_ttl_seconds
    ages = CacheSettings().ttl_seconds
    classes = [(1 / (ages + 1 / one), many) for one, many in rates(rate=rate, keys=scale.keys)]
    total = sum(one * many for one, many in classes)
    return sum(many / (life + total / (loads * one)) for one, many in classes)


def saturation(
    measured: Measured, costs: ServerCosts, *, found: Need, scale: Scale
) -> dict[str, float]:
    """Return the requests a second at which one of each thing is as busy as planned.

    Rates a request are those of *found*, which is the need of *scale*.
    """
    a_request: Mapping[str, float] = {
        "one worker": measured.worker_us / MILLION / HALF,
        "one thread of Envoy": measured.envoy_us / MILLION / HALF,
        f"one pod of {POD_CORES} cores": (measured.worker_us + measured.envoy_us)
        / (MILLION * HALF * POD_CORES),
        "one Valkey, which has one thread for commands": found.valkey_cores / scale.rps,
        f"one PostgreSQL of {POSTGRES_CORES} cores, usage records": costs.usage_row
        / (MILLION * HALF * POSTGRES_CORES),
        f"{POSTGRES_CONNECTIONS} connections of PostgreSQL": found.postgres_connections
        / scale.rps
        / POSTGRES_CONNECTIONS,
    }
    limits = {name: 1 / share for name, share in a_request.items()}
    return dict(sorted(limits.items(), key=lambda one: one[1]))


ROWS: Final[tuple[tuple[str, Callable[[Need], float], int], ...]] = (
    ("workers, a core each", lambda one: one.workers, 0),
    ("cores for Envoy", lambda one: one.envoy_cores, 1),
    (f"pods of {POD_CORES} cores", lambda one: one.pods, 0),
    ("memory of workers, GB", lambda one: one.memory_gb, 1),
    ("open requests, a socket each over HTTP/1.1", lambda one: one.clients, 0),
    ("of them in a pod", lambda one: one.clients_a_pod, 0),
    ("connections to providers, HTTP/2", lambda one: one.provider_connections, 0),
    ("keys at hand in a worker, %", lambda one: 100 * one.l1_hit_share, 1),
    ("Valkey: keys read a second", lambda one: one.valkey_keys, 0),
    ("Valkey: calls for limits a second", lambda one: one.valkey_limits, 0),
    ("Valkey: cores", lambda one: one.valkey_cores, 1),
    ("Valkey: connections at most", lambda one: one.valkey_connections, 0),
    ("PostgreSQL: keys read a second", lambda one: one.postgres_loads, 0),
    ("PostgreSQL: usage records a second", lambda one: one.postgres_rows, 0),
    ("PostgreSQL: cores", lambda one: one.postgres_cores, 1),
    ("PostgreSQL: connections at most", lambda one: one.postgres_connections, 0),
)
"""What is shown of a need, in words, and with how many digits behind the point."""
