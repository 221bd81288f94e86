"""One worker's limits under so many clients, as a process of its own.

Run by `bench_limits.py` as `python -m loadtest.limits.child SOCKET CLIENTS SECONDS AMOUNT BURST`:
waits for a line on standard input, asks as fast as its clients can, and prints a line of JSON:
asked, granted, calls (had to wait), local (judged while the shared counts were away), began and
ended (monotonic seconds).
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import uvloop
from pydantic import SecretStr

from sidecar.domain.limits import Level, Limit, Measure, Priority, Window
from sidecar.domain.principal import Principal
from sidecar.domain.report import Clocks
from sidecar.limits.limit_check import LimitCheck, RequestCost, limit_checks
from sidecar.limits.limiter import Granted, Limiter
from sidecar.limits.local_shares import SharingWorker
from sidecar.limits.shared_counters import SharedCounts
from sidecar.settings.stores import ValkeySettings
from sidecar.storage.valkey import open_valkey
from sidecar.storage.valkey_limits import ValkeyLimits

PRINCIPAL = Principal("key_1", "team_1", "bench", "org_1", "bench")
WORKERS = 4
PAUSE_SECONDS = 0.01
"""Of a client between two requests: 800 of them ask for many times the limit."""


class NoRecords:
    """Nothing was used before."""

    async def used(self, limit: Limit, *, subject: str, start: int) -> int:
        """Return nothing."""
        del limit, subject, start
        return 0


def bench_limit(amount: int, burst: int) -> Limit:
    """Return a team's limit a minute."""
    return Limit(
        id="team_1/requests/minute",
        level=Level.TEAM,
        measure=Measure.REQUESTS,
        window=Window.MINUTE,
        amount=amount,
        burst=burst,
    )


def checks(limit: Limit) -> tuple[LimitCheck, ...]:
    """Return the checks of *limit* by an interactive request, for which no part is reserved."""
    demand = RequestCost(operation="chat", model="gpt-5", priority=Priority.INTERACTIVE)
    found = limit_checks([limit], demand, now=time.time())
    assert isinstance(found, tuple)  # noqa: S101 - a limit of requests is never exceeded by one
    return found


@asynccontextmanager
async def bench_limiter(socket: str) -> AsyncIterator[Limiter]:
    """Give a worker's limits on the Valkey at *socket*, tended, with the settings by default."""
    settings = ValkeySettings(url=SecretStr(f"unix://{socket}"))
    clocks = Clocks(monotonic=time.monotonic, wall=time.time)
    async with open_valkey(settings) as client:
        shared = SharedCounts(
            ValkeyLimits(client, operation_seconds=settings.operation_seconds),
            worker=SharingWorker(secrets.token_hex(8), WORKERS),
            calls=settings.pool_size,
            clock=time.monotonic,
        )
        limiter = Limiter(shared, NoRecords(), clocks=clocks)
        running = asyncio.ensure_future(limiter.run())
        try:
            yield limiter
        finally:
            running.cancel()
            await limiter.aclose()


async def hammer(socket: str, *, clients: int, seconds: float, limit: Limit) -> dict[str, float]:
    """Take from so many clients for so long; count the outcomes."""
    counted: Counter[str] = Counter(asked=0, granted=0, calls=0, local=0)
    asked = checks(limit)
    async with bench_limiter(socket) as limiter:
        began = time.monotonic()

        async def acquire() -> None:
            while time.monotonic() < began + seconds:
                outcome = limiter.take(PRINCIPAL, asked, member="r")
                counted["asked"] += 1
                if isinstance(outcome, Awaitable):
                    counted["calls"] += 1
                    outcome = await outcome
                counted["granted"] += isinstance(outcome, Granted)
                counted["local"] += outcome.is_local
                await asyncio.sleep(PAUSE_SECONDS)

        await asyncio.gather(*(acquire() for _ in range(clients)))
        ended = time.monotonic()
    return {**counted, "began": began, "ended": ended}


def main() -> None:
    """Hammer and print."""
    socket, clients, seconds, amount, burst = sys.argv[1:]
    sys.stdin.readline()
    counted = uvloop.run(
        hammer(
            socket,
            clients=int(clients),
            seconds=float(seconds),
            limit=bench_limit(int(amount), int(burst)),
        )
    )
    print(json.dumps(counted))


if __name__ == "__main__":
    main()
