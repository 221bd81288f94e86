from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import count

import orjson
import pytest

from sidecar.domain.errors import ErrorKind
from sidecar.extproc.phases import BodyMode, RefusedError
from sidecar.extproc.stream import OverloadGuard
from sidecar.keys.credentials import ApiKey
from sidecar.keys.ports import LoadedKey
from tests.support.conversation import message_of, with_modes
from tests.support.events import (
    BodyRequired,
    ExchangeOpened,
    RequestBodyReceived,
    RequestCleared,
    RequestHeadersReceived,
    RequestRefused,
)
from tests.support.keys import record_of
from tests.support.pipeline import KEY, REQUEST_ID, Exchange, World, headers
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


def shared(room: int = 64, *, reserved: int = 10) -> OverloadGuard:
    """Return a guard that leaves so many bytes to owners that come later."""
    return used(OverloadGuard(max_exchanges=8, max_held_bytes=room, reserved_bytes=reserved))


def used(guard: OverloadGuard, *owners: str) -> OverloadGuard:
    """Return a guard that has had requests of *owners*, or else of two."""
    for owner in owners or ("one", "another"):
        assert guard.begin()
        guard.assign_place(owner)
        guard.end(owner)
    return guard


def test_an_organization_that_is_the_only_one_has_all_places_and_bytes() -> None:
    """Until a worker has seen another; bytes of unknown keys leave the reserve even then."""
    guard = OverloadGuard(max_exchanges=64, max_held_bytes=64, reserved_bytes=10)
    assert placed(guard, "only") == 64
    assert taken(guard, "only") == 64
    for _ in range(64):
        guard.end("only")
    guard.release(64, "only")
    assert next(number for number in count() if not guard.hold(1)) == 54
    guard.release(54)
    used(guard, "another")
    assert placed(guard, "only") == 56
    assert taken(guard, "only") == 54


def taken(guard: OverloadGuard, owner: str) -> int:
    """Have *owner* take single bytes until one is refused; return their number."""
    return next(number for number in count() if not guard.hold(1, owner))


def test_an_organization_leaves_room_for_the_longest_body_of_another() -> None:
    """The other takes all of it at once; a third organization finds the room full."""
    guard = shared()
    assert taken(guard, "greedy") == 54
    assert guard.hold(10, "newcomer")
    assert not guard.hold(1, "third")


def test_the_share_of_an_organization_shrinks_with_each_byte_of_others() -> None:
    """The free bytes are the measure of the demand, without a list of organizations that wait."""
    guard = shared()
    assert guard.hold(27, "others")
    assert taken(guard, "greedy") == 31
    assert guard.hold(5, "a third")
    guard.release(26, "greedy")
    assert taken(guard, "greedy") == 22


@pytest.mark.parametrize("organizations", [2, 3, 5])
def test_organizations_that_all_want_more_come_to_equal_shares(organizations: int) -> None:
    """Byte by byte, each in its turn."""
    guard = shared(6400, reserved=1000)
    sizes = dict.fromkeys(map(str, range(organizations)), 0)
    for _ in range(6400):
        for owner in sizes:
            sizes[owner] += guard.hold(1, owner)
    assert max(sizes.values()) - min(sizes.values()) <= 1
    assert sum(sizes.values()) > 5400


def test_bodies_that_grow_slowly_give_their_room_to_a_newcomer() -> None:
    """Above the share of its organization, a body is refused with its next piece."""
    guard, newcomers = shared(640, reserved=100), 0
    slow = [1] * taken(guard, "slow")
    for _ in range(3):  # the pauses that a body may have
        newcomers += taken(guard, "newcomer")
        kept: list[int] = []
        for size in slow:
            if guard.hold(1, "slow"):
                kept.append(size + 1)
            else:
                guard.release(size, "slow")
        slow = kept
    assert guard.held_bytes == newcomers + sum(slow)
    assert newcomers > 190


@pytest.mark.parametrize("room", [10, 15, 20])
def test_the_longest_body_finds_a_place_in_a_room_that_is_too_small_to_be_shared(
    room: int,
) -> None:
    """The settings allow a room for one body alone."""
    guard = shared(room)
    assert guard.hold(10, "one")
    assert not guard.hold(1, "one")
    assert taken(guard, "another") == room - 10


def test_bytes_before_their_key_is_known_share_the_room_like_an_organization() -> None:
    """Clients without a key cannot hold all of it."""
    guard = shared()
    assert next(number for number in count() if not guard.hold(1)) == 54
    assert guard.hold(10, "newcomer")


def test_bytes_of_which_the_owner_becomes_known_count_for_it() -> None:
    """All of them, also beyond its share, until they are released."""
    guard = shared()
    assert guard.hold(50, "greedy")
    assert guard.hold(9)
    assert not guard.assign(9, "greedy")
    assert guard.held_bytes == 59
    guard.release(59, "greedy")
    assert guard.held_bytes == 0
    assert guard.hold(9)
    assert guard.assign(9, "greedy")
    assert taken(guard, "greedy") == 45


def test_buffered_answers_of_an_organization_leave_room_for_those_of_another() -> None:
    """In the room and its reserve together: an answer of the other is paid for as well."""
    guard = shared()
    assert guard.hold(54, "greedy")
    assert not guard.hold_buffered(65, "greedy")
    assert guard.hold_buffered(64, "greedy")
    assert not guard.hold_buffered(1, "greedy")
    assert guard.hold_buffered(10, "newcomer")


def test_answers_kept_for_their_counts_leave_room_for_those_of_another_organization() -> None:
    """In the half of the room that they may take."""
    guard = shared()
    assert [guard.hold_spare(size, "greedy") for size in (23, 22, 1)] == [False, True, False]
    assert guard.hold_spare(10, "newcomer")


def placed(guard: OverloadGuard, owner: str) -> int:
    """Have requests of *owner* begin until one is refused; return how many were admitted."""
    for number in count():
        if not guard.begin():
            return number
        if not guard.assign_place(owner):
            guard.end(owner)
            return number
    raise AssertionError


def with_places(places: int) -> OverloadGuard:
    """Return a guard for so many requests at once."""
    return used(OverloadGuard(max_exchanges=places, max_held_bytes=1))


def test_requests_of_one_organization_leave_an_eighth_of_the_places_to_another() -> None:
    """The other takes nearly all of it at once, and a third organization still finds a place."""
    guard = with_places(1024)
    assert placed(guard, "greedy") == 896
    assert placed(guard, "newcomer") == 112
    assert placed(guard, "third") == 14
    assert guard.exchanges == 1022


@pytest.mark.parametrize(("places", "own"), [(1, 1), (2, 2), (7, 7), (8, 7), (16, 14)])
def test_an_organization_has_all_of_a_few_places(places: int, own: int) -> None:
    """Of fewer than eight no part is kept for others; all are there again afterwards."""
    guard = with_places(places)
    for _ in range(2):
        assert placed(guard, "alone") == own
        for _ in range(own):
            guard.end("alone")
    assert guard.exchanges == 0


def test_the_last_place_goes_to_an_organization_that_has_none() -> None:
    """Not to one that has more than seven."""
    guard = with_places(16)
    assert placed(guard, "greedy") == 14
    assert guard.begin()
    assert guard.assign_place("a second")
    assert placed(guard, "greedy") == 0
    assert placed(guard, "a third") == 1
    assert placed(guard, "a fourth") == 0


@pytest.mark.parametrize("organizations", [2, 3, 6])
def test_organizations_that_all_send_more_come_to_equal_places(organizations: int) -> None:
    """Request by request, each in its turn; a newcomer still finds a place."""
    guard, sizes = with_places(1024), dict.fromkeys(map(str, range(organizations)), 0)
    for _ in range(1024):
        for owner in sizes:
            assert guard.begin()
            if guard.assign_place(owner):
                sizes[owner] += 1
            else:
                guard.end(owner)
    assert max(sizes.values()) - min(sizes.values()) <= 1
    assert sum(sizes.values()) > 900
    assert placed(guard, "newcomer") > 0


def test_places_of_slow_requests_move_to_a_newcomer_as_the_requests_end() -> None:
    """A request that has a place keeps it: its organization gets fewer new ones."""
    guard = with_places(1024)
    slow, newcomers = placed(guard, "slow"), 0
    for _ in range(10):
        for _ in range(50):
            guard.end("slow")
        newcomers += placed(guard, "newcomer")
        slow += placed(guard, "slow") - 50
    assert newcomers >= 478, "less than an equal share"
    assert slow > 400


def test_requests_that_were_not_read_yet_do_not_narrow_a_share() -> None:
    """A burst of one organization that fills all places loses an eighth of itself, not more."""
    guard = with_places(64)
    assert all(guard.begin() for _ in range(64))
    assert [guard.assign_place("burst") for _ in range(64)] == [True] * 56 + [False] * 8


OTHER_KEY = ApiKey(key_id="mnopqrstuvwx", secret="T" * 43)
COLLEAGUES_KEY = ApiKey(key_id="cdefghijklmn", secret="U" * 43)


def shared_world() -> World:
    """Return a worker with 64 bytes of room, which knows two organizations, one with two teams."""
    world = World()
    world.worker = replace(world.worker, guard=shared())
    for key in (OTHER_KEY, COLLEAGUES_KEY):
        world.store.records[key.key_id] = record_of(key.key_id, digest=key.secret_sha256)
    colleague, other = (world.store.records[key.key_id] for key in (COLLEAGUES_KEY, OTHER_KEY))
    world.store.records[COLLEAGUES_KEY.key_id] = replace(
        colleague, principal=replace(colleague.principal, team_id="team_2")
    )
    world.store.records[OTHER_KEY.key_id] = replace(
        other, principal=replace(other.principal, organization_id="another")
    )
    return world


def send_piece(exchange: Exchange, piece: bytes) -> None:
    """Send a piece of a body that has not ended."""
    message = message_of(RequestBodyReceived(piece, end_of_stream=False))
    exchange.stream.send(message.SerializeToString())


async def begun(world: World, key: ApiKey, piece: bytes) -> Exchange:
    """Begin a request whose body has not ended."""
    exchange = world.exchange()
    assert isinstance(await exchange.judge_headers(headers(key=key), has_body=True), BodyRequired)
    send_piece(exchange, piece)
    return exchange


def with_slow_store(world: World) -> asyncio.Event:
    """Have the look-up of new keys wait for the event that is returned."""
    may_answer, records = asyncio.Event(), world.store.records

    async def load(key_id: str) -> LoadedKey:
        await may_answer.wait()
        return LoadedKey(records[key_id])

    world.store.load = load  # type: ignore[method-assign] # to answer later
    return may_answer


async def opened(world: World, key: ApiKey, piece: bytes) -> Exchange:
    """Begin a request in full duplex, and send *piece*, while its key is looked up."""
    exchange = world.exchange()
    opening = message_of(RequestHeadersReceived(headers(key=key), end_of_stream=False))
    with_modes(opening, ExchangeOpened(BodyMode.FULL_DUPLEX_STREAMED, BodyMode.NONE))
    exchange.stream.send(opening.SerializeToString())
    if piece:
        send_piece(exchange, piece)
    assert await exchange.replies() == []
    return exchange


async def test_slow_uploads_of_one_organization_leave_room_for_those_of_another() -> None:
    """Of all its keys and teams together; the refusal is that of a worker without room."""
    world = shared_world()
    slow = [await begun(world, key, b"x" * 27) for key in (KEY, COLLEAGUES_KEY)]
    assert [await one.replies() for one in slow] == [[], []]
    refused = await begun(world, COLLEAGUES_KEY, b"x")
    (answer,) = await refused.replies()
    assert isinstance(answer, Refuse)
    assert answer.refusal.status == 503
    assert ("retry-after", b"2") in answer.refusal.headers
    assert b'"code":"overloaded"' in answer.refusal.body
    kind = {"kind": "too_many_bytes"}
    assert world.registry.get_sample_value("egret_exchange_faults_total", kind) == 1
    newcomer = await begun(world, OTHER_KEY, b"x" * 10)
    assert await newcomer.replies() == []
    assert world.worker.guard.held_bytes == 64
    for one in (*slow, refused, newcomer):
        await one.end(is_cancelled=True)
    assert world.worker.guard.held_bytes == 0
    assert await (await begun(world, KEY, b"x" * 54)).replies() == []


async def test_slow_requests_of_one_organization_leave_a_place_to_those_of_another() -> None:
    """Of all its keys and teams together; the refusal is that of a worker without places."""
    world = shared_world()
    keys = (KEY, COLLEAGUES_KEY, KEY, COLLEAGUES_KEY, KEY, KEY, KEY)
    slow = [await begun(world, key, b"x") for key in keys]
    refused = world.exchange()
    verdict = await refused.judge_headers(headers(key=COLLEAGUES_KEY), has_body=True)
    status, told = error_of(verdict)
    assert (status, told["error"]["code"]) == (503, "overloaded")  # type: ignore[index] # an object
    assert isinstance(verdict, RequestRefused)
    assert ("retry-after", b"2") in verdict.refusal.headers
    kind = {"kind": "too_many_exchanges"}
    assert world.registry.get_sample_value("egret_exchange_faults_total", kind) == 1
    assert world.worker.guard.exchanges == 7
    newcomer = await begun(world, OTHER_KEY, b"x")
    assert await newcomer.replies() == []
    for one in (*slow, refused, newcomer):
        await one.end(is_cancelled=True)
    assert world.worker.guard.exchanges == 0
    for key in keys:
        await begun(world, key, b"x")


async def test_a_request_without_a_place_gives_back_the_bytes_that_came_before_its_key() -> None:
    """They never count for its organization."""
    world = shared_world()
    slow = [await begun(world, KEY, b"x") for _ in range(7)]
    may_answer = with_slow_store(world)
    early = await opened(world, COLLEAGUES_KEY, b"x" * 9)
    assert world.worker.guard.held_bytes == 16
    may_answer.set()
    (answer,) = await early.replies()
    assert isinstance(answer, Refuse)
    assert answer.refusal.status == 503
    assert world.worker.guard.held_bytes == 7
    for one in slow:
        await one.end(is_cancelled=True)
    assert world.worker.guard.hold(27, "others")
    assert taken(world.worker.guard, "") == 31  # as if none had come


async def test_judged_requests_of_an_organization_make_places_for_its_next_ones() -> None:
    """A place is held until the verdict, whatever the answer takes."""
    world = world_with_room(for_exchanges=8)
    for _ in range(20):
        exchange = world.exchange()
        assert isinstance(await exchange.judge_headers(headers(), has_body=True), BodyRequired)
        assert isinstance(await exchange.judge_body(CHAT), RequestCleared)
    assert world.worker.guard.exchanges == 0


@pytest.mark.parametrize("is_whole", [True, False], ids=["a whole message", "a part of one"])
async def test_bytes_that_came_while_the_key_was_looked_up_count_for_its_organization(
    *, is_whole: bool
) -> None:
    """Many new keys of one organization do not make its share larger."""
    world = shared_world()
    slow = await begun(world, KEY, b"x" * 50)
    may_answer = with_slow_store(world)
    early = await opened(world, COLLEAGUES_KEY, b"x" * 9 if is_whole else b"")
    room = early.stream.room
    assert room is not None
    assert is_whole or room.hold(9)
    assert world.worker.guard.held_bytes == 59
    may_answer.set()
    (answer,) = await early.replies()
    assert isinstance(answer, Refuse)
    assert answer.refusal.status == 503
    if not is_whole:
        room.release(9)
    assert world.worker.guard.held_bytes == 50
    await slow.end(is_cancelled=True)
    assert await (await begun(world, KEY, b"x" * 54)).replies() == []


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
