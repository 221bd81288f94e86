from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar._generated.envoy.extensions.filters.http.ext_proc.v3 import (
    processing_mode_pb2 as modes,
)
from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from sidecar.extproc import codec
from sidecar.extproc.codec import MAX_CHUNK_BYTES
from sidecar.extproc.phases import BodyMode, Phase, ProtocolViolationError
from tests.support import envoy_messages as envoy
from tests.support import events as on
from tests.support import replies as do
from tests.support.conversation import (
    RESPONSE_HEADERS,
    TIMED,
    Talk,
    cleared,
    headers,
    opened,
    response_body,
    response_headers,
)

JUDGE = do.JudgeResponseHeaders(RESPONSE_HEADERS, has_body=True, may_stream=False)
JUDGE_DUPLEX = replace(JUDGE, may_stream=True)
CONTINUE = do.ContinueResponseHeaders(TIMED)
CLEARED = on.ResponseCleared(TIMED)
TRAILERS = on.ResponseTrailersReceived()


def respond(mode: BodyMode, *events: on.ResponseEvent) -> tuple[list[do.Effect], bool]:
    """Return the answers to *events* and whether the response is complete after them."""
    talk = answering(mode)
    answers: list[do.Effect] = [
        one for one in talk.tell(*events) if not isinstance(one, do.EndStream)
    ]
    return answers, talk.protocol.phase is Phase.ENDED


def answering(mode: BodyMode) -> Talk:
    """Return a protocol whose request is through, and whose answer is not judged."""
    before = (opened(BodyMode.NONE, mode), headers(ends=True), cleared())
    return Talk(*before, wants_response_headers=True)


@pytest.mark.parametrize("mode", BodyMode, ids=lambda mode: mode.value)
def test_a_response_without_body_is_complete_with_its_headers(mode: BodyMode) -> None:
    """Envoy sends nothing after them, whatever is configured."""
    events = (response_headers(ends=True), CLEARED)
    judge = JUDGE_DUPLEX if mode is BodyMode.FULL_DUPLEX_STREAMED else JUDGE
    assert respond(mode, *events) == ([replace(judge, has_body=False), CONTINUE], True)


def test_a_body_that_does_not_come_here_is_not_waited_for() -> None:
    """Mode NONE: the headers are the last thing to answer."""
    assert respond(BodyMode.NONE, response_headers(), CLEARED) == ([JUDGE, CONTINUE], True)


@pytest.mark.parametrize(
    "mode",
    [BodyMode.STREAMED, BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL],
    ids=lambda m: m.value,
)
def test_each_piece_that_envoy_keeps_is_answered_once(mode: BodyMode) -> None:
    """One message, one answer, in order."""
    events = (response_headers(), CLEARED, response_body(b"a"), response_body(b"b", ends=True))
    assert respond(mode, *events) == (
        [JUDGE, CONTINUE, do.ContinueResponseBody(), do.ContinueResponseBody()],
        True,
    )


def test_a_duplex_response_body_is_sent_back_in_pieces_that_envoy_takes() -> None:
    """Only the last piece of the last message ends the response."""
    long = b"x" * MAX_CHUNK_BYTES
    events = (
        response_headers(),
        CLEARED,
        response_body(long + b"y"),
        response_body(long + b"z", ends=True),
    )
    assert respond(BodyMode.FULL_DUPLEX_STREAMED, *events) == (
        [
            JUDGE_DUPLEX,
            CONTINUE,
            do.StreamResponseBody(long, end_of_stream=False),
            do.StreamResponseBody(b"y", end_of_stream=False),
            do.StreamResponseBody(long, end_of_stream=False),
            do.StreamResponseBody(b"z", end_of_stream=True),
        ],
        True,
    )


def test_trailers_complete_a_response() -> None:
    """The piece of body before them had no end_of_stream."""
    events = (response_headers(), CLEARED, response_body(b"a"), TRAILERS)
    assert respond(BodyMode.STREAMED, *events) == (
        [JUDGE, CONTINUE, do.ContinueResponseBody(), do.ContinueResponseTrailers()],
        True,
    )


def test_a_body_may_come_without_headers_where_their_phase_is_skipped() -> None:
    """response_header_mode SKIP with a body mode: the body is the first thing to answer."""
    assert respond(BodyMode.STREAMED, response_body(b"a")) == ([do.ContinueResponseBody()], False)


@pytest.mark.parametrize(
    ("before", "event", "name", "phase"),
    [
        ((), CLEARED, "pass_answer", Phase.AWAIT_ANSWER),
        ((), TRAILERS, "response_trailers", Phase.AWAIT_ANSWER),
        (
            (response_headers(),),
            response_headers(),
            "response_headers",
            Phase.JUDGING_ANSWER_HEADERS,
        ),
        (
            (response_headers(),),
            response_body(b"a"),
            "response_body",
            Phase.JUDGING_ANSWER_HEADERS,
        ),
        (
            (response_headers(), CLEARED),
            response_headers(),
            "response_headers",
            Phase.PASSING_ANSWER,
        ),
        (
            (response_headers(ends=True), CLEARED),
            response_body(b"a"),
            "response_body",
            Phase.ENDED,
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Phase) else None,
)
def test_a_response_out_of_order_raises_and_changes_nothing(
    before: tuple[on.Event, ...], event: on.Event, name: str, phase: Phase
) -> None:
    """The error names both sides."""
    talk = answering(BodyMode.STREAMED)
    talk.tell(*before)
    with pytest.raises(ProtocolViolationError) as caught:
        talk.tell(event)
    assert str(caught.value) == f"{name} in phase {phase.name}"
    assert talk.phase is phase


def awaiting_usage() -> Talk:
    """Return a protocol whose request is through, and which waits for Envoy's counts."""
    talk = Talk(opened(BodyMode.NONE, BodyMode.NONE), headers(ends=True))
    talk.protocol.forward(awaits_usage=True)
    return talk


def test_a_stream_that_awaits_counts_asks_for_headers_and_trailers_and_stays() -> None:
    """The body of the answer passes without Egret."""
    talk = awaiting_usage()
    (answer,) = talk.protocol.outgoing
    assert isinstance(answer, bytes)
    mode = ext.ProcessingResponse.FromString(answer).mode_override
    send = modes.ProcessingMode.SEND
    assert (mode.response_header_mode, mode.response_trailer_mode) == (send, send)
    assert mode.response_body_mode == modes.ProcessingMode.NONE
    talk.tell(response_headers(), CLEARED)
    assert talk.phase is Phase.PASSING_ANSWER
    talk.tell(TRAILERS)
    assert (talk.phase, talk.protocol.has_trailers) == (Phase.ENDED, True)


def test_trailers_may_come_without_the_headers_before_them() -> None:
    """As in a gateway with `response_header_mode: SKIP`."""
    talk = awaiting_usage()
    talk.tell(TRAILERS)
    assert (talk.phase, talk.protocol.is_aborted) == (Phase.ENDED, False)


def test_trailers_that_nothing_asked_for_are_a_violation() -> None:
    """They change nothing."""
    talk = answering(BodyMode.NONE)
    with pytest.raises(ProtocolViolationError):
        talk.tell(TRAILERS)
    assert not talk.protocol.has_trailers


def test_counts_that_never_come_leave_the_stream_to_envoys_end_of_it() -> None:
    """It half-closes; nothing is owed, so that nothing fails."""
    talk = awaiting_usage()
    talk.tell(response_headers(), CLEARED, on.StreamClosed())
    assert (talk.phase, talk.protocol.is_aborted) == (Phase.ENDED, False)


def test_a_body_that_is_requested_first_asks_for_the_trailers_as_well() -> None:
    """One override states the whole mode; the answer to the headers states none."""
    talk = Talk(opened(), headers())
    talk.protocol.require_body(awaits_usage=True)
    talk.protocol.receive(envoy.request_body(b"{}", ends=True).SerializeToString())
    talk.protocol.forward(awaits_usage=True)
    overrides = [
        ext.ProcessingResponse.FromString(one).HasField("mode_override")
        for one in talk.protocol.outgoing
        if isinstance(one, bytes)
    ]
    assert overrides == [True, False, False]
    assert talk.protocol.outgoing[0] == codec.OVERRIDES[True, False, True]
