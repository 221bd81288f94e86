from __future__ import annotations

import asyncio
from dataclasses import replace

import orjson
import pytest

from sidecar.domain.errors import ErrorKind
from sidecar.extproc.phases import RefusedError
from sidecar.extproc.stream import OverloadGuard
from sidecar.keys.ports import LoadedKey
from tests.support.events import BodyRequired, RequestCleared, RequestRefused
from tests.support.pipeline import KEY, REQUEST_ID, World, headers
from tests.support.replies import Refuse

CHAT = b'{"model":"gpt-5","messages":[{"role":"user","content":"hello"}]}'


def world_with_room(*, for_exchanges: int) -> World:
    """Return a worker that judges so many requests at once."""
    world = World()
    guard = OverloadGuard(max_exchanges=for_exchanges, max_held_bytes=1 << 20)
    world.worker = replace(world.worker, guard=guard)
    return world


def error_of(verdict: object) -> tuple[int, dict[str, object]]:
    """Return status and body of a refusal."""
    assert isinstance(verdict, RequestRefused)
    return verdict.refusal.status, orjson.loads(verdict.refusal.body)


def test_a_load_takes_as_many_as_it_has_room_for() -> None:
    """One that was turned away takes no room, and one that ended gives its own back."""
    guard = OverloadGuard(max_exchanges=2, max_held_bytes=10)
    assert [guard.begin() for _ in range(4)] == [True, True, False, False]
    guard.end()
    assert [guard.begin() for _ in range(2)] == [True, False]


def test_a_load_keeps_as_many_bytes_as_it_has_room_for() -> None:
    """To the last byte."""
    guard = OverloadGuard(max_exchanges=1, max_held_bytes=10)
    assert guard.hold(6)
    assert [guard.hold(size) for size in (5, 4)] == [False, True]
    guard.release(10)
    assert [guard.hold(size) for size in (11, 10)] == [False, True]
    assert guard.hold(0)


def test_buffered_answers_have_as_much_room_again_of_which_requests_take_none() -> None:
    """A worker that clients have filled with slow requests still takes what is paid for."""
    guard = OverloadGuard(max_exchanges=1, max_held_bytes=10)
    assert guard.hold(10)
    assert [guard.hold_buffered(size) for size in (11, 10, 1)] == [False, True, False]
    assert not guard.hold(1)
    guard.release(20)
    assert [guard.hold(size) for size in (11, 10)] == [False, True]


async def test_one_request_too_many_is_refused_before_its_key_is_looked_up() -> None:
    """503 with a time to come back, and no work for whatever is behind the cache of keys."""
    world = world_with_room(for_exchanges=1)
    first = world.exchange()
    assert isinstance(await first.judge_headers(headers(), has_body=True), BodyRequired)
    asked: list[str] = []

    async def load(key_id: str) -> LoadedKey:
        asked.append(key_id)
        await asyncio.sleep(0)
        return LoadedKey(None)

    world.store.load = load  # type: ignore[method-assign] # to see that nobody asks
    second = world.exchange()
    verdict = await second.judge_headers(headers(), has_body=True)
    status, told = error_of(verdict)
    assert (status, told["error"]) == (
        503,
        {
            "message": "The gateway has more to do than it can. Try again later."
            f" Request id: {REQUEST_ID}.",
            "type": "server_error",
            "param": None,
            "code": "overloaded",
        },
    )
    assert isinstance(verdict, RequestRefused)
    assert ("retry-after", b"2") in verdict.refusal.headers
    await second.end()
    assert asked == []
    assert world.counted() == {("failed", "overloaded"): 1}
    kind = {"kind": "too_many_exchanges"}
    assert world.registry.get_sample_value("egret_exchange_faults_total", kind) == 1


async def test_what_waits_unread_counts_as_well() -> None:
    """A worker that is behind has streams whose headers it has not seen; the first are judged."""
    world = world_with_room(for_exchanges=2)
    waiting = [world.exchange() for _ in range(4)]
    verdicts = [await one.judge_headers(headers(), has_body=True) for one in waiting]
    assert [type(verdict) for verdict in verdicts] == [
        BodyRequired, BodyRequired, RequestRefused, RequestRefused,
    ]  # fmt: skip


async def test_anthropics_clients_are_told_in_their_own_words() -> None:
    """Their libraries know an error of this type."""
    world = world_with_room(for_exchanges=1)
    world.worker.guard.begin()
    verdict = await world.exchange().judge_headers(headers("/v1/messages"), has_body=True)
    status, told = error_of(verdict)
    assert (status, told["error"]) == (
        503,
        {
            "type": "overloaded_error",
            "message": "The gateway has more to do than it can. Try again later."
            f" Request id: {REQUEST_ID}.",
        },
    )


@pytest.mark.parametrize("ending", ["cleared", "refused", "given up"])
async def test_a_request_makes_room_once_however_it_ends(ending: str) -> None:
    """With its verdict, not with the end of its answer; and never twice."""
    world = world_with_room(for_exchanges=1)
    checks = world.exchange()
    key = None if ending == "refused" else KEY
    verdict = await checks.judge_headers(headers(key=key), has_body=True)
    if ending == "cleared":
        assert world.worker.guard.exchanges == 1
        assert isinstance(await checks.judge_body(CHAT), RequestCleared)
    if ending == "refused":
        assert isinstance(verdict, RequestRefused)
    if ending != "given up":
        assert world.worker.guard.exchanges == 0
    await checks.end(is_cancelled=ending == "given up")
    assert world.worker.guard.exchanges == 0


async def test_a_message_that_there_is_no_room_for_is_refused() -> None:
    """The server raises within a message; the client receives 503, as for a whole one."""
    world = world_with_room(for_exchanges=1)
    checks = world.exchange()
    assert isinstance(await checks.judge_headers(headers(), has_body=True), BodyRequired)
    checks.stream.send(RefusedError(ErrorKind.OVERLOADED))
    (refused,) = await checks.replies()
    assert isinstance(refused, Refuse)
    assert refused.refusal.status == 503
    await checks.end()
    assert world.worker.guard.exchanges == 0
