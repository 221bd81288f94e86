"""What one worker asks of Valkey and of the key stores, played with its own caches and leases.

Time is made up: requests come evenly, and keys and teams by Zipf's law.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from loadtest.keys.hit_rate import ZIPF_EXPONENT, InMemory
from loadtest.keys.stack import SEED
from sidecar.keys.cache import REFRESH_AT, TTL_JITTER, CacheLimits, Hit, KeyCache
from sidecar.keys.ports import Loaded
from sidecar.limits.leases import Lease
from sidecar.limits.limiter import TEND_SECONDS

WARM_UP_SECONDS: Final = 60.0
"""Two lives of a key in the cache."""
MEASURED_SECONDS: Final = 60.0
PLENTY: Final = 10**9
"""A limit far above what is used: leases are as large as the rate makes them."""


@dataclass(frozen=True, slots=True)
class KeyTraffic:
    """Of one worker: what share of requests has its key at hand, and how many are loaded."""

    hit_share: float
    loads_a_second: float


@dataclass(frozen=True, slots=True)
class LimitTraffic:
    """Of one worker, calls of Valkey a second: for requests, ahead of them, and corrections."""

    waiting: float
    ahead: float
    corrections: float

    @property
    def calls(self) -> float:
        """All of them."""
        return self.waiting + self.ahead + self.corrections


class _Counting:
    """Knows every key, and counts what is loaded."""

    def __init__(self) -> None:
        self.loads = 0
        self._store = InMemory()

    async def load(self, key_id: str) -> Loaded:
        self.loads += 1
        return await self._store.load(key_id)


async def key_traffic(*, rate: float, keys: int) -> KeyTraffic:
    """Play a worker's cache for two minutes."""
    store, hits, before = _Counting(), 0, 0
    chance = random.Random(SEED)  # noqa: S311 - must be the same in every run
    cache = KeyCache(store, CacheLimits(), jitter=chance.random)
    warm, total = int(rate * WARM_UP_SECONDS), int(rate * (WARM_UP_SECONDS + MEASURED_SECONDS))
    for number, drawn in enumerate(_zipf(keys, count=total)):
        now = number / rate
        if number == warm:
            before, hits = store.loads, 0
        key_id = str(drawn)
        if isinstance(cache.peek(key_id, now=now), Hit):
            hits += 1
            if cache.load_count:  # loaded anew ahead of time, beside the request
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        else:
            await cache.load(key_id, now=lambda now=now: now)  # type: ignore[misc]
    return KeyTraffic(hits / (total - warm), (store.loads - before) / MEASURED_SECONDS)


def estimated_loads(*, rate: float, keys: int, capacity: int) -> float:
    """Return what `key_traffic` should find, by arithmetic: loads of all keys a second.

    A key that is kept is loaded anew after `life`; between two lives it waits for a request. The
    cache has room for `capacity` keys: one that is not asked for in the time in which so many
    others are, is gone (Che's approximation of LRU).
    """
    life = min(refresh_seconds(), _eviction_seconds(rate=rate, keys=keys, capacity=capacity))
    return sum(many / (life + 1 / one) for one, many in rates(rate=rate, keys=keys))


def refresh_seconds() -> float:
    """Return after how long a key in use is loaded anew, in the mean."""
    return CacheLimits().ttl_seconds * REFRESH_AT * (1 - TTL_JITTER / 2)


def rates(*, rate: float, keys: int) -> Iterator[tuple[float, int]]:
    """Yield how often a key is asked for in a second, and how many keys are like it.

    The first thousand by themselves; of the rest, groups that differ by a hundredth.
    """
    total = _harmonic(keys)
    rank = 1
    while rank <= keys:
        end = min(keys, max(rank, int(rank * 1.01) if rank > 1000 else rank))  # noqa: PLR2004
        middle = (rank + end) / 2
        yield rate * middle**-ZIPF_EXPONENT / total, end - rank + 1
        rank = end + 1


def limit_traffic(*, rate: float, teams: int, teams_an_organization: int) -> LimitTraffic:
    """Play a worker's leases, one a team, for a minute after a minute.

    Each request takes of its team's limit. Where the lease has nothing, one call takes for the
    request and fills it; where it runs low, another fills it beside the request. What requests
    used is put right four times a second, a call an organization.
    """
    leases: dict[int, Lease] = {}
    waiting = ahead = corrections = 0
    ended: set[int] = set()
    tended_at = 0.0
    warm, total = int(rate * WARM_UP_SECONDS), int(rate * (WARM_UP_SECONDS + MEASURED_SECONDS))
    for number, team in enumerate(_zipf(teams, count=total)):
        now = number / rate
        if number == warm:
            waiting = ahead = corrections = 0
        if now - tended_at >= TEND_SECONDS:
            for of, lease in leases.items():
                if lease.expired(now=now):
                    ended.add(of // teams_an_organization)
            corrections += len(ended)
            ended, tended_at = set(), now
        lease = leases.setdefault(team, Lease(PLENTY))
        is_leased = lease.take(1, now=now)
        wanted = lease.wanted(now=now)
        if wanted:
            lease.filled(wanted, asked=wanted, now=now)
        waiting += not is_leased
        ahead += is_leased and wanted > 0
        ended.add(team // teams_an_organization)
    each = MEASURED_SECONDS
    return LimitTraffic(waiting / each, ahead / each, corrections / each)


def _eviction_seconds(*, rate: float, keys: int, capacity: int) -> float:
    """Return in how long *capacity* different keys are asked for."""
    if keys <= capacity:
        return float("inf")
    classes = list(rates(rate=rate, keys=keys))
    low, high = 0.0, keys / rate * 1000
    for _ in range(60):
        middle = (low + high) / 2
        seen = sum(many * (1 - math.exp(-one * middle)) for one, many in classes)
        low, high = (middle, high) if seen < capacity else (low, middle)
    return high


def _harmonic(count: int) -> float:
    return math.fsum(rank**-ZIPF_EXPONENT for rank in range(1, count + 1))


def _zipf(of: int, *, count: int) -> Iterator[int]:
    drawn = random.Random(SEED)  # noqa: S311 - must be the same in every run
    weights = list(itertools.accumulate(rank**-ZIPF_EXPONENT for rank in range(1, of + 1)))
    for done in range(0, count, 10_000):
        yield from drawn.choices(range(of), cum_weights=weights, k=min(10_000, count - done))
