"""Requests that are given up at any moment: none of them may hold a slot afterwards."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable
from typing import Final

import redis.asyncio

from loadtest.limits.child import PRINCIPAL, bench_limiter
from sidecar.domain.limits import Level, Limit, Measure, Window
from sidecar.limits.limit_check import ConcurrencyWindow, LimitCheck
from sidecar.limits.limiter import Granted, Limiter
from sidecar.limits.store import Adjustment

SLOTS: Final = Limit(
    id="team_1/concurrent/once",
    level=Level.TEAM,
    measure=Measure.CONCURRENT,
    window=Window.ONCE,
    amount=200,
)
CLAIM: Final = LimitCheck(SLOTS, ConcurrencyWindow(), cost=1, reserve=0)
LONGEST_SECONDS: Final = 0.2
PATIENCE_SECONDS: Final = 30.0
AT_ONCE: Final = 500


async def abandoned(socket: str, *, requests: int, seed: int = 1) -> Counter[str]:
    """Open so many and give each of them up; count them, and the slots held in the end."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    counted: Counter[str] = Counter(granted=0, refused=0, abandoned=0)
    async with bench_limiter(socket) as limiter:
        for first in range(0, requests, AT_ONCE):
            await asyncio.gather(
                *(
                    _open(limiter, f"r{number}", chance.uniform(0, LONGEST_SECONDS), counted)
                    for number in range(first, min(first + AT_ONCE, requests))
                )
            )
        async with asyncio.timeout(PATIENCE_SECONDS):
            while limiter.waiting:
                await limiter.tend()
    counted["held"] = await _held(socket)
    return counted


async def _held(socket: str) -> int:
    client = redis.asyncio.Redis(unix_socket_path=socket)
    try:
        names = await client.keys(f"egret:limit:*:{SLOTS.id}")
        return sum([await client.zcard(name) for name in names])
    finally:
        await client.aclose()


async def _open(limiter: Limiter, member: str, seconds: float, counted: Counter[str]) -> None:
    outcome = limiter.take(PRINCIPAL, (CLAIM,), member=member)
    if isinstance(outcome, Awaitable):
        asking = asyncio.ensure_future(outcome)
        await asyncio.wait({asking}, timeout=seconds)
        asking.cancel()
        await asyncio.wait({asking})
        if asking.cancelled():
            counted["abandoned"] += 1
            return
        outcome = asking.result()
    if not isinstance(outcome, Granted):
        counted["refused"] += 1
        return
    counted["granted"] += 1
    await asyncio.sleep(seconds)
    limiter.settle(PRINCIPAL.organization_id, [Adjustment(SLOTS, 0, member=member)])
