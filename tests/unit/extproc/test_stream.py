"""The loop that reads, asks, answers and ends, without a network and with a judge of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from typing_extensions import override

from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from sidecar.domain.errors import ErrorKind
from sidecar.domain.report import FaultKind
from sidecar.extproc.phases import BodyMode, Event, Phase
from sidecar.extproc.protocol import ExtProcProtocol
from sidecar.extproc.stream import (
    MESSAGES_AT_ONCE,
    TURNS_ALONE,
    Budgets,
    CheckCancelledError,
    ExtProcStream,
    LateError,
    OverloadGuard,
    StreamEnd,
    StreamGoneError,
)
from tests.support import envoy_messages as envoy
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
    cleared,
    refused,
)
from tests.support.memory_stream import MemoryStream
from tests.support.replies import encoded as encode
from tests.support.scripted import (
    BodyAnswer,
    Endless,
    HeadersAnswer,
    ScriptedHandler,
    at_once,
    awaited,
    failing,
    failing_later,
    refusal_of,
    scripted,
)

PATIENT = Budgets(authorize_seconds=30, body_seconds=30, body_idle_seconds=30, inspect_seconds=30)
HURRIED = replace(PATIENT, authorize_seconds=0.01, body_seconds=0.01, inspect_seconds=0.01)

HEADERS = envoy.opening(envoy.request_headers(*REQUEST_HEADERS.fields)).SerializeToString()
DUPLEX_HEADERS = envoy.opening(
    envoy.request_headers(*REQUEST_HEADERS.fields), request=envoy.DUPLEX
).SerializeToString()
BUFFERED_HEADERS = envoy.opening(
    envoy.request_headers(*REQUEST_HEADERS.fields), request=envoy.BUFFERED
).SerializeToString()
STREAMED_HEADERS = envoy.opening(
    envoy.request_headers(*REQUEST_HEADERS.fields), request=envoy.STREAMED
).SerializeToString()
LAST_PIECE = envoy.request_body(b"ab", ends=True).SerializeToString()
PIECE = envoy.request_body(b"a").SerializeToString()
LOCAL_REPLY = envoy.response_headers(*RESPONSE_HEADERS.fields).SerializeToString()
RESPONSE_TRAILERS = ext.ProcessingRequest(response_trailers=ext.HttpTrailers()).SerializeToString()

FORWARD = do.ContinueRequestHeaders(headers=STRIPPED, metadata=METADATA)
OVERRIDE = do.OverrideMode(response_headers=False)
WHOLE_BODY = do.StreamRequestBody(b"ab", end_of_stream=True)


NEEDS_BODY = at_once(on.BodyRequired())
CLEARS = at_once(cleared())


def judging(
    headers: HeadersAnswer = NEEDS_BODY,
    body: BodyAnswer = CLEARS,
    **more: Any,
) -> ScriptedHandler:
    """Return a judge that needs the body and clears it, save as told."""
    return ScriptedHandler(headers=headers, body=body, **more)


class Held:
    """A conversation of a stream and a judge, run by the test."""

    def __init__(
        self,
        judge: ScriptedHandler,
        *messages: bytes | None,
        budgets: Budgets = PATIENT,
        wants_response_headers: bool = False,
        guard: OverloadGuard | None = None,
    ) -> None:
        self.judge = judge
        self.stream = MemoryStream(*messages)
        self._serve = scripted(
            judge, budgets, wants_answer_headers=wants_response_headers, guard=guard
        )

    @property
    def protocol(self) -> ExtProcProtocol:
        """The protocol of the stream, once it runs."""
        return self.judge.protocols[-1]

    async def run(self) -> StreamEnd:
        """Converse to the end; whatever happens, the judge is closed exactly once."""
        try:
            return await self._serve(self.stream, {})
        finally:
            assert len(self.judge.closed) == 1

    def start(self) -> asyncio.Task[StreamEnd]:
        """Converse beside the test."""
        return asyncio.get_running_loop().create_task(self.run())

    def wrote(self, *replies: do.Reply) -> bool:
        """Tell whether exactly *replies* were written."""
        return self.stream.written == [encode(reply) for reply in replies]


ANSWERED = [(StreamEnd.COMPLETED, True)]
ABORTED = [(StreamEnd.ABORTED, False)]
LEFT = [(StreamEnd.CANCELLED, False)]
OVERTAKEN = [(StreamEnd.COMPLETED, False)]


@pytest.mark.parametrize("answer", [at_once, awaited], ids=["at-once", "awaited"])
async def test_a_request_is_judged_on_headers_and_body_and_sent_on(
    answer: Callable[[Any], Any],
) -> None:
    """The same whether verdicts are there at once or have to be waited for."""
    judge = judging(answer(on.BodyRequired()), answer(cleared()))
    held = Held(judge, HEADERS, LAST_PIECE)
    assert await held.run() is StreamEnd.COMPLETED
    assert held.wrote(OVERRIDE, FORWARD, WHOLE_BODY)
    assert judge.asked == [(REQUEST_HEADERS, True), b"ab"]
    assert (judge.faults, judge.closed) == ([], ANSWERED)


@pytest.mark.parametrize("answer", [at_once, awaited], ids=["at-once", "awaited"])
async def test_a_refusal_is_the_only_answer(answer: Callable[[Any], Any]) -> None:
    """Nothing else is written and the stream ends well."""
    held = Held(judging(answer(refused())), HEADERS)
    assert await held.run() is StreamEnd.COMPLETED
    assert held.wrote(do.Refuse(REFUSAL))
    assert (held.judge.faults, held.judge.closed) == ([], ANSWERED)


async def test_the_response_headers_are_answered_where_they_are_wanted() -> None:
    """The exchange goes on after the request, and ends with this answer."""
    judge = judging(at_once(cleared()), response=TIMED)
    held = Held(judge, HEADERS, LOCAL_REPLY, wants_response_headers=True)
    assert await held.run() is StreamEnd.COMPLETED
    assert held.wrote(replace(FORWARD, response_headers=True), do.ContinueResponseHeaders(TIMED))
    assert judge.closed == ANSWERED


# While a verdict is waited for.


async def test_reading_goes_on_while_the_headers_are_judged() -> None:
    """The body is taken off the wire before authorization has an answer."""
    is_known = asyncio.Event()
    held = Held(judging(awaited(on.BodyRequired(), is_known)), DUPLEX_HEADERS)
    running = held.start()
    held.stream.send(PIECE, LAST_PIECE)
    await held.stream.drained()
    assert held.protocol.phase is Phase.JUDGING_HEADERS
    is_known.set()
    assert await running is StreamEnd.COMPLETED
    assert held.judge.asked == [(REQUEST_HEADERS, True), b"aab"]
    assert held.wrote(FORWARD, do.StreamRequestBody(b"aab", end_of_stream=True))


async def test_a_local_reply_while_judging_stops_the_check_and_is_answered() -> None:
    """Envoy answered the client itself: the check is cancelled and nothing counts as allowed."""
    check = Endless()
    held = Held(judging(check, response=TIMED), HEADERS)
    running = held.start()
    await check.began.wait()
    held.stream.send(LOCAL_REPLY)
    assert await running is StreamEnd.COMPLETED
    await check.cancelled.wait()
    assert held.wrote(do.ContinueResponseHeaders(TIMED))
    assert (held.judge.faults, held.judge.closed) == ([], OVERTAKEN)


async def test_a_half_close_while_judging_still_gets_the_answer() -> None:
    """The peer may half-close and wait; the stream ends after the answer."""
    is_known = asyncio.Event()
    held = Held(judging(body=awaited(cleared(), is_known)), HEADERS, LAST_PIECE)
    running = held.start()
    await held.stream.count(1)
    held.stream.send(None)
    await held.stream.drained()
    is_known.set()
    assert await running is StreamEnd.COMPLETED
    assert held.wrote(OVERRIDE, FORWARD, WHOLE_BODY)


async def test_a_verdict_that_comes_with_a_message_is_taken_first() -> None:
    """The answer goes out before what Envoy sent next is looked at."""
    is_known = asyncio.Event()
    held = Held(judging(awaited(cleared(), is_known)), DUPLEX_HEADERS)
    running = held.start()
    await asyncio.sleep(0)
    is_known.set()
    held.stream.send(LAST_PIECE)
    assert await running is StreamEnd.COMPLETED
    assert held.wrote(FORWARD, WHOLE_BODY)


# Deadlines.


@pytest.mark.parametrize("phase", ["headers", "body"])
async def test_a_check_that_takes_too_long_is_cancelled_and_refused(phase: str) -> None:
    """Nothing is let through, and nothing of the check goes on running."""
    check = Endless()
    is_headers = phase == "headers"
    judge = judging(headers=check) if is_headers else judging(body=check)
    held = Held(judge, HEADERS, *(() if is_headers else (LAST_PIECE,)), budgets=HURRIED)
    assert await held.run() is StreamEnd.COMPLETED
    await check.cancelled.wait()
    kind = ErrorKind.AUTHORIZATION_UNAVAILABLE if is_headers else ErrorKind.GUARDRAIL_UNAVAILABLE
    before = () if is_headers else (OVERRIDE,)
    assert held.wrote(*before, do.Refuse(refusal_of(kind)))
    assert (judge.faults, judge.closed) == ([(FaultKind.DEADLINE, None)], ANSWERED)


async def test_a_stream_without_a_message_is_ended() -> None:
    """A peer that is no Envoy could hold all slots by streams on which nothing comes."""
    held = Held(judging(), budgets=HURRIED)
    async with asyncio.timeout(10):
        assert await held.run() is StreamEnd.COMPLETED
    assert held.wrote(do.Refuse(refusal_of(ErrorKind.AUTHORIZATION_UNAVAILABLE)))
    assert held.judge.faults == [(FaultKind.DEADLINE, None)]


async def test_a_body_that_takes_too_long_is_refused() -> None:
    """A client that stops sending cannot hold the request: no timer of Envoy covers this."""
    held = Held(judging(), HEADERS, PIECE, budgets=HURRIED)
    assert await held.run() is StreamEnd.COMPLETED
    assert held.wrote(OVERRIDE, do.Refuse(refusal_of(ErrorKind.BODY_TIMEOUT)))
    assert held.judge.faults == [(FaultKind.DEADLINE, None)]


async def test_pieces_of_a_body_do_not_renew_its_budget() -> None:
    """A client that trickles is as late as one that stops."""
    held = Held(judging(), HEADERS, budgets=replace(PATIENT, body_seconds=0.2))
    running = held.start()
    trickle = envoy.request_body(b"").SerializeToString()
    while not running.done():
        held.stream.send(trickle)
        await asyncio.sleep(0.01)
    assert running.result() is StreamEnd.COMPLETED
    assert held.wrote(OVERRIDE, do.Refuse(refusal_of(ErrorKind.BODY_TIMEOUT)))


async def test_a_body_in_many_messages_leaves_other_requests_their_turns() -> None:
    """A client may send it in frames of one byte, each of which Envoy passes on as a message."""
    piece, turns = envoy.request_body(b"").SerializeToString(), 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    held = Held(judging(), HEADERS, *[piece] * (20 * MESSAGES_AT_ONCE), LAST_PIECE)
    async with asyncio.TaskGroup() as group:
        other = group.create_task(others())
        ended = await held.run()
        other.cancel()
    assert ended is StreamEnd.COMPLETED
    assert turns >= 20


@pytest.mark.parametrize("is_known", [True, False])
async def test_who_always_has_more_to_send_is_late_all_the_same(*, is_known: bool) -> None:
    """Its messages come faster than they are read: there is never one to wait for."""

    class Flood(MemoryStream):
        """Its messages follow the opening without an end."""

        @override
        def take(self) -> bytes:
            return super().take() or envoy.request_body(b"").SerializeToString()

    budgets = replace(PATIENT, authorize_seconds=0.05, body_seconds=0.05)
    held = Held(judging() if is_known else judging(Endless()), DUPLEX_HEADERS, budgets=budgets)
    held.stream = Flood(DUPLEX_HEADERS)
    assert await asyncio.wait_for(held.run(), 60) is StreamEnd.COMPLETED
    kind = ErrorKind.BODY_TIMEOUT if is_known else ErrorKind.AUTHORIZATION_UNAVAILABLE
    assert held.wrote(do.Refuse(refusal_of(kind)))


async def test_a_client_that_pauses_within_its_body_is_cut_off_sooner() -> None:
    """Long before a slow one that goes on sending."""
    held = Held(judging(), HEADERS, PIECE, budgets=replace(PATIENT, body_idle_seconds=0.01))
    assert await held.run() is StreamEnd.COMPLETED
    assert held.wrote(OVERRIDE, do.Refuse(refusal_of(ErrorKind.BODY_TIMEOUT)))
    assert held.judge.faults == [(FaultKind.DEADLINE, None)]


async def test_where_envoy_keeps_the_body_a_pause_cannot_be_seen() -> None:
    """It comes in one message when the client is done: only the whole budget counts."""
    budgets = replace(PATIENT, body_idle_seconds=0.01)
    held = Held(judging(), BUFFERED_HEADERS, budgets=budgets)
    running = held.start()
    await held.stream.count(1)
    await asyncio.sleep(0.05)
    held.stream.send(LAST_PIECE)
    assert await running is StreamEnd.COMPLETED
    assert held.judge.faults == []


# Bodies that a worker keeps.


def load_for(size: int) -> OverloadGuard:
    """Return the load of a worker that may keep so many bytes."""
    return OverloadGuard(max_exchanges=1, max_held_bytes=size)


@pytest.mark.parametrize("opening", [HEADERS, DUPLEX_HEADERS], ids=["override", "duplex"])
async def test_a_body_that_a_worker_has_no_room_for_is_refused(opening: bytes) -> None:
    """As soon as it does not fit; what was kept of it is let go of."""
    load = load_for(2)
    held = Held(judging(), opening, PIECE, LAST_PIECE, guard=load)
    assert await held.run() is StreamEnd.COMPLETED
    assert held.stream.written[-1] == encode(do.Refuse(refusal_of(ErrorKind.OVERLOADED)))
    assert held.judge.faults == [(FaultKind.TOO_MANY_BYTES, None)]
    assert load.held_bytes == 0


async def test_a_body_counts_until_it_has_its_verdict() -> None:
    """Another that comes meanwhile finds the room taken, and afterwards free."""
    load, verdict = load_for(3), asyncio.Event()
    first = Held(judging(body=awaited(cleared(), verdict)), HEADERS, LAST_PIECE, guard=load)
    running = first.start()
    await first.stream.count(1)
    await first.stream.drained()
    second = Held(judging(), HEADERS, LAST_PIECE, guard=load)
    assert await second.run() is StreamEnd.COMPLETED
    assert second.wrote(OVERRIDE, do.Refuse(refusal_of(ErrorKind.OVERLOADED)))
    verdict.set()
    assert await running is StreamEnd.COMPLETED
    assert first.wrote(OVERRIDE, FORWARD, WHOLE_BODY)
    assert load.held_bytes == 0
    third = Held(judging(), HEADERS, LAST_PIECE, guard=load)
    assert await third.run() is StreamEnd.COMPLETED
    assert third.wrote(OVERRIDE, FORWARD, WHOLE_BODY)


async def test_of_a_client_that_leaves_nothing_is_kept() -> None:
    """The room is there again."""
    load = load_for(10)
    held = Held(judging(), HEADERS, PIECE, guard=load)
    running = held.start()
    await held.stream.drained()
    held.stream.send(StreamGoneError())
    assert await running is StreamEnd.CANCELLED
    assert load.held_bytes == 0


async def test_an_empty_piece_needs_no_room() -> None:
    """The end of a body that fitted is not what breaks it."""
    end = envoy.request_body(b"", ends=True).SerializeToString()
    held = Held(judging(), HEADERS, PIECE, end, guard=load_for(1))
    assert await held.run() is StreamEnd.COMPLETED
    assert held.judge.faults == []


@pytest.mark.parametrize(
    ("phase", "seconds"),
    [
        (Phase.JUDGING_HEADERS, 1.0),
        (Phase.AWAIT_BODY, 2.0),
        (Phase.JUDGING_BODY, 3.0),
        (Phase.JUDGING_PIECE, 3.0),
        (Phase.AWAIT_HEADERS, 1.0),
        (Phase.AWAIT_ANSWER, None),
        (Phase.PASSING_ANSWER, None),
    ],
    ids=lambda value: value.name if isinstance(value, Phase) else "",
)
def test_each_wait_of_ours_has_its_budget(phase: Phase, seconds: float | None) -> None:
    """Elsewhere Envoy's own timers rule."""
    budgets = replace(PATIENT, authorize_seconds=1.0, body_seconds=2.0, inspect_seconds=3.0)
    assert budgets.of(phase) == seconds


# Faults.

BROKEN = RuntimeError("secret text")


@pytest.mark.parametrize(
    ("judge", "before"),
    [
        (judging(failing(BROKEN)), ()),
        (judging(failing_later(BROKEN)), ()),
        (judging(body=failing(BROKEN)), (OVERRIDE,)),
        (judging(body=failing_later(BROKEN)), (OVERRIDE,)),
    ],
    ids=["headers", "headers-awaited", "body", "body-awaited"],
)
async def test_a_check_that_raises_is_a_refusal(
    judge: ScriptedHandler, before: tuple[do.Reply, ...]
) -> None:
    """A bug is a 500 in the client's dialect, and is counted; never a pass."""
    judge = replace(judge, asked=[], faults=[], closed=[])
    held = Held(judge, HEADERS, LAST_PIECE)
    assert await held.run() is StreamEnd.COMPLETED
    assert held.wrote(*before, do.Refuse(refusal_of(ErrorKind.INTERNAL_ERROR)))
    assert (judge.faults, judge.closed) == ([(FaultKind.EXCEPTION, RuntimeError)], ANSWERED)


async def test_a_check_that_is_cancelled_from_within_is_a_refusal() -> None:
    """A look-up shared with another request was cancelled with it; this stream was not."""
    held = Held(judging(failing_later(asyncio.CancelledError())), HEADERS)
    assert await held.run() is StreamEnd.COMPLETED
    assert held.wrote(do.Refuse(refusal_of(ErrorKind.INTERNAL_ERROR)))
    assert held.judge.faults == [(FaultKind.EXCEPTION, CheckCancelledError)]


async def test_a_refusal_that_cannot_be_worded_aborts_the_stream() -> None:
    """Envoy fails closed on an error; there is nothing left to say."""
    judge = judging(failing(BROKEN), wording=lambda _: failing(BROKEN)())
    held = Held(judge, HEADERS)
    assert await held.run() is StreamEnd.ABORTED
    assert held.wrote()
    assert (judge.faults, judge.closed) == ([(FaultKind.EXCEPTION, RuntimeError)] * 2, ABORTED)


async def test_an_answer_that_cannot_be_encoded_aborts_the_stream() -> None:
    """A plain end would let the request go on."""
    broken = on.RequestRefused(replace(REFUSAL, details="\ud800"))
    held = Held(judging(at_once(broken)), HEADERS)
    assert await held.run() is StreamEnd.ABORTED
    assert held.wrote()
    assert [fault for fault, _ in held.judge.faults] == [FaultKind.EXCEPTION]


@pytest.mark.parametrize(
    ("messages", "faults"),
    [
        ((b"\xff",), [FaultKind.UNREADABLE_MESSAGE]),
        ((HEADERS, b"\xff"), [FaultKind.UNREADABLE_MESSAGE]),
        ((HEADERS, HEADERS), [FaultKind.PROTOCOL_VIOLATION]),
        (
            (HEADERS, RESPONSE_TRAILERS),
            [FaultKind.PROTOCOL_VIOLATION],
        ),
    ],
    ids=["first-unreadable", "unreadable", "repeated", "out-of-order"],
)
async def test_what_envoy_may_not_send_is_refused(
    messages: tuple[bytes, ...], faults: list[FaultKind]
) -> None:
    """We cannot tell what is meant, so nothing goes on."""
    held = Held(judging(Endless()), *messages)
    assert await held.run() is StreamEnd.COMPLETED
    assert held.wrote(do.Refuse(refusal_of(ErrorKind.INTERNAL_ERROR)))
    assert [fault for fault, _ in held.judge.faults] == faults
    assert held.judge.closed == ANSWERED


async def test_a_response_out_of_order_aborts_the_stream() -> None:
    """The request is answered already; what is left can only fail closed."""
    held = Held(judging(CLEARS), HEADERS, RESPONSE_TRAILERS, wants_response_headers=True)
    assert await held.run() is StreamEnd.ABORTED
    assert [fault for fault, _ in held.judge.faults] == [FaultKind.PROTOCOL_VIOLATION]
    assert held.judge.closed == [(StreamEnd.ABORTED, True)]


async def test_a_mode_that_cannot_be_a_gate_is_counted_and_refused() -> None:
    """Somebody has to hint the configuration, so it shows."""
    held = Held(judging(), STREAMED_HEADERS)
    assert await held.run() is StreamEnd.COMPLETED
    assert held.wrote(do.Refuse(refusal_of(ErrorKind.UNSUPPORTED_PROCESSING_MODE)))
    assert held.judge.faults == [(FaultKind.UNSUPPORTED_MODE, None)]


async def test_a_read_that_fails_aborts_the_stream() -> None:
    """The server may raise anything; the stream does not end well."""
    held = Held(judging(), HEADERS)
    held.stream.send(BROKEN)
    assert await held.run() is StreamEnd.ABORTED
    assert (held.judge.faults, held.judge.closed) == (
        [(FaultKind.EXCEPTION, RuntimeError)],
        ABORTED,
    )


# The end of the stream.


@pytest.mark.parametrize(
    "messages", [(), (HEADERS,), (HEADERS, PIECE)], ids=["nothing", "headers", "part-of-a-body"]
)
async def test_a_half_close_before_the_request_is_whole_aborts_the_stream(
    messages: tuple[bytes, ...],
) -> None:
    """Ending with OK would let Envoy go on with what it has."""
    held = Held(judging(), *messages, None)
    assert await held.run() is StreamEnd.ABORTED
    assert held.judge.closed == ABORTED


async def test_a_request_cleared_after_a_half_close_ends_without_reading_again() -> None:
    """The rest of the body can no longer come."""
    is_known = asyncio.Event()
    held = Held(judging(awaited(cleared(), is_known)), DUPLEX_HEADERS, PIECE, None)
    running = held.start()
    for _ in range(10):
        await asyncio.sleep(0)
    is_known.set()
    assert await running is StreamEnd.COMPLETED
    assert held.wrote(FORWARD, do.StreamRequestBody(b"a", end_of_stream=False))


async def test_a_stream_that_is_gone_when_the_answer_comes_is_cancelled() -> None:
    """Nobody is left to answer; that is no fault of ours."""
    held = Held(judging(at_once(cleared())), HEADERS)
    held.stream.is_gone = True
    assert await held.run() is StreamEnd.CANCELLED
    assert held.judge.faults == []
    assert [end for end, _ in held.judge.closed] == [StreamEnd.CANCELLED]


async def test_a_cancelled_conversation_cancels_its_check() -> None:
    """Envoy reset the stream: the client left."""
    check = Endless()
    held = Held(judging(check), HEADERS)
    running = held.start()
    await check.began.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await check.cancelled.wait()
    assert (held.judge.faults, held.judge.closed) == ([], LEFT)


async def test_a_conversation_cancelled_while_it_reads_is_closed() -> None:
    """The same without a check."""
    held = Held(judging(), HEADERS)
    running = held.start()
    await held.stream.count(1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert held.judge.closed == LEFT


async def test_a_check_that_fails_while_it_is_abandoned_is_not_reported_as_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Asyncio logs errors of tasks that nobody looks at; here nobody has to."""

    async def stubborn() -> on.RequestRefused:
        try:
            await asyncio.Event().wait()
        finally:
            raise BROKEN

    held = Held(judging(stubborn), HEADERS, budgets=HURRIED)
    assert await held.run() is StreamEnd.COMPLETED
    for _ in range(3):
        await asyncio.sleep(0)
    assert caplog.records == []


@pytest.mark.parametrize("mode", [BodyMode.NONE, BodyMode.FULL_DUPLEX_STREAMED])
async def test_a_body_over_the_limit_is_refused_before_it_ends(mode: BodyMode) -> None:
    """413 without waiting for the rest."""
    opening = HEADERS if mode is BodyMode.NONE else DUPLEX_HEADERS
    too_long = envoy.request_body(b"x" * (MAX_BODY_BYTES + 1)).SerializeToString()
    held = Held(judging(), opening, too_long)
    assert await held.run() is StreamEnd.COMPLETED
    assert held.stream.written[-1] == encode(do.Refuse(refusal_of(ErrorKind.BODY_TOO_LARGE)))


# Judged answers.

JUDGES_ANSWER = at_once(on.BodyRequired(judges_answer=True))
CLEARS_JUDGED = at_once(on.RequestCleared(cleared().mutations, judges_answer=True))
ASKS_ANSWER = do.OverrideMode(response_headers=True, response_body=True)
ANSWER_HEADERS = envoy.response_headers(*RESPONSE_HEADERS.fields, ends=False).SerializeToString()


def answer_piece(body: bytes, *, ends: bool = False) -> bytes:
    """Return a message with a piece of an answer."""
    piece = ext.HttpBody(body=body, end_of_stream=ends)
    return ext.ProcessingRequest(response_body=piece).SerializeToString()


def answering(**more: Any) -> ScriptedHandler:
    """Return a judge of requests and their answers."""
    return judging(JUDGES_ANSWER, CLEARS_JUDGED, **more)


async def test_a_streamed_answer_is_judged_piece_by_piece() -> None:
    """Each piece is a question, and its verdict what leaves."""
    judge = answering(answer=on.ResponseStreamed(STRIPPED))
    held = Held(judge, HEADERS, LAST_PIECE, ANSWER_HEADERS, answer_piece(b"a"),
                answer_piece(b"b", ends=True))  # fmt: skip
    assert await held.run() is StreamEnd.COMPLETED
    assert held.wrote(
        ASKS_ANSWER, FORWARD, WHOLE_BODY, do.ContinueResponseHeaders(STRIPPED),
        do.StreamResponseBody(b"a", end_of_stream=False),
        do.StreamResponseBody(b"b", end_of_stream=True),
    )  # fmt: skip
    assert judge.asked[-2:] == [(b"a", False), (b"b", True)]


@pytest.mark.parametrize("answer", [at_once, awaited], ids=["at-once", "awaited"])
async def test_a_held_answer_waits_for_its_verdict(answer: Callable[[Any], Any]) -> None:
    """The same whether the verdict is there at once or has to be waited for."""
    verdict = on.ResponseJudged(STRIPPED)
    held = Held(answering(answer=on.ResponseHeld(), whole=answer(verdict)), HEADERS, LAST_PIECE,
                ANSWER_HEADERS, answer_piece(b"a", ends=True))  # fmt: skip
    assert await held.run() is StreamEnd.COMPLETED
    assert held.wrote(
        ASKS_ANSWER, FORWARD, WHOLE_BODY, do.ContinueResponseHeaders(STRIPPED),
        do.StreamResponseBody(b"a", end_of_stream=True),
    )  # fmt: skip


async def test_a_verdict_on_an_answer_that_does_not_come_is_a_refusal() -> None:
    """Within the budget of judging; the check is cancelled."""
    endless = Endless()
    judge = answering(answer=on.ResponseHeld(), whole=endless)
    budgets = replace(PATIENT, inspect_seconds=0.05)
    held = Held(judge, HEADERS, LAST_PIECE, ANSWER_HEADERS, answer_piece(b"a", ends=True),
                budgets=budgets)  # fmt: skip
    assert await held.run() is StreamEnd.COMPLETED
    assert held.stream.written[-1] == encode(
        do.Refuse(refusal_of(ErrorKind.GUARDRAIL_UNAVAILABLE))
    )
    await asyncio.wait_for(endless.cancelled.wait(), 60)


async def test_a_judgement_of_a_piece_that_raises_cuts_the_stream() -> None:
    """Envoy sees an error, and the client no end that was made up."""

    class Broken(ScriptedHandler):
        @override
        def take_piece(self, protocol: ExtProcProtocol) -> None:
            raise KeyError(protocol.piece)

    judge = Broken(JUDGES_ANSWER, CLEARS_JUDGED, answer=on.ResponseStreamed(STRIPPED))
    held = Held(judge, HEADERS, LAST_PIECE, ANSWER_HEADERS, answer_piece(b"a"))
    assert await held.run() is StreamEnd.ABORTED
    assert judge.faults == [(FaultKind.EXCEPTION, KeyError)]
    assert held.stream.written[-1] == encode(do.ContinueResponseHeaders(STRIPPED))


def streaming(*pieces: bytes, budgets: Budgets) -> ExtProcStream:
    """Return a stream whose answer is judged piece by piece, and whose pieces are all here."""
    talk = Talk(
        on.ExchangeOpened(BodyMode.FULL_DUPLEX_STREAMED, BodyMode.FULL_DUPLEX_STREAMED),
        on.RequestHeadersReceived(REQUEST_HEADERS, end_of_stream=True),
        on.RequestCleared(cleared().mutations, judges_answer=True),
        on.ResponseHeadersReceived(RESPONSE_HEADERS, end_of_stream=False),
        on.ResponseStreamed(STRIPPED),
    )
    call = MemoryStream(*[answer_piece(one) for one in pieces])
    return ExtProcStream(call, talk.protocol, budgets)


async def test_a_check_of_a_piece_that_takes_too_long_is_cancelled() -> None:
    """It does not wait for the next piece, which waits for its verdict."""
    stream, check = streaming(b"a", b"b", budgets=HURRIED), Endless()
    assert await stream.receive() is Event.ANSWER_PIECE
    with pytest.raises(LateError) as late:
        await stream.wait_for(check())
    assert late.value.kind is ErrorKind.GUARDRAIL_UNAVAILABLE
    await asyncio.wait_for(check.cancelled.wait(), 60)
    stream.protocol.send_piece(b"", ends=True)
    assert await stream.receive() is Event.ENDED


async def test_each_piece_has_a_budget_of_its_own() -> None:
    """Also if the next one is here already, so that none is waited for."""
    stream = streaming(b"a", b"b", budgets=replace(PATIENT, inspect_seconds=1.0))
    for piece in (b"a", b"b"):
        assert await stream.receive() is Event.ANSWER_PIECE
        assert await stream.wait_for(asyncio.sleep(0.6, piece)) == stream.protocol.piece
        stream.protocol.send_piece(b"")


@pytest.mark.parametrize("is_long", [False, True])
async def test_only_while_a_check_takes_several_turns_is_the_stream_read_on(
    *, is_long: bool
) -> None:
    async def check() -> str:
        for _ in range(TURNS_ALONE + 2 if is_long else TURNS_ALONE - 1):
            await asyncio.sleep(0)
        return "done"

    call, room = MemoryStream(), OverloadGuard(max_exchanges=1, max_held_bytes=1)
    protocol = ExtProcProtocol(max_body_bytes=1, wants_answer_headers=False, room=room)
    assert await ExtProcStream(call, protocol, PATIENT).wait_for(check()) == "done"
    assert call.was_waited_for is is_long
