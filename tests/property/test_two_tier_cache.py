from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from typing_extensions import override

from sidecar.domain.report import CacheTier
from sidecar.keys.cache import CacheLimits, Hit, KeyCache, Lookup, Miss, NegativeHit
from sidecar.keys.ports import KeyStoreUnavailableError, LoadedKey
from sidecar.keys.shared_cache import KeyChanges, SharedLimits, TwoTierKeys
from tests.support.key_world import (
    Database,
    Listening,
    Shared,
    Temper,
    VirtualLoop,
    version_of,
)
from tests.support.sizes import sized

pytestmark = pytest.mark.long

TTL, L2_TTL, MAX_STALE, RETRY, BUDGET = 10.0, 40.0, 100.0, 1.0, 4.0
LIMITS = CacheLimits(
    max_keys=1,
    ttl_seconds=TTL,
    max_unknown=2,
    negative_ttl_seconds=2,
    max_loads=4,
    max_stale_seconds=MAX_STALE,
    patience_seconds=0.25,
    retry_seconds=RETRY,
)
KEYS = ("k0", "k1")
# Mostly the same key and worker: what can go wrong takes several steps with one of each.
key_ids = st.sampled_from(("k0", "k0", "k0", "k1"))
numbers = st.sampled_from((0, 0, 0, 1))
tempers = st.sampled_from([Temper.PROMPT, *Temper])
starts = st.sampled_from([Temper.PROMPT, Temper.SLOW])
rarely = st.sampled_from([False, True])
"""For what would, at every tenth step, leave nothing else to find."""


@dataclass
class Asked:
    """A request for a key, and the least version that its answer may have, stale or not."""

    key_id: str
    least: int
    least_current: int
    task: asyncio.Task[LoadedKey] | None = None


@dataclass
class Worker:
    """One worker, and the versions it has been told of."""

    cache: KeyCache
    tiers: TwoTierKeys
    listening: Listening
    fences: asyncio.Task[None]
    heard: dict[str, int] = field(default_factory=dict)
    confirmed: dict[str, int] = field(default_factory=dict)
    """Versions at the moment it began to listen: older ones are told only in an outage."""


class TwoTierMachine(RuleBasedStateMachine):
    """Everything that can happen around two workers, in any order, one step at a time.

    Every change to a key gives it a higher version, so «a revoked key is accepted» is «a version
    from before the revocation is told». What may be told is bounded by what the worker has heard,
    and by time where it heard nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.wall_offset = 1e9
        self.jumped = 0.0
        self.database = Database()
        self.shared = Shared()
        self.version = 0
        self.is_calm = True
        self.committed: dict[str, list[tuple[float, int]]] = {key_id: [] for key_id in KEYS}
        self.open: list[tuple[int, str]] = []
        self.asked: list[Asked] = []
        self.prompt_since: float | None = self.loop.now
        self.workers = [self.new_worker(), self.new_worker()]

    def new_worker(self) -> Worker:
        """Build the real parts around the fakes."""
        tiers = TwoTierKeys(
            self.database,
            self.shared,
            SharedLimits(ttl_seconds=L2_TTL, max_stale_seconds=MAX_STALE),
            wall=lambda: self.loop.now + self.wall_offset,
        )
        cache = KeyCache(tiers, LIMITS, jitter=lambda: 0.5)
        changes = KeyChanges(cache, tiers, frozenset({"listen"}))
        return Worker(
            cache,
            tiers,
            Listening(self.database, changes),
            self.loop.create_task(tiers.keep_fences()),
        )

    @override
    def teardown(self) -> None:
        """End what is under way."""

        async def end() -> None:
            for worker in self.workers:
                worker.fences.cancel()
                await worker.cache.aclose()
                await worker.tiers.aclose()
            tasks = [worker.fences for worker in self.workers]
            asked = [asked.task for asked in self.asked if asked.task is not None]
            await asyncio.gather(*tasks, *asked, return_exceptions=True)

        self.loop.run_until_complete(end())
        self.loop.close()

    @initialize(database=starts, shared=starts, is_calm=st.booleans())
    def begin_with_keys_and_listeners(
        self, database: Temper, shared: Temper, *, is_calm: bool
    ) -> None:
        """Fast servers or slow ones. On a calm day nothing breaks: what remains are races."""
        self.is_calm = is_calm
        self.commit(KEYS[0], self.database.begin())
        for worker in self.workers:
            self.listen(worker)
        self.settle()
        self.become(database)
        self.shared.become(shared)

    # What happens to the data

    @rule(key_id=key_ids)
    def a_change_begins(self, key_id: str) -> None:
        """A transaction has its id long before it commits."""
        self.open.append((self.database.begin(), key_id))

    @precondition(lambda self: self.open)
    @rule(choice=st.data())
    def a_change_is_committed(self, choice: st.DataObject) -> None:
        """In any order; a revocation, an expiry, a rotation: all are a higher version."""
        transaction, key_id = choice.draw(st.sampled_from(self.open))
        self.open.remove((transaction, key_id))
        self.commit(key_id, transaction)

    @rule(key_id=key_ids, reached=st.sets(numbers))
    def a_key_is_revoked(self, key_id: str, reached: set[int]) -> None:
        """The usual change, at once; some workers hear of it before anything else happens."""
        self.commit(key_id, self.database.begin())
        self.reach(reached)

    def reach(self, reached: set[int]) -> None:
        """Let workers hear all that is on its way to them."""
        for number in reached:
            while self.workers[number].listening.session:
                self.a_worker_hears(number)

    @rule(
        scope=st.sampled_from(["team:team_1", "organization:org_1", "*"]), reached=st.sets(numbers)
    )
    def an_owner_is_switched_off(self, scope: str, reached: set[int]) -> None:
        """All of its keys change with one notification."""
        self.commit_all(scope, [key_id for key_id in KEYS if key_id in self.database.keys])
        self.reach(reached)

    def commit(self, key_id: str, transaction: int) -> None:
        """Give one key a higher version."""
        self.commit_all(key_id, [key_id], transaction)

    def commit_all(self, scope: str, key_ids: list[str], transaction: int | None = None) -> None:
        """Give keys a higher version, notified as *scope*."""
        self.version += 1
        for key_id in key_ids:
            self.committed[key_id].append((self.loop.now, self.version))
        self.database.commit(
            self.database.begin() if transaction is None else transaction,
            scope,
            dict.fromkeys(key_ids, self.version),
        )

    @precondition(lambda self: not self.is_calm)
    @rule(lost=st.integers(0, 6), really=rarely)
    def the_database_fails_over(self, lost: int, *, really: bool) -> None:
        """Transaction ids are handed out again; every connection ends and everyone knows."""
        if not really:
            return
        self.open.clear()
        self.database.fail_over(lost_transactions=lost)
        for worker in self.workers:
            worker.listening.disconnect()
            worker.listening.notice()
        self.settle()

    # What happens to the servers

    @precondition(lambda self: not self.is_calm)
    @rule(temper=tempers, really=rarely)
    def the_database_changes_temper(self, temper: Temper, *, really: bool) -> None:
        """Killed, stopped, slow, back."""
        if not really:
            return
        self.become(temper)
        self.settle()

    def become(self, temper: Temper) -> None:
        """Change the database's temper and note since when it answers."""
        if temper is not self.database.temper:
            self.prompt_since = self.loop.now if temper is Temper.PROMPT else None
        self.database.become(temper)

    @precondition(lambda self: not self.is_calm)
    @rule(temper=tempers, really=rarely)
    def the_shared_cache_changes_temper(self, temper: Temper, *, really: bool) -> None:
        """Writes that were under way arrive late, or never."""
        if not really:
            return
        self.shared.become(temper)
        self.settle()

    @precondition(lambda self: self.database.questions)
    @rule(choice=st.data(), is_lost=rarely)
    def the_database_answers_one_question(self, choice: st.DataObject, *, is_lost: bool) -> None:
        """Any of those it was asked, in any order; or that connection is lost."""
        question = choice.draw(st.sampled_from(self.database.questions))
        self.database.answer(question, is_lost=is_lost)
        self.settle()

    @precondition(lambda self: self.shared.questions)
    @rule(choice=st.data(), is_lost=rarely)
    def the_shared_cache_answers_one_question(
        self, choice: st.DataObject, *, is_lost: bool
    ) -> None:
        """With what it held when it was asked; or the budget ends."""
        question = choice.draw(st.sampled_from(self.shared.questions))
        self.shared.answer(question, is_lost=is_lost)
        self.settle()

    @precondition(lambda self: self.shared.late)
    @rule(choice=st.data())
    def a_late_write_arrives(self, choice: st.DataObject) -> None:
        """Minutes after whoever sent it gave up on it."""
        key_id, shared = write = choice.draw(st.sampled_from(self.shared.late))
        self.shared.late.remove(write)
        self.shared.apply(key_id, shared)

    @precondition(lambda self: self.shared.history)
    @rule(choice=st.data())
    def an_old_value_comes_back(self, choice: st.DataObject) -> None:
        """A replica that lagged takes over; or somebody puts back what he once read."""
        self.shared.apply(*choice.draw(st.sampled_from(self.shared.history)))

    # What happens to the workers

    @rule(number=numbers)
    def a_worker_hears(self, number: int) -> None:
        """The next of its notifications arrives."""
        worker = self.workers[number]
        if worker.listening.session:
            worker.heard.update(self.loop.call(worker.listening.hear))
            self.settle()

    @precondition(lambda self: not self.is_calm)
    @rule(number=numbers, really=rarely, notices=st.booleans())
    def a_worker_loses_its_listener(self, number: int, *, really: bool, notices: bool) -> None:
        """Without a word: what is on its way is lost."""
        if not really:
            return
        self.workers[number].listening.disconnect()
        if notices:
            self.a_worker_notices_the_loss(number)

    @precondition(lambda self: not self.is_calm)
    @rule(number=numbers)
    def a_worker_notices_the_loss(self, number: int) -> None:
        """The heartbeat is not answered."""
        self.workers[number].listening.notice()
        self.settle()

    @precondition(lambda self: not self.is_calm)
    @rule(number=numbers)
    def a_worker_listens_again(self, number: int) -> None:
        """Only with a database that answers."""
        if self.database.temper in (Temper.PROMPT, Temper.SLOW):
            self.listen(self.workers[number])
            self.settle()

    def listen(self, worker: Worker) -> None:
        """Listen: all that is committed by now is confirmed, or asked for again."""
        worker.listening.connect()
        worker.confirmed.update(self.database.keys)

    @precondition(lambda self: not self.is_calm)
    @rule(number=numbers, really=rarely)
    def a_worker_restarts(self, number: int, *, really: bool) -> None:
        """It has forgotten all it heard; its successor has not listened yet."""
        if not really:
            return
        old = self.workers[number]
        old.listening.disconnect()
        old.fences.cancel()
        self.workers[number] = self.new_worker()
        self.settle()
        self.loop.run_until_complete(old.cache.aclose())
        self.loop.run_until_complete(old.tiers.aclose())

    @rule(seconds=st.sampled_from([0.3, 1.0, 5.0, 15.0, 15.0, 39.0, 95.0]))
    def time_passes(self, seconds: float) -> None:
        """Records age, budgets end."""
        self.loop.now += seconds
        for server in (self.database, self.shared):
            server.end_budgets(asked_before=self.loop.now - BUDGET)
        self.settle()

    @precondition(lambda self: not self.is_calm)
    @rule(seconds=st.sampled_from([-30.0, 30.0]), really=rarely)
    def the_wall_clock_jumps(self, seconds: float, *, really: bool) -> None:
        """The clock of this machine was corrected."""
        if not really:
            return
        self.wall_offset += seconds
        self.jumped += abs(seconds)

    # What must hold

    @rule(number=numbers, key_id=key_ids)
    def a_request_comes(self, number: int, key_id: str) -> None:
        """Its answer is checked when it comes, by what was known when it was asked."""
        worker = self.workers[number]
        asked = self.asked_now(worker, key_id)
        match self.peek(worker, key_id):
            case Hit(record, is_stale):
                self.check(asked, LoadedKey(record, CacheTier.STALE if is_stale else CacheTier.L1))
            case NegativeHit():
                pass
            case Miss():
                asked.task = self.loop.create_task(
                    worker.cache.load(key_id, now=lambda: self.loop.now)
                )
                self.asked.append(asked)
        self.settle()

    @rule(key_id=key_ids)
    def requests_come_everywhere(self, key_id: str) -> None:
        """One worker's record is in the shared cache when the other asks."""
        for number in (0, 1):
            self.a_request_comes(number, key_id)

    @rule(number=numbers, key_id=key_ids)
    def with_a_database_that_answers_nothing_stays_stale(self, number: int, key_id: str) -> None:
        """The first use after it is back asks; what the second tells is current or L2's."""
        if self.prompt_since is None or self.loop.now < self.prompt_since + RETRY:
            return
        if self.shared.temper in (Temper.SLOW, Temper.SILENT):
            return  # its budget is the adapter's; here it would never end
        self.database.answer_all()
        self.shared.answer_all()
        self.settle()
        worker = self.workers[number]
        self.a_request_comes(number, key_id)
        told = self.peek(worker, key_id)
        if told == Miss():
            task = self.loop.create_task(worker.cache.load(key_id, now=lambda: self.loop.now))
            self.settle()
            loaded = task.result()
            is_stale, record = loaded.tier is CacheTier.STALE, loaded.record
        else:
            is_stale = isinstance(told, Hit) and told.is_stale
            record = told.record if isinstance(told, Hit) else None
        assert not is_stale, "still stale, although the database answers"
        if record is not None:
            assert version_of(record) >= self.least_version(worker, key_id, is_current=True)

    def peek(self, worker: Worker, key_id: str) -> Lookup:
        """Look, as a request does."""
        return self.loop.call(lambda: worker.cache.peek(key_id, now=self.loop.now))

    def settle(self) -> None:
        """Let everything run, and judge the answers that came of it."""
        self.loop.settle()
        for asked in list(self.asked):
            if asked.task is None or not asked.task.done():
                continue
            self.asked.remove(asked)
            error = None if asked.task.cancelled() else asked.task.exception()
            if error is None:
                self.check(asked, asked.task.result())
            else:
                assert isinstance(error, KeyStoreUnavailableError)

    def check(self, asked: Asked, loaded: LoadedKey) -> None:
        """Judge an answer by the least version that it may have."""
        if loaded.record is None:
            return
        least = asked.least if loaded.tier is CacheTier.STALE else asked.least_current
        assert loaded.record.principal.key_id == asked.key_id
        assert version_of(loaded.record) >= least, "a version from before a change was told"

    def asked_now(self, worker: Worker, key_id: str) -> Asked:
        """Note what is known now."""
        least = self.least_version(worker, key_id, is_current=False)
        return Asked(key_id, least, self.least_version(worker, key_id, is_current=True))

    def least_version(self, worker: Worker, key_id: str, *, is_current: bool) -> int:
        """Return the least version that may be told, as current or as stale.

        Heard is heard, outage or not; and nothing is told past `max_stale`. What is told as
        current is as the database had it when the worker began to listen, or later, and no older
        than the times to live and the budget of a load; without a listener, than that of the
        process's own cache.
        """
        heard = worker.heard.get(key_id, 0)
        if not is_current:
            return max(heard, self.version_at(key_id, MAX_STALE + self.jumped))
        knows_of_loss = worker.listening.session is None and worker.listening.is_noticed
        seconds_ago = BUDGET + (TTL if knows_of_loss else TTL + L2_TTL + self.jumped)
        confirmed = worker.confirmed.get(key_id, 0)
        return max(heard, confirmed, self.version_at(key_id, seconds_ago))

    def version_at(self, key_id: str, seconds_ago: float) -> int:
        """Return the version that *key_id* had then."""
        then = self.loop.now - seconds_ago
        return max((v for at, v in self.committed[key_id] if at < then), default=0)

    @invariant()
    def the_bounds_hold(self) -> None:
        """Of entries and of loads of keys that are not kept."""
        for worker in self.workers:
            assert worker.cache.key_count <= LIMITS.max_keys


TestTwoTierCache = TwoTierMachine.TestCase
TestTwoTierCache.settings = settings(
    max_examples=sized(800, small=250), stateful_step_count=50, deadline=None
)


def _begin(world: TwoTierMachine) -> None:
    world.a_change_begins("k0")


def _commit_oldest(world: TwoTierMachine) -> None:
    if world.open:
        transaction, key_id = world.open.pop(0)
        world.commit(key_id, transaction)


def _commit_newest(world: TwoTierMachine) -> None:
    if world.open:
        transaction, key_id = world.open.pop()
        world.commit(key_id, transaction)


def _other_transaction(world: TwoTierMachine) -> None:
    world.database.end(world.database.begin())


def _old_worker_asks(world: TwoTierMachine) -> None:
    world.a_request_comes(0, "k0")


def _old_worker_hears(world: TwoTierMachine) -> None:
    world.reach({0})


def _old_worker_forgets(world: TwoTierMachine) -> None:
    world.workers[0].cache.flush()


def _new_worker_starts(world: TwoTierMachine) -> None:
    world.a_worker_restarts(1, really=True)
    world.a_worker_listens_again(1)


def _new_worker_starts_and_asks(world: TwoTierMachine) -> None:
    _new_worker_starts(world)
    world.a_request_comes(1, "k0")


def _first_value_comes_back(world: TwoTierMachine) -> None:
    if world.shared.history:
        world.shared.apply(*world.shared.history[0])


def _failover(world: TwoTierMachine) -> None:
    world.the_database_fails_over(2, really=True)
    world.a_worker_listens_again(0)


STARTS = (
    _begin,
    _commit_oldest,
    _commit_newest,
    _other_transaction,
    _old_worker_asks,
    _old_worker_hears,
    _old_worker_forgets,
    _new_worker_starts_and_asks,
    _new_worker_starts_and_asks,
    _first_value_comes_back,
    _failover,
)
READ_DURING_A_CHANGE = [
    *(_begin, _other_transaction, _old_worker_asks, _commit_oldest, _new_worker_starts_and_asks),
]
"""The snapshot's end is behind the change, which it has not seen."""


@example(steps=READ_DURING_A_CHANGE)
@settings(max_examples=sized(1500, small=400), deadline=None)
@given(steps=st.lists(st.sampled_from(STARTS), min_size=8, max_size=20))
def test_a_worker_that_starts_is_told_nothing_from_before_it_listened(
    steps: list[Callable[[TwoTierMachine], None]],
) -> None:
    """Whatever was under way or put back, among the few steps that a start is about.

    Among all the rules of the machine they seldom come together.
    """
    world = TwoTierMachine()
    world.begin_with_keys_and_listeners(Temper.PROMPT, Temper.PROMPT, is_calm=False)
    try:
        for step in steps:
            step(world)
            world.settle()
    finally:
        world.teardown()


def test_a_worker_that_starts_believes_a_record_from_before_it_listened() -> None:
    """Nothing has changed since it was read, so the database is not asked."""
    world = TwoTierMachine()
    world.begin_with_keys_and_listeners(Temper.PROMPT, Temper.PROMPT, is_calm=False)
    try:
        world.requests_come_everywhere("k0")
        _new_worker_starts(world)
        worker = world.workers[1]
        loaded = world.loop.run_until_complete(worker.cache.load("k0", now=lambda: world.loop.now))
    finally:
        world.teardown()

    assert loaded.tier is CacheTier.L2
