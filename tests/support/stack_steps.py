"""Steps that several tests of the whole stack take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from tests.support.command_line import Egret
from tests.support.stack import MESSAGES, PATIENCE_SECONDS, Stack, message

EMAIL: Final = "bob.builder@example.com"
TOKENS: Final = ("input_tokens", "output_tokens", "is_estimated", "ended", "status")


async def says(stack: Stack, text: str, *, event_ms: float = 0) -> None:
    """Have the provider say *text*, with pauses between its events."""
    async with stack.debug.post("/answer", json={"text": text}) as answer:
        assert answer.status == 204
    await stack.tell_provider("delay", event_ms=event_ms)


async def ext_proc_messages(stack: Stack) -> int:
    """Return how many messages Envoy has sent to Egret."""
    url = f"{stack.facts.admin_url}/stats"
    async with stack.client.get(url, params={"filter": "ext_proc.egret.stream_msgs_sent"}) as got:
        return sum(int(line.rpartition(": ")[2]) for line in (await got.text()).splitlines())


@asynccontextmanager
async def a_change(stack: Stack) -> AsyncIterator[None]:
    """Change a key within the block, and wait until every worker has received it."""
    before = await changes_received(stack)
    yield
    async with asyncio.timeout(30):
        while await changes_received(stack) < before + stack.workers:  # noqa: ASYNC110 - in others
            await asyncio.sleep(0.05)


async def changes_received(stack: Stack) -> float:
    """Return how many changes to keys all workers together have received."""
    async with stack.client.get(stack.facts.metrics_url) as answer:
        lines = (await answer.text()).splitlines()
    counts = [line for line in lines if line.startswith("egret_revocation_seconds_count")]
    return sum(float(line.rpartition(" ")[2]) for line in counts)


async def command(stack: Stack, *words: str) -> None:
    """Run a command on the stack's database."""
    ran = await asyncio.to_thread(Egret(stack.facts.postgres_dsn), *words)
    assert ran.code == 0, ran.err


async def recorded(stack: Stack, request_id: str) -> Mapping[str, Any]:
    """Return the usage record of a request; it comes some seconds late."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    connection = await asyncpg.connect(stack.facts.postgres_dsn)
    try:
        while time.monotonic() < deadline:
            row = await connection.fetchrow(
                "SELECT * FROM usage WHERE request_id = $1", request_id
            )
            if row is not None:
                return dict(row)
            await asyncio.sleep(0.05)
    finally:
        await connection.close()
    raise AssertionError("there is no usage record of this request")


def told(record: Mapping[str, Any], *names: str) -> tuple[Any, ...]:
    """Return some fields of a record."""
    return tuple(record[name] for name in names)


async def leaves_and_is_estimated(stack: Stack) -> None:
    """Leave in the middle of an answer, and read the record of it."""
    await stack.tell_provider("delay", event_ms=100)
    headers = stack.credentials(MESSAGES, "free", [("content-type", "application/json")])
    async with stack.client.post(
        f"{stack.facts.https_url}{MESSAGES}",
        json=message("Tell me a story.", stream=True),
        headers=headers,
        ssl=stack.tls,
    ) as answer:
        await answer.content.readany()
        await answer.content.readany()
        request_id = answer.headers["x-egret-request-id"]
    record = await recorded(stack, request_id)

    assert told(record, "ended", "is_estimated") == ("client_aborted", True)
    assert record["input_tokens"] > 0
