from __future__ import annotations

import asyncio
import sys
import time

import pytest

from loadtest.bench_keys import Figures, WrongTierError, _Child, _grid, _loads, _peeks
from loadtest.keys.stack import TEAMS, KeyServers, bench_key, bench_rows, hit_rate, key_ids
from sidecar.admin.key_files import FIELDS
from sidecar.domain.principal import KeyRecord
from sidecar.domain.report import CacheTier
from sidecar.keys.cache import KeyCache
from sidecar.keys.credentials import authorize, parse
from sidecar.keys.ports import Fence, KeyReading
from sidecar.keys.shared_cache import KeyChanges, TwoTierKeys
from sidecar.settings.process import Settings
from sidecar.telemetry.key_metrics import KeyMetrics
from sidecar.worker.keys import WorkerKeys
from tests.support.keys import record_of

IDS = key_ids(50)


class HoldsAll:
    """The port `KeySource`: every key is there, none is shared."""

    async def read(self, key_id: str) -> KeyReading:
        """Answer at once."""
        record: KeyRecord | None = record_of(key_id) if key_id in IDS else None
        return KeyReading(record, horizon=1, settled=1)

    async def fence(self) -> Fence:
        """Not asked for."""
        raise AssertionError("nothing listens")


def caches() -> WorkerKeys:
    from prometheus_client import CollectorRegistry  # noqa: PLC0415

    tiers = TwoTierKeys(HoldsAll())
    cache = KeyCache(tiers)
    changes = KeyChanges(cache, tiers, frozenset())
    return WorkerKeys(cache, tiers, changes, Settings(), KeyMetrics(CollectorRegistry()))


def test_ids_are_the_same_in_every_run_and_none_is_twice() -> None:
    """Figures of two runs are about the same keys."""
    assert key_ids(1000) == key_ids(1000)
    assert len(set(key_ids(1000))) == 1000


def test_a_bench_key_is_a_key_like_any_other() -> None:
    """Its digest is what is imported for it, in a row of as many fields as a file has."""
    (first, *_) = rows = list(bench_rows(IDS))
    key = bench_key(IDS[0])
    digest = first[1 + FIELDS.index("secret_sha256")]
    assert isinstance(digest, bytes)
    assert parse(key.reveal()) == key
    assert isinstance(authorize(record_of(IDS[0], digest=digest), key, now=0.0), KeyRecord)
    assert {len(row) for row in rows} == {1 + len(FIELDS)}
    assert len({row[1 + FIELDS.index("team")] for row in list(bench_rows(key_ids(500)))}) == TEAMS


async def test_a_look_up_is_timed_only_if_the_cache_to_be_measured_answered() -> None:
    """A figure for another tier would be no figure."""
    keys = caches()
    taken = await _loads(keys, IDS, CacheTier.STORE)
    assert len(taken) == len(IDS)
    assert min(taken) > 0
    with pytest.raises(WrongTierError):
        await _loads(keys, IDS, CacheTier.L2)
    with pytest.raises(WrongTierError):
        await _loads(keys, ["AAAAAAAAAAAA"], CacheTier.STORE)


async def test_hits_are_counted_over_and_over_the_hot_keys() -> None:
    """As many as asked for; a key that is not held would be a miss that takes no time."""
    keys = caches()
    with pytest.raises(WrongTierError):
        _peeks(keys, IDS, 1)
    for key_id in IDS:
        await keys.cache.load(key_id, now=time.monotonic)
    assert len(_peeks(keys, IDS, 3 * len(IDS))) == 3 * len(IDS)


async def test_the_hit_rate_is_whole_where_all_keys_fit_and_less_where_they_do_not() -> None:
    """A cache of 10,000 keys, and a few of 20,000 that are asked for most."""
    fitting, more = await hit_rate(key_ids(2_000)), await hit_rate(key_ids(20_000))
    assert fitting > 0.99
    assert 0.9 < more < fitting


async def test_a_child_that_dies_is_told_of_and_not_waited_for() -> None:
    """Its answer would never come."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "print(input())",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    child = _Child(process)
    child.send("hello")
    assert await child.answer() == "hello"
    with pytest.raises(ChildProcessError):
        await child.answer()
    await process.wait()


FAILING_JOB = """
import asyncio
from loadtest.keys.child import _lines_into

async def main():
    ids = asyncio.Queue()
    async with asyncio.TaskGroup() as group:
        group.create_task(_lines_into(ids))
        raise ValueError(await ids.get())

asyncio.run(main())
"""


async def test_a_child_whose_job_fails_ends_though_it_could_be_told_more() -> None:
    """The bench hears of it instead of waiting for ever."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FAILING_JOB,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    child = _Child(process)
    child.send("first")
    with pytest.raises(ChildProcessError):
        await child.answer()
    assert process.stderr is not None
    assert b"ValueError: first" in await process.stderr.read()
    assert await process.wait() == 1


def test_the_table_shows_what_was_measured_and_leaves_out_what_was_not() -> None:
    """A quick run holds no 100,000 keys."""
    figures: Figures = {"keys": 50_000, "l1_hit_p99_us": 1.234, "import_s": 4.0}
    assert _grid(figures).as_markdown() == (
        "| key look-ups | figure |\n| --- | ---: |\n"
        "| in the process (L1), p99 µs | 1.23 |\n| import, s | 4.0 |"
    )


def test_workers_have_a_login_of_their_own_and_owners_make_the_changes() -> None:
    """So that the server counts for workers alone."""
    servers = KeyServers("postgresql://owner@/x", "postgresql://worker@/x", "unix:///v.sock")
    settings = servers.settings(max_keys=7)
    assert settings.postgres.dsn.get_secret_value() == "postgresql://worker@/x"
    assert servers.owner.dsn.get_secret_value() == "postgresql://owner@/x"
    assert (settings.cache.max_keys, settings.cache.ttl_seconds) == (7, 30.0)
