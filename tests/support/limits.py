"""Limits on a Valkey of a test's own."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from sidecar.domain.limits import Level, Limit, Measure, Window
from sidecar.domain.principal import Principal
from sidecar.domain.report import Clocks
from sidecar.limits.limit_check import LimitCheck, RequestCost, limit_checks
from sidecar.limits.limiter import Limiter
from sidecar.limits.local_shares import SharingWorker
from sidecar.limits.shared_counters import SharedCounts
from sidecar.settings.stores import ValkeySettings
from sidecar.storage.valkey import open_valkey
from sidecar.storage.valkey_limits import ValkeyLimits

PRINCIPAL = Principal("key_1", "team_1", "search", "org_1", "acme")
CLOCKS = Clocks(monotonic=time.monotonic, wall=time.time)


def limit(measure: Measure = Measure.REQUESTS, **fields: Any) -> Limit:
    """Return a team's limit: a thousand a minute, ten at once, unless told otherwise."""
    defaults: dict[str, Any] = {
        "id": "lim_1", "level": Level.TEAM, "window": Window.MINUTE, "amount": 1_000,
    }  # fmt: skip
    return Limit(measure=measure, **{**defaults, **fields})


def checks(*limits: Limit, **demand: Any) -> tuple[LimitCheck, ...]:
    """Return what a request asks of *limits* now, its priority leaving nothing over."""
    asked = RequestCost(operation="chat", model="gpt-5", **demand)
    found = limit_checks(limits, asked, now=time.time())
    assert isinstance(found, tuple)
    return tuple(LimitCheck(one.limit, one.window, one.cost, 0) for one in found)


@dataclass
class Records:
    """Records of usage that say what they are told to; `asked` has the starts asked for."""

    used_before: int = 0
    asked: list[int] = field(default_factory=list)

    async def used(self, limit: Limit, *, subject: str, start: int) -> int:
        """Return the total."""
        del limit, subject
        self.asked.append(start)
        return self.used_before


@asynccontextmanager
async def valkey_limits(socket: Path, *, seconds: float = 5.0) -> AsyncIterator[ValkeyLimits]:
    """Give the store of one worker."""
    settings = ValkeySettings(url=SecretStr(f"unix://{socket}"), operation_seconds=seconds)
    async with open_valkey(settings) as client:
        yield ValkeyLimits(client, operation_seconds=seconds)


@asynccontextmanager
async def limiter(
    socket: Path, *, totals: Records | None = None, seconds: float = 5.0, shares: int = 4
) -> AsyncIterator[Limiter]:
    """Give the limits of one worker."""
    async with valkey_limits(socket, seconds=seconds) as store:
        shared = SharedCounts(
            store,
            worker=SharingWorker(secrets.token_hex(8), shares),
            calls=32,
            clock=CLOCKS.monotonic,
        )
        yield Limiter(shared, totals or Records(), clocks=CLOCKS)
