"""`egret up` while each of its servers is killed in turn, under load."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from tests.support.embedded import CHAT, Up, started

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(600)]

CLIENTS: Final = 3
HEALED_SECONDS: Final = 150.0
NO_CONNECTION: Final = 0


@asynccontextmanager
async def load(up: Up) -> AsyncIterator[Counter[int]]:
    """Count the statuses of several clients with the printed key, until the block ends."""
    statuses: Counter[int] = Counter()
    done = asyncio.Event()

    async def client() -> None:
        headers = {"authorization": f"Bearer {up.facts['key']}"}
        async with aiohttp.ClientSession(up.facts["url"], headers=headers) as session:
            while not done.is_set():
                try:
                    async with session.post("/v1/chat/completions", json=CHAT) as answer:
                        statuses[answer.status] += 1
                except aiohttp.ClientError:
                    statuses[NO_CONNECTION] += 1
                await asyncio.sleep(0.05)

    clients = [asyncio.ensure_future(client()) for _ in range(CLIENTS)]
    try:
        yield statuses
    finally:
        done.set()
        await asyncio.gather(*clients)


async def killed_and_back(up: Up, part: str) -> Counter[int]:
    """Kill a part under load, wait until it is restarted, and return the statuses of meanwhile."""
    before = up.pid(part)
    async with load(up) as statuses:
        await asyncio.sleep(0.3)
        up.kill(part)
        await until(lambda: up.pid(part) != before, f"{part} restarted")
        served = statuses[200]
        await until(lambda: statuses[200] >= served + 2 * CLIENTS, f"requests served after {part}")
        await asyncio.sleep(0.3)
    return statuses


async def until(is_so: Callable[[], bool], event: str) -> None:
    """Look again and again until it is so."""
    deadline = time.monotonic() + HEALED_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {HEALED_SECONDS:g} s: {event}")
        await asyncio.sleep(0.02)


async def new_key_works(up: Up) -> None:
    """Wait until a key created now is served: PostgreSQL and the workers work together again."""
    created = await up.command("keys", "create", "--team", "demo", "--name", "later")
    assert created.code == 0, created.printed
    up.facts["key"] = next(word for word in created.printed.split() if word.startswith("egk_"))
    statuses: list[int] = []
    while 200 not in statuses and len(statuses) < 100:
        statuses.append(await up.status())
        await asyncio.sleep(0.1)
    assert statuses[-1] == 200, statuses


async def test_each_killed_server_is_restarted_and_cached_keys_are_served_meanwhile() -> None:
    """Clients notice the databases not at all, and Envoy only while it is away."""
    with tempfile.TemporaryDirectory(prefix="egret-") as parent:
        async with started(Path(parent) / "run") as up:
            statuses = {
                part: await killed_and_back(up, part)
                for part in ("valkey", "postgres", "envoy", "mock-llm", "workers")
            }
            await new_key_works(up)
            up.process.terminate()
            code, printed = await up.ended()

    assert set(statuses["valkey"]) == {200}
    assert set(statuses["postgres"]) == {200}
    assert set(statuses["envoy"]) == {200, NO_CONNECTION}
    assert set(statuses["mock-llm"]) <= {200, 502, 503}
    assert set(statuses["workers"]) <= {200, 500, 503}
    for part in ("Valkey", "PostgreSQL", "Envoy", "Mock LLM", "Egret workers"):
        assert f"{part}: the process was killed by signal 9; ready again after" in printed
    assert code == 0
