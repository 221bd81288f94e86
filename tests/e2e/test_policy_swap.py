"""Policies come into force: 500 rules under load, and one by one as a worker starts."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from sidecar import __version__
from sidecar.policy.parse import parse_documents
from tests.support.many_rules import many_rules, marker_code
from tests.support.more_workers import more_workers
from tests.support.stack import (
    COMPILE_PATIENCE_SECONDS,
    MESSAGES,
    Stack,
    chat,
    logged,
    message,
)

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


async def test_a_request_whose_policy_is_not_compiled_in_time_gets_503(
    stack: Stack, tmp_path: Path
) -> None:
    """In the client's own form, counted and not sent on; others of the starting worker go on."""
    names = ("zz-before", "zz-late")
    policies = "---\n".join(many_rules(1, name=one, seed=3) for one in names)
    await stack.apply(policies)
    keys = {one: (await stack.new_key(one)).reveal() for one in names}
    settings = {"TMPDIR": str(tmp_path), "EGRET_EXCHANGE__AUTHORIZE_SECONDS": "0.5"}
    # The worker reads here whether another has compiled the policy, and waits for its writer.
    late_text = parse_documents(policies)[1].text
    file = hashlib.sha256(json.dumps([__version__, late_text]).encode()).hexdigest()

    async def hold_back() -> Path:
        while not (found := [*tmp_path.glob("egret-metrics-*")]):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.01)
        compiled = found[0] / "policies"
        compiled.mkdir(0o700, exist_ok=True)
        os.mkfifo(compiled / file)
        return compiled / file

    holding = asyncio.ensure_future(hold_back())
    async with more_workers(stack, workers=1, settings=settings) as starting:
        async with asyncio.timeout(COMPILE_PATIENCE_SECONDS):
            while (await starting.post(chat("?"), key=keys["zz-before"])).status != 200:
                pass  # each waits for half a second
        await stack.forget()
        async with starting.counting(exchanges=2) as counted:
            late = await starting.post(chat("what is new?"), key=keys["zz-late"])
            also = await starting.post(message("?"), key=keys["zz-late"], path=MESSAGES)
        received = await stack.received_count()
        held_back = await holding
        with held_back.open("wb"):
            held_back.unlink()
        await logged(
            starting.facts.logs / "workers.log",
            "policies.loaded",
            patience=COMPILE_PATIENCE_SECONDS,
        )
        judged = await starting.post(chat(marker_code(3)), key=keys["zz-late"])

    assert late.openai_error == (503, "server_error", "authorization_unavailable")
    assert also.anthropic_error == (503, "api_error")
    assert (counted.faults, received) == ({"deadline": 2}, 0)
    assert judged.openai_error == (400, "invalid_request_error", "content_blocked")
