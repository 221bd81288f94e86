"""A closed loop of requests to a gateway, and what its answers say of their time."""

from __future__ import annotations

import asyncio
import math
import re
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from pydantic import SecretStr

from sidecar.domain.http import HeaderName

_DURATION: Final = re.compile(r"([a-z]+);dur=([0-9.]+)")
"""One metric of `server-timing`, in milliseconds (W3C Server Timing)."""

WHOLE: Final = "whole answer"
FIRST_BYTE: Final = "first byte of the body"


@dataclass(frozen=True, slots=True)
class Order:
    """What is sent, how often, and over how many connections at a time."""

    url: str
    key: SecretStr | None
    body: bytes
    requests: int
    connections: int
    tls: ssl.SSLContext | None
    timeout_seconds: float


@dataclass(slots=True)
class Measured:
    """What came back. `milliseconds` has, by name, a time of each answer that was let through.

    `statuses` counts answers; `lost` counts requests without one, by the kind of failure.
    """

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    milliseconds: dict[str, list[float]] = field(default_factory=dict)

    def note(self, name: str, milliseconds: float) -> None:
        """Keep one time."""
        self.milliseconds.setdefault(name, []).append(milliseconds)

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return self.statuses.total() / self.seconds if self.seconds else 0.0


async def put(order: Order, advance: Callable[[int], None]) -> Measured:
    """Send all requests of *order*; *advance* is told how many are through."""
    measured = Measured()
    left = iter(range(1, order.requests + 1))
    connector = aiohttp.TCPConnector(limit=order.connections, ssl=order.tls or True)
    timeout = aiohttp.ClientTimeout(total=order.timeout_seconds)
    headers = {"content-type": "application/json"}
    if order.key is not None:
        headers["authorization"] = f"Bearer {order.key.get_secret_value()}"
    began_at = time.perf_counter()
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers=headers
    ) as client:
        clients = (_send(client, order, left, measured, advance) for _ in range(order.connections))
        await asyncio.gather(*clients)
    measured.seconds = time.perf_counter() - began_at
    return measured


async def _send(
    client: aiohttp.ClientSession,
    order: Order,
    left: Iterator[int],
    measured: Measured,
    advance: Callable[[int], None],
) -> None:
    for _ in left:
        began_at = time.perf_counter()
        try:
            async with client.post(order.url, data=order.body) as answer:
                await answer.content.readany()
                first_byte = time.perf_counter() - began_at
                async for _ in answer.content.iter_any():
                    pass
        except (aiohttp.ClientError, TimeoutError) as error:
            measured.lost[type(error).__name__] += 1
        else:
            measured.statuses[answer.status] += 1
            if answer.ok:
                measured.note(WHOLE, (time.perf_counter() - began_at) * 1e3)
                measured.note(FIRST_BYTE, first_byte * 1e3)
                for name, milliseconds in timings(
                    answer.headers.get(HeaderName.SERVER_TIMING, "")
                ):
                    measured.note(name, milliseconds)
        advance(measured.statuses.total() + measured.lost.total())


def timings(value: str) -> Iterator[tuple[str, float]]:
    """Yield names and milliseconds of a `server-timing` value; what is no duration is left out."""
    for name, duration in _DURATION.findall(value):
        try:
            yield name, float(duration)
        except ValueError:
            continue


def percentile(values: list[float], share: float) -> float:
    """Return the smallest of *values* that *share* of them do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
