"""Every way a request can take: what Envoy and the checks say, and what is wanted done."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest

from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import HeaderMutation
from sidecar.extproc.codec import MAX_CHUNK_BYTES
from sidecar.extproc.phases import BodyMode, Phase, ProtocolViolationError
from tests.support import events as on
from tests.support import replies as do
from tests.support.conversation import (
    MAX_BODY_BYTES,
    METADATA,
    REFUSAL,
    REQUEST_HEADERS,
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

JUDGE_HEADERS = do.JudgeHeaders(REQUEST_HEADERS, has_body=True)
HEADERS_ANSWER = do.ContinueRequestHeaders(headers=STRIPPED, metadata=METADATA)


def stripped_with_length(length: bytes) -> HeaderMutation:
    """Return the answer's changes to the headers when the body is changed to this length."""
    return HeaderMutation((("content-length", length),), ("authorization", "content-length"))


NAMED = HeaderMutation((("x-egret-model", b"gpt-5"),), ("authorization",))
REFUSE = [do.Refuse(REFUSAL), do.EndStream()]

PHASES: dict[str, tuple[on.Event, ...]] = {
    "headers": (opened(DUPLEX), headers()),
    "held-body": (opened(DUPLEX), headers(), body(b"a")),
    "body-override": (opened(), headers(), on.BodyRequired()),
    "body-buffered": (opened(BUFFERED), headers(), on.BodyRequired()),
    "judging-body": (opened(), headers(), on.BodyRequired(), body(b"a", ends=True)),
}
"""Ways to each phase in which the request has no answer yet but its headers were seen."""
IS_JUDGING = {"headers", "held-body", "judging-body"}


# The default mode: bodies NONE.


def test_a_request_whose_policy_needs_the_body_is_held_streamed_judged_and_sent_on() -> None:
    """Headers stay in Envoy until the body is judged; then both go on and the stream ends."""
    talk = Talk()
    assert talk.tell(opened(), headers()) == [JUDGE_HEADERS]
    assert talk.tell(on.BodyRequired()) == [do.OverrideMode(response_headers=False)]
    assert talk.tell(body(b"ab"), body(b"c")) == []
    assert talk.tell(body(b"", ends=True)) == [do.JudgeBody(b"abc")]
    assert talk.tell(cleared()) == [
        HEADERS_ANSWER,
        do.StreamRequestBody(b"abc", end_of_stream=True),
        do.EndStream(),
    ]


def test_the_address_of_the_client_comes_with_the_headers() -> None:
    """A key may be restricted to networks."""
    asked = replace(headers(), source_address="192.0.2.7")

    assert Talk(opened()).tell(asked) == [replace(JUDGE_HEADERS, source_address="192.0.2.7")]


def test_a_request_whose_policy_needs_no_body_costs_one_message() -> None:
    """The body goes from client to upstream without passing here."""
    assert Talk(opened(), headers()).tell(cleared()) == [HEADERS_ANSWER, do.EndStream()]


@pytest.mark.parametrize("mode", [NONE, BUFFERED, DUPLEX], ids=lambda mode: mode.value)
def test_a_request_without_body_is_answered_on_its_headers(mode: BodyMode) -> None:
    """No body mode makes a difference where there is no body."""
    talk = Talk(opened(mode))
    assert talk.tell(headers(ends=True)) == [do.JudgeHeaders(REQUEST_HEADERS, has_body=False)]
    assert talk.tell(cleared()) == [HEADERS_ANSWER, do.EndStream()]


@pytest.mark.parametrize("mode", [NONE, BUFFERED, DUPLEX], ids=lambda mode: mode.value)
def test_a_body_is_judged_as_empty_where_there_is_none(mode: BodyMode) -> None:
    """Whoever asks for the body of a request without one gets an empty one at once."""
    talk = Talk(opened(mode), headers(ends=True))
    assert talk.tell(on.BodyRequired()) == [do.JudgeBody(b"", may_judge_answer=mode is NONE)]
    assert talk.tell(cleared()) == [HEADERS_ANSWER, do.EndStream()]


ROUTED = on.RequestCleared(on.RequestMutations(headers=NAMED, clear_route_cache=True))


@pytest.mark.parametrize(
    "before",
    [
        pytest.param((opened(), headers()), id="headers"),
        pytest.param((opened(), headers(), on.BodyRequired(), body(b"a", ends=True)), id="none"),
        pytest.param((opened(DUPLEX), headers()), id="duplex-headers"),
        pytest.param(
            (opened(DUPLEX), headers(), on.BodyRequired(), body(b"a", ends=True)), id="duplex"
        ),
    ],
)
def test_a_route_is_chosen_anew_with_the_answer_to_the_headers(
    before: tuple[on.Event, ...],
) -> None:
    """The same answer that changes them: they are held until the verdict, body or not."""
    answers = [
        effect
        for effect in Talk(*before).tell(ROUTED)
        if isinstance(effect, do.ContinueRequestHeaders)
    ]
    assert answers == [do.ContinueRequestHeaders(headers=NAMED, clear_route_cache=True)]


def test_a_route_is_chosen_anew_with_the_answer_to_a_buffered_body() -> None:
    """The headers had to be answered before it came; Envoy still holds them."""
    talk = Talk(opened(BUFFERED), headers(), on.BodyRequired(STRIPPED), body(b"a", ends=True))
    assert talk.lines[2][1] == [do.ContinueRequestHeaders(headers=STRIPPED)]
    assert talk.tell(ROUTED) == [
        do.ContinueRequestBody(headers=NAMED, clear_route_cache=True),
        do.EndStream(),
    ]


def test_a_changed_body_goes_on_without_the_old_content_length() -> None:
    """Envoy keeps it in this mode: the rest would be a smuggled request."""
    talk = Talk(opened(), headers(), on.BodyRequired(), body(b"abc", ends=True))
    assert talk.tell(cleared(b"changed")) == [
        do.ContinueRequestHeaders(headers=stripped_with_length(b"7"), metadata=METADATA),
        do.StreamRequestBody(b"changed", end_of_stream=True),
        do.EndStream(),
    ]


def test_a_body_that_was_changed_to_nothing_is_still_ended() -> None:
    """An empty body is one empty last piece."""
    talk = Talk(opened(), headers(), on.BodyRequired(), body(b"abc", ends=True))
    assert talk.tell(cleared(b"")) == [
        do.ContinueRequestHeaders(headers=stripped_with_length(b"0"), metadata=METADATA),
        do.StreamRequestBody(b"", end_of_stream=True),
        do.EndStream(),
    ]


def test_a_long_body_goes_on_in_pieces_and_only_the_last_ends_it() -> None:
    """Envoy recommends pieces of at most 64 KiB."""
    sent = b"x" * MAX_CHUNK_BYTES + b"y" * MAX_CHUNK_BYTES + b"z"
    talk = Talk(
        opened(),
        headers(),
        on.BodyRequired(),
        body(sent, ends=True),
        max_body_bytes=len(sent),
    )
    assert talk.tell(cleared()) == [
        HEADERS_ANSWER,
        do.StreamRequestBody(b"x" * MAX_CHUNK_BYTES, end_of_stream=False),
        do.StreamRequestBody(b"y" * MAX_CHUNK_BYTES, end_of_stream=False),
        do.StreamRequestBody(b"z", end_of_stream=True),
        do.EndStream(),
    ]


@pytest.mark.parametrize("sent", [(), (body(b"abc"),)], ids=["no-body", "body"])
def test_trailers_after_a_streamed_body_are_refused(sent: tuple[on.Event, ...]) -> None:
    """Envoy 1.40 would send the body twice, and nobody has judged it twice."""
    talk = Talk(opened(), headers(), on.BodyRequired(), *sent)
    assert talk.tell(trailers()) == [do.OweRefusal(ErrorKind.REQUEST_TRAILERS)]
    assert talk.tell(refused()) == [do.Refuse(REFUSAL), do.EndStream()]


# BUFFERED.


def test_a_buffered_body_is_asked_for_by_answering_the_headers() -> None:
    """Credentials go with that answer: a request that ends in trailers gets no other."""
    stripped = HeaderMutation(remove_headers=("authorization",))
    talk = Talk(opened(BUFFERED), headers())
    assert talk.tell(on.BodyRequired(stripped)) == [do.ContinueRequestHeaders(stripped)]
    assert talk.tell(body(b"abc", ends=True)) == [do.JudgeBody(b"abc", may_judge_answer=False)]
    assert talk.tell(cleared()) == [
        do.ContinueRequestBody(headers=STRIPPED, body=None, metadata=METADATA),
        do.EndStream(),
    ]


def test_a_changed_buffered_body_gets_its_new_content_length() -> None:
    """Envoy refuses a buffered body that is not as long as content-length says."""
    talk = Talk(opened(BUFFERED), headers(), on.BodyRequired(), body(b"abc", ends=True))
    assert talk.tell(cleared(b"changed")) == [
        do.ContinueRequestBody(
            headers=HeaderMutation((("content-length", b"7"),), ("authorization",)),
            body=b"changed",
            metadata=METADATA,
        ),
        do.EndStream(),
    ]


def test_a_buffered_body_with_trailers_is_judged_before_they_come() -> None:
    """Envoy sends the trailers only after the body is answered."""
    talk = Talk(opened(BUFFERED), headers(), on.BodyRequired())
    assert talk.tell(body(b"abc")) == [do.JudgeBody(b"abc", may_judge_answer=False)]
    assert talk.tell(cleared()) == [
        do.ContinueRequestBody(headers=STRIPPED, body=None, metadata=METADATA)
    ]
    assert talk.tell(trailers()) == [do.ContinueRequestTrailers(), do.EndStream()]


def test_a_second_buffered_body_is_not_answered_by_the_verdict_of_the_first() -> None:
    """Envoy sends one; the provider would read another that was never judged."""
    talk = Talk(opened(BUFFERED), headers(), on.BodyRequired(), body(b"abc"), cleared())
    with pytest.raises(ProtocolViolationError):
        talk.tell(body(b"other", ends=True))


def test_a_body_in_many_short_pieces_takes_little_more_memory_than_its_bytes() -> None:
    talk = Talk(opened(DUPLEX), headers(), on.BodyRequired(), max_body_bytes=1 << 20)
    piece = ext.ProcessingRequest(request_body=ext.HttpBody(body=b"ab")).SerializeToString()
    count = 20_000
    tracemalloc.start()
    for _ in range(count):
        talk.protocol.receive(piece)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 5 * 2 * count
    assert talk.tell(body(b"c", ends=True)) == [
        do.JudgeBody(b"ab" * count + b"c", may_judge_answer=False)
    ]


def test_a_buffered_body_that_nobody_needs_is_answered_unseen() -> None:
    """BUFFERED sends the body whatever the verdict was."""
    talk = Talk(opened(BUFFERED), headers())
    assert talk.tell(cleared()) == [HEADERS_ANSWER]
    assert talk.tell(body(b"abc", ends=True)) == [do.ContinueRequestBody(), do.EndStream()]


def test_a_buffered_body_that_nobody_needs_may_have_trailers() -> None:
    """Both are answered, and the stream ends after the second."""
    talk = Talk(opened(BUFFERED), headers(), cleared())
    assert talk.tell(body(b"abc")) == [do.ContinueRequestBody()]
    assert talk.tell(trailers()) == [do.ContinueRequestTrailers(), do.EndStream()]


def test_buffered_trailers_without_body_are_judged_as_an_empty_body() -> None:
    """Nothing of the request goes on before a verdict."""
    talk = Talk(opened(BUFFERED), headers(), on.BodyRequired())
    assert talk.tell(trailers()) == [do.JudgeBody(b"", may_judge_answer=False)]


# FULL_DUPLEX_STREAMED as the configured mode.


def test_a_duplex_body_that_came_while_the_headers_were_judged_is_judged_at_once() -> None:
    """Pieces are kept while authorization runs; no message asks for the body."""
    talk = Talk(opened(DUPLEX), headers())
    assert talk.tell(body(b"ab"), body(b"c", ends=True)) == []
    assert talk.tell(on.BodyRequired()) == [do.JudgeBody(b"abc", may_judge_answer=False)]
    assert talk.tell(cleared()) == [
        HEADERS_ANSWER,
        do.StreamRequestBody(b"abc", end_of_stream=True),
        do.EndStream(),
    ]


def test_a_duplex_body_that_comes_later_is_waited_for_without_a_message() -> None:
    """There is nothing to answer until the body is whole."""
    talk = Talk(opened(DUPLEX), headers(), body(b"ab"))
    assert talk.tell(on.BodyRequired()) == []
    assert talk.tell(body(b"c", ends=True)) == [do.JudgeBody(b"abc", may_judge_answer=False)]


def test_a_duplex_body_that_nobody_needs_is_sent_back_piece_by_piece() -> None:
    """What was held goes first, the rest as it comes."""
    talk = Talk(opened(DUPLEX), headers(), body(b"ab"))
    assert talk.tell(cleared()) == [
        HEADERS_ANSWER,
        do.StreamRequestBody(b"ab", end_of_stream=False),
    ]
    assert talk.tell(body(b"c")) == [do.StreamRequestBody(b"c", end_of_stream=False)]
    assert talk.tell(body(b"", ends=True)) == [
        do.StreamRequestBody(b"", end_of_stream=True),
        do.EndStream(),
    ]


def test_a_duplex_body_that_nobody_needs_and_that_has_not_begun_is_only_waited_for() -> None:
    """No empty piece is sent ahead of the body."""
    assert Talk(opened(DUPLEX), headers()).tell(cleared()) == [HEADERS_ANSWER]


def test_a_whole_duplex_body_that_nobody_needs_goes_back_with_the_headers() -> None:
    """All that is owed goes out in one turn."""
    talk = Talk(opened(DUPLEX), headers(), body(b"", ends=True))
    assert talk.tell(cleared()) == [
        HEADERS_ANSWER,
        do.StreamRequestBody(b"", end_of_stream=True),
        do.EndStream(),
    ]


@pytest.mark.parametrize("held", [(), (body(b"ab"),)], ids=["no-body", "body"])
def test_duplex_trailers_that_come_while_the_headers_are_judged_are_refused(
    held: tuple[on.Event, ...],
) -> None:
    """Whatever would have come of the judgement."""
    talk = Talk(opened(DUPLEX), headers(), *held)
    assert talk.tell(trailers()) == [
        do.OweRefusal(ErrorKind.REQUEST_TRAILERS),
    ]


def test_duplex_trailers_after_a_body_that_nobody_needs_are_answered() -> None:
    """They end the request."""
    talk = Talk(opened(DUPLEX), headers(), cleared(), body(b"ab"))
    assert talk.tell(trailers()) == [do.ContinueRequestTrailers(), do.EndStream()]


# Limits, deadlines, faults.


@pytest.mark.parametrize(
    "before",
    [
        (opened(), headers(), on.BodyRequired()),
        (opened(DUPLEX), headers(), on.BodyRequired()),
        (opened(BUFFERED), headers(), on.BodyRequired()),
    ],
    ids=["override", "duplex", "buffered"],
)
def test_a_body_over_the_limit_is_refused_before_it_ends(before: tuple[on.Event, ...]) -> None:
    """The client gets 413 without the rest being read."""
    talk = Talk(*before)
    assert talk.tell(body(b"x" * (MAX_BODY_BYTES + 1))) == [
        do.OweRefusal(ErrorKind.BODY_TOO_LARGE)
    ]
    assert talk.tell(refused()) == REFUSE


def test_a_body_exactly_at_the_limit_is_judged() -> None:
    """The limit counts all pieces together and is inclusive."""
    talk = Talk(opened(), headers(), on.BodyRequired(), body(b"x" * (MAX_BODY_BYTES - 1)))
    assert talk.tell(body(b"y", ends=True)) == [do.JudgeBody(b"x" * (MAX_BODY_BYTES - 1) + b"y")]


def test_a_body_over_the_limit_ends_the_judgement_of_the_headers_too() -> None:
    """What is held while the headers are judged is bounded as well."""
    talk = Talk(opened(DUPLEX), headers(), body(b"x" * MAX_BODY_BYTES))
    assert talk.tell(body(b"y")) == [
        do.OweRefusal(ErrorKind.BODY_TOO_LARGE),
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("headers", ErrorKind.AUTHORIZATION_UNAVAILABLE),
        ("held-body", ErrorKind.AUTHORIZATION_UNAVAILABLE),
        ("body-override", ErrorKind.BODY_TIMEOUT),
        ("body-buffered", ErrorKind.BODY_TIMEOUT),
        ("judging-body", ErrorKind.GUARDRAIL_UNAVAILABLE),
    ],
)
def test_a_wait_that_takes_too_long_is_refused(name: str, kind: ErrorKind) -> None:
    """The client learns which side was slow, and what still runs is abandoned."""
    talk = Talk(*PHASES[name])
    assert talk.tell(on.DeadlinePassed()) == [do.OweRefusal(kind)]
    assert talk.tell(refused()) == REFUSE


@pytest.mark.parametrize(
    "before",
    [
        (opened(BUFFERED), headers(), cleared()),
        (opened(response=BodyMode.STREAMED), headers(), cleared()),
        (opened(), headers(), cleared()),
    ],
    ids=["passing", "responding", "ended"],
)
def test_a_deadline_means_nothing_where_nothing_of_ours_is_waited_for(
    before: tuple[on.Event, ...],
) -> None:
    """The answer was faster, or Envoy's own timers rule."""
    talk = Talk(*before)
    phase = talk.phase
    assert talk.tell(on.DeadlinePassed()) == []
    assert talk.phase is phase


@pytest.mark.parametrize("name", PHASES)
def test_a_fault_before_the_answer_is_worded_as_a_refusal(name: str) -> None:
    """A bug of ours is a 500, never a pass."""
    talk = Talk(*PHASES[name])
    assert talk.tell(on.Faulted()) == [do.OweRefusal(ErrorKind.INTERNAL_ERROR)]
    assert talk.tell(refused()) == REFUSE


@pytest.mark.parametrize("before", [(), (opened(),)], ids=["opening", "no-headers"])
def test_a_fault_before_any_headers_is_worded_as_a_refusal(before: tuple[on.Event, ...]) -> None:
    """Even a first message that cannot be read is answered."""
    talk = Talk(*before)
    assert talk.tell(on.Faulted(ErrorKind.INTERNAL_ERROR)) == [
        do.OweRefusal(ErrorKind.INTERNAL_ERROR)
    ]


@pytest.mark.parametrize(
    "before",
    [
        (opened(BUFFERED), headers(), cleared()),
        (opened(DUPLEX), headers(), cleared(), body(b"a")),
        (opened(response=BodyMode.STREAMED), headers(), cleared()),
        (*PHASES["headers"], response_headers()),
    ],
    ids=["passing-buffered", "passing-duplex", "responding", "overtaken"],
)
def test_a_fault_that_no_refusal_can_word_aborts_the_stream(before: tuple[on.Event, ...]) -> None:
    """Envoy fails closed on an aborted stream; a plain end would let the request go on."""
    talk = Talk(*before)
    assert talk.tell(on.Faulted()) == [do.AbortStream()]
    assert talk.phase is Phase.ENDED


@pytest.mark.parametrize("event", [on.Faulted(), on.DeadlinePassed(), on.StreamClosed()])
def test_nothing_is_done_after_the_end(event: on.Event) -> None:
    """The end is said once."""
    assert Talk(opened(), headers(), cleared()).tell(event) == []


# Refusals.


@pytest.mark.parametrize("name", [*sorted(IS_JUDGING)])
def test_a_refusal_is_the_last_word(name: str) -> None:
    """One immediate response, and the stream ends with it."""
    assert Talk(*PHASES[name]).tell(refused()) == REFUSE


# Half-close.


@pytest.mark.parametrize(
    "before",
    [(), (opened(),), PHASES["body-override"], PHASES["body-buffered"]],
    ids=["opening", "no-headers", "body-override", "body-buffered"],
)
def test_a_stream_that_closes_before_the_request_is_whole_is_aborted(
    before: tuple[on.Event, ...],
) -> None:
    """An end with OK would let an unjudged request go on."""
    assert Talk(*before).tell(on.StreamClosed()) == [do.AbortStream()]


def test_an_aborted_stream_stays_aborted_when_it_closes() -> None:
    """An end with OK would let the request go on."""
    protocol = Talk().protocol
    protocol.abort()

    protocol.half_close()

    assert protocol.is_aborted


@pytest.mark.parametrize("name", sorted(IS_JUDGING))
def test_a_half_close_does_not_stop_a_judgement(name: str) -> None:
    """Whoever half-closes may still wait for the verdict."""
    talk = Talk(*PHASES[name])
    assert talk.tell(on.StreamClosed()) == []
    assert talk.tell(refused()) == REFUSE


def test_a_request_cleared_after_a_half_close_is_answered_and_over() -> None:
    """No response phase can come any more, though one is configured."""
    talk = Talk(*PHASES["judging-body"], on.StreamClosed(), wants_response_headers=True)
    assert talk.tell(cleared()) == [
        HEADERS_ANSWER,
        do.StreamRequestBody(b"a", end_of_stream=True),
        do.EndStream(),
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (PHASES["headers"], []),
        (PHASES["held-body"], [do.StreamRequestBody(b"a", end_of_stream=False)]),
        ((opened(BUFFERED), headers()), []),
    ],
    ids=["duplex", "duplex-held", "buffered"],
)
def test_a_request_cleared_on_headers_after_a_half_close_waits_for_no_body(
    before: tuple[on.Event, ...], after: list[do.Effect]
) -> None:
    """The rest of the body can no longer come, so nothing more is owed."""
    talk = Talk(*before, on.StreamClosed())
    assert talk.tell(cleared()) == [HEADERS_ANSWER, *after, do.EndStream()]


def test_a_buffered_request_cleared_after_a_half_close_waits_for_no_trailers() -> None:
    """They can no longer come."""
    talk = Talk(opened(BUFFERED), headers(), on.BodyRequired(), body(b"a"), on.StreamClosed())
    assert talk.tell(cleared()) == [
        do.ContinueRequestBody(headers=STRIPPED, body=None, metadata=METADATA),
        do.EndStream(),
    ]


def test_a_body_that_is_required_after_a_half_close_can_no_longer_come() -> None:
    """The request is refused instead of waited for."""
    talk = Talk(*PHASES["headers"], on.StreamClosed())
    assert talk.tell(on.BodyRequired()) == [do.OweRefusal(ErrorKind.INVALID_BODY)]
    assert talk.tell(refused()) == REFUSE


@pytest.mark.parametrize(
    "before",
    [
        (opened(BUFFERED), headers(), cleared()),
        (opened(DUPLEX), headers(), cleared(), body(b"a")),
        (opened(response=BodyMode.STREAMED), headers(), cleared()),
    ],
    ids=["passing-buffered", "passing-duplex", "responding"],
)
def test_a_stream_that_closes_after_the_answer_ends(before: tuple[on.Event, ...]) -> None:
    """Nothing was left unjudged."""
    assert Talk(*before).tell(on.StreamClosed()) == [do.EndStream()]


@pytest.mark.parametrize(
    "before",
    [
        (*PHASES["headers"], response_headers()),
        (opened(response=BodyMode.STREAMED), headers(), cleared(), response_headers()),
    ],
    ids=["local-reply", "response"],
)
def test_a_stream_that_closes_while_response_headers_are_judged_is_aborted(
    before: tuple[on.Event, ...],
) -> None:
    """Their answer is owed, and an end with OK would deny it."""
    assert Talk(*before).tell(on.StreamClosed()) == [do.AbortStream()]


# Modes that cannot be a gate.


@pytest.mark.parametrize(
    "event",
    [
        opened(BodyMode.STREAMED),
        opened(BodyMode.BUFFERED_PARTIAL),
        opened(BodyMode.GRPC),
        on.ExchangeOpened(NONE, NONE, observability_mode=True),
    ],
    ids=["STREAMED", "BUFFERED_PARTIAL", "GRPC", "observability"],
)
def test_a_mode_that_cannot_be_a_gate_is_refused_at_the_first_message(
    event: on.ExchangeOpened,
) -> None:
    """Nothing would stop the request, so it is not even looked at."""
    talk = Talk()
    assert talk.tell(event, headers()) == [do.OweRefusal(ErrorKind.UNSUPPORTED_PROCESSING_MODE)]
    assert talk.tell(refused()) == REFUSE


@pytest.mark.parametrize(
    "event",
    [headers(), body(b"a"), trailers(), response_headers()],
    ids=lambda event: type(event).__name__,
)
def test_a_stream_that_does_not_say_its_modes_is_refused(event: on.Event) -> None:
    """Observability mode and old Envoys send no protocol_config: we cannot tell what it is."""
    talk = Talk()
    assert talk.tell(event) == [do.OweRefusal(ErrorKind.UNSUPPORTED_PROCESSING_MODE)]


# The response.


@pytest.mark.parametrize("mode", [NONE, BUFFERED, DUPLEX], ids=lambda mode: mode.value)
@pytest.mark.parametrize(
    "event",
    [response_headers(), response_body(b"a"), on.ResponseTrailersReceived()],
    ids=lambda event: type(event).__name__,
)
def test_a_response_without_judged_request_headers_is_not_let_through(
    mode: BodyMode, event: on.Event
) -> None:
    """Header mode SKIP would be a hole: nothing was judged."""
    assert Talk(opened(mode)).tell(event) == [do.OweRefusal(ErrorKind.UNSUPPORTED_PROCESSING_MODE)]


def test_with_mutated_timing_the_answer_to_the_headers_asks_for_the_response_headers() -> None:
    """They are switched on for this request only, and end the exchange."""
    talk = Talk(opened(), headers(), wants_response_headers=True)
    assert talk.tell(cleared()) == [
        do.ContinueRequestHeaders(headers=STRIPPED, metadata=METADATA, response_headers=True)
    ]
    assert talk.tell(response_headers()) == [
        do.JudgeResponseHeaders(RESPONSE_HEADERS, has_body=True, may_stream=False)
    ]
    assert talk.tell(on.ResponseCleared(TIMED)) == [
        do.ContinueResponseHeaders(TIMED),
        do.EndStream(),
    ]


def test_with_mutated_timing_the_override_asks_for_the_response_headers() -> None:
    """The mode is stated whole, once; the later answer does not ask again."""
    talk = Talk(opened(), headers(), wants_response_headers=True)
    assert talk.tell(on.BodyRequired()) == [do.OverrideMode(response_headers=True)]
    assert talk.tell(body(b"a", ends=True), cleared()) == [
        do.JudgeBody(b"a"),
        HEADERS_ANSWER,
        do.StreamRequestBody(b"a", end_of_stream=True),
    ]
    assert talk.phase is Phase.AWAIT_ANSWER


def test_with_mutated_timing_an_empty_body_still_asks_for_the_response_headers() -> None:
    """No override was sent, because there was no body to stream."""
    talk = Talk(opened(), headers(ends=True), on.BodyRequired(), wants_response_headers=True)
    assert talk.tell(cleared()) == [
        do.ContinueRequestHeaders(headers=STRIPPED, metadata=METADATA, response_headers=True)
    ]


@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX], ids=lambda mode: mode.value)
def test_where_bodies_are_configured_the_response_headers_are_left_to_the_configuration(
    mode: BodyMode,
) -> None:
    """An override would switch the configured body modes off."""
    talk = Talk(opened(mode), headers(), wants_response_headers=True)
    assert talk.tell(cleared()) == [HEADERS_ANSWER]


def test_trailers_that_come_after_the_request_was_cleared_are_answered() -> None:
    """Trailer mode SEND with bodies NONE: Envoy would wait for the answer and give a 504."""
    talk = Talk(opened(), headers(), cleared(), wants_response_headers=True)
    assert talk.tell(trailers()) == [do.ContinueRequestTrailers()]
    assert talk.phase is Phase.AWAIT_ANSWER


@pytest.mark.parametrize("name", PHASES)
def test_a_local_reply_overtakes_an_unanswered_request(name: str) -> None:
    """Envoy answers the client itself (413, timeout); nothing is left to judge."""
    talk = Talk(*PHASES[name])
    assert talk.tell(response_headers()) == [
        do.JudgeResponseHeaders(RESPONSE_HEADERS, has_body=True, may_stream=False),
    ]
    assert talk.tell(on.ResponseCleared(TIMED)) == [
        do.ContinueResponseHeaders(TIMED),
        do.EndStream(),
    ]
    assert not talk.protocol.is_answered


def test_a_local_reply_overtakes_a_buffered_body_that_never_came() -> None:
    """Envoy refused the body as too long: 413 and no request_body message at all."""
    talk = Talk(opened(BUFFERED), headers(), cleared())
    assert talk.tell(response_headers(), on.ResponseCleared(TIMED)) == [
        do.JudgeResponseHeaders(RESPONSE_HEADERS, has_body=True, may_stream=False),
        do.ContinueResponseHeaders(TIMED),
        do.EndStream(),
    ]


@pytest.mark.parametrize(
    "late", [headers(), body(b"b"), trailers()], ids=lambda event: type(event).__name__
)
def test_what_is_left_of_an_overtaken_request_is_ignored(late: on.Event) -> None:
    """It was on its way when Envoy answered; its headers were never answered."""
    talk = Talk(*PHASES["held-body"], response_headers())
    assert talk.tell(late) == []


def test_an_upstream_that_answers_early_does_not_stop_the_rest_of_a_duplex_body() -> None:
    """Both directions go on, and the end comes after the request's last piece."""
    talk = Talk(opened(DUPLEX), headers(), cleared(), body(b"a"))
    assert talk.tell(response_headers(), on.ResponseCleared(TIMED)) == [
        do.JudgeResponseHeaders(RESPONSE_HEADERS, has_body=True, may_stream=False),
        do.ContinueResponseHeaders(TIMED),
    ]
    assert talk.tell(body(b"b", ends=True)) == [
        do.StreamRequestBody(b"b", end_of_stream=True),
        do.EndStream(),
    ]


def test_an_early_answer_with_a_body_goes_on_after_the_request_is_through() -> None:
    """The exchange ends with the last piece of the response."""
    talk = Talk(opened(DUPLEX, BodyMode.STREAMED), headers(), cleared())
    talk.tell(response_headers(), on.ResponseCleared(TIMED))
    assert talk.tell(body(b"b", ends=True)) == [do.StreamRequestBody(b"b", end_of_stream=True)]
    assert talk.tell(on.ResponseBodyReceived(b"r", end_of_stream=True)) == [
        do.ContinueResponseBody(),
        do.EndStream(),
    ]


def test_a_response_body_phase_keeps_the_exchange_open_after_the_request() -> None:
    """Envoy is configured to send it, so its answers are owed."""
    talk = Talk(opened(response=BodyMode.STREAMED), headers())
    assert talk.tell(cleared()) == [HEADERS_ANSWER]
    assert talk.tell(response_headers(), on.ResponseCleared(TIMED)) == [
        do.JudgeResponseHeaders(RESPONSE_HEADERS, has_body=True, may_stream=False),
        do.ContinueResponseHeaders(TIMED),
    ]
    assert talk.tell(on.ResponseBodyReceived(b"r", end_of_stream=False)) == [
        do.ContinueResponseBody()
    ]
    assert talk.tell(on.ResponseTrailersReceived()) == [
        do.ContinueResponseTrailers(),
        do.EndStream(),
    ]


# What is unanswered.


@pytest.mark.parametrize(
    "before",
    [
        (),
        *PHASES.values(),
        (opened(), on.StreamClosed()),
        (*PHASES["headers"], on.Faulted(), on.Faulted()),
    ],
)
def test_a_request_stays_unanswered_without_verdict(before: tuple[on.Event, ...]) -> None:
    """Also where its stream is over: what was aborted must not be counted as allowed."""
    assert not Talk(*before).protocol.is_answered


@pytest.mark.parametrize("verdict", [cleared(), refused()], ids=["cleared", "refused"])
@pytest.mark.parametrize("name", sorted(IS_JUDGING))
def test_a_verdict_answers_a_request(name: str, verdict: on.Event) -> None:
    """One verdict, whichever it is."""
    assert Talk(*PHASES[name], verdict).protocol.is_answered


# What Envoy may not send.

NAMES = {
    on.ExchangeOpened: "protocol_config",
    on.RequestHeadersReceived: "request_headers",
    on.RequestBodyReceived: "request_body",
    on.RequestTrailersReceived: "request_trailers",
    on.ResponseHeadersReceived: "response_headers",
    on.ResponseTrailersReceived: "response_trailers",
    on.BodyRequired: "require_body",
    on.RequestCleared: "forward",
    on.RequestRefused: "refuse",
    on.ResponseCleared: "pass_answer",
}


@pytest.mark.parametrize(
    ("before", "event", "phase"),
    [
        ((opened(), headers()), opened(), Phase.JUDGING_HEADERS),
        ((opened(),), body(b"a"), Phase.AWAIT_HEADERS),
        ((opened(),), on.BodyRequired(), Phase.AWAIT_HEADERS),
        ((opened(),), on.ResponseCleared(TIMED), Phase.AWAIT_HEADERS),
        ((opened(), headers()), headers(), Phase.JUDGING_HEADERS),
        ((opened(), headers()), body(b"a"), Phase.JUDGING_HEADERS),
        ((opened(), headers()), trailers(), Phase.JUDGING_HEADERS),
        ((opened(BUFFERED), headers()), body(b"a"), Phase.JUDGING_HEADERS),
        ((opened(DUPLEX), headers(ends=True)), body(b"a"), Phase.JUDGING_HEADERS),
        ((opened(DUPLEX), headers(ends=True)), trailers(), Phase.JUDGING_HEADERS),
        (PHASES["body-override"], cleared(), Phase.AWAIT_BODY),
        (PHASES["body-override"], on.ResponseTrailersReceived(), Phase.AWAIT_BODY),
        (PHASES["judging-body"], body(b"b"), Phase.JUDGING_BODY),
        (PHASES["judging-body"], on.BodyRequired(), Phase.JUDGING_BODY),
        ((opened(BUFFERED), headers(), cleared()), headers(), Phase.AWAIT_ANSWER),
        ((opened(), headers(), cleared()), headers(), Phase.ENDED),
        ((opened(), headers(), cleared()), response_headers(), Phase.ENDED),
        ((opened(), headers(), cleared()), refused(), Phase.ENDED),
    ],
    ids=lambda value: value.name if isinstance(value, Phase) else None,
)
def test_an_event_out_of_turn_is_a_violation(
    before: tuple[on.Event, ...], event: on.Event, phase: Phase
) -> None:
    """The error names both sides, shows no content, and the phase stays."""
    talk = Talk(*before)
    with pytest.raises(ProtocolViolationError) as caught:
        talk.tell(event)
    assert str(caught.value) == f"{NAMES[type(event)]} in phase {phase.name}"
    assert caught.value.phase is phase
    assert talk.phase is phase
