"""One worker's part of many requests at once for one budget, as a process of its own.

Run by `prove_limits.py` as `python -m loadtest.limits.budget_child SOCKET REQUESTS COST AMOUNT`:
waits for a line on standard input, asks once for each request, all at the same time, and prints a
line of JSON: granted, local (judged while the shared counts were away).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable

import uvloop

from loadtest.limits.child import PRINCIPAL, bench_limiter
from sidecar.domain.limits import Level, Limit, Measure, Priority, Window
from sidecar.limits.limit_check import LimitCheck, RequestCost, limit_checks
from sidecar.limits.limiter import Granted, Limiter


def budget(amount: int) -> Limit:
    """Return a team's budget for the month, in millionths of a US dollar."""
    return Limit(
        id="team_1/cost/month",
        level=Level.TEAM,
        measure=Measure.COST,
        window=Window.MONTH,
        amount=amount,
    )


def spending(limit: Limit, cost: int) -> tuple[LimitCheck, ...]:
    """Return the checks of *limit* by an interactive request of this cost."""
    demand = RequestCost(operation="chat", model="gpt-5", priority=Priority.INTERACTIVE, cost=cost)
    found = limit_checks([limit], demand, now=time.time())
    assert isinstance(found, tuple)  # noqa: S101 - a budget is never exceeded by one
    return found


async def acquire(limiter: Limiter, asked: tuple[LimitCheck, ...], counted: Counter[str]) -> None:
    """Take once and count the outcome."""
    outcome = limiter.take(PRINCIPAL, asked, member="r")
    if isinstance(outcome, Awaitable):
        outcome = await outcome
    counted["granted"] += isinstance(outcome, Granted)
    counted["local"] += outcome.is_local


async def _spend(socket: str, *, requests: int, cost: int, amount: int) -> Counter[str]:
    counted: Counter[str] = Counter(granted=0, local=0)
    asked = spending(budget(amount), cost)
    async with bench_limiter(socket) as limiter:
        sys.stdin.readline()
        await asyncio.gather(*(acquire(limiter, asked, counted) for _ in range(requests)))
    return counted


def main() -> None:
    """Spend and print."""
    socket, requests, cost, amount = sys.argv[1:]
    spent = _spend(socket, requests=int(requests), cost=int(cost), amount=int(amount))
    print(json.dumps(uvloop.run(spent)))


if __name__ == "__main__":
    main()
