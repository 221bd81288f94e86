"""Up to a million made-up keys in one burst, on real servers."""

from __future__ import annotations

import asyncio
from collections import Counter

import psutil
import pytest

from sidecar.domain.errors import ErrorKind
from sidecar.domain.principal import KeyRecord
from sidecar.keys.credentials import ApiKey
from sidecar.keys.ports import KeyStoreUnavailableError
from sidecar.settings.stores import CacheSettings, ValkeySettings
from tests.support.key_worker import KeyWorker, key_settings, key_worker
from tests.support.live_servers import LiveServers, live_servers
from tests.support.sizes import sized

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(300)]

FLOOD = sized(1_000_000, small=50_000)
AT_ONCE = 10_000
"""More than a worker's streams at any time; each asks for a key of its own."""
MAX_REFRESHES = 20
GROWTH_BYTES = 64 * 1024**2


async def new_key(servers: LiveServers) -> ApiKey:
    await servers.add_team()
    return await servers.new_key()


async def flood(worker: KeyWorker, told: Counter[str]) -> None:
    """Ask for keys that nobody has; count the answers."""

    async def ask(number: int) -> None:
        try:
            judged = await worker.authorize(ApiKey(key_id=f"{number:012}", secret="a" * 43))
        except KeyStoreUnavailableError:
            told["not now"] += 1
        else:
            kind = judged.verdict.value if isinstance(judged.verdict, ErrorKind) else "let in"
            told[kind] += 1

    for start in range(0, FLOOD, AT_ONCE):
        await asyncio.gather(*(ask(number) for number in range(start, start + AT_ONCE)))


async def test_a_flood_of_made_up_keys_costs_few_statements_and_no_good_key_its_place() -> None:
    """Most are told «not now» at once; a key in use is let in all the while."""
    async with live_servers() as servers:
        key = await new_key(servers)
        settings = key_settings(
            servers.postgres_settings, ValkeySettings(url=servers.valkey_url), CacheSettings()
        )
        async with key_worker(settings) as worker:
            good: Counter[str] = Counter()
            told: Counter[str] = Counter()
            done = asyncio.Event()
            most_before_it = 0

            async def use() -> None:
                nonlocal most_before_it
                while not done.is_set():
                    before = told.total()
                    good[type((await worker.authorize(key)).verdict).__name__] += 1
                    most_before_it = max(most_before_it, told.total() - before)
                    await asyncio.sleep(0)

            await worker.authorize(key)
            process = psutil.Process()
            before, statements = process.memory_info().rss, await servers.key_statements()
            using = asyncio.ensure_future(use())
            await flood(worker, told)
            done.set()
            await using
            grown = process.memory_info().rss - before
            statements = await servers.key_statements() - statements
            kept = worker.keys.cache.key_count

    print(f"{dict(told)}, {statements} statements, {grown / 1024**2:.0f} MiB more")  # noqa: T201 - pytest -s
    assert told.total() == FLOOD
    assert set(told) == {"not now", "invalid_api_key"}
    # One for each that was told it is invalid, which are as many as 64 at a time allow, and some
    # for the good key, whose time to live ends now and then.
    assert 0 <= statements - told["invalid_api_key"] < MAX_REFRESHES
    assert statements < FLOOD / 20
    assert grown < GROWTH_BYTES
    assert kept == 1
    assert set(good) == {KeyRecord.__name__}
    assert good[KeyRecord.__name__] > FLOOD / AT_ONCE
    assert most_before_it <= AT_ONCE
