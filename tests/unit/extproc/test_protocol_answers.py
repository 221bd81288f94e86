"""The ways an answer can take whose policy judges it."""

from __future__ import annotations

import pytest

from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import NO_CHANGE, HeaderMutation
from sidecar.extproc.codec import MAX_CHUNK_BYTES
from sidecar.extproc.phases import BodyMode, Phase, ProtocolViolationError
from sidecar.extproc.stream import OverloadGuard
from tests.support import events as on
from tests.support import replies as do
from tests.support.conversation import (
    METADATA,
    REFUSAL,
    RESPONSE_HEADERS,
    STRIPPED,
    TIMED,
    Talk,
    body,
    cleared,
    headers,
    opened,
    refused,
    response_body,
    response_headers,
    trailers,
)

NONE, BUFFERED, DUPLEX = BodyMode.NONE, BodyMode.BUFFERED, BodyMode.FULL_DUPLEX_STREAMED
JUDGED = on.BodyRequired(judges_answer=True)
CLEARED = on.RequestCleared(cleared().mutations, judges_answer=True)
JUDGE = do.JudgeResponseHeaders(RESPONSE_HEADERS, has_body=True, may_stream=True)
REFUSE = [do.Refuse(REFUSAL), do.EndStream()]
TRAILERS = on.ResponseTrailersReceived()
WITH_LENGTH = HeaderMutation((*TIMED.set_headers, ("content-length", b"7")), ("content-length",))


def asked(*events: on.Event) -> Talk:
    """Return an exchange whose request was cleared in the default mode, with these events."""
    return Talk(opened(), headers(), JUDGED, body(b"a", ends=True), CLEARED, *events)


def sent(piece: bytes, *, ends: bool = False) -> do.StreamResponseBody:
    """Return a piece on its way to the client."""
    return do.StreamResponseBody(piece, end_of_stream=ends)


def test_the_override_asks_for_the_answer_as_well() -> None:
    """One message states the whole mode, so that none can be left over from another."""
    talk = Talk(opened(), headers())
    assert talk.tell(JUDGED) == [do.OverrideMode(response_headers=True, response_body=True)]
    assert talk.tell(body(b"a", ends=True), cleared()) == [
        do.JudgeBody(b"a"),
        do.ContinueRequestHeaders(headers=STRIPPED, metadata=METADATA),
        do.StreamRequestBody(b"a", end_of_stream=True),
    ]
    assert talk.phase is Phase.AWAIT_ANSWER


def test_an_answer_that_only_the_body_asks_for_is_asked_for_with_the_headers() -> None:
    """A second override starts from Envoy's configuration: the request's part is said again."""
    talk = Talk(opened(), headers(), on.BodyRequired(), body(b"a", ends=True))
    assert talk.tell(CLEARED) == [
        do.ContinueRequestHeaders(
            headers=STRIPPED, metadata=METADATA,
            response_headers=True, response_body=True, request_body=True,
        ),
        do.StreamRequestBody(b"a", end_of_stream=True),
    ]  # fmt: skip
    assert talk.tell(response_headers(), on.ResponseStreamed(TIMED)) == [
        JUDGE,
        do.ContinueResponseHeaders(TIMED),
    ]


@pytest.mark.parametrize(
    ("request_mode", "response_mode", "may"),
    [
        (NONE, NONE, True),
        (BUFFERED, BUFFERED, True),
        (DUPLEX, DUPLEX, True),
        (BUFFERED, NONE, False),
        (BUFFERED, BodyMode.STREAMED, False),
        (DUPLEX, NONE, False),
    ],
)
def test_a_body_is_judged_in_the_knowledge_whether_its_answer_can_come(
    request_mode: BodyMode, response_mode: BodyMode, *, may: bool
) -> None:
    """What a request asks its provider for may depend on it."""
    talk = Talk(opened(request_mode, response_mode), headers(), on.BodyRequired())
    assert talk.tell(body(b"a", ends=True)) == [do.JudgeBody(b"a", may_judge_answer=may)]


def test_an_answer_that_nobody_judges_goes_through_piece_by_piece() -> None:
    """Its phases were asked for before the model was known; the policy has nothing for it."""
    talk = Talk(opened(), headers(), JUDGED, body(b"a", ends=True), cleared())
    assert talk.tell(
        response_headers(), on.ResponseCleared(TIMED), response_body(b"a"),
        response_body(b"", ends=True),
    ) == [
        JUDGE, do.ContinueResponseHeaders(TIMED), sent(b"a"), sent(b"", ends=True), do.EndStream(),
    ]  # fmt: skip


def test_a_streamed_answer_sends_headers_first_and_pieces_as_they_are_judged() -> None:
    """What is held back is sent with a later piece; an empty one is no message."""
    talk = asked(response_headers())
    assert talk.tell(on.ResponseStreamed(TIMED)) == [do.ContinueResponseHeaders(TIMED)]
    assert talk.tell(response_body(b"one")) == [do.JudgeResponsePiece(b"one", is_last=False)]
    assert talk.tell(on.ResponsePieceJudged(b"")) == []
    assert talk.tell(response_body(b"two"), on.ResponsePieceJudged(b"onetwo")) == [
        do.JudgeResponsePiece(b"two", is_last=False),
        sent(b"onetwo"),
    ]
    assert talk.tell(response_body(b"", ends=True), on.ResponsePieceJudged(b"")) == [
        do.JudgeResponsePiece(b"", is_last=True),
        sent(b"", ends=True),
        do.EndStream(),
    ]


def test_a_judged_stream_may_end_before_its_upstream_does() -> None:
    """The error is the last the client reads, and the exchange is over."""
    talk = asked(response_headers(), on.ResponseStreamed(TIMED), response_body(b"a"))
    assert talk.tell(on.ResponsePieceJudged(b"error", ends=True, metadata=METADATA)) == [
        do.StreamResponseBody(b"error", end_of_stream=True, metadata=METADATA),
        do.EndStream(),
    ]


def test_a_long_piece_is_cut_and_ends_once() -> None:
    """Metadata goes with the last cut, whose end is the end."""
    long = b"x" * MAX_CHUNK_BYTES
    talk = asked(response_headers(), on.ResponseStreamed(TIMED), response_body(b"a", ends=True))
    assert talk.tell(on.ResponsePieceJudged(long + b"y", metadata=METADATA)) == [
        sent(long),
        do.StreamResponseBody(b"y", end_of_stream=True, metadata=METADATA),
        do.EndStream(),
    ]


def test_trailers_end_a_streamed_answer() -> None:
    """What was held back goes before them, and the last piece is no end."""
    talk = asked(response_headers(), on.ResponseStreamed(TIMED))
    assert talk.tell(TRAILERS) == [do.JudgeResponsePiece(b"", is_last=True)]
    assert talk.tell(on.ResponsePieceJudged(b"rest")) == [
        sent(b"rest"),
        do.ContinueResponseTrailers(),
        do.EndStream(),
    ]


def test_a_stream_blocked_at_its_trailers_ends_without_them() -> None:
    """The error's end is the end."""
    talk = asked(response_headers(), on.ResponseStreamed(TIMED), TRAILERS)
    assert talk.tell(on.ResponsePieceJudged(b"error", ends=True)) == [
        sent(b"error", ends=True),
        do.EndStream(),
    ]


def test_of_a_held_answer_nothing_goes_on_before_its_verdict() -> None:
    """Neither headers nor body; then both."""
    talk = asked(response_headers())
    assert talk.tell(on.ResponseHeld(), response_body(b"a")) == []
    assert talk.tell(response_body(b"b", ends=True)) == [do.JudgeResponseBody(b"ab")]
    assert talk.phase is Phase.JUDGING_ANSWER
    assert talk.tell(on.ResponseJudged(TIMED, metadata=METADATA)) == [
        do.ContinueResponseHeaders(TIMED, METADATA),
        sent(b"ab", ends=True),
        do.EndStream(),
    ]


def test_a_changed_answer_has_its_own_length() -> None:
    """The provider's would cut it, or never be reached."""
    talk = asked(response_headers(), on.ResponseHeld(), response_body(b"ab", ends=True))
    assert talk.tell(on.ResponseJudged(TIMED, b"changed")) == [
        do.ContinueResponseHeaders(WITH_LENGTH),
        sent(b"changed", ends=True),
        do.EndStream(),
    ]


def test_a_held_answer_may_end_in_trailers() -> None:
    """They follow the body that was judged."""
    talk = asked(response_headers(), on.ResponseHeld(), response_body(b"ab"))
    assert talk.tell(TRAILERS) == [do.JudgeResponseBody(b"ab")]
    assert talk.tell(on.ResponseJudged(TIMED)) == [
        do.ContinueResponseHeaders(TIMED),
        sent(b"ab"),
        do.ContinueResponseTrailers(),
        do.EndStream(),
    ]


def test_a_held_answer_may_be_nothing_but_trailers() -> None:
    """No empty piece goes before them."""
    talk = asked(response_headers(), on.ResponseHeld())
    assert talk.tell(TRAILERS) == [do.JudgeResponseBody(b"")]
    assert talk.tell(on.ResponseJudged(TIMED)) == [
        do.ContinueResponseHeaders(TIMED),
        do.ContinueResponseTrailers(),
        do.EndStream(),
    ]


HELD: dict[str, tuple[on.Event, ...]] = {
    "headers": (response_headers(),),
    "body": (response_headers(), on.ResponseHeld(), response_body(b"a")),
    "whole": (response_headers(), on.ResponseHeld(), response_body(b"a", ends=True)),
}


@pytest.mark.parametrize("name", ["headers", "whole"])
def test_an_answer_is_refused_while_nothing_of_it_has_gone_on(name: str) -> None:
    """With a status of its own; the provider's never leaves."""
    assert asked(*HELD[name]).tell(refused()) == REFUSE


@pytest.mark.parametrize("name", HELD)
def test_a_fault_refuses_what_is_still_held(name: str) -> None:
    """The client is told, instead of losing its connection."""
    talk = asked(*HELD[name])
    assert talk.tell(on.Faulted()) == [do.OweRefusal(ErrorKind.INTERNAL_ERROR)]
    assert talk.tell(refused()) == REFUSE


@pytest.mark.parametrize(
    "events",
    [(), (response_body(b"a"),), (response_body(b"a"), on.ResponsePieceJudged(b"a"))],
    ids=["begun", "judging", "between"],
)
def test_a_fault_in_a_stream_cuts_it(events: tuple[on.Event, ...]) -> None:
    """Its headers are gone; a plain end would let the rest pass unjudged."""
    talk = asked(response_headers(), on.ResponseStreamed(TIMED), *events)
    assert talk.tell(on.Faulted()) == [do.AbortStream()]


def test_a_verdict_on_an_answer_that_comes_late_is_a_refusal() -> None:
    """A remote guardrail that never answers must not hold the client for ever."""
    talk = asked(*HELD["whole"])
    assert talk.tell(on.DeadlinePassed()) == [
        do.OweRefusal(ErrorKind.GUARDRAIL_UNAVAILABLE),
    ]


def test_a_held_answer_over_the_limit_is_refused_before_its_end() -> None:
    """What cannot be kept cannot be judged."""
    talk = Talk(
        opened(), headers(), JUDGED, body(b"a", ends=True), CLEARED, response_headers(),
        on.ResponseHeld(), response_body(b"x" * 10), max_body_bytes=19,
    )  # fmt: skip
    assert talk.tell(response_body(b"x" * 10)) == [do.OweRefusal(ErrorKind.UNSCANNED_CONTENT)]
    assert talk.tell(refused()) == REFUSE


@pytest.mark.parametrize(("limit", "room"), [(3, 1_000), (1_000, 3)], ids=["long", "no room"])
def test_a_held_answer_that_may_goes_on_in_pieces_once_it_has_no_room(
    limit: int, room: int
) -> None:
    """It is paid for, and nothing judges it; what was kept of it is its first piece."""
    guard = OverloadGuard(max_exchanges=1, max_held_bytes=room)
    talk = Talk(
        opened(), headers(), JUDGED, body(b"a", ends=True), CLEARED, response_headers(),
        on.ResponseHeld(TIMED), response_body(b"ab"), max_body_bytes=limit, guard=guard,
    )  # fmt: skip
    assert talk.tell(response_body(b"cd")) == [
        do.ContinueResponseHeaders(TIMED),
        do.JudgeResponsePiece(b"abcd", is_last=False),
    ]
    assert guard.held_bytes == 0
    assert talk.tell(on.ResponsePieceJudged(b"abcd")) == [sent(b"abcd")]
    assert talk.tell(response_body(b"e", ends=True)) == [do.JudgeResponsePiece(b"e", is_last=True)]
    assert talk.tell(on.ResponsePieceJudged(b"e")) == [sent(b"e", ends=True), do.EndStream()]


def test_a_held_answer_whose_first_piece_has_no_room_is_not_kept() -> None:
    """The memory of the piece is free once it is sent, while the answer goes on."""
    talk = Talk(
        opened(), headers(), JUDGED, body(b"a", ends=True), CLEARED, response_headers(),
        on.ResponseHeld(TIMED), max_body_bytes=1,
    )  # fmt: skip
    wanted = [do.ContinueResponseHeaders(TIMED), do.JudgeResponsePiece(b"ab", is_last=False)]
    assert talk.tell(response_body(b"ab")) == wanted
    assert talk.protocol.body() == b""


def test_a_buffered_answer_that_may_is_here_without_room_for_it() -> None:
    """Envoy keeps it, and sends it in one message."""
    talk = Talk(
        opened(BUFFERED, BUFFERED), headers(), JUDGED, body(b"a", ends=True), CLEARED,
        response_headers(), on.ResponseHeld(TIMED), max_body_bytes=1,
    )  # fmt: skip
    assert talk.tell(response_body(b"ab")) == [do.JudgeResponseBody(b"ab")]
    assert talk.tell(on.ResponseJudged(TIMED)) == [do.ContinueResponseBody(TIMED)]
    assert talk.tell(TRAILERS) == [do.ContinueResponseTrailers(), do.EndStream()]


@pytest.mark.parametrize("name", [*HELD])
def test_a_half_close_lets_nothing_of_a_held_answer_pass(name: str) -> None:
    """Whoever closed may wait for a verdict that is on its way; else the stream is cut."""
    talk = asked(*HELD[name])
    wanted = [] if name == "whole" else [do.AbortStream()]
    assert talk.tell(on.StreamClosed()) == wanted


def test_a_buffered_answer_is_judged_in_its_body_message() -> None:
    """Envoy holds the headers, wants them answered, and takes a changed body."""
    talk = Talk(opened(BUFFERED, BUFFERED), headers(), JUDGED, body(b"a", ends=True), CLEARED)
    assert talk.tell(response_headers(), on.ResponseHeld()) == [
        do.JudgeResponseHeaders(RESPONSE_HEADERS, has_body=True, may_stream=False),
        do.ContinueResponseHeaders(NO_CHANGE),
    ]
    assert talk.tell(response_body(b"ab", ends=True)) == [do.JudgeResponseBody(b"ab")]
    assert talk.tell(on.ResponseJudged(TIMED, b"changed", METADATA)) == [
        do.ContinueResponseBody(
            HeaderMutation((*TIMED.set_headers, ("content-length", b"7"))), b"changed", METADATA
        ),
        do.EndStream(),
    ]


def test_trailers_of_a_buffered_answer_are_answered_after_it() -> None:
    """The body's message says that more follows."""
    talk = Talk(opened(BUFFERED, BUFFERED), headers(), JUDGED, body(b"a", ends=True), CLEARED)
    talk.tell(response_headers(), on.ResponseHeld(), response_body(b"ab"))
    assert talk.tell(on.ResponseJudged(NO_CHANGE)) == [do.ContinueResponseBody()]
    assert talk.tell(TRAILERS) == [do.ContinueResponseTrailers(), do.EndStream()]


@pytest.mark.parametrize("request_mode", [BUFFERED, DUPLEX], ids=lambda mode: mode.value)
@pytest.mark.parametrize(
    "response_mode", [NONE, BodyMode.STREAMED, BodyMode.BUFFERED_PARTIAL], ids=lambda m: m.value
)
def test_where_the_configuration_cannot_hold_an_answer_the_request_is_refused(
    request_mode: BodyMode, response_mode: BodyMode
) -> None:
    """The answer would pass unjudged, or before its verdict."""
    talk = Talk(opened(request_mode, response_mode), headers())
    assert talk.tell(JUDGED) == [do.OweRefusal(ErrorKind.UNSUPPORTED_PROCESSING_MODE)]


def test_a_configured_duplex_mode_judges_answers_too() -> None:
    """Nothing is overridden: Envoy sends all there is anyway."""
    talk = Talk(opened(DUPLEX, DUPLEX), headers())
    assert talk.tell(JUDGED, body(b"a", ends=True)) == [do.JudgeBody(b"a")]
    talk.tell(CLEARED)
    assert talk.tell(response_headers(), on.ResponseStreamed(TIMED)) == [
        JUDGE,
        do.ContinueResponseHeaders(TIMED),
    ]


def test_the_body_of_a_judged_answer_without_its_headers_is_not_let_on() -> None:
    """A response_header_mode of SKIP: nobody can tell what the bytes are."""
    talk = Talk(opened(DUPLEX, DUPLEX), headers(), JUDGED, body(b"a", ends=True), CLEARED)
    with pytest.raises(ProtocolViolationError):
        talk.tell(response_body(b"a"))


@pytest.mark.parametrize(
    "event",
    [
        on.ResponseStreamed(TIMED),
        on.ResponseHeld(),
        on.ResponsePieceJudged(b"a"),
        on.ResponseJudged(TIMED),
    ],
    ids=lambda event: type(event).__name__,
)
def test_a_verdict_nobody_waits_for_is_a_fault(event: on.Event) -> None:
    """On the answer, before there is one, and on the request."""
    with pytest.raises(ProtocolViolationError):
        asked().tell(event)
    with pytest.raises(ProtocolViolationError):
        Talk(opened(), headers()).tell(event)


@pytest.mark.parametrize(
    "event",
    [response_body(b"b"), response_headers(), TRAILERS, trailers()],
    ids=lambda event: type(event).__name__,
)
def test_nothing_comes_while_a_whole_answer_is_judged(event: on.Event) -> None:
    """All of it was there."""
    with pytest.raises(ProtocolViolationError):
        asked(*HELD["whole"]).tell(event)


def test_late_trailers_of_the_request_are_answered_while_the_answer_streams() -> None:
    """They change nothing of it."""
    talk = asked(response_headers(), on.ResponseStreamed(TIMED))
    assert talk.tell(trailers()) == [do.ContinueRequestTrailers()]
    assert talk.phase is Phase.AWAIT_PIECE


def test_the_answer_to_a_request_without_a_body_is_asked_for_with_its_headers() -> None:
    """A stored answer that is fetched again: no override came before."""
    talk = Talk(opened(), headers(ends=True))
    assert talk.tell(CLEARED) == [
        do.ContinueRequestHeaders(
            headers=STRIPPED, metadata=METADATA, response_headers=True, response_body=True
        )
    ]
    assert talk.tell(response_headers()) == [JUDGE]


def test_where_it_cannot_be_held_a_request_without_a_body_is_refused_too() -> None:
    """Nothing may be said unjudged."""
    talk = Talk(opened(BUFFERED), headers(ends=True))
    assert talk.tell(CLEARED) == [
        do.OweRefusal(ErrorKind.UNSUPPORTED_PROCESSING_MODE),
    ]


@pytest.mark.parametrize("late", [headers(), body(b"a")], ids=["headers", "body"])
def test_a_message_of_a_request_that_was_answered_whole_is_a_violation(late: on.Event) -> None:
    """The headers of its answer are here: nothing of the request can follow."""
    talk = Talk(opened(), headers(ends=True), CLEARED, response_headers())
    with pytest.raises(ProtocolViolationError):
        talk.tell(late)
    assert talk.phase is Phase.JUDGING_ANSWER_HEADERS


@pytest.mark.parametrize("mode", [BUFFERED, BodyMode.STREAMED], ids=lambda mode: mode.value)
def test_a_passing_answer_can_be_refused_while_the_gateway_keeps_all_of_it(mode: BodyMode) -> None:
    """There may be no room for its body; once that has gone on, its trailers can still come."""
    passing = (opened(BUFFERED, mode), headers(ends=True), cleared(), response_headers())
    talk = Talk(*passing, on.ResponseCleared(TIMED))
    assert talk.protocol.may_refuse is (mode is BUFFERED)
    talk.tell(response_body(b"a"))
    assert talk.phase is Phase.PASSING_ANSWER
    assert not talk.protocol.may_refuse
    if mode is BUFFERED:
        assert Talk(*passing, on.ResponseCleared(TIMED), refused()).phase is Phase.ENDED


def test_an_answer_that_is_only_timed_cannot_be_refused() -> None:
    """Its body may be on the way to the client, and no guardrail asked for it."""
    talk = Talk(opened(), headers(), wants_response_headers=True)
    talk.tell(cleared(), response_headers())
    with pytest.raises(ProtocolViolationError):
        talk.tell(refused())
    assert talk.phase is Phase.JUDGING_ANSWER_HEADERS
