from __future__ import annotations

import pytest

from sidecar.domain.http import HeaderMutation
from sidecar.exchange import events as on
from sidecar.exchange.events import BodyMode
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


def test_a_request_is_held_until_its_verdict() -> None:
    """Piece by piece, and no longer."""
    talk = Talk(opened(), headers(), NEEDS_BODY)
    sizes = []
    for event in (body(b"abc"), body(b"de", ends=True), cleared()):
        talk.tell(event)
        sizes.append(talk.exchange.held_bytes)
    assert sizes == [3, 5, 0]


def test_a_refused_request_is_let_go_of() -> None:
    """The memory is not kept for as long as the stream takes to end."""
    talk = Talk(opened(), headers(), NEEDS_BODY, body(b"abc", ends=True), refused())
    assert talk.exchange.held_bytes == 0


def test_a_held_answer_counts_as_well() -> None:
    """Until it is judged."""
    talk = Talk(*HELD_ANSWER, response_body(b"abcd"))
    assert talk.exchange.held_bytes == 4
    talk.tell(response_body(b"e", ends=True), on.ResponseJudged(HeaderMutation()))
    assert talk.exchange.held_bytes == 0


@pytest.mark.parametrize(
    ("before", "event", "size"),
    [
        pytest.param((opened(DUPLEX), headers()), body(b"abc"), 3, id="while the key is judged"),
        pytest.param((opened(), headers(), NEEDS_BODY), body(b"abc"), 3, id="awaited"),
        pytest.param((opened(DUPLEX), headers(), cleared()), body(b"abc"), 0, id="passed on"),
        pytest.param(HELD_ANSWER, response_body(b"abc"), 3, id="a held answer"),
        pytest.param(
            (opened(DUPLEX, DUPLEX), headers(ends=True), cleared(), response_headers()),
            response_body(b"abc"),
            0,
            id="an answer that passes",
        ),
        pytest.param((opened(),), headers(), 0, id="no body"),
    ],
)
def test_what_would_be_held_is_known_before(
    before: tuple[on.Event, ...], event: on.Event, size: int
) -> None:
    """Only what waits for a verdict takes room."""
    assert Talk(*before).exchange.would_hold(event) == size


@pytest.mark.parametrize(
    ("mode", "in_pieces"),
    [(BodyMode.NONE, True), (DUPLEX, True), (BodyMode.BUFFERED, False)],
    ids=["override", "duplex", "buffered"],
)
def test_a_body_that_envoy_keeps_does_not_come_in_pieces(
    mode: BodyMode, *, in_pieces: bool
) -> None:
    """A pause of the client is seen only where it does."""
    assert Talk(opened(mode), headers(), NEEDS_BODY).exchange.comes_in_pieces is in_pieces
