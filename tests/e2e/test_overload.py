"""More than a worker can do: it says so at once, and goes on with what it has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tests.support.more_workers import more_workers
from tests.support.stack import CHAT, MESSAGES, Answer, Stack, as_json, chat, message
from tests.support.webhook_server import WebhookServer

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

ROOM = 2
MEGABYTE = 1 << 20
IDLE_SECONDS = 6
"""Bodies that wait for another request to be refused must not end before, on a busy machine."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def small_worker(session_stack: Stack) -> AsyncIterator[Stack]:
    """One worker that judges two requests at once, and keeps 1 MB of bodies."""
    settings = {
        "EGRET_EXCHANGE__MAX_EXCHANGES": str(ROOM),
        "EGRET_EXCHANGE__MAX_BODY_BYTES": str(MEGABYTE),
        "EGRET_EXCHANGE__MAX_HELD_BYTES": str(MEGABYTE),
        "EGRET_EXCHANGE__BODY_SECONDS": "20",
        "EGRET_EXCHANGE__BODY_IDLE_SECONDS": str(IDLE_SECONDS),
    }
    async with more_workers(session_stack, workers=1, settings=settings) as stack:
        yield stack


@pytest_asyncio.fixture(loop_scope="session")
async def small(small_worker: Stack) -> AsyncIterator[Stack]:
    """The same, with a provider that has received nothing yet."""
    await small_worker.forget()
    yield small_worker
    await small_worker.forget()


class Sender:
    """A client in the middle of its body, which it ends when it is told to."""

    def __init__(self, stack: Stack, first: bytes, *, rest: bytes) -> None:
        self.go_on = asyncio.Event()
        self._first, self._rest = first, rest
        self.answer = asyncio.ensure_future(stack.post(self._pieces(), key="redact"))

    async def _pieces(self) -> AsyncIterator[bytes]:
        yield self._first
        await self.go_on.wait()
        yield self._rest


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(60):
        while not is_so():  # noqa: ASYNC110 - another process makes it so
            await asyncio.sleep(0.02)


async def in_flight(stack: Stack, number: int) -> None:
    """Wait until so many exchanges are under way."""
    async with asyncio.timeout(60):
        while f"egret_in_flight_exchanges {float(number)}" not in await _metrics(stack):  # noqa: ASYNC110 - a worker counts
            await asyncio.sleep(0.02)


async def _metrics(stack: Stack) -> str:
    async with stack.client.get(stack.facts.metrics_url) as answer:
        return await answer.text()


def is_overload(answer: Answer) -> bool:
    """Tell whether a client was asked to come back."""
    return answer.status == 503 and answer.headers["retry-after"] == "2"


async def test_one_request_too_many_is_refused_in_the_clients_dialect_and_at_once(
    small: Stack,
) -> None:
    """Those that were there first are answered, and afterwards there is room again."""
    body = as_json(chat("hello"))
    senders = [Sender(small, body[:20], rest=body[20:]) for _ in range(ROOM)]
    await in_flight(small, ROOM)
    async with small.counting(exchanges=2) as counted:
        began_at = time.monotonic()
        refused = [
            await small.post(chat("one too many"), key="redact"),
            await small.post(message("one too many"), path=MESSAGES, key="redact"),
        ]
        seconds = time.monotonic() - began_at
    assert all(is_overload(answer) for answer in refused)
    assert refused[0].openai_error == (503, "server_error", "overloaded")
    assert refused[1].anthropic_error == (503, "overloaded_error")
    assert seconds < IDLE_SECONDS, "a refusal waited for something"
    assert counted.faults == {"too_many_exchanges": 2}
    assert await small.received_count() == 0
    for sender in senders:
        sender.go_on.set()
    answers = [await sender.answer for sender in senders]
    assert [answer.status for answer in answers] == [200] * ROOM
    assert (await small.post(chat("hello"), key="redact")).status == 200


async def test_bodies_beyond_what_a_worker_keeps_are_refused(
    small: Stack, webhooks: WebhookServer
) -> None:
    """Memory has a bound whatever clients send; and room again once the first has gone."""
    asked = webhooks.paths.count("/hang")
    large = chat("word " * (MEGABYTE * 3 // 20))
    first = asyncio.ensure_future(small.post(large, key="late"))
    await until(lambda: webhooks.paths.count("/hang") > asked)
    async with small.counting() as counted:
        second = await small.post(large, key="redact")
    assert is_overload(second)
    assert second.openai_error == (503, "server_error", "overloaded")
    assert counted.faults == {"too_many_bytes": 1}
    assert (await small.post(chat("a short one"), key="redact")).status == 200
    first.cancel()
    await in_flight(small, 0)
    assert (await small.post(large, key="redact")).status == 200


async def test_slow_uploads_of_one_organization_leave_room_for_the_longest_body_of_another(
    session_stack: Stack,
) -> None:
    """A worker with room for two of them holds one of each."""
    settings = {
        "EGRET_EXCHANGE__MAX_BODY_BYTES": str(MEGABYTE),
        "EGRET_EXCHANGE__MAX_HELD_BYTES": str(2 * MEGABYTE),
        "EGRET_EXCHANGE__BODY_IDLE_SECONDS": "20",
    }
    newcomer = (await session_stack.new_key(None, organization="newcomers")).reveal()
    async with more_workers(session_stack, workers=1, settings=settings) as stack:
        # Of an organization that is the only one so far, nothing is kept for others.
        assert (await stack.post(chat("hello"), key=newcomer)).status == 200
        async with stack.counting() as counted:
            body = as_json(chat("word " * (MEGABYTE * 3 // 50)))  # three fit into a share
            slow = [Sender(stack, body[:-2], rest=body[-2:]) for _ in range(4)]
            await until(lambda: any(one.answer.done() for one in slow))
        (refused,) = [one for one in slow if one.answer.done()]
        assert is_overload(await refused.answer)
        assert counted.faults == {"too_many_bytes": 1}
        longest = chat("word " * (MEGABYTE * 19 // 100))
        assert (await stack.post(longest, key=newcomer)).status == 200
        for one in slow:
            one.go_on.set()
        answers = [(await one.answer).status for one in slow if one is not refused]
        assert answers == [200] * 3


async def test_slow_uploads_of_one_organization_leave_a_place_to_another(
    session_stack: Stack,
) -> None:
    """Of eight places the eighth; the refusal is the same as that of a full worker."""
    settings = {
        "EGRET_EXCHANGE__MAX_EXCHANGES": "8",
        "EGRET_EXCHANGE__BODY_IDLE_SECONDS": "20",
    }
    newcomer = (await session_stack.new_key(None, organization="latecomers")).reveal()
    async with more_workers(session_stack, workers=1, settings=settings) as stack:
        assert (await stack.post(chat("hello"), key=newcomer)).status == 200
        body = as_json(chat("hello"))
        slow = [Sender(stack, body[:20], rest=body[20:]) for _ in range(7)]
        await in_flight(stack, 7)
        async with stack.counting(exchanges=2) as counted:
            refused = await stack.post(chat("one more"), key="redact")
            assert (await stack.post(chat("hello"), key=newcomer)).status == 200
        assert is_overload(refused)
        assert refused.openai_error == (503, "server_error", "overloaded")
        assert counted.faults == {"too_many_exchanges": 1}
        for one in slow:
            one.go_on.set()
        assert [(await one.answer).status for one in slow] == [200] * 7


async def test_a_client_that_pauses_within_its_body_is_cut_off(small: Stack) -> None:
    """By Egret's own timer, long before the whole of its time is up."""
    sender = Sender(small, b'{"model":', rest=b"")
    async with asyncio.timeout(15):  # of 20 for the whole body
        answer = await sender.answer
    assert answer.openai_error == (408, "invalid_request_error", "body_timeout")
    assert await small.received_count() == 0


async def test_neither_a_slow_nor_a_huge_request_holds_the_others_up(stack: Stack) -> None:
    """A body that trickles and one of 8 MB are judged beside others that do not notice."""

    async def trickle() -> AsyncIterator[bytes]:
        for byte in as_json(chat("slow"))[:30]:
            yield bytes([byte])
            await asyncio.sleep(0.02)

    slow = asyncio.ensure_future(stack.post(trickle(), path=CHAT, key="redact"))
    huge = asyncio.ensure_future(stack.post(chat("word " * 1_600_000), key="redact"))
    waits: list[float] = []
    while not (slow.done() and huge.done()):
        began_at = time.monotonic()
        answer = await stack.post(chat("hello"), key="redact")
        waits.append(time.monotonic() - began_at)
        assert answer.status == 200
    assert (await slow).status == 400
    assert (await huge).status == 200
    assert len(waits) > 5
    assert sorted(waits)[len(waits) // 2] < 0.5
