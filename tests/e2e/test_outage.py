"""The whole product while PostgreSQL and Valkey die, fall silent and come back, under load."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio
from egret_tools.devstack.workers import _all_serve

from sidecar.keys.credentials import ApiKey, generate
from tests.support.live_servers import LiveServer, LiveServers, live_servers
from tests.support.more_workers import more_workers, processes_of
from tests.support.stack import MESSAGES, Answer, Stack, chat, message, whole_stack

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.asyncio(loop_scope="module")]

WORKERS: Final = 2
KEYS: Final = 10
CLIENTS: Final = 8
WARM_UP: Final = 24
"""Requests with each key: that all go to the same worker happens once in eight million keys."""
OUTAGE_SECONDS: Final = 4.0
"""Several times the time to live, so that every key goes stale."""
ANSWERED_WITHIN_SECONDS: Final = 60.0
"""Far more than the budget of authorization: the outage ends only after the answers."""
AFTER_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 0.03
"""Between two requests of a client; each key is asked for several times in its time to live."""
RETRY_SECONDS: Final = "2"
SHORTEST_TURN_SECONDS: Final = 0.7
"""A key in use is loaded anew at 80 % of a time to live of 1 s less a tenth."""


@dataclass
class Load:
    """What clients with good keys were told, and how long they waited at most.

    `statuses_of_first` are those of the first key, which is revoked in the end.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    statuses_of_first: Counter[int] = field(default_factory=Counter)
    answers_of_clients: Counter[int] = field(default_factory=Counter)
    longest_seconds: float = 0.0


@dataclass(frozen=True)
class During:
    """What was seen while servers were down."""

    unknown: list[Answer]
    slowest_unknown_seconds: float
    stale: float
    are_ready: bool


@dataclass(frozen=True)
class After:
    """What was seen once they were back."""

    known_again_seconds: float
    window_seconds: float
    statements: int
    still_stale: float


@dataclass(frozen=True)
class Outage:
    """Workers and their Envoy on servers of their own, to be broken."""

    stack: Stack
    servers: LiveServers
    sockets: tuple[Path, ...]

    async def new_keys(self) -> list[ApiKey]:
        """Make keys."""
        return [await self.servers.new_key() for _ in range(KEYS)]

    async def ask(self, key: ApiKey, *, is_anthropic: bool = False) -> Answer:
        """Send a request with *key*."""
        if is_anthropic:
            return await self.stack.post(message("hello"), path=MESSAGES, key=key.reveal())
        return await self.stack.post(chat("hello"), key=key.reveal())

    async def stale_answers(self) -> float:
        """Return how many requests were let in with a record that nobody could confirm."""
        async with self.stack.client.get(self.stack.facts.metrics_url) as answer:
            lines = (await answer.text()).splitlines()
        name = "egret_authorizations_total{"
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith(name) and 'tier="stale"' in line
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outage() -> AsyncIterator[Outage]:
    async with live_servers() as servers, whole_stack(workers=1) as stack:
        await servers.add_team()
        settings = {
            "EGRET_POSTGRES__DSN": servers.postgres_settings.dsn.get_secret_value(),
            "EGRET_VALKEY__URL": servers.valkey_url.get_secret_value(),
            "EGRET_CACHE__L2_SECRET": secrets.token_urlsafe(32),
            "EGRET_CACHE__TTL_SECONDS": "1",
            "EGRET_CACHE__NEGATIVE_TTL_SECONDS": "0.5",
        }
        async with more_workers(stack, workers=WORKERS, settings=settings) as running:
            sockets = tuple(
                running.facts.logs / f"worker-{number}.sock" for number in range(WORKERS)
            )
            yield Outage(running, servers, sockets)


async def warm_up(outage: Outage, keys: list[ApiKey]) -> None:
    """Let every worker hold every key."""
    for key in keys:
        answers = await asyncio.gather(*(outage.ask(key) for _ in range(WARM_UP)))
        assert {answer.status for answer in answers} == {200}


async def load(outage: Outage, keys: list[ApiKey], told: Load, *, done: asyncio.Event) -> None:
    """Send with all keys from several clients, in both dialects, until *done*."""

    async def client(number: int) -> None:
        turn = number
        while not done.is_set():
            turn += 1
            started_at = time.monotonic()
            answer = await outage.ask(keys[turn % KEYS], is_anthropic=turn % 2 == 0)
            is_first = turn % KEYS == 0
            (told.statuses_of_first if is_first else told.statuses)[answer.status] += 1
            told.answers_of_clients[number] += 1
            told.longest_seconds = max(told.longest_seconds, time.monotonic() - started_at)
            await asyncio.sleep(PAUSE_SECONDS)

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))


async def ask_unknown(outage: Outage) -> tuple[list[Answer], float]:
    """Ask for keys that nobody has, in both dialects, one after the other; time the slowest."""
    answers: list[Answer] = []
    longest = 0.0
    for number in range(4):
        started_at = time.monotonic()
        key = generate(secrets.token_bytes)
        answers.append(await outage.ask(key, is_anthropic=number % 2 == 1))
        longest = max(longest, time.monotonic() - started_at)
    return answers, longest


async def until_known_again(outage: Outage) -> None:
    """Wait until a key that nobody has is called invalid, by every worker."""
    in_a_row = 0
    while in_a_row < 4 * WORKERS:
        answer = await outage.ask(generate(secrets.token_bytes))
        in_a_row = in_a_row + 1 if answer.status == 401 else 0
        await asyncio.sleep(0.01)


def is_worded(answers: list[Answer], status: int, code: str, anthropic_type: str) -> bool:
    """Tell whether the answers, in turns of both dialects, all say this."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    openai = [answer.openai_error for answer in answers[::2]]
    anthropic = [answer.anthropic_error for answer in answers[1::2]]
    return openai == [(status, kind, code)] * 2 and anthropic == [(status, anthropic_type)] * 2


async def revoke_everywhere(outage: Outage, key: ApiKey) -> None:
    """Revoke *key* and wait until no worker lets it in."""
    await outage.servers.execute(
        "UPDATE api_keys SET revoked_at = now() WHERE public_id = $1", key.key_id
    )
    in_a_row = 0
    async with asyncio.timeout(60):
        while in_a_row < 4 * WORKERS:
            in_a_row = in_a_row + 1 if (await outage.ask(key)).status == 401 else 0


async def break_and_look(
    outage: Outage,
    told: Load,
    down: list[LiveServer],
    break_down: Callable[[LiveServer], Awaitable[None]],
) -> During:
    """Break servers, look for a while and until each client has had answers, and repair them."""
    stale_before = await outage.stale_answers()
    try:
        for server in down:
            await break_down(server)
        began_at = time.monotonic()
        answered = told.answers_of_clients.copy()
        async with asyncio.timeout(ANSWERED_WITHIN_SECONDS):
            unknown, slowest = await ask_unknown(outage)
            # The first answer of each may be to a request from before.
            while any(  # noqa: ASYNC110 - clients count them
                told.answers_of_clients[one] < answered[one] + 2 for one in range(CLIENTS)
            ):
                await asyncio.sleep(0.01)
        await asyncio.sleep(max(0.0, OUTAGE_SECONDS - (time.monotonic() - began_at)))
        are_ready = await _all_serve(outage.sockets)
        stale = await outage.stale_answers() - stale_before
    finally:
        for server in down:
            await server.repair()
    return During(unknown, slowest, stale, are_ready)


async def recover(outage: Outage, keys: list[ApiKey]) -> After:
    """Wait until keys can be looked up again, use each at every worker, and watch a little."""
    statements_before = await outage.servers.key_statements()
    repaired_at = time.monotonic()
    async with asyncio.timeout(60):
        await until_known_again(outage)
    known_again_seconds = time.monotonic() - repaired_at
    await warm_up(outage, keys)
    await asyncio.sleep(AFTER_SECONDS)
    window_seconds = time.monotonic() - repaired_at
    statements = await outage.servers.key_statements() - statements_before
    stale_before = await outage.stale_answers()
    await asyncio.sleep(AFTER_SECONDS)
    still_stale = await outage.stale_answers() - stale_before
    return After(known_again_seconds, window_seconds, statements, still_stale)


@pytest.mark.parametrize(
    "break_down",
    [pytest.param(LiveServer.kill, id="killed"), pytest.param(LiveServer.freeze, id="silent")],
)
@pytest.mark.parametrize(
    "names",
    [("postgres",), ("valkey",), ("postgres", "valkey")],
    ids=["postgres", "valkey", "both"],
)
async def test_traffic_with_known_keys_goes_on_through_an_outage(
    outage: Outage, names: tuple[str, ...], break_down: Callable[[LiveServer], Awaitable[None]]
) -> None:
    """No error for them; a clear «not now» for others; all as before once the servers are back."""
    keys = await outage.new_keys()
    await warm_up(outage, keys)
    workers = processes_of(outage.stack.facts.workers_pid)
    done = asyncio.Event()
    told = Load()
    loading = asyncio.ensure_future(load(outage, keys, told, done=done))
    try:
        down: list[LiveServer] = [getattr(outage.servers, name) for name in names]
        during = await break_and_look(outage, told, down, break_down)
        after = await recover(outage, keys)
        await revoke_everywhere(outage, keys[0])
    finally:
        done.set()
        await loading

    tell(f"{'+'.join(names)} {break_down.__name__}", told, during, after)
    assert set(told.statuses) == {200}
    assert set(told.statuses_of_first) <= {200, 401}
    assert max(told.longest_seconds, during.slowest_unknown_seconds) < ANSWERED_WITHIN_SECONDS
    assert ((during.stale > 0), after.still_stale) == ("postgres" in names, 0)
    if "postgres" in names:
        assert is_worded(during.unknown, 503, "authorization_unavailable", "api_error")
        assert {answer.headers["retry-after"] for answer in during.unknown} == {RETRY_SECONDS}
    else:
        assert is_worded(during.unknown, 401, "invalid_api_key", "authentication_error")
    # Ready all the time, and not restarted: a dependency that is away is no reason for either.
    assert during.are_ready
    assert processes_of(outage.stack.facts.workers_pid) == workers
    # Each worker confirms each key once, then as its time to live has it, however many requests
    # come; the rest is what this test asked for itself.
    turns = 1 + after.window_seconds / SHORTEST_TURN_SECONDS
    assert after.statements < WORKERS * KEYS * turns + 20 * WORKERS


def tell(case: str, told: Load, during: During, after: After) -> None:
    """Show the figures with `pytest -s`."""
    print(  # noqa: T201 - pytest -s
        f"{case}: {dict(told.statuses)}, slowest {told.longest_seconds:.3f} s,"
        f" {during.stale:.0f} of them stale; unknown keys answered within"
        f" {during.slowest_unknown_seconds:.3f} s; known again {after.known_again_seconds:.3f} s"
        f" after, {after.statements} look-ups in {after.window_seconds:.1f} s"
    )
