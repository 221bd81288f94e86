from __future__ import annotations

import pytest

from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import Headers
from sidecar.extproc.codec import MAX_CHUNK_BYTES
from sidecar.extproc.phases import BodyMode, Phase, ProtocolViolationError
from tests.support import events as on
from tests.support import replies as do
from tests.support.conversation import (
    REQUEST_HEADERS,
    TIMED,
    Talk,
    body,
    cleared,
    headers,
    opened,
    response_headers,
    trailers,
)


def test_pieces_are_joined_in_order_and_may_be_joined_again_after_more() -> None:
    """Joining does not end the body, and empty pieces are nothing."""
    talk = Talk(opened(), headers(), on.BodyRequired())
    assert talk.protocol.body() == b""
    talk.tell(body(b"ab"), body(b""), body(b"c"))
    assert talk.protocol.body() == b"abc"
    talk.tell(body(b"d", ends=True))
    assert talk.protocol.body() == b"abcd"


def test_the_limit_counts_all_pieces_and_is_inclusive() -> None:
    """Exactly the limit fits, and one byte more does not."""
    talk = Talk(opened(), headers(), on.BodyRequired(), body(b"ab"), max_body_bytes=3)
    assert talk.tell(body(b"c")) == []
    assert talk.tell(body(b"d")) == [do.OweRefusal(ErrorKind.BODY_TOO_LARGE)]


@pytest.mark.parametrize("declared", [b"4", b"9" * 5_000])
def test_a_declared_length_over_the_limit_is_refused_on_the_headers(declared: bytes) -> None:
    """The body is not waited for."""
    declaring = Headers((*REQUEST_HEADERS.fields, ("content-length", declared)))
    talk = Talk(
        opened(), on.RequestHeadersReceived(declaring, end_of_stream=False), max_body_bytes=3
    )
    assert talk.tell(on.BodyRequired()) == [do.OweRefusal(ErrorKind.BODY_TOO_LARGE)]


@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        (0, [(0, True)]),
        (1, [(1, True)]),
        (MAX_CHUNK_BYTES, [(MAX_CHUNK_BYTES, True)]),
        (MAX_CHUNK_BYTES + 1, [(MAX_CHUNK_BYTES, False), (1, True)]),
        (2 * MAX_CHUNK_BYTES, [(MAX_CHUNK_BYTES, False), (MAX_CHUNK_BYTES, True)]),
    ],
)
def test_a_body_is_cut_into_pieces_of_which_exactly_one_is_the_last(
    size: int, pieces: list[tuple[int, bool]]
) -> None:
    """An empty body is one empty last piece, because something must carry the end."""
    whole = bytes(index % 251 for index in range(size))
    talk = Talk(
        opened(), headers(), on.BodyRequired(), body(whole, ends=True), max_body_bytes=size
    )
    sent = [one for one in talk.tell(cleared()) if isinstance(one, do.StreamRequestBody)]
    assert [(len(piece.body), piece.end_of_stream) for piece in sent] == pieces
    assert b"".join(piece.body for piece in sent) == whole


ENDED = body(b"ab", ends=True)
REPEATED = body(b"", ends=True)
DUPLEX = BodyMode.FULL_DUPLEX_STREAMED
AFTER_THE_END = {
    "judging-headers": ((opened(DUPLEX), headers(), ENDED), Phase.JUDGING_HEADERS),
    "judging-body": (
        (opened(DUPLEX), headers(), on.BodyRequired(), ENDED),
        Phase.JUDGING_BODY,
    ),
    "judging-an-overridden-body": (
        (opened(), headers(), on.BodyRequired(), ENDED),
        Phase.JUDGING_BODY,
    ),
    "awaiting-the-answer": (
        (opened(DUPLEX, DUPLEX), headers(), on.BodyRequired(), ENDED, cleared()),
        Phase.AWAIT_ANSWER,
    ),
    "passing-the-answer": (
        (
            *(opened(DUPLEX, DUPLEX), headers(), cleared(), ENDED),
            *(response_headers(), on.ResponseCleared(TIMED)),
        ),
        Phase.PASSING_ANSWER,
    ),
}


@pytest.mark.parametrize("name", AFTER_THE_END)
def test_an_empty_end_of_a_streamed_body_may_come_again_and_is_ignored(name: str) -> None:
    """Envoy 1.35 to 1.39 repeat it: nothing is sent on, judged again or added to the body."""
    before, phase = AFTER_THE_END[name]
    talk = Talk(*before)
    held = talk.protocol.body()
    assert talk.tell(REPEATED, REPEATED) == []
    assert (talk.phase, talk.protocol.body()) == (phase, held)


@pytest.mark.parametrize("late", [body(b"c", ends=True), body(b"c"), body(b""), trailers()])
@pytest.mark.parametrize("name", ["judging-headers", "judging-body", "judging-an-overridden-body"])
def test_anything_else_after_the_end_of_a_body_fails_the_request(
    name: str, late: on.Event
) -> None:
    """Bytes after the end were never judged, and trailers would let Envoy send a body twice."""
    before, _ = AFTER_THE_END[name]
    talk = Talk(*before)
    with pytest.raises(ProtocolViolationError):
        talk.tell(late)


def test_an_empty_end_that_comes_first_is_the_end() -> None:
    """Only after an end is another one a repetition."""
    talk = Talk(opened(DUPLEX), headers(), on.BodyRequired(), body(b"ab"))
    assert talk.tell(REPEATED) == [do.JudgeBody(b"ab", may_judge_answer=False)]


def test_a_buffered_body_does_not_come_again() -> None:
    """It is one message, which Envoy repeats in no version."""
    talk = Talk(opened(BodyMode.BUFFERED), headers(), on.BodyRequired(), ENDED)
    with pytest.raises(ProtocolViolationError):
        talk.tell(REPEATED)
