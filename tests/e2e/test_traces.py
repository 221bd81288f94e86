"""One trace of a call with OpenAI's client, as a collector that others wrote received it.

The client's span comes over HTTP, those of Envoy and Egret over gRPC. The provider learns nothing
of a trace: the span of its answer is Envoy's, of the call to it.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from socket import gethostname
from typing import Any, Final

import openai
import pytest
import pytest_asyncio
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Tracer

from tests.support.clients import openai_client
from tests.support.rotel import Span
from tests.support.stack import Stack, chat
from tests.support.stack_steps import says

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

EMAIL = "bob.builder@example.com"
CLIENT = "chat gpt-4o"
PROCESS = "async envoy.service.ext_proc.v3.ExternalProcessor.Process egress"
PROVIDER = "router openai egress"

_Call = Callable[[openai.AsyncOpenAI, dict[str, str]], Awaitable[None]]


def _ask(text: str, headers: dict[str, str], **more: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": text}]
    return {"model": "gpt-4o", "messages": said, "extra_headers": headers, **more}


async def _create(client: openai.AsyncOpenAI, **asked: Any) -> Any:
    create: Any = client.chat.completions.create
    return await create(**asked)


async def _allowed(client: openai.AsyncOpenAI, headers: dict[str, str]) -> None:
    await _create(client, **_ask("hello", headers))


async def _redacted(client: openai.AsyncOpenAI, headers: dict[str, str]) -> None:
    await _create(client, **_ask(f"I am {EMAIL}", headers))


async def _blocked(client: openai.AsyncOpenAI, headers: dict[str, str]) -> None:
    with pytest.raises(openai.BadRequestError):
        await _create(client, **_ask("Bluebird", headers))


async def _streamed(client: openai.AsyncOpenAI, headers: dict[str, str]) -> None:
    async for _ in await _create(client, **_ask("hello", headers, stream=True)):
        pass


async def _aborted_while_judged(client: openai.AsyncOpenAI, headers: dict[str, str]) -> None:
    with suppress(TimeoutError):
        # It is judged by then. Envoy half-closes, and resets a second later, within the budget.
        async with asyncio.timeout(0.6):
            await _create(client, **_ask("hello", headers))


async def _aborted_within_the_answer(client: openai.AsyncOpenAI, headers: dict[str, str]) -> None:
    async for _ in await _create(client, **_ask("hello", headers, stream=True)):
        break


CASES: Final[dict[str, tuple[_Call, str, dict[str, str], str, set[str]]]] = {
    "allowed": (
        _allowed,
        "block",
        {"secrets": "pass", "words": "pass"},
        "allowed",
        {PROVIDER},
    ),
    "redacted": (
        _redacted,
        "redact",
        {"secrets": "pass", "pii": "redact"},
        "redacted",
        {PROVIDER},
    ),
    "blocked": (_blocked, "block", {"secrets": "pass", "words": "block"}, "refused", set()),
    "streamed": (
        _streamed,
        "answers-redact",
        {"secrets": "pass", "pii": "redact"},
        "redacted",
        {PROVIDER},
    ),
    "aborted while judged": (_aborted_while_judged, "late", {}, "aborted", set()),
    "aborted within the answer": (
        _aborted_within_the_answer,
        "answers-redact",
        {"secrets": "pass", "pii": "pass"},
        "allowed",
        {PROVIDER},
    ),
}
"""What is done, by which policy; verdicts of guardrails, of the exchange, and what follows it."""


@pytest_asyncio.fixture(loop_scope="session")
async def tracer(stack: Stack) -> AsyncIterator[Tracer]:
    """Return the tracer of an application that sends its spans to the same collector."""
    provider = TracerProvider(resource=Resource.create({"service.name": "application"}))
    exporter = OTLPSpanExporter(f"{stack.collector.http_endpoint}/v1/traces")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider.get_tracer("application")
    provider.shutdown()


@pytest.mark.parametrize("case", CASES)
async def test_a_call_is_one_trace_from_the_client_to_the_provider(
    stack: Stack, tracer: Tracer, case: str
) -> None:
    """Each span below the one that caused it, whatever became of the call."""
    call, policy, verdicts, verdict, onwards = CASES[case]
    await says(stack, f"Write to {EMAIL} please, and then to nobody else.", event_ms=100)
    headers: dict[str, str] = {}
    with tracer.start_as_current_span(CLIENT, kind=trace.SpanKind.CLIENT) as span:
        propagate.inject(headers)
        async with openai_client(stack, stack.keys[policy]) as client:
            await call(client, headers)
    judged = {"egret.exchange", "authorize", "read", *(f"guardrail {name}" for name in verdicts)}
    wanted = {CLIENT, "ingress", PROCESS} | judged | onwards
    trace_id = trace.format_trace_id(span.get_span_context().trace_id)
    spans = {one["name"]: one for one in await stack.trace(trace_id, wanted)}

    assert set(spans) == wanted
    assert _parents(spans) == {
        CLIENT: None,
        "ingress": CLIENT,
        PROCESS: "ingress",
        "egret.exchange": PROCESS,
        **dict.fromkeys(judged - {"egret.exchange"}, "egret.exchange"),
        **dict.fromkeys(onwards, "ingress"),
    }
    assert spans["egret.exchange"]["attributes"]["egret.verdict"] == verdict
    assert {
        name: spans[f"guardrail {name}"]["attributes"]["egret.guardrail.verdict"]
        for name in verdicts
    } == verdicts
    assert {name: (spans[name]["service"], spans[name]["kind"]) for name in wanted - judged} == {
        CLIENT: ("application", "CLIENT"),
        "ingress": ("egret-envoy", "SERVER"),
        PROCESS: ("egret-envoy", "CLIENT"),
        **dict.fromkeys(onwards, ("egret-envoy", "CLIENT")),
    }
    assert {spans[name]["service"] for name in judged} == {"egret"}
    (instance,) = {spans[name]["instance"] for name in judged}  # on another host it is another
    assert re.fullmatch(rf"{re.escape(gethostname())}:/.+/worker-\d+\.sock", instance)
    # A client that has read its `[DONE]` may hang up as well, before Envoy has sent the very end.
    if case.startswith("aborted"):
        assert spans["ingress"]["attributes"]["response_flags"] == "DC"
    for request in await stack.received():
        assert request.all("traceparent") == []


def _parents(spans: dict[str, Span]) -> dict[str, str | None]:
    names = {one["span_id"]: name for name, one in spans.items()}
    return {name: names.get(one["parent_span_id"]) for name, one in spans.items()}


async def test_a_collector_that_stands_still_slows_no_request(stack: Stack) -> None:
    """Neither Envoy nor Egret waits for it; once it goes on, so do the traces."""
    await _seconds_of(stack, 20)
    before = await _seconds_of(stack, 40)
    os.kill(stack.collector.pid, signal.SIGSTOP)
    try:
        meanwhile = await _seconds_of(stack, 40)
    finally:
        os.kill(stack.collector.pid, signal.SIGCONT)
    after = await _seconds_of(stack, 40)

    # A request that waited for the collector would take as long as an export may: five seconds.
    usual = max(statistics.median(before), statistics.median(after))
    assert statistics.median(meanwhile) < 2 * usual + 0.05
    assert max(meanwhile) < 4
    answer = await stack.post(chat("hello"), key="block")
    spans = await stack.spans(answer.request_id)
    assert {"ingress", PROCESS, "egret.exchange"} <= {span["name"] for span in spans}


async def _seconds_of(stack: Stack, requests: int) -> list[float]:
    seconds = []
    for _ in range(requests):
        started_at = time.monotonic()
        answer = await stack.post(chat("hello"), key="block")
        seconds.append(time.monotonic() - started_at)
        assert answer.status == 200
    return seconds
