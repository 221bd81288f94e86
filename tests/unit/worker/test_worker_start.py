from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

import pytest

from sidecar.worker import worker
from sidecar.worker.worker import wait_for_policies


@dataclass
class Policies:
    """Policies on their way."""

    snapshot: object | None = None
    is_building: bool = False


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read within 20 ms, built within 200 ms."""
    monkeypatch.setattr(worker, "POLICIES_SECONDS", 0.02)
    monkeypatch.setattr(worker, "BUILDING_SECONDS", 0.2)
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.001)


async def waited(policies: Policies, stopping: asyncio.Event) -> float:
    """Return for how long a worker waits."""
    now = asyncio.get_running_loop().time
    begun = now()
    async with asyncio.timeout(60):
        await wait_for_policies(policies, stopping)
    return now() - begun


@pytest.mark.parametrize(
    ("policies", "least"),
    [(Policies(), 0.02), (Policies(is_building=True), 0.2)],
    ids=["a database that is away", "a machine that is busy"],
)
async def test_a_worker_waits_longer_for_policies_that_come(
    policies: Policies, least: float
) -> None:
    """Not for ever: then it serves, and refuses with 503."""
    assert await waited(policies, asyncio.Event()) >= least


async def test_policies_or_the_end_are_waited_for_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither by a clock."""
    monkeypatch.setattr(worker, "BUILDING_SECONDS", math.inf)
    stopping = asyncio.Event()
    stopping.set()
    await waited(Policies(is_building=True), stopping)
    await waited(Policies(snapshot=object(), is_building=True), asyncio.Event())
