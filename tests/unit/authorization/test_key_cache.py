from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from sidecar.authorization.key_cache import CacheLimits, Hit, KeyCache, KnownUnknown, Miss
from sidecar.authorization.ports import KeyStoreUnavailableError
from sidecar.domain.principal import KeyRecord
from tests.support.keys import record_of

LIMITS = CacheLimits(
    max_keys=2, ttl_seconds=30, max_unknown=2, negative_ttl_seconds=5, max_loads=3
)


@dataclass
class SlowStore:
    """A store whose answers a test gives by hand."""

    asked: list[tuple[str, asyncio.Future[KeyRecord | None]]] = field(default_factory=list)

    async def load(self, key_id: str) -> KeyRecord | None:
        """Wait for the test."""
        answer: asyncio.Future[KeyRecord | None] = asyncio.get_running_loop().create_future()
        self.asked.append((key_id, answer))
        return await answer


@dataclass
class QuickStore:
    """A store that answers at once."""

    records: dict[str, KeyRecord]
    asked: list[str] = field(default_factory=list)

    async def load(self, key_id: str) -> KeyRecord | None:
        """Answer."""
        self.asked.append(key_id)
        return self.records.get(key_id)


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


OLD = record_of("k1")
NEW = record_of("k1", revoked_at=1.0)


async def test_a_loaded_record_is_kept_for_its_time_to_live() -> None:
    """Counted from the moment the store was asked; at its end the store must be asked again."""
    cache = KeyCache(QuickStore({"k1": OLD}), LIMITS)

    loaded = await cache.load("k1", now=lambda: 100.0)

    assert (loaded, cache.peek("k1", now=129.9), cache.peek("k1", now=130.0)) == (
        OLD,
        Hit(OLD),
        Miss(),
    )


async def test_an_unknown_key_is_remembered_for_a_shorter_time() -> None:
    """A key that is created a moment later must not wait for the long time to live."""
    cache = KeyCache(QuickStore({}), LIMITS)

    loaded = await cache.load("k1", now=lambda: 100.0)

    assert (loaded, cache.peek("k1", now=104.9), cache.peek("k1", now=105.0)) == (
        None,
        KnownUnknown(),
        Miss(),
    )


async def test_a_flood_of_unknown_keys_pushes_out_no_known_one() -> None:
    """They are kept apart, and no more of them than their own bound."""
    cache = KeyCache(QuickStore({"k1": OLD}), LIMITS)
    await cache.load("k1", now=lambda: 0.0)

    for number in range(50):
        await cache.load(f"made-up-{number}", now=lambda: 0.0)

    assert cache.peek("k1", now=0.0) == Hit(OLD)
    assert [cache.peek(f"made-up-{number}", now=0.0) for number in (47, 48)] == [
        Miss(),
        KnownUnknown(),
    ]


async def test_the_key_unused_the_longest_goes_first() -> None:
    """A peek is a use."""
    records = {key_id: record_of(key_id) for key_id in ("k1", "k2", "k3")}
    cache = KeyCache(QuickStore(records), LIMITS)
    for key_id in ("k1", "k2"):
        await cache.load(key_id, now=lambda: 0.0)
    cache.peek("k1", now=0.0)

    await cache.load("k3", now=lambda: 0.0)

    peeked = [cache.peek(key_id, now=0.0) for key_id in records]
    assert peeked == [Hit(records["k1"]), Miss(), Hit(records["k3"])]


async def test_callers_of_one_key_share_one_load() -> None:
    """However many ask at once, the store is asked once and all get its answer."""
    store = SlowStore()
    cache = KeyCache(store, LIMITS)
    callers = [asyncio.ensure_future(cache.load("k1", now=lambda: 0.0)) for _ in range(10)]
    await settle()

    store.asked[0][1].set_result(OLD)

    assert (await asyncio.gather(*callers), len(store.asked)) == ([OLD] * 10, 1)


async def test_a_caller_that_gives_up_ends_the_load_for_nobody_else() -> None:
    """The first caller's cancellation reaches neither the store nor the second caller."""
    store = SlowStore()
    cache = KeyCache(store, LIMITS)
    first = asyncio.ensure_future(cache.load("k1", now=lambda: 0.0))
    second = asyncio.ensure_future(cache.load("k1", now=lambda: 0.0))
    await settle()

    first.cancel()
    await settle()
    store.asked[0][1].set_result(OLD)

    assert (await second, first.cancelled(), len(store.asked)) == (OLD, True, 1)


async def test_a_failed_load_reaches_every_caller_and_is_not_kept() -> None:
    """Unavailable is no answer: the next caller asks again."""
    store = SlowStore()
    cache = KeyCache(store, LIMITS)
    callers = [asyncio.ensure_future(cache.load("k1", now=lambda: 0.0)) for _ in range(2)]
    await settle()
    store.asked[0][1].set_exception(KeyStoreUnavailableError("down"))

    results = await asyncio.gather(*callers, return_exceptions=True)

    assert [type(result) for result in results] == [KeyStoreUnavailableError] * 2
    assert cache.peek("k1", now=0.0) == Miss()
    again = asyncio.ensure_future(cache.load("k1", now=lambda: 0.0))
    await settle()
    store.asked[1][1].set_result(OLD)
    assert await again == OLD


async def test_a_failure_that_nobody_waits_for_is_no_warning() -> None:
    """All callers gone, then the store fails: nothing is left to complain at exit."""
    store = SlowStore()
    cache = KeyCache(store, LIMITS)
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


@pytest.mark.parametrize("is_flush", [False, True], ids=["drop", "flush"])
async def test_a_record_read_before_a_change_is_not_kept_after_it(*, is_flush: bool) -> None:
    """The load began before the revocation: its answer goes to its callers and no further."""
    store = SlowStore()
    cache = KeyCache(store, LIMITS)
    before = asyncio.ensure_future(cache.load("k1", now=lambda: 0.0))
    await settle()

    change(cache, is_flush=is_flush)
    after = asyncio.ensure_future(cache.load("k1", now=lambda: 0.0))
    await settle()
    store.asked[1][1].set_result(NEW)
    await settle()
    store.asked[0][1].set_result(OLD)

    assert (await before, await after, cache.peek("k1", now=0.0)) == (OLD, NEW, Hit(NEW))


@pytest.mark.parametrize("is_flush", [False, True], ids=["drop", "flush"])
async def test_a_change_makes_what_is_kept_unknown(*, is_flush: bool) -> None:
    """Records and known unknowns alike."""
    cache = KeyCache(QuickStore({"k1": OLD}), LIMITS)
    await cache.load("k1", now=lambda: 0.0)
    await cache.load("k2", now=lambda: 0.0)

    for key_id in ("k1", "k2"):
        change(cache, key_id=key_id, is_flush=is_flush)

    assert [cache.peek(key_id, now=0.0) for key_id in ("k1", "k2")] == [Miss(), Miss()]


def change(cache: KeyCache, *, key_id: str = "k1", is_flush: bool) -> None:
    if is_flush:
        cache.flush()
    else:
        cache.drop(key_id)


async def test_a_drop_leaves_other_keys_alone() -> None:
    """One key's revocation costs nobody else a query."""
    other = record_of("k2")
    cache = KeyCache(QuickStore({"k1": OLD, "k2": other}), LIMITS)
    for key_id in ("k1", "k2"):
        await cache.load(key_id, now=lambda: 0.0)

    cache.drop("k1")

    assert (cache.peek("k1", now=0.0), cache.peek("k2", now=0.0)) == (Miss(), Hit(other))


async def test_more_loads_than_allowed_are_refused_at_once() -> None:
    """Detached loads count as well, since they hold a connection; joining one costs none."""
    store = SlowStore()
    cache = KeyCache(store, LIMITS)
    callers = [
        asyncio.ensure_future(cache.load(key_id, now=lambda: 0.0)) for key_id in ("k1", "k2", "k3")
    ]
    await settle()
    cache.drop("k1")

    with pytest.raises(KeyStoreUnavailableError, match="too many"):
        await cache.load("k4", now=lambda: 0.0)
    joined = asyncio.ensure_future(cache.load("k2", now=lambda: 0.0))
    for _, answer in store.asked:
        answer.set_result(None)

    assert await asyncio.gather(*callers, joined) == [None] * 4
    assert cache.load_count == 0


async def test_a_key_that_was_deleted_is_no_longer_a_hit() -> None:
    """After its time to live the store's «no such key» takes the record's place."""
    store = QuickStore({"k1": OLD})
    cache = KeyCache(store, LIMITS)
    await cache.load("k1", now=lambda: 0.0)
    store.records.clear()

    await cache.load("k1", now=lambda: 10.0)

    assert (cache.peek("k1", now=10.0), cache.peek("k1", now=16.0)) == (KnownUnknown(), Miss())


async def test_closing_tells_callers_that_the_store_is_unavailable() -> None:
    """They get the error they know how to answer, not a cancellation nobody asked for."""
    cache = KeyCache(SlowStore(), LIMITS)
    caller = asyncio.ensure_future(cache.load("k1", now=lambda: 0.0))
    await settle()

    await cache.aclose()

    with pytest.raises(KeyStoreUnavailableError, match="closed"):
        await caller
    assert cache.load_count == 0
