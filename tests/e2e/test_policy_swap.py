"""A policy of 500 rules comes into force under load."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest

from tests.support.many_rules import many_rules, marker_code
from tests.support.stack import Stack, chat

pytestmark = [
    pytest.mark.stack,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(300),
]

RULES = 500
CLIENTS = 4
PAUSE_SECONDS = 0.02
"""Between two requests of a client: as many as there is time for would take the CPU time that
compiling needs."""


async def test_a_policy_of_500_rules_swaps_under_load_without_a_failed_request(
    stack: Stack,
) -> None:
    """Requests are judged by the old policy, then by the new one, and by nothing in between."""
    await stack.apply(many_rules(1, name="many", seed=1))
    key = (await stack.new_key("many")).reveal()
    statuses: Counter[int] = Counter()
    is_over = asyncio.Event()

    async def ask() -> None:
        while not is_over.is_set():
            statuses[(await stack.post(chat("what is new?"), key=key)).status] += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async with asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(ask())
        before = await stack.post(chat(marker_code(2)), key=key)
        await stack.apply(many_rules(RULES, name="many", seed=2))
        after = await stack.post(chat(marker_code(2)), key=key)
        is_over.set()

    assert set(statuses) == {200}
    assert statuses[200] > 2 * CLIENTS
    assert before.status == 200
    assert after.openai_error == (400, "invalid_request_error", "content_blocked")
    loads = [
        json.loads(line)
        for line in (stack.facts.logs / "workers.log").read_text().splitlines()
        if '"policies.loaded"' in line
    ]
    for load in loads[-stack.workers :]:
        # Reading and compiling take seconds, elsewhere: had they been done here, it would show.
        assert load["longest_hold_ms"] / 1000 < load["seconds"] / 10
