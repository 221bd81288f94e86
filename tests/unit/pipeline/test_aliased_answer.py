"""Answers that name the alias their client requested, as the policy chooses."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.http import Headers
from sidecar.domain.subject import Dialect, Operation, RequestForm, Route
from sidecar.domain.usage import AnswerEnd, Estimate, TokenCounts
from sidecar.extproc.phases import BodyMode
from sidecar.extproc.stream import OverloadGuard
from sidecar.guardrails.runner import GuardrailRunner
from sidecar.pipeline.aliased_answer import AliasedAnswer
from sidecar.pipeline.answer import AnswerPlan, Handling, RequestLine, UncountedAnswer
from sidecar.pipeline.metered_answer import MeteredAnswer
from sidecar.settings.stores import UsageSource
from tests.support.answers import quiet_stream
from tests.support.conversation import message_of
from tests.support.events import (
    BodyRequired,
    RequestCleared,
    ResponseBodyReceived,
    ResponseHeld,
    ResponseJudged,
)
from tests.support.pipeline import Exchange, ScriptedRemote, World, headers
from tests.support.replies import Refuse, StreamResponseBody

ALIASES = "name: default\naliases: {gpt-best: gpt-5-mini}\nrestore_aliases: true\n"
REDACTS = "guardrails: [{name: pii, type: pii, stage: output, action: redact}]\n"
ROUTE = Route(Dialect.OPENAI, Operation.CHAT, has_body=True, form=RequestForm.MESSAGES)
LINE = RequestLine("/v1/chat/completions", ROUTE)
RUNNER = GuardrailRunner(remote=ScriptedRemote(), clock=lambda: 0.0)
JSON = Headers(((":status", b"200"), ("content-type", b"application/json")))
SSE = Headers(((":status", b"200"), ("content-type", b"text/event-stream")))
EVENTS = (
    b'data: {"model":"gpt-5-mini-2026","choices":[{"delta":{"content":"a \\"model\\":"}}]}\n\n'
    b': ping\n\nevent: x\ndata: {"type":"response.created","response":{"model":"gpt-5-mini"}}\n\n'
    b'data: {"type":"message_start","message":{"content":[],"model":"claude-x"}}\r\n\r\n'
    b"data: [DONE]\n\n"
)
NAMED = (
    EVENTS.replace(b'"gpt-5-mini-2026"', b'"gpt-best"')
    .replace(b'"gpt-5-mini"', b'"gpt-best"')
    .replace(b'"claude-x"', b'"gpt-best"')
)


def plan(content: Headers = SSE) -> AliasedAnswer:
    """Begin an answer that nothing judges."""
    made = AliasedAnswer(LINE, None, alias="gpt-best", runner=RUNNER)
    assert made.begin(content, may_stream=True) is Handling.STREAM
    return made


@given(st.lists(st.integers(0, len(EVENTS)), max_size=6))
def test_each_event_of_a_stream_names_the_alias_however_it_is_cut(cuts: list[int]) -> None:
    """No other byte changes, and text of the model's own stays."""
    places = [0, *sorted(cuts), len(EVENTS)]
    pieces = [EVENTS[a:b] for a, b in pairwise(places)]
    answer = plan()
    sent = [
        answer.take(piece, is_last=number == len(pieces)).body
        for number, piece in enumerate(pieces, start=1)
    ]
    assert b"".join(sent) == NAMED


def test_a_comment_that_repeats_the_data_stays() -> None:
    """The data of the event names the alias."""
    data, named = b'{"model":"gpt-5-mini"}', b'{"model":"gpt-best"}'
    event = b": " + data + b"\ndata: %b\n\n"
    assert plan().take(event % data, is_last=True).body == event % named


async def aliased(world: World, **more: object) -> Exchange:
    """Return an exchange whose request has gone on under an alias."""
    exchange = world.exchange()
    assert isinstance(await exchange.judge_headers(headers(), has_body=True), BodyRequired)
    messages = [{"role": "user", "content": "Hello."}]
    body = json.dumps({"model": "gpt-best", "messages": messages, **more}).encode()
    verdict = await exchange.judge_body(body)
    assert isinstance(verdict, RequestCleared)
    assert verdict.judges_answer
    return exchange


@pytest.mark.parametrize("guardrails", ["", REDACTS], ids=["unjudged", "judged"])
@pytest.mark.parametrize("source", [UsageSource.ACCESS_LOG, UsageSource.ANSWERS])
async def test_a_whole_answer_names_the_alias(guardrails: str, source: UsageSource) -> None:
    """With a guardrail's changes in it, and counted by its own name."""
    world = World(ALIASES + guardrails, usage_source=source)
    exchange = await aliased(world)
    assert isinstance(await exchange.judge_response_headers(JSON), ResponseHeld)
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    answer = {"model": "gpt-5-mini-2026", "choices": [{"message": {"content": "x"}}]}
    judged = await exchange.judge_response_body(json.dumps(answer | {"usage": usage}).encode())
    assert isinstance(judged, ResponseJudged)
    named = answer | {"model": "gpt-best", "usage": usage}
    assert judged.body == json.dumps(named).encode()
    if source is UsageSource.ANSWERS:
        assert world.ends.noted[0][0].response_model == "gpt-5-mini-2026"


@pytest.mark.parametrize("source", [UsageSource.ACCESS_LOG, UsageSource.ANSWERS])
@pytest.mark.parametrize("size", [1 << 10, 2 << 20], ids=["without room", "too long"])
async def test_a_whole_answer_that_cannot_be_held_goes_on_under_the_model_s_name(
    source: UsageSource, size: int
) -> None:
    """It is paid for, and nothing judges it; it is counted as it passes."""
    world = World(ALIASES, usage_source=source)
    room = 1 << 9 if size < 1 << 20 else 1 << 28
    guard = OverloadGuard(max_exchanges=8, max_held_bytes=room)
    world.worker = replace(world.worker, guard=guard)
    exchange = await aliased(world)
    assert isinstance(await exchange.judge_response_headers(JSON), ResponseHeld)
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    answer = {"model": "gpt-5-mini-2026", "text": "x" * size, "usage": usage}
    body = json.dumps(answer).encode()
    passed = b""
    for start in range(0, len(body), size // 4):
        piece = body[start : start + size // 4]
        exchange.stream.send(
            message_of(ResponseBodyReceived(piece, end_of_stream=False)).SerializeToString()
        )
        replies = await exchange.replies()
        passed += b"".join(one.body for one in replies if isinstance(one, StreamResponseBody))
        assert not any(isinstance(one, Refuse) for one in replies)
    assert (await exchange.judge_response_piece(b"", is_last=True)).ends
    assert passed == body
    assert guard.held_bytes == 0
    if source is UsageSource.ANSWERS:
        ended, estimate = world.ends.noted[0]
        is_counted = room > size
        assert (ended.end, ended.sent_bytes) == (AnswerEnd.COMPLETED, len(body))
        assert ended.tokens == (TokenCounts(1, 2) if is_counted else None)
        assert estimate is (None if is_counted else Estimate.NO_COUNTS)


async def test_a_judged_stream_names_the_alias() -> None:
    """Behind the guardrails, which read what the provider sent."""
    exchange = await aliased(World(ALIASES + REDACTS), stream=True)
    await exchange.judge_response_headers(SSE)
    event = b'data: {"model":"gpt-5-mini","choices":[{"index":0,"delta":{"content":"EMAIL"}}]}\n\n'
    sent = await exchange.judge_response_piece(
        event.replace(b"EMAIL", b"ann@example.org"), is_last=True
    )
    expected = event.replace(b"gpt-5-mini", b"gpt-best").replace(b"EMAIL", b"[EMAIL_1]")
    assert sent.body == expected


@pytest.mark.parametrize(
    "content",
    [
        Headers(((":status", b"429"), ("content-type", b"application/json"))),
        Headers(((":status", b"200"), ("content-type", b"audio/mpeg"))),
        Headers((*JSON.fields, ("content-encoding", b"gzip"))),
    ],
    ids=["an error", "sound", "compressed"],
)
def test_other_answers_pass_as_they_are(content: Headers) -> None:
    """They name no model, or cannot be read."""
    made = AliasedAnswer(LINE, None, alias="gpt-best", runner=RUNNER)
    assert made.begin(content, may_stream=True) is Handling.PASS


def test_an_event_that_never_ends_goes_on_as_it_is() -> None:
    """Nothing is held back beyond the limit of an event."""
    answer, sent = plan(), b""
    piece = b'data: {"model":"gpt-5-mini",' + b"x" * (1 << 19)
    for _ in range(4):
        sent += answer.take(piece, is_last=False).body
    sent += answer.take(b"", is_last=True).body
    assert sent == piece * 4


async def test_behind_a_gateway_that_sends_no_answers_the_model_stays() -> None:
    """The request goes on all the same: its answer names the model that answered."""
    world = World(ALIASES)
    exchange = world.exchange(request=BodyMode.BUFFERED, response=BodyMode.NONE)
    await exchange.judge_headers(headers(), has_body=True)
    verdict = await exchange.judge_body(b'{"model":"gpt-best","messages":[]}')
    assert isinstance(verdict, RequestCleared)
    assert verdict.mutations.body == b'{"model":"gpt-5-mini","messages":[]}'
    await exchange.end()


@pytest.mark.parametrize("kind", ["aliased", "metered", "uncounted"])
async def test_a_whole_stream_that_nothing_judges_is_gone_through_in_turns(kind: str) -> None:
    """Nine megabytes of comments from a gateway that buffers held a worker for ten seconds."""
    ticks, turns = count(), 0
    runner = GuardrailRunner(remote=ScriptedRemote(), clock=lambda: float(next(ticks)))
    room = OverloadGuard(max_exchanges=1, max_held_bytes=1)
    plans: dict[str, AnswerPlan] = {
        "aliased": AliasedAnswer(LINE, None, alias="gpt-best", runner=runner),
        "metered": MeteredAnswer(LINE, None, runner=runner, room=room, clock=lambda: 0.0),
        "uncounted": UncountedAnswer(LINE, runner),
    }

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside, body = asyncio.ensure_future(others()), b": ping\n\n" * 30_000
    assert plans[kind].begin(SSE, may_stream=False) is Handling.HOLD
    released = await plans[kind].judge_whole(body, quiet_stream())
    beside.cancel()

    assert (released.error, released.body) == (None, body)
    assert turns > 20
