from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_network

import pytest

from sidecar.domain.principal import KeyRecord
from sidecar.domain.report import CacheTier
from sidecar.keys.cache import CacheLimits, Hit, KeyCache, Lookup, Miss, NegativeHit, fits
from sidecar.keys.ports import (
    KeyStore,
    KeyStoreUnavailableError,
    KeyUnreadableError,
    LoadedKey,
)
from tests.support.keys import record_of
from tests.support.limits import limit

LIMITS = CacheLimits(
    max_keys=2,
    ttl_seconds=30,
    max_unknown=2,
    negative_ttl_seconds=5,
    max_loads=3,
    max_stale_seconds=600,
    retry_seconds=1,
)


@dataclass
class SlowStore:
    """A store whose answers a test gives by hand."""

    asked: list[tuple[str, asyncio.Future[LoadedKey]]] = field(default_factory=list)

    async def load(self, key_id: str) -> LoadedKey:
        """Wait for the test."""
        answer: asyncio.Future[LoadedKey] = asyncio.get_running_loop().create_future()
        self.asked.append((key_id, answer))
        return await answer


@dataclass
class QuickStore:
    """A store that answers at once."""

    records: dict[str, KeyRecord]
    asked: list[str] = field(default_factory=list)

    async def load(self, key_id: str) -> LoadedKey:
        """Answer."""
        self.asked.append(key_id)
        return LoadedKey(self.records.get(key_id))


def cache_of(store: KeyStore, limits: CacheLimits | None = None) -> KeyCache:
    """A cache whose times are not jittered."""
    return KeyCache(store, limits or LIMITS, jitter=lambda: 0.0)


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


OLD = record_of("k1")
NEW = record_of("k1", revoked_at=1.0)


async def test_a_loaded_record_is_kept_for_its_time_to_live() -> None:
    """Counted from the moment the store was asked; at its end the store must be asked again."""
    cache = cache_of(QuickStore({"k1": OLD}))

    loaded = await cache.load("k1", now=lambda: 100.0)

    assert (loaded.record, cache.peek("k1", now=129.9), cache.peek("k1", now=130.0)) == (
        OLD,
        Hit(OLD),
        Miss(),
    )


async def test_an_unknown_key_is_remembered_for_a_shorter_time() -> None:
    """A key that is created a moment later must not wait for the long time to live."""
    cache = cache_of(QuickStore({}))

    loaded = await cache.load("k1", now=lambda: 100.0)

    assert (loaded.record, cache.peek("k1", now=104.9), cache.peek("k1", now=105.0)) == (
        None,
        NegativeHit(),
        Miss(),
    )


async def test_a_flood_of_unknown_keys_pushes_out_no_known_one() -> None:
    """They are kept apart, and no more of them than their own bound."""
    cache = cache_of(QuickStore({"k1": OLD}))
    await cache.load("k1", now=lambda: 0.0)

    for number in range(50):
        await cache.load(f"made-up-{number}", now=lambda: 0.0)

    assert cache.peek("k1", now=0.0) == Hit(OLD)
    assert [cache.peek(f"made-up-{number}", now=0.0) for number in (47, 48)] == [
        Miss(),
        NegativeHit(),
    ]


async def test_the_key_unused_the_longest_goes_first() -> None:
    """A peek is a use."""
    records = {key_id: record_of(key_id) for key_id in ("k1", "k2", "k3")}
    cache = cache_of(QuickStore(records))
    for key_id in ("k1", "k2"):
        await cache.load(key_id, now=lambda: 0.0)
    cache.peek("k1", now=0.0)

    await cache.load("k3", now=lambda: 0.0)

    peeked = [cache.peek(key_id, now=0.0) for key_id in records]
    assert peeked == [Hit(records["k1"]), Miss(), Hit(records["k3"])]


async def test_callers_of_one_key_share_one_load() -> None:
    """However many ask at once, the store is asked once and all get its answer."""
    store = SlowStore()
    cache = cache_of(store)
    callers = [asyncio.ensure_future(cache.load("k1", now=lambda: 0.0)) for _ in range(10)]
    await settle()

    store.asked[0][1].set_result(LoadedKey(OLD))

    assert (await asyncio.gather(*callers), len(store.asked)) == ([LoadedKey(OLD)] * 10, 1)


async def test_a_caller_that_gives_up_ends_the_load_for_nobody_else() -> None:
    """The first caller's cancellation reaches neither the store nor the second caller."""
    store = SlowStore()
    cache = cache_of(store)
    first = asyncio.ensure_future(cache.load("k1", now=lambda: 0.0))
    second = asyncio.ensure_future(cache.load("k1", now=lambda: 0.0))
    await settle()

    first.cancel()
    await settle()
    store.asked[0][1].set_result(LoadedKey(OLD))

    assert (await second, first.cancelled(), len(store.asked)) == (LoadedKey(OLD), True, 1)


async def test_a_failed_load_reaches_every_caller_and_is_not_kept() -> None:
    """Unavailable is no answer: the next caller asks again."""
    store = SlowStore()
    cache = cache_of(store)
    callers = [asyncio.ensure_future(cache.load("k1", now=lambda: 0.0)) for _ in range(2)]
    await settle()
    store.asked[0][1].set_exception(KeyStoreUnavailableError("down"))

    results = await asyncio.gather(*callers, return_exceptions=True)

    assert [type(result) for result in results] == [KeyStoreUnavailableError] * 2
    assert cache.peek("k1", now=0.0) == Miss()
    again = asyncio.ensure_future(cache.load("k1", now=lambda: 0.0))
    await settle()
    store.asked[1][1].set_result(LoadedKey(OLD))
    assert await again == LoadedKey(OLD)


async def test_a_failure_that_nobody_waits_for_is_no_warning() -> None:
    """All callers gone, then the store fails: nothing is left to complain at exit."""
    store = SlowStore()
    cache = cache_of(store)
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, complaint: complaints.append(complaint)
    )
    caller = asyncio.ensure_future(cache.load("k1", now=lambda: 0.0))
    await settle()
    caller.cancel()
    await settle()

    store.asked.pop()[1].set_exception(KeyStoreUnavailableError("down"))
    await settle()

    assert (complaints, cache.load_count) == ([], 0)


CHANGES: dict[str, Callable[[KeyCache, str], None]] = {
    "its own": KeyCache.drop,
    "of its team": lambda cache, _: cache.drop_owned("team_1"),
    "of any number": lambda cache, _: cache.flush(),
    "one that was missed": lambda cache, _: cache.mark_stale(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_record_read_before_a_change_is_not_kept_after_it(
    change: Callable[[KeyCache, str], None],
) -> None:
    """The load began before the revocation: its answer goes to its callers and no further."""
    store = SlowStore()
    cache = cache_of(store)
    before = asyncio.ensure_future(cache.load("k1", now=lambda: 0.0))
    await settle()

    change(cache, "k1")
    after = asyncio.ensure_future(cache.load("k1", now=lambda: 0.0))
    await settle()
    store.asked[1][1].set_result(LoadedKey(NEW))
    await settle()
    store.asked[0][1].set_result(LoadedKey(OLD))

    assert (await before, await after, cache.peek("k1", now=0.0)) == (
        LoadedKey(OLD),
        LoadedKey(NEW),
        Hit(NEW),
    )


UNKNOWN_TOO = CHANGES.keys() - {"of its team"}
"""An owner's change makes no key: the records that are kept are all that it may have met."""


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_is_looked_up_at_the_next_use_of_every_key_that_it_may_have_met(
    name: str,
) -> None:
    """Records and known unknowns alike."""
    records = {key_id: record_of(key_id) for key_id in ("k1", "k2")}
    cache = cache_of(QuickStore(records))
    for key_id in ("k1", "k2", "unknown"):
        await cache.load(key_id, now=lambda: 0.0)

    for key_id in ("k1", "k2", "unknown"):
        CHANGES[name](cache, key_id)

    looked_up = [cache.peek(key_id, now=0.0) for key_id in ("k1", "k2", "unknown")]
    assert looked_up == [Miss(), Miss(), Miss() if name in UNKNOWN_TOO else NegativeHit()]


async def test_a_drop_leaves_other_keys_alone() -> None:
    """One key's revocation costs nobody else a query."""
    other = record_of("k2")
    cache = cache_of(QuickStore({"k1": OLD, "k2": other}))
    for key_id in ("k1", "k2"):
        await cache.load(key_id, now=lambda: 0.0)

    cache.drop("k1")

    assert (cache.peek("k1", now=0.0), cache.peek("k2", now=0.0)) == (Miss(), Hit(other))


async def test_more_loads_than_allowed_are_refused_at_once() -> None:
    """Detached loads count as well, since they hold a connection; joining one costs none."""
    store = SlowStore()
    cache = cache_of(store)
    callers = [
        asyncio.ensure_future(cache.load(key_id, now=lambda: 0.0)) for key_id in ("k1", "k2", "k3")
    ]
    await settle()
    cache.drop("k1")

    with pytest.raises(KeyStoreUnavailableError, match="too many"):
        await cache.load("k4", now=lambda: 0.0)
    joined = asyncio.ensure_future(cache.load("k2", now=lambda: 0.0))
    for _, answer in store.asked:
        answer.set_result(LoadedKey(None))

    assert await asyncio.gather(*callers, joined) == [LoadedKey(None)] * 4
    assert cache.load_count == 0


async def test_a_key_that_was_deleted_is_no_longer_a_hit() -> None:
    """After its time to live the store's «no such key» takes the record's place."""
    store = QuickStore({"k1": OLD})
    cache = cache_of(store)
    await cache.load("k1", now=lambda: 0.0)
    store.records.clear()

    await cache.load("k1", now=lambda: 10.0)

    assert (cache.peek("k1", now=10.0), cache.peek("k1", now=16.0)) == (NegativeHit(), Miss())


async def test_closing_tells_callers_that_the_store_is_unavailable() -> None:
    """They get the error they know how to answer, not a cancellation nobody asked for."""
    cache = cache_of(SlowStore())
    caller = asyncio.ensure_future(cache.load("k1", now=lambda: 0.0))
    await settle()

    await cache.aclose()

    with pytest.raises(KeyStoreUnavailableError, match="closed"):
        await caller
    assert cache.load_count == 0


async def test_a_record_in_use_is_loaded_anew_before_its_time_ends() -> None:
    """No request waits: the old record answers until the new one is there."""
    store = SlowStore()
    cache = cache_of(store)
    await answered(cache, store, LoadedKey(OLD))

    early = cache.peek("k1", now=23.9)
    await settle()
    asked_early = len(store.asked)
    late = [cache.peek("k1", now=24.1), cache.peek("k1", now=24.2)]
    await settle()
    asked = len(store.asked)
    store.asked[1][1].set_result(LoadedKey(NEW))
    await settle()

    assert (early, late) == (Hit(OLD), [Hit(OLD)] * 2)
    assert (asked_early, asked) == (1, 2)
    assert cache.peek("k1", now=50.0) == Hit(NEW)


async def answered(
    cache: KeyCache, store: SlowStore, loaded: LoadedKey, *, key_id: str = "k1", now: float = 0.0
) -> None:
    """Load *key_id* and give *loaded* as the answer."""
    caller = asyncio.ensure_future(cache.load(key_id, now=lambda: now))
    await settle()
    store.asked[-1][1].set_result(loaded)
    await caller


@pytest.mark.parametrize(
    ("jitter", "kept", "gone"), [(0.0, 29.9, 30.0), (1.0, 26.9, 27.0)], ids=["longest", "shortest"]
)
async def test_the_time_to_live_varies_so_that_keys_do_not_age_in_step(
    jitter: float, kept: float, gone: float
) -> None:
    """By a tenth, and only ever downwards."""
    cache = KeyCache(QuickStore({"k1": OLD}), LIMITS, jitter=lambda: jitter)
    await cache.load("k1", now=lambda: 0.0)

    assert (cache.peek("k1", now=kept), cache.peek("k1", now=gone)) == (Hit(OLD), Miss())


async def test_a_stale_record_goes_on_while_the_store_does_not_answer() -> None:
    """The first request after its time asks and learns of the outage; the next ones do not ask."""
    store = SlowStore()
    cache = cache_of(store)
    await answered(cache, store, LoadedKey(OLD))

    assert await load_in_outage(cache, store) == LoadedKey(OLD, CacheTier.STALE)
    assert cache.peek("k1", now=40.1) == Hit(OLD, is_stale=True)
    assert len(store.asked) == 2


async def test_a_store_that_does_not_say_a_word_is_waited_for_only_briefly() -> None:
    """Black-holed, the request with a stale record to fall back on has it after its patience."""
    store = SlowStore()
    cache = cache_of(store, dataclasses.replace(LIMITS, patience_seconds=0.01))
    await answered(cache, store, LoadedKey(OLD))

    loaded = await cache.load("k1", now=lambda: 40.0)

    assert loaded == LoadedKey(OLD, CacheTier.STALE)
    assert cache.peek("k1", now=40.1) == Hit(OLD, is_stale=True)


@pytest.mark.parametrize("kept", [None, OLD], ids=["unknown", "too old"])
async def test_a_request_without_a_record_to_fall_back_on_waits_for_a_slow_store(
    kept: KeyRecord | None,
) -> None:
    """Its patience is that of the store's own time limits."""
    store = SlowStore()
    cache = cache_of(store, dataclasses.replace(LIMITS, patience_seconds=0.0))
    await answered(cache, store, LoadedKey(kept))
    looked_up = cache.peek("k1", now=600.0)

    waiting = asyncio.ensure_future(cache.load("k1", now=lambda: 600.0))
    await asyncio.sleep(0.01)
    store.asked[-1][1].set_result(LoadedKey(NEW))

    assert (looked_up, await waiting) == (Miss(), LoadedKey(NEW))


async def test_a_record_that_becomes_too_old_while_a_request_waits_is_not_used() -> None:
    """The store fails after the record's last moment: 503, as if it had not been kept."""
    store = SlowStore()
    cache = cache_of(store)
    await answered(cache, store, LoadedKey(OLD))
    times = iter((599.0, 600.0))
    waiting = asyncio.ensure_future(cache.load("k1", now=lambda: next(times)))
    await settle()

    store.asked[1][1].set_exception(KeyStoreUnavailableError("down"))

    with pytest.raises(KeyStoreUnavailableError):
        await waiting


async def test_no_record_goes_on_for_longer_than_max_stale() -> None:
    """Counted from when the store was asked for it."""
    cache = await cache_in_outage()

    assert [cache.peek("k1", now=599.9), cache.peek("k1", now=600.0)] == [
        Hit(OLD, is_stale=True),
        Miss(),
    ]


async def load_in_outage(cache: KeyCache, store: SlowStore, *, now: float = 40.0) -> LoadedKey:
    """Return what a request gets whose load meets a store that has gone away."""
    waiting = asyncio.ensure_future(cache.load("k1", now=lambda: now))
    await settle()
    store.asked[-1][1].set_exception(KeyStoreUnavailableError("down"))
    return await waiting


async def cache_in_outage() -> KeyCache:
    """A cache that holds a stale record and has learned that the store is away."""
    store = SlowStore()
    cache = cache_of(store)
    await answered(cache, store, LoadedKey(OLD))
    await load_in_outage(cache, store)
    return cache


async def test_a_change_that_is_heard_of_ends_a_stale_record() -> None:
    """Better no answer than one that is known to be wrong."""
    cache = await cache_in_outage()

    cache.drop("k1")

    assert cache.peek("k1", now=41.0) == Miss()


async def test_a_revocation_heard_while_a_request_waits_leaves_it_nothing_to_fall_back_on() -> (
    None
):
    """The stale record was dropped; the load then fails: 503, not the revoked record."""
    store = SlowStore()
    cache = cache_of(store)
    await answered(cache, store, LoadedKey(OLD))
    waiting = asyncio.ensure_future(cache.load("k1", now=lambda: 40.0))
    await settle()

    cache.drop("k1")
    store.asked[1][1].set_exception(KeyStoreUnavailableError("down"))

    with pytest.raises(KeyStoreUnavailableError):
        await waiting


async def test_one_request_at_a_time_finds_out_whether_the_store_is_back() -> None:
    """In an outage the store sees one question a second, not one a request."""
    store = SlowStore()
    cache = cache_of(store)
    await answered(cache, store, LoadedKey(OLD))
    await load_in_outage(cache, store)

    asked: list[int] = []
    for now in (40.1, 41.1, 41.2, 41.3):
        cache.peek("k1", now=now)
        await settle()
        asked.append(len(store.asked))
    store.asked[2][1].set_result(LoadedKey(NEW))
    await settle()

    assert (asked, cache.peek("k1", now=41.4)) == ([2, 3, 3, 3], Hit(NEW))


async def test_one_of_many_keys_finds_out_whether_the_store_is_back() -> None:
    """In an outage the store sees one question a second, however many keys are in use."""
    store = SlowStore()
    cache = cache_of(store)
    await answered(cache, store, LoadedKey(OLD))
    await answered(cache, store, LoadedKey(record_of("k2")), key_id="k2")
    await load_in_outage(cache, store)

    for key_id in ("k1", "k2"):
        cache.peek(key_id, now=41.1)
    await settle()

    assert len(store.asked) == 4


@pytest.mark.parametrize(("jitter", "before", "due"), [(0.0, 40.4, 40.5), (1.0, 40.9, 41.0)])
async def test_a_store_that_is_away_is_asked_again_after_half_to_all_of_a_second(
    jitter: float, before: float, due: float
) -> None:
    """Spread, so that workers do not ask in step; failures of other keys do not put it off."""
    store = SlowStore()
    cache = KeyCache(store, LIMITS, jitter=lambda: jitter)
    await answered(cache, store, LoadedKey(OLD))
    await load_in_outage(cache, store)
    other = asyncio.ensure_future(cache.load("k2", now=lambda: before))
    await settle()
    store.asked[-1][1].set_exception(KeyStoreUnavailableError("down"))
    await asyncio.gather(other, return_exceptions=True)

    asked: list[int] = []
    for now in (before, due):
        cache.peek("k1", now=now)
        await settle()
        asked.append(len(store.asked))

    assert asked == [3, 4]


async def test_what_a_missed_change_may_have_met_is_asked_for_at_its_next_use() -> None:
    """A listener was lost or is back: every record must be confirmed before it counts again."""
    store = SlowStore()
    cache = cache_of(store)
    await answered(cache, store, LoadedKey(OLD))

    cache.mark_stale()

    assert cache.peek("k1", now=1.0) == Miss()
    await answered(cache, store, LoadedKey(NEW), now=1.0)
    assert cache.peek("k1", now=2.0) == Hit(NEW)


async def test_what_a_missed_change_may_have_met_goes_on_if_nobody_can_confirm_it() -> None:
    """The listener's loss is often the first that is seen of an outage."""
    store = SlowStore()
    cache = cache_of(store)
    await answered(cache, store, LoadedKey(OLD))
    cache.mark_stale()

    loaded = await load_in_outage(cache, store, now=1.0)

    assert loaded == LoadedKey(OLD, CacheTier.STALE)


async def test_a_store_that_is_back_is_waited_for_again() -> None:
    """From then on stale records are confirmed at their next use."""
    cache = await cache_in_outage()

    cache.store_is_back()

    assert cache.peek("k1", now=41.0) == Miss()


@pytest.mark.parametrize(
    ("tier", "expected"),
    [(CacheTier.STORE, Miss()), (CacheTier.L2, Hit(OLD, is_stale=True))],
    ids=["the database", "the shared cache"],
)
async def test_only_an_answer_of_the_database_ends_its_outage(
    tier: CacheTier, expected: Lookup
) -> None:
    """A shared record of another key may come while the database is away."""
    store = SlowStore()
    cache = cache_of(store)
    await answered(cache, store, LoadedKey(OLD))
    await load_in_outage(cache, store)

    await answered(cache, store, LoadedKey(record_of("k2"), tier), key_id="k2", now=40.1)

    assert cache.peek("k1", now=40.2) == expected


async def test_a_key_that_cannot_be_read_is_no_outage_for_other_keys() -> None:
    """The database has answered: their stale records are confirmed at their next use."""
    store = SlowStore()
    cache = cache_of(store)
    await answered(cache, store, LoadedKey(OLD))
    cache.mark_stale()

    await unreadable(cache, store, key_id="k2", now=1.0)

    assert cache.peek("k1", now=1.1) == Miss()


async def test_a_key_that_cannot_be_read_any_more_is_not_used_as_it_was() -> None:
    """Its new limits are unknown, and its old ones do not hold."""
    store = SlowStore()
    cache = cache_of(store)
    await answered(cache, store, LoadedKey(OLD))

    await unreadable(cache, store, now=40.0)

    assert (cache.peek("k1", now=40.1), cache.key_count) == (Miss(), 0)


async def unreadable(cache: KeyCache, store: SlowStore, *, key_id: str = "k1", now: float) -> None:
    """Load *key_id*, whose record cannot be read, and see that the caller learns of it."""
    caller = asyncio.ensure_future(cache.load(key_id, now=lambda: now))
    await settle()
    store.asked[-1][1].set_exception(KeyUnreadableError("written by a newer Egret"))
    with pytest.raises(KeyUnreadableError):
        await caller


async def test_a_stale_answer_shows_that_the_database_is_away() -> None:
    """Requests with other keys do not wait to find out, and the answer does not become current."""
    other = record_of("k2")
    store = SlowStore()
    cache = cache_of(store)
    await answered(cache, store, LoadedKey(OLD))

    await answered(cache, store, LoadedKey(other, CacheTier.STALE), key_id="k2", now=40.0)

    assert cache.peek("k1", now=40.1) == Hit(OLD, is_stale=True)
    assert cache.peek("k2", now=40.1) == Hit(other, is_stale=True)


async def test_a_change_of_an_owner_ends_its_keys_and_no_others() -> None:
    """Switching a team off costs the rest of the world no query."""
    other = record_of("k2")
    elsewhere = dataclasses.replace(
        other, principal=dataclasses.replace(other.principal, team_id="team_2")
    )
    cache = cache_of(QuickStore({"k1": OLD, "k2": elsewhere}))
    for key_id in ("k1", "k2"):
        await cache.load(key_id, now=lambda: 0.0)

    cache.drop_owned("team_1")

    assert [cache.peek(key_id, now=0.0) for key_id in ("k1", "k2")] == [Miss(), Hit(elsewhere)]


async def test_a_record_that_is_too_large_is_used_and_not_kept() -> None:
    """It is counted, and asked for each time: memory has a bound. The former one is forgotten."""
    large = dataclasses.replace(OLD, allowed_models=("m" * 3000,))
    counted: list[str] = []
    store = QuickStore({"k1": OLD})
    cache = KeyCache(store, LIMITS, on_oversized=lambda: counted.append("too large"))
    await cache.load("k1", now=lambda: 0.0)
    store.records["k1"] = large

    loaded = await cache.load("k1", now=lambda: 0.0)

    assert (loaded.record, cache.peek("k1", now=0.0), counted) == (large, Miss(), ["too large"])


NETWORKS = tuple(ip_network(f"2001:db8:{number:x}::/48") for number in range(200))


@pytest.mark.parametrize(
    "record",
    [
        dataclasses.replace(OLD, allowed_operations=("chat",) * 600),
        dataclasses.replace(OLD, allowed_sources=NETWORKS),
        dataclasses.replace(OLD, limits=(limit(models=("m" * 3000,)),)),
    ],
    ids=["operations", "networks", "models of limits"],
)
def test_every_list_of_a_record_counts_to_its_size(record: KeyRecord) -> None:
    """The memory of the cache has a bound in bytes, not only in keys."""
    assert fits(OLD)
    assert not fits(record)


async def test_a_flood_of_unknown_keys_does_not_keep_a_known_one_from_being_confirmed() -> None:
    """Their loads are capped; a kept key's is not counted among them."""
    store = SlowStore()
    cache = cache_of(store)
    await answered(cache, store, LoadedKey(OLD))
    flood = [
        asyncio.ensure_future(cache.load(f"made-up-{number}", now=lambda: 40.0))
        for number in range(10)
    ]
    await settle()

    await answered(cache, store, LoadedKey(NEW), now=40.0)

    assert cache.peek("k1", now=40.0) == Hit(NEW)
    assert sum(caller.done() for caller in flood) == 10 - LIMITS.max_loads
    await cache.aclose()
    await asyncio.gather(*flood, return_exceptions=True)
