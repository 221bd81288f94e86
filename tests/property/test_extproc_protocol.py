"""What holds for every order of events an exchange can meet."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.extproc.phases import (
    ACTIONS,
    GATING_BODY_MODES,
    TRANSITIONS,
    BodyMode,
    Phase,
    ProtocolViolationError,
)
from sidecar.extproc.protocol import ExtProcProtocol
from tests.support import events as on
from tests.support import replies as do
from tests.support.conversation import (
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

GATING = sorted(GATING_BODY_MODES, key=lambda mode: mode.value)
LIMIT = 12

modes = st.sampled_from(list(BodyMode))
gating_modes = st.sampled_from(GATING)
pieces = st.binary(max_size=8)
verdicts: st.SearchStrategy[on.Event] = st.sampled_from(
    [
        on.BodyRequired(),
        on.BodyRequired(judges_answer=True),
        cleared(),
        cleared(b"changed"),
        on.RequestCleared(cleared().mutations, judges_answer=True),
        refused(),
    ]
)
answer_verdicts: st.SearchStrategy[on.Event] = st.one_of(
    st.sampled_from(
        [
            on.ResponseCleared(TIMED),
            on.ResponseStreamed(TIMED),
            on.ResponseHeld(),
            on.ResponseHeld(TIMED),
            on.ResponseJudged(TIMED),
            on.ResponseJudged(TIMED, b"changed"),
            refused(),
        ]
    ),
    st.builds(on.ResponsePieceJudged, pieces, ends=st.booleans()),
)

any_event: st.SearchStrategy[on.Event] = st.one_of(
    st.builds(opened, modes, modes),
    st.builds(headers, ends=st.booleans()),
    st.builds(body, pieces, ends=st.booleans()),
    st.just(trailers()),
    st.builds(response_headers, ends=st.booleans()),
    st.builds(response_body, pieces, ends=st.booleans()),
    st.sampled_from(
        [
            on.ResponseTrailersReceived(),
            on.StreamClosed(),
            on.DeadlinePassed(),
            on.Faulted(),
        ]
    ),
    verdicts,
    answer_verdicts,
)


def state(protocol: ExtProcProtocol) -> dict[str, object]:
    """Return everything a protocol knows."""
    names = [name for name in ExtProcProtocol.__struct_fields__ if name != "room"]
    return {name: copy.copy(getattr(protocol, name)) for name in names}


@dataclass(frozen=True, slots=True)
class Heard:
    """An event that was accepted, what it led to, and from which phase to which."""

    event: on.Event
    effects: list[do.Effect]
    before: Phase
    after: Phase


def converse(talk: Talk, events: Sequence[on.Event]) -> list[Heard]:
    """Play *events* until a refusal is owed, and give it; leave out those that are violations."""
    heard = []
    for event in events:
        before = state(talk.protocol)
        phase = talk.phase
        try:
            effects = talk.tell(event)
        except ProtocolViolationError:
            after = state(talk.protocol)
            if phase is not Phase.AWAIT_HEADERS:  # the modes of a first message are kept
                assert after == before
            assert after["phase"] is phase
            assert after["outgoing"] == before["outgoing"]
            continue
        heard.append(Heard(event, effects, phase, talk.phase))
        if any(isinstance(effect, do.OweRefusal) for effect in effects):
            phase = talk.phase
            heard.append(Heard(refused(), talk.tell(refused()), phase, talk.phase))
    return heard


def exchanges() -> st.SearchStrategy[Talk]:
    """Return fresh protocols, with and without a response-headers phase of ours."""
    return st.builds(Talk, max_body_bytes=st.just(LIMIT), wants_response_headers=st.booleans())


def one_of(*events: on.Event) -> st.SearchStrategy[on.Event]:
    """Return one of these very events."""
    return st.sampled_from(events)


bodies: st.SearchStrategy[on.Event] = st.builds(body, pieces, ends=st.booleans())
responses = st.one_of(
    st.builds(response_headers, ends=st.booleans()),
    st.builds(response_body, pieces, ends=st.booleans()),
    one_of(on.ResponseTrailersReceived()),
    answer_verdicts,
)
LIKELY: dict[Phase, st.SearchStrategy[on.Event]] = {
    Phase.AWAIT_HEADERS: st.one_of(
        st.builds(opened, gating_modes, modes), st.builds(headers, ends=st.booleans())
    ),
    Phase.JUDGING_HEADERS: st.one_of(verdicts, bodies, one_of(trailers())),
    Phase.AWAIT_BODY: st.one_of(bodies, one_of(trailers())),
    Phase.JUDGING_BODY: verdicts,
    Phase.AWAIT_ANSWER: st.one_of(bodies, one_of(trailers()), responses),
    Phase.JUDGING_ANSWER_HEADERS: answer_verdicts,
    Phase.PASSING_ANSWER: st.one_of(bodies, one_of(trailers()), responses),
    Phase.AWAIT_PIECE: responses,
    Phase.JUDGING_PIECE: answer_verdicts,
    Phase.HOLDING_ANSWER: responses,
    Phase.JUDGING_ANSWER: answer_verdicts,
    Phase.AWAIT_REQUEST_END: st.one_of(bodies, one_of(trailers())),
    Phase.ENDED: any_event,
}
"""What usually comes in a phase: random orders alone rarely get past the headers."""


@st.composite
def orders(draw: st.DrawFn) -> list[on.Event]:
    """Return events in an order that often gets far, with a disturbance here and there."""
    shadow = draw(exchanges())
    events: list[on.Event] = []
    for _ in range(draw(st.integers(0, 18))):
        is_likely = draw(st.integers(0, 9)) > 0
        event = draw(LIKELY[shadow.phase] if is_likely else any_event)
        converse(shadow, [event])
        events.append(event)
    return events


@settings(max_examples=300)
@given(exchange=exchanges(), events=orders())
def test_an_event_either_moves_the_exchange_or_raises_and_changes_nothing(
    exchange: Talk, events: list[on.Event]
) -> None:
    """Nothing else can come out of `receive`: no other error, no unknown phase."""
    heard = converse(exchange, events)
    assert len([one for one in heard if one.event in events]) <= len(events)


def _is_forward(effect: do.Effect, mode: BodyMode) -> bool:
    """Tell whether *effect* lets a part of the request go upstream."""
    match effect:
        case do.StreamRequestBody() | do.ContinueRequestBody():
            return True
        case do.ContinueRequestHeaders():
            # BUFFERED: Envoy holds the headers until the body is answered too.
            return mode is not BodyMode.BUFFERED
        case _:
            return False


@settings(max_examples=300)
@given(exchange=exchanges(), events=orders())
def test_nothing_of_a_request_goes_on_before_it_was_cleared(
    exchange: Talk, events: list[on.Event]
) -> None:
    """The one property this product exists for."""
    mode = BodyMode.NONE
    is_cleared = False
    for heard in converse(exchange, events):
        if isinstance(heard.event, on.ExchangeOpened):
            mode = heard.event.request_body_mode
        is_cleared = is_cleared or isinstance(heard.event, on.RequestCleared)
        assert is_cleared or not any(_is_forward(effect, mode) for effect in heard.effects)


@settings(max_examples=300)
@given(exchange=exchanges(), events=orders())
def test_a_request_is_never_both_forwarded_and_refused(
    exchange: Talk, events: list[on.Event]
) -> None:
    """There is one answer; a refusal after a forward would be a lie to somebody.

    Unless the answer is judged: then it is refused instead, and nothing of it has gone on.
    """
    heard = converse(exchange, events)
    effects = [effect for one in heard for effect in one.effects]
    # Where the mode cannot hold its answer back, a request that was cleared is refused after all.
    is_cleared = any(
        isinstance(one.event, on.RequestCleared)
        and not any(isinstance(effect, do.OweRefusal) for effect in one.effects)
        for one in heard
    )
    is_judged = any(
        isinstance(one.event, on.ResponseHeld)
        or (isinstance(one.event, on.RequestCleared) and one.event.judges_answer)
        for one in heard
    )
    refusals = sum(isinstance(effect, do.Refuse) for effect in effects)
    assert refusals <= 1
    assert refusals + is_cleared <= 1 or is_judged
    assert (not exchange.protocol.is_answered) is (refusals + is_cleared == 0)


@settings(max_examples=300)
@given(exchange=exchanges(), events=orders())
def test_nothing_of_a_judged_answer_goes_on_before_its_verdict(
    exchange: Talk, events: list[on.Event]
) -> None:
    """Headers wait where it is held; no byte of body leaves that a verdict did not name.

    What Envoy says itself, before the request was cleared, is nobody's answer.
    """
    is_cleared = False
    allowed = b""
    sent = b""
    for heard in converse(exchange, events):
        match heard.event:
            case on.RequestCleared(judges_answer=True):
                is_cleared = True
            case on.ResponsePieceJudged(body=body):
                allowed += body
            case on.ResponseJudged() | on.ResponseCleared():
                return
            case _:
                pass
        if not is_cleared:
            continue
        sent += b"".join(
            effect.body for effect in heard.effects if isinstance(effect, do.StreamResponseBody)
        )
        assert sent == allowed
        if isinstance(heard.event, on.ResponseHeld):
            # BUFFERED holds headers that have their answer.
            assert all(effect == do.ContinueResponseHeaders() for effect in heard.effects)


ANSWERS = (
    do.Refuse,
    do.ContinueRequestHeaders,
    do.ContinueRequestBody,
    do.StreamRequestBody,
    do.ContinueRequestTrailers,
    do.ContinueResponseHeaders,
    do.ContinueResponseBody,
    do.StreamResponseBody,
    do.ContinueResponseTrailers,
)


@settings(max_examples=300)
@given(exchange=exchanges(), events=orders())
def test_a_stream_ends_once_and_with_ok_only_after_an_answer(
    exchange: Talk, events: list[on.Event]
) -> None:
    """Ending with OK without an answer would let the request go on unjudged."""
    effects = [effect for one in converse(exchange, events) for effect in one.effects]
    ends = [
        index
        for index, effect in enumerate(effects)
        if isinstance(effect, do.EndStream | do.AbortStream)
    ]
    assert ends in ([], [len(effects) - 1])
    assert bool(ends) is (exchange.phase is Phase.ENDED)
    if ends and isinstance(effects[-1], do.EndStream):
        is_answered = exchange.protocol.is_answered
        is_local_reply = any(isinstance(effect, do.JudgeResponseHeaders) for effect in effects)
        assert is_answered or is_local_reply
        assert any(isinstance(effect, ANSWERS) for effect in effects)


@st.composite
def cut_bodies(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """Return a body and the same body in pieces, empty ones among them."""
    whole = draw(st.binary(max_size=40))
    borders = draw(st.lists(st.integers(0, len(whole)), max_size=6).map(sorted))
    starts, ends = [0, *borders], [*borders, len(whole)]
    return whole, [whole[start:end] for start, end in zip(starts, ends, strict=True)]


def _joined(effects: list[do.Effect]) -> list[object]:
    """Return *effects* with neighbouring pieces of the request body as one."""
    joined: list[object] = []
    for effect in effects:
        last = joined[-1] if joined else None
        if isinstance(effect, do.StreamRequestBody) and isinstance(last, do.StreamRequestBody):
            assert not last.end_of_stream
            joined[-1] = do.StreamRequestBody(last.body + effect.body, effect.end_of_stream)
        else:
            joined.append(effect)
    return joined


@pytest.mark.parametrize("mode", [BodyMode.NONE, BodyMode.FULL_DUPLEX_STREAMED])
@given(
    cut_body=cut_bodies(),
    ends_with_trailers=st.booleans(),
    needs_body=st.booleans(),
    verdict=st.sampled_from([cleared(), cleared(b"changed"), refused()]),
    limit=st.sampled_from([20, 1000]),
    data=st.data(),
)
def test_how_a_body_is_cut_changes_nothing_but_the_pieces_sent_on(
    mode: BodyMode,
    *,
    cut_body: tuple[bytes, list[bytes]],
    ends_with_trailers: bool,
    needs_body: bool,
    verdict: on.Event,
    limit: int,
    data: st.DataObject,
) -> None:
    """The same questions, the same answers, and the same bytes, wherever the network cut."""
    whole, cut = cut_body
    is_early = needs_body and mode is BodyMode.FULL_DUPLEX_STREAMED and data.draw(st.booleans())

    def told(sent: list[bytes]) -> list[object]:
        body_events: list[on.Event] = [body(piece) for piece in sent]
        if ends_with_trailers:
            body_events.append(trailers())
        else:
            body_events[-1] = body(sent[-1], ends=True)
        talk = Talk(opened(mode), headers(), max_body_bytes=limit)
        if needs_body:
            _tell_all(talk, *(body_events if is_early else ()), on.BodyRequired())
            _tell_all(talk, *(() if is_early else body_events), verdict)
        else:
            _tell_all(talk, verdict, *body_events)
        return _joined(talk.effects)

    assert told(cut) == told([whole])


def _tell_all(talk: Talk, *events: on.Event) -> None:
    """Play *events* until the protocol has ended or owes a refusal, as a stream would."""
    for event in events:
        if any(isinstance(effect, do.OweRefusal) for effect in talk.effects):
            if talk.protocol.phase is not Phase.ENDED:
                talk.tell(refused())
            return
        if talk.protocol.phase is Phase.ENDED:
            return
        talk.tell(event)


@settings(max_examples=300)
@given(exchange=exchanges(), events=orders())
def test_every_move_stands_in_the_tables(exchange: Talk, events: list[on.Event]) -> None:
    """What the diagram shows is what happens, and nothing else does."""
    for heard in converse(exchange, events):
        if heard.before is heard.after or isinstance(heard.event, INTERRUPTIONS):
            continue
        rows = [*TRANSITIONS[heard.before].values()]
        rows += [leads[heard.before] for leads in ACTIONS.values() if heard.before in leads]
        assert heard.after in {phase for row in rows for phase in row}


INTERRUPTIONS = (on.StreamClosed, on.DeadlinePassed, on.Faulted)
