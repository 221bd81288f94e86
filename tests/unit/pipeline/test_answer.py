"""Streamed answers whose judgement takes long, on a worker that others keep busy."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest

from sidecar.domain.http import Headers
from sidecar.domain.usage import TokenCounts
from sidecar.guardrails.runner import GuardrailRunner
from sidecar.settings.stores import UsageSource
from tests.support.answers import chat_chunk, sse
from tests.support.events import BodyRequired
from tests.support.pipeline import PATIENT, Exchange, World, chat, headers

BLOCKS = """
name: default
guardrails: [{name: words, type: denied_terms, stage: output, action: block, terms: [Bluebird]}]
"""
SSE = Headers(((":status", b"200"), ("content-type", b"text/event-stream")))
LONG = sse(*[chat_chunk({"content": f"Some plain words, number {one}. "}) for one in range(2_000)])


async def streaming(world: World) -> Exchange:
    """Return an exchange whose answer has begun, on a worker without time for long passes."""
    ticks = count()
    runner = GuardrailRunner(remote=world.remote, clock=lambda: float(next(ticks)))
    budgets = replace(PATIENT, inspect_seconds=0.000_001)
    world.worker = replace(world.worker, guardrail_runner=runner, budgets=budgets)
    exchange = world.exchange()
    if isinstance(await exchange.judge_headers(headers(), has_body=True), BodyRequired):
        await exchange.judge_body(chat(stream=True))
    await exchange.judge_response_headers(SSE)
    return exchange


def faults(world: World) -> float | None:
    """Return how many budgets have ended."""
    return world.registry.get_sample_value("egret_exchange_faults_total", {"kind": "deadline"})


async def test_a_piece_whose_judgement_is_late_ends_the_stream_in_its_own_form() -> None:
    """A text that is made to be slow, or many others before it, hold no client for ever."""
    world = World(BLOCKS)
    exchange = await streaming(world)
    judged = await exchange.judge_response_piece(LONG, is_last=False)
    assert judged.ends
    assert dict(judged.metadata)["error"] == "guardrail_unavailable"
    left, _, end = judged.body.partition(b'data: {"error"')
    assert LONG.startswith(left)
    assert len(left) < len(LONG)
    assert b"guardrail_unavailable" in end
    assert end.endswith(b"data: [DONE]\n\n")
    await exchange.end()
    assert world.counted() == {("failed", "guardrail_unavailable"): 1}
    assert faults(world) == 1


async def test_a_piece_that_nothing_judges_is_never_late() -> None:
    """It is counted as it passes, however long that takes."""
    world = World("name: default\n", usage_source=UsageSource.ANSWERS)
    exchange = await streaming(world)
    usage = sse({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 7}})
    judged = await exchange.judge_response_piece(LONG + usage, is_last=True)
    assert judged.body == LONG + usage
    assert faults(world) == 0
    assert [one.tokens for one, _ in world.ends.noted] == [TokenCounts(3, 7)]


@pytest.mark.parametrize(
    ("path", "event", "last"),
    [
        (
            "/v1/responses/resp_1?stream=true",
            {"type": "response.output_text.delta", "delta": "Bluebird. "},
            b"event: response.failed",
        ),
        (
            "/openai/v1/responses/resp_1?stream=true",
            {"type": "response.output_text.delta", "delta": "Bluebird. "},
            b"event: response.failed",
        ),
        (
            "/v1beta/interactions/i-1?stream=true",
            {"event_type": "step.delta", "delta": {"type": "text", "text": "Bluebird. "}},
            b'data: {"event_type":"error"',
        ),
    ],
)
async def test_a_stored_answer_ends_in_the_typed_events_of_a_new_one(
    path: str, event: dict[str, object], last: bytes
) -> None:
    """Its client reads both in one way."""
    exchange = World(BLOCKS).exchange()
    await exchange.judge_headers(headers(path, method="GET"), has_body=False)
    await exchange.judge_response_headers(SSE)
    judged = await exchange.judge_response_piece(sse(event), is_last=False)
    assert judged.ends
    assert judged.body.startswith(b"event: error")
    assert last in judged.body
    assert b"Bluebird" not in judged.body


@pytest.mark.parametrize(("client", "errors"), [(b"gl-node/v24", 1), (b"gl-go/1.25", 2)])
async def test_a_blocked_stream_of_googles_ends_as_its_client_reads_it(
    client: bytes, errors: int
) -> None:
    """The error stands between events, for some clients in one as well."""
    exchange = World(BLOCKS).exchange()
    path = "/v1beta/models/m:streamGenerateContent?alt=sse"
    asked = headers(path, ("x-goog-api-client", b"google-genai-sdk/1.30.0 " + client))
    if isinstance(await exchange.judge_headers(asked, has_body=True), BodyRequired):
        await exchange.judge_body(b'{"contents": [{"parts": [{"text": "hi"}]}]}')
    await exchange.judge_response_headers(SSE)
    said = {"candidates": [{"content": {"parts": [{"text": "Bluebird."}]}}]}
    judged = await exchange.judge_response_piece(sse(said), is_last=True)
    assert judged.ends
    assert judged.body.startswith(b'{"error":{"code":400,')
    assert judged.body.count(b'{"error":{"code":400,') == errors
    assert b"Bluebird" not in judged.body
