"""Workers that are killed or told to stop, with requests under way."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.more_workers import more_workers, processes_of
from tests.support.stack import Stack, chat

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.asyncio(loop_scope="session")]

EMAIL = "bob.builder@example.com"
CLIENTS = 8
REQUESTS = 400


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def mortal_stack(session_stack: Stack) -> AsyncIterator[Stack]:
    """The stack with workers that a test may kill."""
    settings = {
        "EGRET_SERVER__DRAIN_DELAY_SECONDS": "2.5",
        "EGRET_SERVER__DRAIN_GRACE_SECONDS": "5",
    }
    async with more_workers(session_stack, settings=settings) as mortal:
        yield mortal
        # A worker that is killed leaves its row, which its successor takes over: one that ended
        # before would leave it for commands of later tests to wait for.
        await _until_all_serve(mortal)


@pytest_asyncio.fixture(loop_scope="session")
async def mortal(stack: Stack, mortal_stack: Stack) -> Stack:
    """The same, with all of its workers alive again."""
    del stack  # a provider that has received nothing yet
    await _until_all_serve(mortal_stack)
    return mortal_stack


async def _until_received(stack: Stack, count: int) -> None:
    while await stack.received_count() < count:  # noqa: ASYNC110 - in another process
        await asyncio.sleep(0.02)


async def _until_restarted(stack: Stack, before: list[int]) -> list[int]:
    """Wait until there are as many workers as before, and none that is gone."""
    while True:
        now = processes_of(stack.facts.workers_pid)
        if len(now) == len(before) and set(now) != set(before):
            return now
        await asyncio.sleep(0.02)


async def _until_all_serve(stack: Stack) -> None:
    """Wait until every worker that died has a successor, and Envoy knows it."""
    while not (_are_all_ready(stack) and await _is_all_healthy(stack)):  # noqa: ASYNC110 - in others
        await asyncio.sleep(0.05)


def _are_all_ready(stack: Stack) -> bool:
    log = (stack.facts.logs / "workers.log").read_text()
    return log.count('"worker.ready"') == stack.workers + log.count('"worker.died"')


async def _is_all_healthy(stack: Stack) -> bool:
    """Tell whether Envoy finds every worker healthy again."""
    async with stack.client.get(
        f"{stack.facts.admin_url}/clusters", params={"format": "json"}
    ) as answer:
        clusters = (await answer.json(content_type=None))["cluster_statuses"]
    (workers,) = [cluster for cluster in clusters if cluster["name"] == "egret"]
    return all(
        set(host["health_status"]) == {"eds_health_status"} for host in workers["host_statuses"]
    )


async def test_workers_that_die_while_the_model_thinks_fail_no_request(mortal: Stack) -> None:
    """Five calls wait two seconds; every worker is killed; five answers come."""
    await mortal.tell_provider("delay", ms=2000)
    calls = [asyncio.ensure_future(mortal.post(chat(EMAIL), key="redact")) for _ in range(5)]
    await _until_received(mortal, 5)
    for pid in processes_of(mortal.facts.workers_pid):
        os.kill(pid, signal.SIGKILL)
    answers = await asyncio.gather(*calls)
    assert [answer.status for answer in answers] == [200] * 5
    assert all("server-timing" in answer.headers for answer in answers)


async def _load(stack: Stack, *, done: asyncio.Event) -> Counter[int]:
    """Send until *done*, from several clients at once; count the statuses."""
    statuses: Counter[int] = Counter()

    async def client() -> None:
        while not done.is_set() and statuses.total() < REQUESTS:
            answer = await stack.post(chat(f"mail {EMAIL}"), key="redact")
            statuses[answer.status] += 1

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return statuses


async def test_a_worker_killed_under_load_lets_nothing_pass_unjudged_and_comes_back(
    mortal: Stack,
) -> None:
    """What it was judging at that instant may fail, nothing else; then it serves again."""
    before = processes_of(mortal.facts.workers_pid)
    load = asyncio.ensure_future(_load(mortal, done=asyncio.Event()))
    await _until_received(mortal, 50)
    os.kill(before[0], signal.SIGKILL)
    statuses = await load
    after = await _until_restarted(mortal, before)
    await _until_all_serve(mortal)
    failed = {status: count for status, count in statuses.items() if status != 200}
    assert all(status >= 500 for status in failed)
    assert sum(failed.values()) <= CLIENTS
    received = await mortal.received()
    assert await mortal.received_count() == statuses[200]
    assert {one.body.count(b"[EMAIL_1]") for one in received} == {1}
    assert not any(EMAIL.encode() in one.body for one in received)
    assert before[1] in after
    for _ in range(10):
        assert (await mortal.post(chat("hello"), key="redact")).status == 200


async def test_a_worker_that_is_told_to_stop_fails_no_request(mortal: Stack) -> None:
    """It drains and is replaced while requests go on."""
    done = asyncio.Event()
    statuses: Counter[int] = Counter()

    async def client() -> None:
        while not done.is_set():
            answer = await mortal.post(chat(EMAIL), key="redact")
            statuses[answer.status] += 1
            await asyncio.sleep(0.01)

    clients = [asyncio.ensure_future(client()) for _ in range(CLIENTS)]
    try:
        before = processes_of(mortal.facts.workers_pid)
        os.kill(before[0], signal.SIGTERM)
        await _until_restarted(mortal, before)
        await _until_all_serve(mortal)
    finally:
        done.set()
        await asyncio.gather(*clients)
    assert set(statuses) == {200}
    assert statuses[200] > 100
    assert await mortal.received_count() == statuses[200]
