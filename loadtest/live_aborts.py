"""Clients of a real Envoy leave at any moment: limits must equal the recorded usage.

Part of `prove_limits.py`; `tests/e2e/test_limit_aborts.py` does it in small.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import os
import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import redis.asyncio
from egret_tools.devstack.run_directory import run_directory
from egret_tools.devstack.stack import StackFacts, StackOptions, running_stack
from prometheus_client.parser import text_string_to_metric_families

AT_ONCE: Final = 32
MODEL_MS: Final = 60
EVENT_MS: Final = 5
VERDICT_SECONDS: Final = 0.02
"""About when verdicts are given, and often some time after."""
LIMITS: Final = (
    '[{"measure": "concurrent", "window": "once", "amount": 100000},'
    ' {"measure": "tokens", "window": "day", "amount": 1000000000},'
    ' {"measure": "cost", "window": "month", "amount": 1000000000000}]'
)
PRICES_SECONDS: Final = 11.0
"""Workers read prices every ten seconds."""
PATIENCE_SECONDS: Final = 60.0

_RECORDED: Final = """
SELECT coalesce(sum(input_tokens + output_tokens), 0)::bigint FROM usage WHERE key_id = $1
"""


class Moment(enum.Enum):
    """When a client leaves."""

    HEADERS = "after its headers"
    HALF = "within its body"
    VERDICT = "about its verdict"
    MODEL = "while the model thinks"
    STREAM = "within its answer"


@dataclass(frozen=True, slots=True)
class Door:
    """Where requests go in; `key` is a client's."""

    url: str
    key: str

    async def leave(self, moment: Moment, chance: random.Random) -> None:
        """Begin a request and leave at that moment."""
        url = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        question = {"role": "user", "content": "what is an abort?"}
        body = {"model": "gpt-4o", "messages": [question], "max_tokens": 500, "stream": True}
        raw = json.dumps(body).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {url.netloc}\r\n"
            f"authorization: Bearer {self.key}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(raw)}\r\n\r\n"
        )
        sent = {Moment.HEADERS: 0, Moment.HALF: len(raw) // 2}.get(moment, len(raw))
        writer.write(head.encode() + raw[:sent])
        try:
            await writer.drain()
            await _stay(moment, reader, chance)
        except ConnectionError:
            pass  # it was refused, and the connection with it
        finally:
            writer.transport.abort()


async def _stay(moment: Moment, reader: asyncio.StreamReader, chance: random.Random) -> None:
    if moment is Moment.STREAM:
        await reader.readline()
        await asyncio.sleep(chance.uniform(0, 5 * EVENT_MS / 1000))
    elif moment is Moment.MODEL:
        await asyncio.sleep(chance.uniform(VERDICT_SECONDS, MODEL_MS / 1000))
    else:
        await asyncio.sleep(chance.uniform(0, VERDICT_SECONDS))


@dataclass(frozen=True, slots=True)
class Taken:
    """Taken amounts of the limits of a key, and the usage in its records."""

    slots: int
    tokens: int
    micros: int
    recorded_tokens: int

    @property
    def is_right(self) -> bool:
        """Whether takes equal the usage; a token costs a thousandth of a dollar."""
        is_used = self.tokens == self.recorded_tokens
        return self.slots == 0 and is_used and self.micros in {0, 1_000 * self.tokens}


async def taken(facts: StackFacts, key_id: str) -> Taken:
    """Return how the limits of a key stand now."""
    valkey = redis.asyncio.Redis(unix_socket_path=facts.valkey_url.removeprefix("unix://"))
    database = await asyncpg.connect(facts.postgres_dsn)
    try:
        used: Counter[str] = Counter()
        for name in await valkey.keys(f"egret:limit:*:{key_id}/*"):
            measure = os.fsdecode(name).rpartition(f"{key_id}/")[2].partition("/")[0]
            if measure == "concurrent":
                used[measure] += await valkey.zcard(name)
            else:
                used[measure] += int(await valkey.hget(name, "used") or 0)
        recorded = await database.fetchval(_RECORDED, key_id)
        return Taken(used["concurrent"], used["tokens"], used["cost"], int(recorded))
    finally:
        await database.close()
        await valkey.aclose()


async def leave_at_any_moment(door: Door, *, requests: int, seed: int = 1) -> Counter[str]:
    """Begin so many requests and leave all of them; return how many at which moment."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    moments = [chance.choice(list(Moment)) for _ in range(requests)]
    for first in range(0, requests, AT_ONCE):
        some = moments[first : first + AT_ONCE]
        await asyncio.gather(*(door.leave(moment, chance) for moment in some))
    return Counter(moment.value for moment in moments)


async def settled(facts: StackFacts, key_id: str) -> Taken:
    """Return how limits stand once they are right, or how they still stand when patience ends."""
    found = await taken(facts, key_id)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not found.is_right:
                await asyncio.sleep(0.5)
                found = await taken(facts, key_id)
    return found


async def slow_down(facts: StackFacts) -> None:
    """Have the model think, and its answers take some time."""
    async with (
        aiohttp.ClientSession(facts.mock_debug_url) as debug,
        debug.post("/delay", json={"ms": MODEL_MS, "event_ms": EVENT_MS}) as answer,
    ):
        answer.raise_for_status()


async def unheard(facts: StackFacts) -> int:
    """Return the number of requests whose verdict Envoy did not receive."""
    async with aiohttp.ClientSession() as client, client.get(facts.metrics_url) as answer:
        families = text_string_to_metric_families(await answer.text())
    return sum(
        int(sample.value)
        for family in families
        for sample in family.samples
        if sample.name == "egret_usage_orphaned_verdicts_total"
    )


@dataclass(frozen=True, slots=True)
class Left:
    """Clients that left: the moments, and the amounts that their requests still hold."""

    moments: Counter[str]
    unheard: int
    taken: Taken

    @property
    def is_right(self) -> bool:
        """Whether takes equal the usage, cost included."""
        return self.taken.is_right and (self.taken.micros > 0) == (self.taken.tokens > 0)


async def clients_leave(*, requests: int) -> Left:
    """Run a stack whose clients all leave."""
    async with _limited_stack() as (facts, key_id):
        door = Door(facts.url, facts.key.get_secret_value())
        moments = await leave_at_any_moment(door, requests=requests)
        found = await settled(facts, key_id)
        return Left(moments, await unheard(facts), found)


@asynccontextmanager
async def _limited_stack() -> AsyncIterator[tuple[StackFacts, str]]:
    with (
        tempfile.TemporaryDirectory(prefix="egret-prove-") as place,
        run_directory(Path(place) / "run") as run,
    ):
        settings = {"EGRET_TELEMETRY__LOG_LEVEL": "warning"}
        options = StackOptions(traces=False, worker_settings=settings)
        async with running_stack(options, run=run) as stack:
            facts = stack.facts
            database = await asyncpg.connect(facts.postgres_dsn)
            try:
                await database.execute(
                    "INSERT INTO prices (model, valid_from, input_per_million, output_per_million)"
                    " VALUES ('gpt-4o', '2020-01-01', 1000, 1000)"
                )
                key_id = await database.fetchval(
                    "UPDATE api_keys SET limits = $1 RETURNING public_id", LIMITS
                )
            finally:
                await database.close()
            await slow_down(facts)
            await asyncio.sleep(PRICES_SECONDS)
            yield facts, str(key_id)
