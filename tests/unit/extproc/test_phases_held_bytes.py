from __future__ import annotations

import pytest

from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import HeaderMutation
from sidecar.extproc.phases import BodyMode
from sidecar.extproc.stream import OverloadGuard
from tests.support import events as on
from tests.support import replies as do
from tests.support.conversation import (
    Talk,
    body,
    cleared,
    headers,
    opened,
    refused,
    response_body,
    response_headers,
)

NEEDS_BODY = on.BodyRequired()
JUDGES_ANSWER = on.RequestCleared(cleared().mutations, judges_answer=True)
DUPLEX = BodyMode.FULL_DUPLEX_STREAMED
HELD_ANSWER = (
    opened(DUPLEX, DUPLEX), headers(ends=True), JUDGES_ANSWER, response_headers(),
    on.ResponseHeld(),
)  # fmt: skip

KEPT_ANSWER = (
    opened(BodyMode.BUFFERED, BodyMode.BUFFERED), headers(ends=True), JUDGES_ANSWER,
    response_headers(), on.ResponseHeld(),
)  # fmt: skip


def test_a_request_is_held_until_its_verdict() -> None:
    """Piece by piece, and no longer."""
    talk = Talk(opened(), headers(), NEEDS_BODY)
    sizes = []
    for event in (body(b"abc"), body(b"de", ends=True), cleared()):
        talk.tell(event)
        sizes.append(talk.protocol.held_bytes)
    assert sizes == [3, 5, 0]


def test_a_refused_request_is_let_go_of() -> None:
    """The memory is not kept for as long as the stream takes to end."""
    talk = Talk(opened(), headers(), NEEDS_BODY, body(b"abc", ends=True), refused())
    assert talk.protocol.held_bytes == 0


def test_a_held_answer_counts_as_well() -> None:
    """Until it is judged."""
    talk = Talk(*HELD_ANSWER, response_body(b"abcd"))
    assert talk.protocol.held_bytes == 4
    talk.tell(response_body(b"e", ends=True), on.ResponseJudged(HeaderMutation()))
    assert talk.protocol.held_bytes == 0


@pytest.mark.parametrize(
    ("before", "event", "size"),
    [
        pytest.param((opened(DUPLEX), headers()), body(b"abc"), 3, id="while the key is judged"),
        pytest.param((opened(), headers(), NEEDS_BODY), body(b"abc"), 3, id="awaited"),
        pytest.param((opened(DUPLEX), headers(), cleared()), body(b"abc"), 0, id="passed on"),
        pytest.param(HELD_ANSWER, response_body(b"abc"), 3, id="a held answer"),
        pytest.param(
            (
                opened(DUPLEX, DUPLEX),
                headers(ends=True),
                cleared(),
                response_headers(),
                on.ResponseCleared(HeaderMutation()),
            ),
            response_body(b"abc"),
            0,
            id="an answer that passes",
        ),
        pytest.param((opened(),), headers(), 0, id="no body"),
    ],
)
def test_only_what_waits_for_a_verdict_is_held(
    before: tuple[on.Event, ...], event: on.Event, size: int
) -> None:
    """Only what waits for a verdict takes room."""
    guard = OverloadGuard(max_exchanges=1, max_held_bytes=3)
    talk = Talk(*before, guard=guard)
    talk.tell(event)
    assert guard.held_bytes == size


@pytest.mark.parametrize(
    "before",
    [
        pytest.param((opened(DUPLEX), headers()), id="while the key is judged"),
        pytest.param((opened(), headers(), NEEDS_BODY), id="awaited"),
        pytest.param(HELD_ANSWER, id="a held answer"),
    ],
)
def test_a_body_without_room_is_refused_and_not_counted(before: tuple[on.Event, ...]) -> None:
    """The bytes of other requests stay counted."""
    guard = OverloadGuard(max_exchanges=1, max_held_bytes=5)
    guard.hold(3)
    talk = Talk(*before, guard=guard)
    piece = response_body(b"abc") if before is HELD_ANSWER else body(b"abc")
    assert talk.tell(piece) == [do.OweRefusal(ErrorKind.OVERLOADED)]
    talk.tell(refused())
    assert guard.held_bytes == 3


@pytest.mark.parametrize(
    ("before", "room"),
    [
        pytest.param((opened(), headers(), NEEDS_BODY), 20, id="a request"),
        pytest.param(HELD_ANSWER, 20, id="a held answer"),
        pytest.param(KEPT_ANSWER, 40, id="an answer that Envoy keeps"),
    ],
)
def test_a_body_takes_of_the_share_of_its_organization(
    before: tuple[on.Event, ...], room: int
) -> None:
    """The first byte beyond it is refused, and another organization still has room."""
    guard = OverloadGuard(max_exchanges=2, max_held_bytes=20, reserved_bytes=5)
    for owner in ("greedy", "other"):
        guard.begin()
        guard.assign_place(owner)
        guard.end(owner)
    greedy, other = Talk(*before, guard=guard), Talk(*before, guard=guard)
    greedy.protocol.owner, other.protocol.owner = "greedy", "other"
    piece = body if before[-1] is NEEDS_BODY else response_body
    assert greedy.protocol.hold(room - 5)
    assert greedy.tell(piece(b"x")) == [do.OweRefusal(ErrorKind.OVERLOADED)]
    assert do.OweRefusal(ErrorKind.OVERLOADED) not in other.tell(piece(b"x" * 5))
    assert guard.held_bytes == room


def test_a_body_that_is_too_long_is_refused_as_such_also_without_room() -> None:
    """Its client must not send it again."""
    guard = OverloadGuard(max_exchanges=1, max_held_bytes=3)
    talk = Talk(opened(), headers(), NEEDS_BODY, max_body_bytes=3, guard=guard)
    assert talk.tell(body(b"abcd")) == [do.OweRefusal(ErrorKind.BODY_TOO_LARGE)]


@pytest.mark.parametrize(
    ("before", "room"),
    [
        pytest.param((opened(BodyMode.BUFFERED), headers()), 5, id="a request"),
        pytest.param(KEPT_ANSWER, 10, id="an answer that Envoy keeps"),
    ],
)
def test_a_message_that_still_arrives_is_counted_until_it_is_whole(
    before: tuple[on.Event, ...], room: int
) -> None:
    """An answer that Envoy keeps has the reserve besides; its bytes are given back as others."""
    guard = OverloadGuard(max_exchanges=1, max_held_bytes=5)
    protocol = Talk(*before, guard=guard).protocol
    assert [protocol.hold(size) for size in (room, 1)] == [True, False]
    protocol.release(room)
    assert guard.held_bytes == 0


@pytest.mark.parametrize(
    ("mode", "in_pieces"),
    [(BodyMode.NONE, True), (DUPLEX, True), (BodyMode.BUFFERED, False)],
    ids=["override", "duplex", "buffered"],
)
def test_a_body_that_envoy_keeps_does_not_come_in_pieces(
    mode: BodyMode, *, in_pieces: bool
) -> None:
    """A pause of the client is seen only where it does."""
    mode_in_force = Talk(opened(mode), headers(), NEEDS_BODY).protocol.request_mode
    assert (mode_in_force is DUPLEX) is in_pieces
