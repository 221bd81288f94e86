from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from sidecar.domain.report import CacheTier
from sidecar.keys.cache import CacheLimits, Hit, KeyCache, Miss
from sidecar.keys.ports import (
    KeyStoreUnavailableError,
    KeyUnreadableError,
    LoadedKey,
    SharedRecord,
)
from sidecar.keys.shared_cache import KeyChanges, SharedLimits, TwoTierKeys
from tests.support.key_world import Database, Shared, Temper, record_at


@dataclass
class Bench:
    """One worker's keys between a database and a shared cache; `now` is both clocks."""

    database: Database = field(default_factory=lambda: Database(keys={"k1": 1}))
    shared: Shared = field(default_factory=Shared)
    now: float = 1000.0
    patience_seconds: float = 0.01
    """Over at once on a busy machine: a test in which the database answers needs more."""

    def __post_init__(self) -> None:
        self.tiers = TwoTierKeys(
            self.database,
            self.shared,
            SharedLimits(
                ttl_seconds=300, max_stale_seconds=600, patience_seconds=self.patience_seconds
            ),
            wall=lambda: self.now,
        )
        self.cache = KeyCache(self.tiers, CacheLimits(), jitter=lambda: 0.0)
        self.changes = KeyChanges(self.cache, self.tiers, frozenset({"listen"}))

    async def listen(self) -> None:
        """Begin to listen, with a fence."""
        self.changes.listening_began("listen")
        await settle()

    def share(self, *, age_seconds: float) -> None:
        """Put a record into the shared cache that is newer than every change."""
        self.shared.values["k1"] = SharedRecord(
            record_at("k1", 1), 1, 10**6, 10**6, read_at=self.now - age_seconds
        )


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    bench = Bench(patience_seconds=getattr(request, "param", 0.01))
    fences = asyncio.ensure_future(bench.tiers.keep_fences())
    await bench.listen()
    yield bench
    fences.cancel()
    await asyncio.gather(fences, return_exceptions=True)
    await bench.cache.aclose()
    await bench.tiers.aclose()


@pytest.mark.parametrize(
    ("age_seconds", "tier"), [(299.0, CacheTier.L2), (300.0, CacheTier.STORE)]
)
async def test_a_shared_record_is_current_for_its_time_to_live(
    bench: Bench, age_seconds: float, tier: CacheTier
) -> None:
    """Then the database is read, and the record is shared anew."""
    bench.share(age_seconds=age_seconds)

    loaded = await bench.tiers.load("k1")

    assert loaded.tier is tier


async def test_what_was_read_is_shared_with_the_time_before_the_reading(bench: Bench) -> None:
    """How fresh a slow answer is, nobody knows: its age counts from the question."""
    bench.database.temper = Temper.SLOW
    caller = asyncio.ensure_future(bench.tiers.load("k1"))
    await settle()
    bench.now += 3
    bench.database.answer_all()
    await caller
    await settle()

    assert bench.shared.values["k1"].read_at == 1000.0


@pytest.mark.parametrize("is_listening", [True, False], ids=["a change", "a lost listener"])
async def test_what_was_read_before_a_change_is_not_shared(
    bench: Bench, *, is_listening: bool
) -> None:
    """Neither after one that was heard of, nor after one that may have been missed."""
    bench.database.temper = Temper.SLOW
    caller = asyncio.ensure_future(bench.tiers.load("k1"))
    await settle()
    if is_listening:
        bench.tiers.note_change("k1")
    else:
        bench.tiers.listening_ended()
    bench.database.answer_all()
    await caller
    await settle()

    assert bench.shared.history == []


@pytest.mark.parametrize("temper", [Temper.REFUSING, Temper.SILENT])
async def test_a_shared_record_stands_in_for_a_database_that_is_away(
    bench: Bench, temper: Temper
) -> None:
    """Also past its time to live, up to `max_stale`; then nobody can tell."""
    bench.database.temper = temper
    bench.share(age_seconds=599)
    stands_in = await bench.tiers.load("k1")
    bench.share(age_seconds=600)
    if temper is Temper.SILENT:
        bench.database.temper = Temper.REFUSING

    with pytest.raises(KeyStoreUnavailableError):
        await bench.tiers.load("k1")

    assert stands_in == LoadedKey(record_at("k1", 1), CacheTier.STALE, 599.0)


@pytest.mark.parametrize("bench", [60.0], indirect=True, ids=["patient"])
async def test_a_shared_record_stands_in_for_none_that_cannot_be_read(bench: Bench) -> None:
    """The database has answered: its old limits do not hold, not even in a later outage."""
    bench.share(age_seconds=400)
    bench.database.unreadable.add("k1")

    with pytest.raises(KeyUnreadableError):
        await bench.tiers.load("k1")
    await settle()

    assert bench.shared.values == {}


@pytest.mark.parametrize("bench", [60.0], indirect=True, ids=["patient"])
async def test_a_record_that_is_known_to_be_outdated_stands_in_for_nothing(bench: Bench) -> None:
    """The change was heard of while the database was waited for."""
    bench.share(age_seconds=400)
    bench.database.temper = Temper.SLOW
    caller = asyncio.ensure_future(bench.tiers.load("k1"))
    await settle()
    bench.changes.key_changed("k1")
    bench.database.answer_all(is_lost=True)

    with pytest.raises(KeyStoreUnavailableError):
        await caller


async def test_a_record_keeps_its_age_on_its_way_into_the_process(bench: Bench) -> None:
    """Read 299 s ago by another worker, it ends 301 s from now, not 600."""
    bench.share(age_seconds=299)
    await bench.cache.load("k1", now=lambda: bench.now)
    bench.database.temper = Temper.REFUSING
    await bench.shared.discard("k1")
    await bench.cache.load("k1", now=lambda: bench.now + 40)

    told = [bench.cache.peek("k1", now=bench.now + after) for after in (300, 301)]

    assert told == [Hit(record_at("k1", 1), is_stale=True), Miss()]


async def test_what_was_asked_before_a_listener_was_back_is_not_kept(bench: Bench) -> None:
    """The answer may be from before a change that nobody heard of."""
    bench.changes.listening_ended("listen")
    bench.database.temper = Temper.SLOW
    caller = asyncio.ensure_future(bench.cache.load("k1", now=lambda: bench.now))
    await settle()
    bench.changes.listening_began("listen")
    bench.database.answer_all()
    await caller

    assert bench.cache.peek("k1", now=bench.now) == Miss()


async def test_a_deleted_key_is_taken_out_of_the_shared_cache(bench: Bench) -> None:
    """A worker that starts later has heard of nothing."""
    bench.share(age_seconds=1)

    bench.changes.key_changed("k1")
    await settle()

    assert bench.shared.values == {}


OLDER, NEWER = record_at("k1", 1), record_at("k1", 2)


@pytest.mark.parametrize("bench", [60.0], indirect=True, ids=["patient"])
@pytest.mark.parametrize("is_heard_of", [True, False], ids=["a change", "a lost listener"])
async def test_a_shared_record_is_not_used_where_a_change_may_have_met_it(
    bench: Bench, *, is_heard_of: bool
) -> None:
    """The database answers, and its record counts."""
    bench.share(age_seconds=1)
    bench.database.keys["k1"] = 2
    if is_heard_of:
        bench.tiers.note_change("k1")
    else:
        bench.changes.listening_ended("listen")

    assert (await bench.tiers.load("k1")).record == NEWER


async def test_a_key_that_is_not_shared_waits_for_a_slow_database(bench: Bench) -> None:
    """There is no record to fall back on: the database's own time limits count."""
    bench.database.temper = Temper.SLOW
    caller = asyncio.ensure_future(bench.tiers.load("k1"))
    await asyncio.sleep(bench.patience_seconds * 2)

    bench.database.answer_all()

    assert (await caller).record == OLDER


async def test_a_record_that_is_too_large_is_not_shared(bench: Bench) -> None:
    """No worker would keep it."""
    key_id = "k" * 3000
    bench.database.keys[key_id] = 1

    await bench.tiers.load(key_id)
    await settle()

    assert bench.shared.history == []


@pytest.mark.parametrize("bench", [60.0], indirect=True, ids=["patient"])
@pytest.mark.parametrize("scope", ["k1", "team:team_1", "organization:org_1", "*"])
async def test_a_change_ends_the_copies_of_every_key_in_its_scope(
    bench: Bench, scope: str
) -> None:
    """That of the worker and the shared one; a record that is read after it is shared again."""
    bench.share(age_seconds=1)
    await bench.cache.load("k1", now=lambda: bench.now)
    bench.database.keys["k1"] = 2

    if scope == "k1":
        bench.changes.key_changed(scope)
    else:
        bench.changes.scope_changed(scope)
    looked_up = bench.cache.peek("k1", now=bench.now)
    at_once = await bench.tiers.load("k1")
    await settle()  # until the change has its fence
    bench.share(age_seconds=1)
    later = await bench.tiers.load("k1")

    assert (looked_up, at_once.record, later.tier) == (Miss(), NEWER, CacheTier.L2)


@pytest.mark.parametrize("bench", [60.0], indirect=True, ids=["patient"])
async def test_changes_count_as_received_while_every_channel_is_up(bench: Bench) -> None:
    """Each may carry changes that the others do not."""
    bench.changes.listening_ended("listen")
    bench.changes.channels = frozenset({"listen", "stream"})
    tiers: list[CacheTier] = []
    for channel in ("listen", "stream"):
        bench.changes.listening_began(channel)
        await settle()
        bench.share(age_seconds=1)
        tiers.append((await bench.tiers.load("k1")).tier)
        await bench.cache.load("k1", now=lambda: bench.now)

    bench.changes.listening_ended("stream")
    looked_up = bench.cache.peek("k1", now=bench.now)
    tiers.append((await bench.tiers.load("k1")).tier)

    assert tiers == [CacheTier.STORE, CacheTier.L2, CacheTier.STORE]
    assert looked_up == Miss()
