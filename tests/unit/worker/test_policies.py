from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import orjson
import pytest
from prometheus_client import CollectorRegistry
from typing_extensions import override

from sidecar.domain.principal import PolicyBinding
from sidecar.policy.compilation import CompiledPolicy, compile_each
from sidecar.policy.snapshot import EffectivePolicy, MissingPolicy, PolicySnapshot
from sidecar.storage.postgres_policies import PolicyStoreUnavailableError, StoredPolicy
from sidecar.telemetry.logs import configure_logs
from sidecar.telemetry.metrics import Metrics
from sidecar.worker import policies
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
    compiled: list[str] = field(default_factory=list)
    """Documents that were given to be compiled."""
    may_compile: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(10_000))

    def __post_init__(self) -> None:
        configure_logs("info", self.log)
        self.reloader = PolicyReloader(
            self.store, compile_policies=self.compile, metrics=Metrics(self.registry)
        )

    async def compile(
        self, documents: Iterable[str], *, gives_way: bool
    ) -> AsyncGenerator[CompiledPolicy]:
        """Compile, and note which documents."""

        def noted() -> Iterator[str]:
            for one in documents:
                self.compiled.append(one)
                yield one

        async with aclosing(compile_each(noted(), gives_way=gives_way)) as every:
            async for one in every:
                await self.may_compile.acquire()
                yield one

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

    async def snapshot_of(self, version: int, name: str = "p") -> PolicySnapshot:
        """Wait for the snapshot with this version of the policy."""
        while True:
            snapshot = self.reloader.snapshot
            if snapshot is not None:
                versions = {one.name: one.version for one in snapshot.policies}
                if versions.get(name) == version:
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
                for _ in range(100):
                    self.may_compile.release()
                while self.is_building():  # noqa: ASYNC110 - its process ends with it
                    await asyncio.sleep(0.01)
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


def named(name: str, *, rule: str, version: int = 1) -> StoredPolicy:
    document = PATTERN.replace("name: p", f"name: {name}").format(
        f"{{name: X, regex: '{rule}-[0-9]'}}"
    )
    return StoredPolicy(name, version, document)


@pytest.mark.timeout(300)
async def test_one_change_among_many_policies_compiles_that_policy_alone(world: World) -> None:
    """What all others have in force is taken over; one that was removed is gone."""
    many = [named(f"team-{number}", rule=f"T{number}") for number in range(40)]
    world.store.stored = (*many, named("p", rule="OLD"))
    others = [PolicyBinding(team=one.name) for one in many]
    async with world.running():
        before = await world.snapshot_of(1)
        in_force = [before.effective(one) for one in others]
        world.compiled.clear()
        changed = named("p", rule="NEW", version=2)
        world.store.stored = (*many[1:], changed)
        world.reloader.note_change()
        after = await world.snapshot_of(2)

    assert world.compiled == [changed.document]
    assert all(
        after.effective(binding) is was
        for binding, was in zip(others[1:], in_force[1:], strict=True)
    )
    assert after.effective(others[0]) == MissingPolicy("team-0")
    assert isinstance(before.effective(others[0]), EffectivePolicy)
    last = orjson.loads(world.log.getvalue().splitlines()[-1])
    assert last["changed"] == 2


def pending(name: str) -> MissingPolicy:
    return MissingPolicy(name, is_pending=True)


@pytest.fixture
def starting(world: World, monkeypatch: pytest.MonkeyPatch) -> list[StoredPolicy]:
    """Six policies in the store of a worker that starts; it compiles two of them, then halts."""
    monkeypatch.setattr(policies, "MOST_AT_ONCE", 2)
    world.may_compile = asyncio.Semaphore(2)
    many = [named(f"team-{number}", rule=f"T{number}") for number in range(6)]
    world.store.stored = tuple(many)
    return many


@pytest.mark.timeout(300)
async def test_a_worker_serves_before_all_policies_are_compiled_and_those_waited_for_come_first(
    world: World, starting: list[StoredPolicy]
) -> None:
    """No key is judged by another policy meanwhile."""
    last = PolicyBinding(team="team-5")
    async with world.running():
        first = await world.snapshot_of(1, "team-1")
        seen = [first.effective(PolicyBinding(team=one.name)) for one in starting]
        waiting = asyncio.ensure_future(world.reloader.compiled(last))
        await asyncio.sleep(0)
        for _ in range(4):
            world.may_compile.release()
        is_compiled = await waiting
        judged = (await world.snapshot_of(1, "team-5")).effective(last)
        await world.snapshot_of(1, "team-4")

    assert [isinstance(one, EffectivePolicy) for one in seen] == [True] * 2 + [False] * 4
    assert seen[2:] == [pending(f"team-{number}") for number in range(2, 6)]
    assert is_compiled
    assert isinstance(judged, EffectivePolicy)
    order = [starting[number].document for number in (0, 1, 2, 5, 3, 4)]
    assert world.compiled == order


@pytest.mark.timeout(60)
async def test_a_request_waits_for_the_policy_of_its_own_alone_while_another_takes_long(
    world: World, starting: list[StoredPolicy]
) -> None:
    """Each is in force once it is compiled, although the next one is not."""
    async with world.running():
        await world.snapshot_of(1, "team-1")
        world.may_compile.release()
        judged = (await world.snapshot_of(1, "team-2")).effective(PolicyBinding(team="team-2"))
        while len(world.compiled) < 4:  # noqa: ASYNC110 - the next one, which does not end
            await asyncio.sleep(0.01)

    assert isinstance(judged, EffectivePolicy)
    assert world.compiled[:4] == [one.document for one in starting[:4]]


@pytest.mark.timeout(300)
async def test_a_change_while_a_worker_starts_comes_before_policies_that_nothing_waits_for(
    world: World, starting: list[StoredPolicy]
) -> None:
    """One that is in force is replaced, one that was removed is gone, the rest stays pending."""
    async with world.running():
        await world.snapshot_of(1, "team-1")
        changed = named("team-0", rule="NEW", version=2)
        world.store.stored = (changed, *starting[2:4])
        world.reloader.note_change()
        for _ in range(2):  # the one that was begun, and the change
            world.may_compile.release()
        after = await world.snapshot_of(2, "team-0")
        gone, late = (after.effective(PolicyBinding(team=f"team-{one}")) for one in (1, 3))

    assert gone == MissingPolicy("team-1")
    assert late == pending("team-3")
    assert world.compiled[:4] == [one.document for one in (*starting[:3], changed)]


@dataclass
class HeardWhileRead(ListedPolicies):
    """Tells of a change, which there is none of, while it is first read: a listener connects."""

    heard: list[PolicyReloader] = field(default_factory=list)

    @override
    async def load_policies(self) -> tuple[StoredPolicy, ...]:
        """Answer."""
        stored = await super().load_policies()
        if self.asked == 1:
            self.heard[0].note_change()
        return stored


@pytest.mark.timeout(60)
async def test_a_change_told_while_policies_are_first_read_keeps_none_of_them_back() -> None:
    store = HeardWhileRead((named("p", rule="PRJ-[0-9]"),))
    world = World(store=store)
    store.heard.append(world.reloader)

    async with world.running():
        snapshot = await world.snapshot_of(1)

    assert [one.name for one in snapshot.policies] == ["default", "p"]


@pytest.mark.timeout(300)
async def test_a_policy_that_does_not_compile_at_the_start_refuses_its_own_keys_alone(
    world: World, starting: list[StoredPolicy]
) -> None:
    """Its keys are refused at once, and judged once it is corrected."""
    world.may_compile = asyncio.Semaphore(10_000)
    broken = StoredPolicy("team-2", 1, BROKEN)
    binding = PolicyBinding(team="team-2")
    world.store.stored = (*starting[:2], broken, *starting[3:])
    async with world.running():
        while not world.failures:  # noqa: ASYNC110 - a counter tells nobody
            await asyncio.sleep(0.01)
        others = await world.snapshot_of(1, "team-5")
        refused = others.effective(binding)
        can_be_compiled = await world.reloader.compiled(binding)
        world.store.stored = (*starting[:2], named("team-2", rule="T2", version=2), *starting[3:])
        world.reloader.note_change()
        corrected = (await world.snapshot_of(2, "team-2")).effective(binding)

    assert refused == pending("team-2")
    assert not can_be_compiled
    assert isinstance(corrected, EffectivePolicy)
    lines = [orjson.loads(line) for line in world.log.getvalue().splitlines()]
    faults = [one["refused"] for one in lines if one["event"] == "policies.not_loaded"]
    assert faults[0] == ["team-2"]


@pytest.mark.timeout(300)
async def test_the_built_in_default_never_stands_in_for_one_that_is_not_compiled(
    world: World,
) -> None:
    """A stored default that is broken refuses the keys that have no other policy."""
    default = StoredPolicy("default", 1, BROKEN)
    world.store.stored = (default, named("p", rule="GOOD"))
    async with world.running():
        snapshot = await world.snapshot_of(1)
        found = snapshot.effective(PolicyBinding())

    assert found == pending("default")
    assert world.compiled[0] == default.document
