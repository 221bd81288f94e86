"""Each type of remote guardrail at work on live Envoy, with a server that finds `Zoë`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from sidecar._generated.egret.guardrail.v1 import guardrail_pb2 as guardrail
from tests.support.grpc_guardrail import Call, grpc_server
from tests.support.stack import Stack, chat
from tests.support.webhook_server import webhook_server

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

FOUND = "Zoë"
SAID = f"é {FOUND} called"
TURNS = 8
ASKED: list[str] = []
"""The texts that the analyzer has received."""

POLICIES = """
name: remote-moderation
guardrails: [{name: harm, type: moderation, url: "HTTP/moderation", thresholds: {hate: 0.4}}]
---
name: remote-presidio
guardrails: [{name: names, type: presidio, url: "HTTP/presidio", action: redact}]
---
name: remote-judge
guardrails:
  - {name: judge, type: llm_judge, url: "HTTP/judge", model: m, rubric: names, cache: 1m}
---
name: remote-judge-flag
guardrails:
  - {name: judge-flag, type: llm_judge, url: "HTTP/judge", model: m, rubric: r, action: flag}
---
name: remote-message
guardrails:
  - {name: names, type: presidio, url: "HTTP/presidio", action: redact, scope: message}
---
name: remote-grpc
guardrails:
  - {name: projects, type: grpc, url: "GRPC", action: redact, headers: {authorization: Bearer x}}
"""


def _moderated(text: str) -> dict[str, Any]:
    score = 0.45 if FOUND in text else 0.1
    return {"flagged": False, "categories": {"hate": False}, "category_scores": {"hate": score}}


def _analyzed(text: str) -> list[dict[str, Any]]:
    at = text.find(FOUND)
    entity = {"entity_type": "PERSON", "start": at, "end": at + len(FOUND), "score": 0.85}
    return [] if at < 0 else [entity]


async def _answer(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    match request.path:
        case "/moderation":
            return web.json_response({"results": [_moderated(text) for text in body["input"]]})
        case "/presidio":
            ASKED.extend(body["text"])
            return web.json_response([_analyzed(text) for text in body["text"]])
        case _:
            score = 0.9 if FOUND in body["messages"][1]["content"] else 0.1
            content = json.dumps({"score": score, "reason": "a name"})
            choice = {"message": {"content": content}, "finish_reason": "stop"}
            return web.json_response({"choices": [choice]})


async def _check(request: guardrail.CheckRequest, call: Call) -> guardrail.CheckResponse:
    assert ("authorization", "Bearer x") in tuple(call.invocation_metadata() or ())
    findings = [
        guardrail.Finding(text=index, start=at, end=at + len(FOUND), type="PROJECT_NAME")
        for index, text in enumerate(request.texts)
        if (at := text.text.find(FOUND)) >= 0
    ]
    verdict = guardrail.VERDICT_REDACT if findings else guardrail.VERDICT_PASS
    return guardrail.CheckResponse(verdict=verdict, findings=findings)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(session_stack: Stack) -> AsyncIterator[Stack]:
    """The stack with a policy a type, each with its own key."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(webhook_server(_answer))
        grpc = await stack.enter_async_context(grpc_server(_check))
        policies = POLICIES.replace("HTTP", http.url.removesuffix("/check"))
        await session_stack.apply(policies.replace("GRPC", grpc.url))
        for name in ("moderation", "presidio", "judge", "judge-flag", "message", "grpc"):
            key = await session_stack.new_key(f"remote-{name}")
            session_stack.keys[f"remote-{name}"] = key.reveal()
        yield session_stack


CASES = {
    "moderation": (400, "harm", "block", None, None),
    "presidio": (200, "names", "redact", "é [PERSON_1] called", None),
    "judge": (400, "judge", "block", None, 0.9),
    "judge-flag": (200, "judge-flag", "flag", SAID, 0.9),
    "grpc": (200, "projects", "redact", "é [PROJECT_NAME_1] called", None),
}


@pytest.mark.parametrize("name", CASES)
async def test_what_a_server_finds_is_refused_replaced_or_noted(guarded: Stack, name: str) -> None:
    """At the client, at the provider, in the metrics and in the trace."""
    status, shown, verdict, received, score = CASES[name]
    await guarded.forget()
    async with guarded.counting() as counted:
        answer = await guarded.post(chat(SAID), key=f"remote-{name}")
    assert answer.status == status
    assert counted.verdicts == {(shown, verdict): 1}
    contents = [json.loads(one.body)["messages"][0]["content"] for one in await guarded.received()]
    assert contents == ([] if received is None else [received])
    (span,) = [
        one
        for one in await guarded.spans(answer.request_id)
        if one["name"] == f"guardrail {shown}"
    ]
    assert span["attributes"]["egret.guardrail.verdict"] == verdict
    assert span["attributes"].get("egret.guardrail.score") == score
    assert FOUND not in json.dumps(span, ensure_ascii=False)


@pytest.mark.parametrize("name", CASES)
async def test_what_a_server_finds_nothing_in_passes(guarded: Stack, name: str) -> None:
    """Unchanged."""
    await guarded.forget()
    async with guarded.counting() as counted:
        answer = await guarded.post(chat("nobody called"), key=f"remote-{name}")
    assert answer.status == 200
    assert counted.verdicts == {(CASES[name][1], "pass"): 1}
    (received,) = await guarded.received()
    assert json.loads(received.body) == chat("nobody called")


async def test_an_equal_question_is_answered_from_the_cache(guarded: Stack) -> None:
    """For as long as the policy says, in each worker; the trace tells."""
    answers = [await guarded.post(chat("the same again"), key="remote-judge") for _ in range(6)]
    assert [answer.status for answer in answers] == [200] * 6
    traces = await asyncio.gather(*(guarded.spans(answer.request_id) for answer in answers))
    events = [
        [event["name"] for event in span["events"]]
        for spans in traces
        for span in spans
        if span["name"] == "guardrail judge"
    ]
    asked = events.count([])
    assert 1 <= asked <= guarded.workers
    assert events.count(["guardrail.cache_hit"]) == 6 - asked


async def test_a_server_judges_each_message_of_a_conversation_once(guarded: Stack) -> None:
    """A worker keeps the verdict on a message, and redacts it in every later turn."""
    first = {"role": "user", "content": f"{SAID} (message one)"}
    ASKED.clear()
    await guarded.forget()
    for turn in range(TURNS):
        later = [{"role": role, "content": f"turn {turn}"} for role in ("assistant", "user")]
        conversation = chat("") | {"messages": [first, *later]}
        assert (await guarded.post(conversation, key="remote-message")).status == 200

    received = [json.loads(one.body)["messages"] for one in await guarded.received()]
    assert [messages[0]["content"] for messages in received] == [
        "é [PERSON_1] called (message one)"
    ] * TURNS
    assert 1 <= ASKED.count(first["content"]) <= guarded.workers
    for turn in range(TURNS):
        assert ASKED.count(f"turn {turn}") == 2
