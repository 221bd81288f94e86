"""Bounds how many requests a person, a token or an address may send, and have at once."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Self
from weakref import WeakValueDictionary

from sidecar.admin_api.problems import RETRY_AFTER, Problem
from sidecar.settings.administration import AdminSettings

BURST_SECONDS: Final = 10
BARRIERS_AT_ONCE: Final = 5
REPORT_SECONDS: Final = 30.0
"""The longest time that a report waits for its turn."""
MAX_BUCKETS: Final = 10_000
"""The longest unused are forgotten first: they are the fullest."""


class RateLimiter:
    """Allows `per_second` requests of one name on average, and `burst`, but at least one, at once.

    Token buckets in memory, one for each person, token or address; each process has its own.
    """

    def __init__(self, *, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = max(1.0, burst)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_seconds(self, name: str, *, now: float) -> float:
        """Take one request of *name*; 0 if it may go on, else the seconds until it may."""
        level, at = self._buckets.pop(name, (self._burst, now))
        level = min(self._burst, level + max(0.0, now - at) * self._per_second)
        wait = 0.0 if level >= 1 else (1 - level) / self._per_second
        self._buckets[name] = (level if wait else level - 1, now)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return wait

    def give_back(self, name: str) -> None:
        """Undo the taking of one request of *name*."""
        if (bucket := self._buckets.get(name)) is not None:
            self._buckets[name] = (bucket[0] + 1, bucket[1])


@dataclass(frozen=True, slots=True)
class Rates:
    """The limiters of one process."""

    requests: RateLimiter
    logins: RateLimiter
    """By address: logins."""
    guesses: RateLimiter
    """By address: refused tokens, which stop no login from the same proxy."""
    forms: RateLimiter
    """By address: forms that an error page gives back, which may be of no session."""
    refused: RateLimiter
    """By address: queries for tokens and sessions that are not good."""
    suspects: asyncio.Semaphore
    """One query at a time for credentials of addresses that sent too many bad ones."""
    barriers: RateLimiter
    """Repeated barriers, by person: each makes every worker report."""
    at_once: int
    """Requests of one person that may hold a body and a connection; further ones wait."""
    reports: asyncio.Semaphore
    """Reports of all people: fewer than one person's requests, so that a change needs no report's
    end."""
    _turns: WeakValueDictionary[tuple[str, bool], asyncio.Semaphore] = field(
        default_factory=WeakValueDictionary
    )

    @classmethod
    def of(cls, admin: AdminSettings) -> Self:
        """Return the limiters with the rates of the settings."""
        second, minute = admin.requests_per_second, admin.logins_per_minute
        return cls(
            requests=RateLimiter(per_second=second, burst=second * BURST_SECONDS),
            logins=RateLimiter(per_second=minute / 60, burst=minute),
            guesses=RateLimiter(per_second=minute / 60, burst=minute),
            forms=RateLimiter(per_second=minute / 60, burst=minute),
            refused=RateLimiter(per_second=second, burst=second * BURST_SECONDS),
            suspects=asyncio.Semaphore(1),
            barriers=RateLimiter(per_second=1, burst=BARRIERS_AT_ONCE),
            at_once=(at_once := (admin.pool_size + 1) // 2),
            reports=asyncio.Semaphore(max(1, at_once - 1)),
        )

    @asynccontextmanager
    async def turn(self, name: str, *, is_report: bool) -> AsyncIterator[None]:
        """Wait for the turn of one person or token; a report waits for one among reports first.

        Half of one person's turns are for reports, and turns are forgotten once none is held.

        Raises:
            Problem: 503, the reports before this one have not ended.
        """
        async with AsyncExitStack() as held:
            if is_report:
                try:
                    async with asyncio.timeout(REPORT_SECONDS):
                        await held.enter_async_context(
                            self._own(name, (self.at_once + 1) // 2, is_report=True)
                        )
                        await held.enter_async_context(self.reports)
                except TimeoutError:
                    raise Problem(
                        HTTPStatus.SERVICE_UNAVAILABLE,
                        "other reports have not ended",
                        hint="try again",
                        headers=RETRY_AFTER,
                    ) from None
            await held.enter_async_context(self._own(name, self.at_once, is_report=False))
            yield

    def _own(self, name: str, at_once: int, *, is_report: bool) -> asyncio.Semaphore:
        return self._turns.setdefault((name, is_report), asyncio.Semaphore(at_once))


def check_rate(limiter: RateLimiter, name: str) -> None:
    """Take one request of *name*.

    Raises:
        Problem: 429, with the seconds to wait.
    """
    wait = limiter.wait_seconds(name, now=time.monotonic())
    if wait:
        raise too_many(wait)


def too_many(wait: float) -> Problem:
    """Return the answer to one request too many, with the seconds to *wait*."""
    return Problem(
        HTTPStatus.TOO_MANY_REQUESTS,
        "too many requests",
        headers={"retry-after": str(int(wait) + 1)},
    )
