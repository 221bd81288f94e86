"""Findings of a whole stack, as `egret guardrails audit` and the warning of volume show them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from sidecar.telemetry.finding_metrics import WINDOW_CHECKS
from tests.support.command_line import Egret
from tests.support.stack import Stack, chat, logged

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

POLICIES = """
name: audited
guardrails:
  - {name: audited, type: pii, stage: both, action: redact}
  - {name: audited-shadow, type: denied_terms, terms: [Bluebird], mode: shadow}
---
name: watched
guardrails:
  - {name: watched, type: pii, action: redact, warn_on_volume: 5%}
"""
PATIENCE_SECONDS = 60


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def audited(session_stack: Stack) -> AsyncIterator[Stack]:
    await session_stack.apply(POLICIES)
    for name in ("audited", "watched"):
        session_stack.keys[name] = (await session_stack.new_key(name)).reveal()
    yield session_stack


async def audit(stack: Stack, policy: str, *, rows: int) -> list[dict[str, Any]]:
    """Return the report on a policy once it has as many rows."""
    egret = Egret(stack.facts.postgres_dsn)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        arguments = ("guardrails", "audit", "--since", "1h", "--policy", policy, "-o", "json")
        ran = await asyncio.to_thread(egret, *arguments)
        found: list[dict[str, Any]] = ran.json
        if len(found) >= rows:
            return found
        assert time.monotonic() < deadline, ran
        await asyncio.sleep(0.2)


async def test_the_audit_shows_types_and_roles_of_all_workers_without_content(
    audited: Stack,
) -> None:
    messages = [
        {"role": "user", "content": "Bluebird: ann@example.org, bob@example.org"},
        {"role": "tool", "content": "ann@example.org", "tool_call_id": "1"},
    ]
    requests = 2 * audited.workers
    async with audited.debug.post("/answer", json={"text": "eve@example.org"}):
        for _ in range(requests):
            answer = await audited.post(chat("") | {"messages": messages}, key="audited")
            assert answer.status == 200
    await audited.forget()

    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = await audit(audited, "audited", rows=4)
        if all(one["requests"] == requests for one in found):
            break
        assert time.monotonic() < deadline, found
    assert [
        (one["guardrail"], one["type"], one["role"], one["verdict"], one["mode"], one["findings"])
        for one in found
    ] == [
        ("audited", "EMAIL", "user", "redact", "enforce", 2 * requests),
        ("audited", "EMAIL", "answer", "redact", "enforce", requests),
        ("audited", "EMAIL", "tool", "redact", "enforce", requests),
        ("audited-shadow", "DENIED_TERM", "user", "block", "shadow", requests),
    ]
    connection = await asyncpg.connect(audited.facts.postgres_dsn)
    try:
        stored = await connection.fetch("SELECT f::text FROM findings_by_hour AS f")
    finally:
        await connection.close()
    assert stored
    assert not [
        row for row in stored if "example" in row[0].lower() or "bluebird" in row[0].lower()
    ]


async def test_a_type_that_is_found_too_often_is_logged_and_counted(audited: Stack) -> None:
    for _ in range(WINDOW_CHECKS * audited.workers // 10):
        answers = [audited.post(chat("ann@example.org"), key="watched") for _ in range(12)]
        assert {answer.status for answer in await asyncio.gather(*answers)} == {200}
    await logged(audited.facts.logs / "workers.log", "guardrails.volume")
    async with audited.client.get(f"{audited.facts.metrics_url}") as page:
        lines = (await page.text()).splitlines()
    (warned,) = [
        line for line in lines if line.startswith("egret_guardrail_volume_warnings_total{")
    ]
    assert 'finding_type="EMAIL",guardrail="watched"' in warned
    assert 1 <= float(warned.rpartition(" ")[2]) <= audited.workers
