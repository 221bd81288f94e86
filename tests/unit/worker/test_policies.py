from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson
import pytest
from prometheus_client import CollectorRegistry

from sidecar.domain.principal import PolicyBinding
from sidecar.policy.compilation import compile_in_subprocess
from sidecar.policy.snapshot import PolicySnapshot
from sidecar.storage.postgres_policies import PolicyStoreUnavailableError, StoredPolicy
from sidecar.telemetry.logs import configure_logs
from sidecar.telemetry.metrics import Metrics
from sidecar.worker.policies import PolicyReloader

PATTERN = "name: p\nguardrails: [{{name: a, type: denied_patterns, patterns: [{}]}}]"
GOOD = PATTERN.format("{name: X, regex: 'PRJ-[0-9]'}")
BROKEN = PATTERN.format("{name: X, regex: 'PRJ('}")


@dataclass
class ListedPolicies:
    """The port `PolicyStore`: what it is told to hold, or nothing at all."""

    stored: tuple[StoredPolicy, ...] | None = None
    asked: int = 0

    async def load_policies(self) -> tuple[StoredPolicy, ...]:
        """Answer."""
        self.asked += 1
        if self.stored is None:
            raise PolicyStoreUnavailableError("down")
        return self.stored


@dataclass
class World:
    """A reloader on a store that can be told what it holds."""

    store: ListedPolicies = field(default_factory=ListedPolicies)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    log: io.BytesIO = field(default_factory=io.BytesIO)

    def __post_init__(self) -> None:
        configure_logs("info", self.log)
        self.reloader = PolicyReloader(
            self.store, compile_policies=compile_in_subprocess, metrics=Metrics(self.registry)
        )

    def hold(self, *documents: str, version: int = 1) -> None:
        """Bring policies into force and say so."""
        self.store.stored = tuple(StoredPolicy("p", version, one) for one in documents)
        self.reloader.note_change()

    @property
    def failures(self) -> float | None:
        """How many loads failed so far."""
        return self.registry.get_sample_value("egret_policy_reload_failures_total")

    def is_building(self) -> bool:
        """Ask anew: a type checker takes a property for what it was."""
        return self.reloader.is_building

    async def snapshot_of(self, version: int) -> PolicySnapshot:
        """Wait for the snapshot with this version of the policy."""
        while True:
            snapshot = self.reloader.snapshot
            if snapshot is not None:
                versions = {one.name: one.version for one in snapshot.policies}
                if versions.get("p") == version:
                    return snapshot
            await asyncio.sleep(0.01)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the reloader within the block."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.reloader.run())
            try:
                yield
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.timeout(300)
async def test_policies_that_do_not_compile_leave_the_last_good_ones_in_force(
    world: World,
) -> None:
    """Counted, and tried again; the next good ones replace them."""
    world.hold(GOOD)
    async with world.running():
        good = await world.snapshot_of(1)

        world.hold(BROKEN, version=2)
        while not world.failures:  # noqa: ASYNC110 - a counter tells nobody
            await asyncio.sleep(0.01)
        kept = world.reloader.snapshot
        world.hold(GOOD, version=3)
        await world.snapshot_of(3)

    assert kept is good
    lines = [orjson.loads(line) for line in world.log.getvalue().splitlines()]
    events = [line["event"] for line in lines]
    assert (events[0], events[-1]) == ("policies.loaded", "policies.loaded")
    assert set(events[1:-1]) == {"policies.not_loaded"}
    reason = "the policies' expressions cannot be compiled together"
    assert {line["reason"] for line in lines[1:-1]} == {reason}
    assert b"PRJ" not in world.log.getvalue()


@pytest.mark.timeout(300)
async def test_a_new_snapshot_is_ready_for_what_the_old_one_was_asked(world: World) -> None:
    """The first request after a change does not pay for it."""
    binding = PolicyBinding(key="p")
    world.hold(GOOD)
    async with world.running():
        before = await world.snapshot_of(1)
        judged = before.effective(binding)
        world.hold(GOOD, version=2)
        after = await world.snapshot_of(2)

    assert (before.bindings, after.bindings) == ((binding,), (binding,))
    assert after.effective(binding) is not judged


@pytest.mark.timeout(300)
async def test_a_store_that_is_away_is_asked_again(world: World) -> None:
    """After a while, and at once where a change is heard of."""
    async with world.running():
        while world.store.asked < 2:  # noqa: ASYNC110 - nor does a store
            await asyncio.sleep(0.01)
        world.hold(GOOD)
        await world.snapshot_of(1)

        read_at = world.registry.get_sample_value("egret_policies_read_timestamp_seconds")

    assert world.failures == 2
    assert read_at


@pytest.mark.parametrize("document", [GOOD, BROKEN], ids=["good", "broken"])
async def test_policies_that_were_read_are_being_built_until_it_is_known_what_they_are(
    world: World, document: str
) -> None:
    """Whether or not anything comes of it; without a database nothing is built."""
    assert not world.is_building()
    async with world.running():
        while not world.store.asked:  # noqa: ASYNC110 - tells nobody
            await asyncio.sleep(0.01)
        assert not world.is_building()
        world.hold(document)
        async with asyncio.timeout(60):
            while not world.is_building():  # noqa: ASYNC110 - tells nobody
                await asyncio.sleep(0.001)
            while world.is_building():  # noqa: ASYNC110 - tells nobody
                await asyncio.sleep(0.01)
    assert (world.reloader.snapshot is None) is (document == BROKEN)
