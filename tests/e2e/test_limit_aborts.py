"""Clients that leave at any moment take nothing with them: no slot, no token and no money."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import asyncpg
import psutil
import pytest

from loadtest.live_aborts import Door, leave_at_any_moment, settled, slow_down
from tests.e2e.conftest import Gate
from tests.support.command_line import Egret
from tests.support.stack import CHAT, Stack, as_json, chat

pytestmark = [
    pytest.mark.stack,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(240),
]

TIMES: Final = 6
"""Envoy's log goes to any of two workers: so often that it goes to both."""


@pytest.fixture(autouse=True)
def _valkey(session_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGRET_VALKEY__URL", session_stack.facts.valkey_url)


async def limited_key(stack: Stack, policy: str, *limits: str) -> str:
    """Make a key with limits; return its id."""
    key = await stack.new_key(policy)
    stack.keys["leaving"] = key.reveal()
    egret = Egret(stack.facts.postgres_dsn)
    ran = await asyncio.to_thread(egret, "limits", "set", "--key", key.key_id, *limits)
    assert ran.code == 0, ran.err
    return key.key_id


async def taken(stack: Stack, key_id: str) -> dict[str, int]:
    """Return what is taken of each limit of the key; money in millionths of a dollar."""
    egret = Egret(stack.facts.postgres_dsn)
    shown = await asyncio.to_thread(egret, "limits", "show", key_id, "--output", "json")
    assert shown.code == 0, shown.err
    return {one["measure"]: one["used"] for one in shown.json}


async def recorded(stack: Stack, key_id: str) -> list[tuple[str, int, int]]:
    """Return of each record of usage of the key how it ended, its tokens and its cost."""
    connection = await asyncpg.connect(stack.facts.postgres_dsn)
    try:
        rows = await connection.fetch(
            "SELECT ended, input_tokens + output_tokens AS tokens,"
            " ceil(cost_usd * 1000000)::bigint AS cost FROM usage WHERE key_id = $1",
            key_id,
        )
    finally:
        await connection.close()
    return [(row["ended"], row["tokens"], row["cost"] or 0) for row in rows]


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it is."""
    async with asyncio.timeout(30):
        while not await is_so():  # noqa: ASYNC110 - on servers
            await asyncio.sleep(0.2)


@asynccontextmanager
async def frozen_envoy(stack: Stack) -> AsyncIterator[None]:
    """Stop Envoy: it neither sees its clients leave nor hears what Egret says, until the end."""
    (envoy,) = (
        child
        for child in psutil.Process(stack.facts.pid).children(recursive=True)
        if child.name().startswith("envoy") and str(stack.run.path) in " ".join(child.cmdline())
    )
    envoy.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        envoy.send_signal(signal.SIGCONT)


async def begin(stack: Stack, body: object) -> asyncio.StreamWriter:
    """Send a request over a connection of its own; return what is closed to leave."""
    url = urlsplit(stack.facts.url)
    _, writer = await asyncio.open_connection(url.hostname, url.port)
    raw = as_json(body)
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: {url.netloc}\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {stack.keys['leaving']}\r\ncontent-length: {len(raw)}\r\n\r\n"
    )
    writer.write(head.encode() + raw)
    return writer


async def test_a_client_that_leaves_before_its_verdict_is_heard_keeps_nothing(
    stack: Stack, gate: Gate
) -> None:
    """Envoy's log does not say whose request it was; the worker that let it through knows."""
    key_id = await limited_key(
        stack, "gated", "concurrent=50", "tokens/day=100000", "cost/day=100"
    )
    for _ in range(TIMES):
        writer = await begin(stack, chat("hello", max_tokens=1_000))
        lets_go_on = await gate.reached()
        async with stack.counting(), frozen_envoy(stack):
            writer.transport.abort()
            async with stack.counting():
                lets_go_on.set()

    async def is_free() -> bool:
        return set((await taken(stack, key_id)).values()) == {0}

    await until(is_free)

    async def is_recorded() -> bool:
        return len(await recorded(stack, key_id)) == TIMES

    await until(is_recorded)
    assert await recorded(stack, key_id) == [("client_aborted", 0, 0)] * TIMES
    assert await stack.received_count() == 0


async def test_clients_that_leave_at_any_moment_take_what_they_used_and_no_more(
    stack: Stack,
) -> None:
    """After their headers, within their body, about the verdict, before the answer, within it."""
    key_id = await limited_key(stack, "flag", "concurrent=200", "tokens/day=10000000")
    await slow_down(stack.facts)
    door = Door(stack.facts.url, stack.keys["leaving"])
    await leave_at_any_moment(door, requests=150)

    left = await settled(stack.facts, key_id)
    assert (left.slots, left.tokens) == (0, left.recorded_tokens)
    assert left.recorded_tokens > 0
