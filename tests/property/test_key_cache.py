from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from typing_extensions import override

from sidecar.authorization.key_cache import CacheLimits, Hit, KeyCache, KnownUnknown, Miss
from sidecar.authorization.ports import KeyStoreUnavailableError
from sidecar.domain.principal import KeyRecord
from tests.support.keys import record_of

LIMITS = CacheLimits(
    max_keys=3, ttl_seconds=10, max_unknown=2, negative_ttl_seconds=4, max_loads=3
)
key_ids = st.sampled_from(["k0", "k1", "k2", "k3", "k4"])

Answer = asyncio.Future[KeyRecord | None]


@dataclass
class Load:
    """A load under way, with what the store held when it was asked."""

    key_id: str
    asked_at: float
    snapshot: KeyRecord | None
    answer: Answer


@dataclass
class Store:
    """Holds records at versions that only rise; answers when a rule says so."""

    clock: list[float]
    records: dict[str, KeyRecord] = field(default_factory=dict)
    loads: list[Load] = field(default_factory=list)

    async def load(self, key_id: str) -> KeyRecord | None:
        """Read now, answer later: the widest window in which a change can slip in."""
        answer: Answer = asyncio.get_running_loop().create_future()
        self.loads.append(Load(key_id, self.clock[0], self.records.get(key_id), answer))
        return await answer


class KeyCacheMachine(RuleBasedStateMachine):
    """Changes, loads, answers and time in any order, against the simplest true statements.

    The machine notes for each key which answers may still be told (those read since the last
    drop or flush) and from when they were read; the cache may forget more, but never tell others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = [0.0]
        self.store = Store(self.clock)
        self.cache = KeyCache(self.store, LIMITS)
        self.callers: list[asyncio.Task[KeyRecord | None]] = []
        self.attached: list[Load] = []
        self.answered: dict[str, tuple[KeyRecord | None, float]] = {}
        self.version = 0.0

    @override
    def teardown(self) -> None:
        """End what is under way."""

        async def end() -> None:
            await self.cache.aclose()
            await asyncio.gather(*self.callers, return_exceptions=True)

        self.loop.run_until_complete(end())
        self.loop.close()

    def settle(self) -> None:
        """Let every task run until it waits."""

        async def turns() -> None:
            for _ in range(5):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    @rule(seconds=st.sampled_from([0.5, 3.0, 4.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        """Entries go stale."""
        self.clock[0] += seconds

    @rule(key_id=key_ids, is_there=st.booleans())
    def a_key_changes_and_its_notification_arrives(self, key_id: str, *, is_there: bool) -> None:
        """Created, changed or deleted, and heard of."""
        self.version += 1
        if is_there:
            self.store.records[key_id] = record_of(key_id, revoked_at=self.version)
        else:
            self.store.records.pop(key_id, None)
        self.cache.drop(key_id)
        self.attached = [load for load in self.attached if load.key_id != key_id]
        self.answered.pop(key_id, None)

    @rule()
    def the_listener_reconnects(self) -> None:
        """Nobody knows what was missed."""
        self.cache.flush()
        self.attached.clear()
        self.answered.clear()

    @rule(key_id=key_ids)
    def a_request_needs_a_key(self, key_id: str) -> None:
        """A miss joins the load under way, begins one, or is refused over the cap."""
        if self.cache.peek(key_id, now=self.clock[0]) != Miss():
            return
        is_under_way = any(load.key_id == key_id for load in self.attached)
        may_begin = len(self.store.loads) < LIMITS.max_loads
        begun = len(self.store.loads)

        caller = self.loop.create_task(self.cache.load(key_id, now=lambda: self.clock[0]))
        self.settle()

        if is_under_way:
            assert len(self.store.loads) == begun, "two loads of one key at a time"
        elif may_begin:
            self.attached.append(self.store.loads[-1])
        else:
            assert isinstance(caller.exception(), KeyStoreUnavailableError)
            return
        self.callers.append(caller)

    @precondition(lambda self: self.store.loads)
    @rule(choice=st.data(), is_up=st.booleans())
    def the_store_answers(self, choice: st.DataObject, *, is_up: bool) -> None:
        """Any load under way, in any order, with what it read when it was asked."""
        load = choice.draw(st.sampled_from(self.store.loads))
        self.store.loads.remove(load)
        if is_up:
            load.answer.set_result(load.snapshot)
        else:
            load.answer.set_exception(KeyStoreUnavailableError("down"))
        self.settle()
        if any(load is other for other in self.attached):
            self.attached = [other for other in self.attached if other is not load]
            if is_up:
                self.answered[load.key_id] = (load.snapshot, load.asked_at)
                self.check_just_answered(load)

    def check_just_answered(self, load: Load) -> None:
        """An answer is told until it goes stale."""
        age = self.clock[0] - load.asked_at
        told = self.cache.peek(load.key_id, now=self.clock[0])
        if load.snapshot is None:
            expected = KnownUnknown() if age < LIMITS.negative_ttl_seconds else Miss()
            assert told == expected
        else:
            assert told == (Hit(load.snapshot) if age < LIMITS.ttl_seconds else Miss())

    @invariant()
    def only_what_was_answered_since_the_last_change_is_told_and_only_while_fresh(self) -> None:
        """The heart of it: no stale record, no record from before a change."""
        for number in range(5):
            key_id = f"k{number}"
            match self.cache.peek(key_id, now=self.clock[0]):
                case Hit(record):
                    kept, asked_at = self.answered[key_id]
                    assert (record, self.clock[0] < asked_at + LIMITS.ttl_seconds) == (kept, True)
                    assert record == self.store.records[key_id], "a change went unnoticed"
                case KnownUnknown():
                    kept, asked_at = self.answered[key_id]
                    assert kept is None
                    assert self.clock[0] < asked_at + LIMITS.negative_ttl_seconds
                case Miss():
                    pass

    @invariant()
    def the_bounds_hold(self) -> None:
        """Of entries and of loads."""
        assert self.cache.key_count <= LIMITS.max_keys
        assert self.cache.load_count == len(self.store.loads) <= LIMITS.max_loads


TestKeyCache = KeyCacheMachine.TestCase
TestKeyCache.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
