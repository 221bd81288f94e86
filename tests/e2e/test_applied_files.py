"""Files that bind a key to a new policy come into force under load."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from tests.support.command_line import Egret
from tests.support.many_rules import many_rules, marker_code
from tests.support.stack import Stack, chat

pytestmark = [
    pytest.mark.stack,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(300),
]

RULES = 200
CLIENTS = 4
PAUSE_SECONDS = 0.02
"""Between two requests of a client: as many as there is time for would take the CPU time that
compiling needs."""


async def test_a_key_is_bound_to_a_new_policy_without_a_failed_request(
    stack: Stack, tmp_path: Path
) -> None:
    """Workers have compiled it before the key names it."""
    egret = Egret(stack.facts.postgres_dsn)
    key = await stack.new_key("free")
    exported = (await asyncio.to_thread(egret, "export")).out
    (document,) = [one for one in exported.split("---\n") if f"\nid: {key.key_id}\n" in one]
    policy = f"kind: Policy\n{many_rules(RULES, name='fresh', seed=3)}"
    file = tmp_path / "files.yaml"
    file.write_text(f"{document.replace('policy: free', 'policy: fresh')}---\n{policy}")
    statuses: Counter[int] = Counter()
    is_over = asyncio.Event()

    async def ask() -> None:
        while not is_over.is_set():
            statuses[(await stack.post(chat("what is new?"), key=key.reveal())).status] += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async with asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(ask())
        ran = await asyncio.to_thread(egret, "apply", "-f", str(file), "--yes", "--set", "swap")
        after = await stack.post(chat(marker_code(3)), key=key.reveal())
        is_over.set()

    assert ran.code == 0
    assert set(statuses) == {200}
    assert after.openai_error == (400, "invalid_request_error", "content_blocked")
