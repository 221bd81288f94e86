"""A prompt of 5 MB judged beside short ones in one event loop: what the short ones wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from loadtest.figures import percentile
from sidecar.domain.finding import GuardrailResult

Judge = Callable[[str], tuple[GuardrailResult, ...] | Awaitable[tuple[GuardrailResult, ...]]]

SHORT_EVERY_SECONDS: Final = 0.005
"""200 short requests a second leave a worker room, so that what is waited for is the long one."""


async def beside(judge: Judge, *, long: str, short: str, seconds: float) -> dict[str, float]:
    """Return milliseconds: what short texts took from when they were due, and the long ones.

    `hold_cpu` is this process's CPU time between one turn of the loop and the next: what other
    processes take does not count, as it does in what the short texts wait.
    """
    ends_at = time.perf_counter() + seconds
    longs: list[float] = []
    async with asyncio.TaskGroup() as group:
        shorts = group.create_task(_shorts(judge, short, ends_at))
        holds = group.create_task(_holds(seconds))
        group.create_task(_longs(judge, long, ends_at, longs))
    waited = shorts.result()
    return {
        "short_p50_ms": percentile(waited, 50),
        "short_p99_ms": percentile(waited, 99),
        "hold_cpu_p99_ms": percentile(holds.result(), 99),
        "hold_cpu_max_ms": max(holds.result()),
        "long_p50_ms": percentile(longs, 50),
    }


async def _longs(judge: Judge, text: str, ends_at: float, taken: list[float]) -> None:
    while time.perf_counter() < ends_at:
        started_at = time.perf_counter()
        results = judge(text)
        if not isinstance(results, tuple):
            await results
        taken.append((time.perf_counter() - started_at) * 1e3)
        await asyncio.sleep(0)


async def _shorts(judge: Judge, text: str, ends_at: float) -> list[float]:
    taken: list[float] = []
    due_at = time.perf_counter()
    while due_at < ends_at:
        await asyncio.sleep(max(0.0, due_at - time.perf_counter()))
        results = judge(text)
        if not isinstance(results, tuple):
            await results
        taken.append((time.perf_counter() - due_at) * 1e3)
        due_at += SHORT_EVERY_SECONDS
    return taken


async def _holds(seconds: float) -> list[float]:
    """Return the milliseconds of CPU time between one turn of the loop and the next."""
    gaps: list[float] = []
    before = time.process_time()
    ends_at = time.perf_counter() + seconds
    while time.perf_counter() < ends_at:
        await asyncio.sleep(0)
        now = time.process_time()
        gaps.append((now - before) * 1e3)
        before = now
    return gaps
