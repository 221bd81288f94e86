"""Usage of requests whose worker reads their answers itself."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from itertools import count

import pytest

from sidecar._generated.envoy.data.ai.v3 import token_usage_pb2 as ai
from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from sidecar.apis.event_stream import event_stream_message
from sidecar.domain.http import Headers
from sidecar.domain.limits import Level, Limit, Measure, Window
from sidecar.domain.usage import (
    NO_TOKENS,
    USAGE_NAMESPACE,
    AnswerEnd,
    Estimate,
    ExchangeEnded,
    TokenCounts,
)
from sidecar.extproc.phases import BodyMode
from sidecar.extproc.stream import OverloadGuard
from sidecar.guardrails.runner import GuardrailRunner
from sidecar.pipeline.metered_answer import MAX_WHOLE_BYTES
from sidecar.settings.stores import ReadAnswers, UsageSource
from sidecar.usage.records import record_of
from tests.support.events import (
    BodyRequired,
    RequestCleared,
    ResponseHeld,
    ResponseJudged,
)
from tests.support.pipeline import KEY, PATIENT, Exchange, World, chat, headers

ANSWERS = UsageSource.ANSWERS
PLAIN = "name: default\n"
REDACTS_ANSWERS = """
name: default
guardrails: [{name: pii, type: pii, stage: output, action: redact}]
"""
BLOCKS_ANSWERS = """
name: default
guardrails: [{name: words, type: denied_terms, stage: output, action: block, terms: [Bluebird]}]
"""
USAGE = {"prompt_tokens": 3, "completion_tokens": 7}
WHOLE = json.dumps(
    {"model": "gpt-5-2026", "choices": [{"message": {"content": "Hi."}}], "usage": USAGE}
).encode()
TOKENS_A_MINUTE = Limit(
    id="key_1/tokens/minute",
    level=Level.KEY,
    measure=Measure.TOKENS,
    window=Window.MINUTE,
    amount=10_000,
)
EVENTS = [
    b'data: {"model":"gpt-5-2026","choices":[{"delta":{"content":"Hi."}}]}\n\n',
    b'data: {"model":"gpt-5-2026","choices":[],"usage":' + json.dumps(USAGE).encode() + b"}\n\n",
    b"data: [DONE]\n\n",
]


def answer(content_type: str = "application/json", *more: tuple[str, bytes]) -> Headers:
    """Return the headers of a provider's answer."""
    fields = ((":status", b"200"), ("content-type", content_type.encode()))
    return Headers((*fields, ("x-request-id", b"req_7"), *more))


async def asked(
    world: World,
    body: bytes = b"",
    *,
    request: BodyMode = BodyMode.NONE,
    response: BodyMode = BodyMode.NONE,
) -> Exchange:
    """Return an exchange whose request has gone on."""
    exchange = world.exchange(request=request, response=response)
    verdict = await exchange.judge_headers(headers(), has_body=True)
    if isinstance(verdict, BodyRequired):
        verdict = await exchange.judge_body(body or chat())
    assert isinstance(verdict, RequestCleared)
    assert dict(verdict.mutations.metadata)["usage_source"] == "answers"
    return exchange


async def stream(exchange: Exchange, events: list[bytes]) -> bytes:
    """Send an answer piece by piece; return the bytes that went on."""
    sent = b""
    for number, event in enumerate(events, start=1):
        judged = await exchange.judge_response_piece(event, is_last=number == len(events))
        sent += judged.body
    return sent


def only(world: World) -> tuple[ExchangeEnded, Estimate | None]:
    """Return the one end that was accounted for."""
    (noted,) = world.ends.noted
    return noted


@pytest.mark.parametrize("policy", [PLAIN, REDACTS_ANSWERS], ids=["unjudged", "judged"])
async def test_a_whole_answer_is_counted_and_goes_on_byte_for_byte(policy: str) -> None:
    """Piece by piece, without waiting for its end, if no guardrail holds it."""
    world = World(policy, usage_source=ANSWERS)
    exchange = await asked(world)
    if isinstance(await exchange.judge_response_headers(answer()), ResponseHeld):
        judged = await exchange.judge_response_body(WHOLE)
        assert isinstance(judged, ResponseJudged)
        assert judged.body == WHOLE
    else:
        assert await stream(exchange, [WHOLE[:20], WHOLE[20:]]) == WHOLE
    ended, estimate = only(world)

    assert estimate is None
    assert (ended.end, ended.status, ended.tokens) == (
        AnswerEnd.COMPLETED, 200, TokenCounts(3, 7),
    )  # fmt: skip
    assert (ended.response_model, ended.provider_request_id) == ("gpt-5-2026", "req_7")
    assert world.verdicts.noted == []


@pytest.mark.parametrize("policy", [PLAIN, REDACTS_ANSWERS], ids=["unjudged", "judged"])
async def test_a_stream_is_counted_as_its_events_pass(policy: str) -> None:
    """The event with the counts may be cut anywhere."""
    world = World(policy, usage_source=ANSWERS)
    exchange = await asked(world, chat(stream=True))
    await exchange.judge_response_headers(answer("text/event-stream"))
    text = b"".join(EVENTS)
    assert await stream(exchange, [text[:90], text[90:]]) == text
    ended, estimate = only(world)

    assert (ended.tokens, estimate, ended.is_event_stream) == (TokenCounts(3, 7), None, True)
    assert ended.sent_bytes == len(text)


@pytest.mark.parametrize(
    ("named", "served", "recorded"),
    [
        ({"service_tier": "priority"}, '"default"', None),
        ({"service_tier": "auto"}, '"priority"', "priority"),
        ({"service_tier": "flex"}, "null", "flex"),
    ],
)
async def test_the_tier_that_served_a_request_is_recorded(
    named: dict[str, str], served: str, recorded: str | None
) -> None:
    """A provider bills that one; a request is of the tier it names if the answer names none."""
    reads_bodies = BLOCKS_ANSWERS.replace("stage: output", "stage: input")
    world = World(reads_bodies, usage_source=ANSWERS)
    exchange = await asked(world, chat(**named))
    await exchange.judge_response_headers(answer())
    await stream(exchange, [WHOLE[:-1] + b',"service_tier":' + served.encode() + b"}"])
    assert only(world)[0].request.service_tier == recorded


async def test_claude_s_counts_within_chunks_of_bedrock_are_read() -> None:
    """The first event has the input's, the last one the output's."""
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 3}}}
    end = {"type": "message_delta", "usage": {"output_tokens": 7}}
    text = b"".join(
        event_stream_message(
            {":event-type": "chunk"},
            json.dumps({"bytes": base64.b64encode(json.dumps(one).encode()).decode()}).encode(),
        )
        for one in (start, end)
    )
    world = World(PLAIN, usage_source=ANSWERS)
    exchange = await asked(world, chat(stream=True))
    await exchange.judge_response_headers(answer("application/vnd.amazon.eventstream"))
    assert await stream(exchange, [text[:90], text[90:]]) == text
    ended, estimate = only(world)

    assert (ended.tokens, estimate, ended.is_event_stream) == (TokenCounts(3, 7), None, True)


@pytest.mark.parametrize("source", [ANSWERS, UsageSource.AI_PROTOCOL_MANAGER])
async def test_bedrocks_headers_count_an_answer_whose_body_does_not(source: UsageSource) -> None:
    """Of models with a form of their own, here vectors, which would be thousands of tokens."""
    world = World(PLAIN, usage_source=source)
    exchange = world.exchange()
    path = "/model/amazon.titan-embed-text-v2:0/invoke"
    verdict = await exchange.judge_headers(headers(path), has_body=True)
    if isinstance(verdict, BodyRequired):
        await exchange.judge_body(b'{"inputText": "Hello."}')
    count = ("x-amzn-bedrock-input-token-count", b"5")
    await exchange.judge_response_headers(answer("application/json", count))
    if source is ANSWERS:
        body = json.dumps({"embedding": [0.5] * 1_000}).encode()
        await exchange.judge_response_piece(body, is_last=True)
    else:
        message = ext.ProcessingRequest(response_trailers=ext.HttpTrailers())
        exchange.stream.send(message.SerializeToString())
        await exchange.replies()
        await exchange.end()
    ended, estimate = only(world)

    assert (ended.tokens, estimate) == (TokenCounts(5), None)


async def test_a_stream_whose_counts_egret_asked_for_loses_them_and_is_counted() -> None:
    """The key has a limit on tokens, so that its streams are made to state counts."""
    world = World(PLAIN, usage_source=ANSWERS)
    record = world.store.records[KEY.key_id]
    world.store.records[KEY.key_id] = replace(record, limits=(TOKENS_A_MINUTE,))
    exchange = await asked(world, chat(stream=True))
    await exchange.judge_response_headers(answer("text/event-stream"))
    assert await stream(exchange, EVENTS) == EVENTS[0] + EVENTS[2]
    assert only(world)[0].tokens == TokenCounts(3, 7)


def named(event: str, **data: object) -> bytes:
    """Return an event with a name, as Anthropic and OpenAI's responses have it."""
    return f"event: {event}\ndata: {json.dumps({'type': event, **data})}\n\n".encode()


@pytest.mark.parametrize(
    "events",
    [
        pytest.param(EVENTS, id="chat"),
        pytest.param(
            [
                named("message_start", message={"model": "c", "usage": {"input_tokens": 3}}),
                named("message_delta", usage={"output_tokens": 7}),
                named("message_stop"),
            ],
            id="messages",
        ),
        pytest.param(
            [named("response.completed", response={"usage": USAGE})],
            id="responses",
        ),
    ],
)
async def test_a_client_that_leaves_behind_the_last_event_has_the_counts_of_all(
    events: list[bytes],
) -> None:
    """Many client libraries close the connection there, before the end of the body has come."""
    world = World(PLAIN, usage_source=ANSWERS)
    exchange = await asked(world, chat(stream=True))
    await exchange.judge_response_headers(answer("text/event-stream"))
    for event in events:
        await exchange.judge_response_piece(event, is_last=False)
    await exchange.end(is_cancelled=True)
    ended, estimate = only(world)

    assert (ended.end, ended.tokens, estimate) == (
        AnswerEnd.COMPLETED, TokenCounts(3, 7), None,
    )  # fmt: skip


async def test_a_client_that_leaves_is_estimated_by_what_had_passed() -> None:
    """Its end is not known to be the client's: the provider may have broken off."""
    world = World(REDACTS_ANSWERS, usage_source=ANSWERS)
    exchange = await asked(world, chat(stream=True))
    await exchange.judge_response_headers(answer("text/event-stream"))
    await exchange.judge_response_piece(EVENTS[0] * 8, is_last=False)
    await exchange.end(is_cancelled=True)
    ended, estimate = only(world)

    assert (ended.end, ended.tokens, estimate) == (
        AnswerEnd.CLIENT_ABORTED, None, Estimate.LEFT_EARLY,
    )  # fmt: skip
    record = record_of(ended)
    assert record.is_estimated
    assert record.tokens.output > 0


async def test_counts_that_an_answer_stated_before_it_broke_off_are_the_least() -> None:
    """Gemini and others repeat them in each event: pictures and reasoning are in no text."""
    world = World(PLAIN, usage_source=ANSWERS)
    exchange = await asked(world, chat(stream=True))
    await exchange.judge_response_headers(answer("text/event-stream"))
    stated = {"prompt_tokens": 1_600, "completion_tokens": 900}
    event = {"choices": [{"delta": {"content": "Hi."}}], "usage": stated}
    await exchange.judge_response_piece(
        b"data: " + json.dumps(event).encode() + b"\n\n", is_last=False
    )
    await exchange.end(is_cancelled=True)
    record = record_of(only(world)[0])

    assert (record.tokens, record.is_estimated) == (TokenCounts(1_600, 900), True)


async def test_a_blocked_answer_is_counted_as_its_provider_did() -> None:
    """It was produced, and is paid for."""
    world = World(BLOCKS_ANSWERS, usage_source=ANSWERS)
    exchange = await asked(world)
    await exchange.judge_response_headers(answer())
    await exchange.judge_response_body(WHOLE.replace(b"Hi.", b"Bluebird"))
    ended, _ = only(world)

    assert (ended.end, ended.status, ended.answer_status, ended.tokens) == (
        AnswerEnd.BLOCKED, 400, 200, TokenCounts(3, 7),
    )  # fmt: skip


async def test_a_refused_request_is_recorded_without_use() -> None:
    """The provider never saw it."""
    world = World("name: default\nallowed_models: [gpt-4o]\n", usage_source=ANSWERS)
    exchange = world.exchange()
    await exchange.judge_headers(headers(), has_body=True)
    await exchange.judge_body(chat())
    await exchange.end()
    ended, estimate = only(world)

    assert (ended.end, ended.status, estimate) == (AnswerEnd.REFUSED, 403, None)
    assert record_of(ended).tokens == NO_TOKENS


@pytest.mark.parametrize(
    ("content", "estimate"),
    [
        pytest.param(answer("application/json", ("content-encoding", b"gzip")),
                     Estimate.UNREADABLE, id="compressed"),
        pytest.param(answer("audio/mpeg"), Estimate.UNREADABLE, id="sound"),
        pytest.param(answer("text/event-stream"), Estimate.NO_COUNTS, id="without counts"),
        pytest.param(answer("application/json"), Estimate.NO_COUNTS, id="no JSON"),
    ],
)  # fmt: skip
async def test_an_answer_without_readable_counts_passes_and_is_estimated(
    content: Headers, estimate: Estimate
) -> None:
    """Nothing is refused or held back because it cannot be counted."""
    world = World(PLAIN, usage_source=ANSWERS)
    exchange = await asked(world)
    await exchange.judge_response_headers(content)
    if estimate is Estimate.NO_COUNTS:
        assert await stream(exchange, EVENTS[:1]) == EVENTS[0]
    await exchange.end()
    assert only(world)[1] is estimate


async def test_a_whole_answer_that_is_too_long_to_keep_goes_on_and_is_estimated() -> None:
    """The memory of a worker is bounded, whatever providers send."""
    world = World(PLAIN, usage_source=ANSWERS)
    exchange = await asked(world)
    await exchange.judge_response_headers(answer())
    piece = b"x" * (1 << 20)
    for _ in range(MAX_WHOLE_BYTES // len(piece) + 1):
        assert (await exchange.judge_response_piece(piece, is_last=False)).body == piece
    assert world.worker.guard.held_bytes == 0
    await exchange.judge_response_piece(b"}", is_last=True)
    assert only(world)[1] is Estimate.NO_COUNTS


@pytest.mark.parametrize("error", [429, 503])
async def test_a_provider_s_error_is_no_use(error: int) -> None:
    """It is no completion, and is not billed as one."""
    world = World(PLAIN, usage_source=ANSWERS)
    exchange = await asked(world)
    failed = Headers(((":status", str(error).encode()), ("content-type", b"application/json")))
    await exchange.judge_response_headers(failed)
    await stream(exchange, [b'{"error":{}}'])
    ended, estimate = only(world)

    assert (ended.status, estimate) == (error, None)
    assert record_of(ended).tokens == NO_TOKENS


@pytest.mark.parametrize(
    ("reads", "response"),
    [
        pytest.param(ReadAnswers.JUDGED, BodyMode.NONE, id="only judged ones are read"),
        pytest.param(ReadAnswers.ALL, BodyMode.NONE, id="the gateway sends no answers"),
    ],
)
async def test_an_answer_that_does_not_come_here_keeps_its_reservation(
    reads: ReadAnswers, response: BodyMode
) -> None:
    """Its output is estimated as reserved: too much rather than too little."""
    world = World("name: default\nusage: {streams: estimate}\n", usage_source=ANSWERS, reads=reads)
    record = world.store.records[KEY.key_id]
    world.store.records[KEY.key_id] = replace(record, limits=(TOKENS_A_MINUTE,))
    request = BodyMode.NONE if reads is ReadAnswers.JUDGED else BodyMode.BUFFERED
    exchange = await asked(world, chat(max_tokens=50), request=request, response=response)
    await exchange.end()
    ended, estimate = only(world)

    assert (ended.end, estimate) == (AnswerEnd.COMPLETED, Estimate.NOT_SENT)
    assert (record_of(ended).tokens.output, record_of(ended).is_estimated) == (50, True)


async def test_an_operation_without_tokens_passes_without_this_worker() -> None:
    """Lists of models cost nothing, so that their answers need not come here."""
    world = World(PLAIN, usage_source=ANSWERS)
    exchange = world.exchange()
    verdict = await exchange.judge_headers(headers("/v1/models", method="GET"), has_body=False)
    assert isinstance(verdict, RequestCleared)
    assert not verdict.judges_answer
    await exchange.end()
    ended, estimate = only(world)
    assert (ended.end, ended.tokens, estimate) == (AnswerEnd.COMPLETED, NO_TOKENS, None)


async def test_an_answer_in_one_piece_is_counted_from_a_gateway_that_buffers_it() -> None:
    """BUFFERED: Envoy holds it, and gets it back unchanged."""
    world = World(PLAIN, usage_source=ANSWERS)
    exchange = await asked(world, request=BodyMode.BUFFERED, response=BodyMode.BUFFERED)
    await exchange.judge_response_headers(answer())
    judged = await exchange.judge_response_body(WHOLE)
    assert isinstance(judged, ResponseJudged)
    assert judged.body is None
    assert only(world)[0].tokens == TokenCounts(3, 7)


async def counted_by_envoy(usage: ai.TokenUsage | None, *more: tuple[str, bytes]) -> World:
    """Return a world in which an answer has passed, with these counts of Envoy's in trailers."""
    world = World(PLAIN, usage_source=UsageSource.AI_PROTOCOL_MANAGER)
    exchange = world.exchange()
    verdict = await exchange.judge_headers(headers(), has_body=True)
    assert isinstance(verdict, RequestCleared)
    assert dict(verdict.mutations.metadata)["usage_source"] == "ai_protocol_manager"
    await exchange.judge_response_headers(answer("application/json", *more))
    if usage is not None:
        message = ext.ProcessingRequest(response_trailers=ext.HttpTrailers())
        typed = message.metadata_context.typed_filter_metadata[USAGE_NAMESPACE]
        typed.value = usage.SerializeToString()
        exchange.stream.send(message.SerializeToString())
        await exchange.replies()
    await exchange.end()
    return world


async def test_counts_of_envoy_come_without_a_byte_of_the_answer() -> None:
    """Its AI filter has read them; the stream waits for the trailers alone."""
    usage = ai.TokenUsage(model="gpt-5-2026", extraction_status=ai.TokenUsage.COMPLETE)
    usage.input_tokens.value, usage.output_tokens.value = 3, 7
    ended, estimate = only(await counted_by_envoy(usage))

    assert (ended.end, ended.status, ended.tokens, estimate) == (
        AnswerEnd.COMPLETED, 200, TokenCounts(3, 7), None,
    )  # fmt: skip
    assert ended.response_model == "gpt-5-2026"


@pytest.mark.parametrize(
    ("usage", "estimate"),
    [
        pytest.param(ai.TokenUsage(), Estimate.NO_COUNTS, id="Envoy found none"),
        pytest.param(None, Estimate.NO_SIGNAL, id="no trailers came"),
    ],
)
async def test_counts_that_do_not_come_are_estimated(
    usage: ai.TokenUsage | None, estimate: Estimate
) -> None:
    """By the length of the answer, if its headers state one."""
    ended, found = only(await counted_by_envoy(usage, ("content-length", b"2000")))

    assert (ended.tokens, found) == (None, estimate)
    assert record_of(ended).tokens.output > 100


async def test_a_stream_whose_counts_envoy_did_not_find_costs_what_was_reserved() -> None:
    """Not a byte of it came here, and its length is not known: it would else have no output."""
    world = World(
        "name: default\nusage: {streams: estimate}\n",
        usage_source=UsageSource.AI_PROTOCOL_MANAGER,
    )
    record = world.store.records[KEY.key_id]
    world.store.records[KEY.key_id] = replace(record, limits=(TOKENS_A_MINUTE,))
    exchange = world.exchange()
    await exchange.judge_headers(headers(), has_body=True)
    await exchange.judge_body(chat(stream=True, max_tokens=500))
    await exchange.judge_response_headers(answer("text/event-stream"))
    message = ext.ProcessingRequest(response_trailers=ext.HttpTrailers())
    exchange.stream.send(message.SerializeToString())
    await exchange.replies()
    await exchange.end()
    ended, estimate = only(world)

    assert estimate is Estimate.NO_COUNTS
    assert record_of(ended).tokens.output == 500


async def test_counting_leaves_half_of_the_room_to_requests() -> None:
    """Long answers that pass must not have the next request refused as one too many."""
    world = World(PLAIN, usage_source=ANSWERS)
    world.worker = replace(
        world.worker, guard=OverloadGuard(max_exchanges=8, max_held_bytes=1 << 20)
    )
    exchange = await asked(world)
    await exchange.judge_response_headers(answer())
    await exchange.judge_response_piece(b"{" * (1 << 19), is_last=False)
    assert world.worker.guard.held_bytes == 1 << 19
    await exchange.judge_response_piece(b"{", is_last=False)
    assert world.worker.guard.held_bytes == 0
    await exchange.end()
    assert only(world)[1] is Estimate.LEFT_EARLY


async def test_counting_takes_of_the_share_of_the_organization() -> None:
    """Answers of others are counted as well; beyond the share they are estimated."""
    world = World(PLAIN, usage_source=ANSWERS)
    guard = OverloadGuard(max_exchanges=8, max_held_bytes=1 << 20, reserved_bytes=1 << 18)
    world.worker = replace(world.worker, guard=guard)
    exchange = await asked(world)
    await exchange.judge_response_headers(answer())
    assert guard.assign_place("another")
    assert guard.hold_spare(1 << 18, "another")
    await exchange.judge_response_piece(b"{" * (1 << 17), is_last=False)
    assert guard.held_bytes == (1 << 18) + (1 << 17)
    assert guard.hold(1 << 17, world.store.records[KEY.key_id].principal.organization_id)
    guard.release(1 << 18, "another")
    await exchange.judge_response_piece(b"{", is_last=False)
    assert guard.held_bytes == 1 << 17
    await exchange.end()
    assert only(world)[1] is Estimate.LEFT_EARLY


@pytest.mark.parametrize("mode", [BodyMode.NONE, BodyMode.BUFFERED])
async def test_an_answer_that_comes_in_one_piece_needs_no_room_to_be_counted(
    mode: BodyMode,
) -> None:
    """It is not kept for its counts: they are there already."""
    world = World(PLAIN, usage_source=ANSWERS)
    size = len(WHOLE) * 3 // 2
    world.worker = replace(world.worker, guard=OverloadGuard(max_exchanges=8, max_held_bytes=size))
    exchange = await asked(world, request=mode, response=mode)
    await exchange.judge_response_headers(answer())
    if mode is BodyMode.BUFFERED:
        await exchange.judge_response_body(WHOLE)
    else:
        await exchange.judge_response_piece(WHOLE, is_last=True)
    ended, estimate = only(world)
    assert (ended.tokens, estimate) == (TokenCounts(3, 7), None)
    assert world.worker.guard.held_bytes == 0


@pytest.mark.parametrize("size", [2 << 20, MAX_WHOLE_BYTES + 1])
async def test_a_long_answer_of_a_gateway_that_buffers_is_not_refused_for_its_counts(
    size: int,
) -> None:
    """Beyond `max_body_bytes` as well; if it is too long to be read, it is estimated."""
    world = World(PLAIN, usage_source=ANSWERS)
    exchange = await asked(world, request=BodyMode.BUFFERED, response=BodyMode.BUFFERED)
    await exchange.judge_response_headers(answer())
    body = WHOLE + b" " * (size - len(WHOLE))
    judged = await exchange.judge_response_body(body)
    assert isinstance(judged, ResponseJudged)
    assert judged.body is None
    ended, estimate = only(world)
    is_read = size <= MAX_WHOLE_BYTES
    assert (ended.end, ended.sent_bytes) == (AnswerEnd.COMPLETED, size)
    assert (ended.tokens, estimate) == (
        (TokenCounts(3, 7), None) if is_read else (None, Estimate.NO_COUNTS)
    )


async def test_an_answer_of_a_gateway_that_buffers_needs_no_room_to_be_counted() -> None:
    """A worker that is full of bodies refuses none that is paid for."""
    world = World(PLAIN, usage_source=ANSWERS)
    guard = OverloadGuard(max_exchanges=8, max_held_bytes=1 << 20)
    world.worker = replace(world.worker, guard=guard)
    exchange = await asked(world, request=BodyMode.BUFFERED, response=BodyMode.BUFFERED)
    await exchange.judge_response_headers(answer())
    assert guard.hold(1 << 20)
    judged = await exchange.judge_response_body(WHOLE)
    assert isinstance(judged, ResponseJudged)
    assert only(world)[0].tokens == TokenCounts(3, 7)
    assert guard.held_bytes == 1 << 20


async def test_an_answer_whose_counting_is_late_goes_on_and_is_estimated() -> None:
    """A worker that is busy with long texts refuses none that is paid for."""
    world = World(PLAIN, usage_source=ANSWERS)
    ticks = count()
    world.worker = replace(
        world.worker,
        guardrail_runner=GuardrailRunner(remote=world.remote, clock=lambda: float(next(ticks))),
        budgets=replace(PATIENT, inspect_seconds=0.000_001),
    )
    exchange = await asked(world, request=BodyMode.BUFFERED, response=BodyMode.BUFFERED)
    await exchange.judge_response_headers(answer("text/event-stream"))
    body = EVENTS[0] * 2_000 + b"".join(EVENTS)
    judged = await exchange.judge_response_body(body)
    assert isinstance(judged, ResponseJudged)
    assert judged.body is None
    ended, estimate = only(world)
    assert (ended.end, ended.sent_bytes) == (AnswerEnd.COMPLETED, len(body))
    assert estimate is Estimate.NO_COUNTS
