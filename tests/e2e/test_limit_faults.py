"""What becomes of limits while Valkey or PostgreSQL fail: the fault table of docs/limits.md."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import aiohttp
import pytest
import pytest_asyncio
import redis.asyncio
from egret_tools.devstack.processes import free_port

from sidecar.keys.credentials import ApiKey, generate
from tests.support.live_servers import LiveServers, live_servers, valkey_server
from tests.support.stack import CHAT, Answer, Stack, as_json, chat, whole_stack

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

WORKERS: Final = 2
AMOUNT: Final = 40
BEFORE: Final = 20
"""So many of a day's requests are used before anything fails."""
ASKED: Final = 60
"""More than is left, and more than the whole."""
LONG_PAUSE_MS: Final = 2_500
_DAY: Final = f'[{{"measure": "requests", "window": "day", "amount": {AMOUNT}}}]'
_ALL_REPORTED: Final = """
SELECT count(*) = $1 AND min(seen_at) > $2 FROM workers
"""


def is_local(answer: Answer | aiohttp.ClientResponse) -> bool:
    """Tell whether a worker's own share has decided."""
    return answer.headers.get("x-egret-limits") == "local"


@dataclass(frozen=True)
class World:
    """A stack whose workers keep everything on servers of a test's own."""

    stack: Stack
    servers: LiveServers
    valkey: redis.asyncio.Redis
    address: Path
    """Where workers find Valkey: a link to its socket, which can be moved."""

    def move_to(self, socket: Path) -> None:
        """Have whoever connects from now on find the server of this socket."""
        self.address.unlink()
        self.address.symlink_to(socket)

    async def new_key(self, limits: str) -> ApiKey:
        """Make a key with limits of its own."""
        key = generate(secrets.token_bytes)
        await self.servers.execute(
            "INSERT INTO api_keys (public_id, secret_sha256, team_id, name, limits)"
            " VALUES ($1, $2, 'team_1', 'k-' || lower($1), $3)",
            *(key.key_id, key.secret_sha256, limits),
        )
        return key

    async def ask(self, key: ApiKey, times: int) -> tuple[int, int]:
        """Ask one after the other; return how many went on, and how many locally did not."""
        answers = [await self.stack.post(chat("hello"), key=key.reveal()) for _ in range(times)]
        assert {answer.status for answer in answers} <= {200, 429}
        refused = [answer for answer in answers if answer.status != 200]
        return times - len(refused), sum(map(is_local, refused))

    async def used(self, key: ApiKey, valkey: redis.asyncio.Redis | None = None) -> int:
        """Return what the shared count says of a key's requests today."""
        server = valkey or self.valkey
        for name in await server.keys(f"egret:limit:*:{key.key_id}/requests/day/*"):
            return int(await server.hget(name, "used") or 0)
        return 0

    async def until(self, is_so: Callable[[], Awaitable[bool]]) -> None:
        """Wait until it is."""
        async with asyncio.timeout(60):
            while not await is_so():  # noqa: ASYNC110 - on servers
                await asyncio.sleep(0.1)

    async def until_shared(self, key: ApiKey) -> int:
        """Ask until no worker goes by its own share; return how many went on meanwhile."""
        granted = in_a_row = 0
        async with asyncio.timeout(60):
            while in_a_row < 4 * WORKERS:
                answer = await self.stack.post(chat("hello"), key=key.reveal())
                granted += answer.status == 200
                in_a_row = 0 if is_local(answer) else in_a_row + 1
                await asyncio.sleep(0.05)
        return granted


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[World]:
    async with live_servers() as servers:
        await servers.add_team()
        socket = Path(servers.valkey_url.get_secret_value().removeprefix("unix://"))
        address = socket.with_name("valkey-now.sock")
        address.symlink_to(socket)
        settings = {
            "EGRET_POSTGRES__DSN": servers.postgres_settings.dsn.get_secret_value(),
            "EGRET_VALKEY__URL": f"unix://{address}",
        }
        async with (
            redis.asyncio.Redis(unix_socket_path=str(socket)) as valkey,
            whole_stack(settings=settings, workers=WORKERS) as stack,
        ):
            yield World(stack, servers, valkey, address)


async def half_used(world: World) -> ApiKey:
    """Return a key that has used half of its day."""
    key = await world.new_key(_DAY)
    assert await world.ask(key, BEFORE) == (BEFORE, 0)
    return key


async def recorded(world: World, key: ApiKey, count: int) -> None:
    """Wait until the records have so many requests of *key*."""

    async def is_so() -> bool:
        return count <= int(
            str(
                await world.servers.fetchval(
                    "SELECT count(*) FROM usage WHERE key_id = $1", key.key_id
                )
            )
        )

    await world.until(is_so)


async def test_two_hosts_without_valkey_let_through_no_more_than_was_left(world: World) -> None:
    """Each of their four workers has a quarter of what it last heard was left."""
    settings = {
        "EGRET_POSTGRES__DSN": world.servers.postgres_settings.dsn.get_secret_value(),
        "EGRET_VALKEY__URL": f"unix://{world.address}",
    }
    async with whole_stack(settings=settings, workers=WORKERS) as second:
        began = await world.servers.fetchval("SELECT clock_timestamp()")
        hosts = (world, replace(world, stack=second))

        async def know_each_other() -> bool:
            return bool(await world.servers.fetchval(_ALL_REPORTED, 2 * WORKERS, began))

        await world.until(know_each_other)
        key = await world.new_key(_DAY)
        for _ in range(BEFORE // 2):
            assert [await host.ask(key, 1) for host in hosts] == [(1, 0), (1, 0)]
        await world.servers.valkey.kill()
        try:
            granted = [(await host.ask(key, ASKED))[0] for host in hosts]
        finally:
            await world.servers.valkey.start()
        # A worker may last have heard of the count a few requests before the outage.
        assert 2 * WORKERS <= sum(granted) <= AMOUNT - BEFORE + 2 * WORKERS
        for host in hosts:
            await host.until_shared(key)


async def test_a_slow_valkey_leaves_shares_of_the_rest_and_no_drift(world: World) -> None:
    """What it does late, for requests that were judged without it, is undone."""
    key = await half_used(world)
    await world.valkey.client_pause(LONG_PAUSE_MS)
    meanwhile, local = await world.ask(key, ASKED)
    assert 0 < meanwhile <= AMOUNT
    assert local > 0
    granted = BEFORE + meanwhile + await world.until_shared(key)

    async def says_what_was_used() -> bool:
        return await world.used(key) == granted

    await world.until(says_what_was_used)


async def test_a_dead_valkey_leaves_shares_of_the_rest_and_comes_back_without_a_jump(
    world: World,
) -> None:
    """Its memory is gone; the records and what workers let through say what was used."""
    key = await half_used(world)
    await world.servers.valkey.kill()
    try:
        meanwhile, local = await world.ask(key, ASKED)
        assert 0 < meanwhile <= AMOUNT
        assert local > 0
        await recorded(world, key, BEFORE + meanwhile)
    finally:
        await world.servers.valkey.start()
    granted = BEFORE + meanwhile + await world.until_shared(key)
    assert granted <= BEFORE + AMOUNT
    assert await world.used(key) >= min(granted, AMOUNT)


@asynccontextmanager
async def replica_of(world: World) -> AsyncIterator[tuple[Path, redis.asyncio.Redis]]:
    """Run a replica of the world's Valkey, and give its socket and a client."""
    port, directory = free_port(), world.address.parent
    await world.valkey.config_set("port", port)
    further = ("--replicaof", "127.0.0.1", str(port))
    server = valkey_server(directory, *further, name="replica")
    socket = directory / "replica.sock"
    await server.start()
    try:
        async with redis.asyncio.Redis(unix_socket_path=str(socket)) as client:
            yield socket, client
    finally:
        await server.aclose()


async def test_a_replica_that_takes_over_goes_on_where_the_count_was(world: World) -> None:
    """What had reached it is used; what workers let through meanwhile is told to it."""
    key = await half_used(world)
    async with replica_of(world) as (socket, replica):

        async def has_it_all() -> bool:
            return await world.used(key, replica) == BEFORE == await world.used(key)

        await world.until(has_it_all)
        await world.servers.valkey.kill()
        try:
            first, local = await world.ask(key, 4)
            assert local == 4 - first
            world.move_to(socket)  # and it may not be written to yet
            second, local = await world.ask(key, ASKED)
            assert 0 < first + second < AMOUNT
            assert local > 0
            await replica.replicaof("NO", "ONE")
            granted = BEFORE + first + second + await world.until_shared(key)
            rest, _ = await world.ask(key, ASKED)
            # Shares of what a worker last heard was left, one unit each at least.
            assert AMOUNT <= granted + rest <= AMOUNT + BEFORE

            async def says_what_was_used() -> bool:
                return await world.used(key, replica) == granted + rest

            await world.until(says_what_was_used)
        finally:
            await world.servers.valkey.start()
            world.move_to(socket.with_name("valkey.sock"))


async def test_a_flushed_valkey_is_told_by_the_records(world: World) -> None:
    """Nothing is let through twice."""
    key = await half_used(world)
    await recorded(world, key, BEFORE)
    await world.valkey.flushall()
    assert await world.ask(key, ASKED) == (AMOUNT - BEFORE, 0)


async def test_a_dead_postgresql_is_nothing_to_limits(world: World) -> None:
    """Counts are in Valkey, and the key is known."""
    key = await half_used(world)
    await world.servers.postgres.kill()
    try:
        assert await world.ask(key, ASKED) == (AMOUNT - BEFORE, 0)
    finally:
        await world.servers.postgres.start()


async def test_a_flushed_valkey_without_records_leaves_shares_of_the_rest(world: World) -> None:
    """Workers know how the limit stood; nobody else does."""
    key = await half_used(world)
    await world.servers.postgres.kill()
    try:
        await world.valkey.flushall()
        meanwhile, local = await world.ask(key, ASKED)
    finally:
        await world.servers.postgres.start()
    assert 0 < meanwhile <= AMOUNT
    assert local > 0


async def test_many_requests_at_once_do_not_overspend(world: World) -> None:
    """Ten times as many as the day has, all at the same time."""
    key = await world.new_key(_DAY)
    assert await world.ask(key, 4 * WORKERS) == (4 * WORKERS, 0)
    answers = await asyncio.gather(
        *(world.stack.post(chat("hello"), key=key.reveal()) for _ in range(10 * AMOUNT))
    )
    statuses = Counter(answer.status for answer in answers)
    assert set(statuses) == {200, 429}
    # All that is left; without an answer in time, a worker's share of it once more.
    left = AMOUNT - 4 * WORKERS
    assert left <= statuses[200] <= 2 * left


async def test_streams_that_are_opened_and_aborted_hold_no_slots(world: World) -> None:
    """Five times as many as may be open at once, each left after its first words."""
    key = await world.new_key('[{"measure": "concurrent", "window": "once", "amount": 20}]')
    await world.stack.tell_provider("delay", event_ms=30_000)
    headers = {
        "authorization": f"Bearer {key.reveal()}",
        "content-type": "application/json",
    }
    body = as_json(chat("hello", stream=True))
    names = f"egret:limit:*:{key.key_id}/concurrent/*"

    async def open_and_leave() -> int:
        url = f"{world.stack.facts.url}{CHAT}"
        async with world.stack.client.post(url, data=body, headers=headers) as answer:
            if answer.status == 200:
                await answer.content.readline()
            elif is_local(answer):  # Valkey was late: that says nothing about slots
                await asyncio.sleep(0.1)
                return await open_and_leave()
            return answer.status

    async def is_free() -> bool:
        held = [await world.valkey.zcard(name) for name in await world.valkey.keys(names)]
        return sum(held) == 0

    statuses: Counter[int] = Counter()
    for _ in range(5):
        statuses.update(await asyncio.gather(*(open_and_leave() for _ in range(20))))
        await world.until(is_free)
    assert statuses == {200: 100}
    await world.stack.forget()
