"""Guardrails at work: several at once, one that decides, one that only watches; and timing."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio

from tests.support.command_line import Egret
from tests.support.more_workers import more_workers
from tests.support.second_gateway import Config
from tests.support.stack import MESSAGES, Answer, Stack, as_json, chat, message
from tests.support.webhook_server import WebhookServer

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

SERVER_TIMING: Final = re.compile(
    r"(authorize;dur=\d+\.\d{3}, guardrails;dur=(\d+\.\d{3}), egret;dur=(\d+\.\d{3}))(.*)"
)


def _guardrail_spans(spans: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        span["attributes"]["egret.guardrail.name"]: span
        for span in spans
        if span["name"].startswith("guardrail ")
    }


async def test_two_webhooks_of_50_ms_run_at_the_same_time(
    stack: Stack, webhooks: WebhookServer
) -> None:
    """Their spans overlap, since the server answers neither before it has both."""
    webhooks.intervals.clear()
    async with stack.counting() as counted:
        answer = await stack.post(chat("hello"), key="two-hooks")
    spans = await stack.spans(answer.request_id)
    first, second = _guardrail_spans(spans).values()
    (exchange,) = [span for span in spans if span["name"] == "egret.exchange"]
    overlap = min(first["end_ns"], second["end_ns"]) - max(first["start_ns"], second["start_ns"])
    assert answer.status == 200
    assert counted.verdicts == {("slow-a", "pass"): 1, ("slow-b", "pass"): 1}
    assert overlap >= 50_000_000
    assert exchange["start_ns"] < min(first["start_ns"], second["start_ns"])
    assert exchange["end_ns"] > max(first["end_ns"], second["end_ns"])
    (began_a, ended_a), (began_b, ended_b) = webhooks.intervals
    assert max(began_a, began_b) < min(ended_a, ended_b)


async def test_the_first_block_ends_the_others(stack: Stack, webhooks: WebhookServer) -> None:
    """The one that would take ten minutes is skipped, and its connection is closed."""
    webhooks.intervals.clear()
    async with stack.counting() as counted:
        answer = await stack.post(chat("hello"), key="first-block")
    verdicts = {
        name: span["attributes"]["egret.guardrail.verdict"]
        for name, span in _guardrail_spans(await stack.spans(answer.request_id)).items()
    }
    assert answer.openai_error == (400, "invalid_request_error", "content_blocked")
    assert answer.json["error"]["message"] == (
        f"Blocked by guardrail 'fast'. Request id: {answer.request_id}."
    )
    assert counted.verdicts == {("endless", "skipped"): 1, ("fast", "block"): 1}
    assert verdicts == {"endless": "skipped", "fast": "block"}
    assert len(webhooks.intervals) == 2
    assert await stack.received_count() == 0


async def test_a_guardrail_may_take_no_longer_than_its_exchange(stack: Stack) -> None:
    """Its own time limit is 30 s and the exchange's budget 2 s; its `on_error` still decides."""
    async with stack.counting() as counted:
        answer = await stack.post(message("hello"), path=MESSAGES, key="late")
    assert answer.anthropic_error == (503, "api_error")
    assert "retry-after" in answer.headers
    assert counted.outcomes == {("failed", "chat", "guardrail_unavailable"): 1}
    assert counted.verdicts == {("endless", "timeout_closed"): 1}
    assert counted.faults == {}
    assert await stack.received_count() == 0
    async with stack.counting() as counted:
        answer = await stack.post(chat("hello"), key="late-allow")
    assert answer.status == 200
    assert counted.verdicts == {("endless", "timeout_open"): 1}


async def test_in_shadow_mode_guardrails_say_what_they_would_do_and_change_nothing(
    stack: Stack,
) -> None:
    """Redaction, a local block and a webhook's block: the body goes on as it came."""
    body = as_json(chat("Tell bob@example.com about Bluebird."))
    async with stack.counting() as counted:
        answer = await stack.post(body, key="shadow")
    (received,) = await stack.received()
    line = await stack.log_line(answer.request_id)
    assert (answer.status, received.body) == (200, body)
    assert counted.outcomes == {("allowed", "chat", "none"): 1}
    assert counted.verdicts == {
        ("pii", "redact"): 1,
        ("words", "block"): 1,
        ("hook", "block"): 1,
    }
    assert line["egret"]["verdict"] == "allowed"


async def test_a_flag_lets_pass_and_is_told(stack: Stack) -> None:
    """In the metrics, the span and the access log."""
    body = as_json(chat("mail bob@example.com"))
    async with stack.counting() as counted:
        answer = await stack.post(body, key="flag")
    (received,) = await stack.received()
    assert (answer.status, received.body) == (200, body)
    assert counted.outcomes == {("flagged", "chat", "none"): 1}
    assert counted.verdicts == {("pii", "flag"): 1}
    assert (await stack.log_line(answer.request_id))["egret"]["verdict"] == "flagged"


def _timing(answer: Answer) -> re.Match[str]:
    """Return the parts of `server-timing`; every timing header is there just once."""
    for name in ("x-response-time", "server-timing", "x-egret-request-id"):
        assert len(answer.headers.getall(name)) == 1
    assert re.fullmatch(r"\d+(\.\d{3})?ms", answer.headers["x-response-time"])
    found = SERVER_TIMING.fullmatch(answer.headers["server-timing"])
    assert found is not None
    assert float(found[3]) >= float(found[2])
    return found


@pytest.mark.parametrize(
    ("said", "status", "upstream"), [("hello", 200, True), ("Bluebird", 400, False)]
)
async def test_the_client_and_the_access_log_are_told_the_same_times(
    stack: Stack, said: str, status: int, *, upstream: bool
) -> None:
    """On an answer of the model, with the provider's share, and on a refusal."""
    answer = await stack.post(chat(said), key="block")
    timing = _timing(answer)
    line = await stack.log_line(answer.request_id)
    assert answer.status == status
    assert line["egret"]["server_timing"] == timing[1]
    assert line["egret"]["egret_us"] == pytest.approx(float(timing[3]) * 1000, abs=1)
    assert line["egret"]["guardrails_us"] == pytest.approx(float(timing[2]) * 1000, abs=1)
    assert bool(re.fullmatch(r", upstream;dur=\d+", timing[4])) == upstream


def _leaves_timing_to_egret(config: Config) -> None:
    """Take out what writes the headers in the provider's cluster."""
    for cluster in config["static_resources"]["clusters"]:
        for options in cluster["typed_extension_protocol_options"].values():
            filters = options.get("http_filters", [])
            kept = [one for one in filters if not one["name"].endswith(".header_mutation")]
            if filters:
                options["http_filters"] = kept


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def writing(session_stack: Stack) -> AsyncIterator[Stack]:
    """The stack with workers that write the timing of answers themselves."""
    settings = {"EGRET_EXCHANGE__TIMING": "mutation"}
    async with more_workers(
        session_stack, _leaves_timing_to_egret, workers=1, settings=settings
    ) as writing:
        yield writing


@pytest.mark.usefixtures("stack")
async def test_egret_can_write_how_limits_stand_itself(writing: Stack) -> None:
    """In place of what the provider says of its own."""
    made = await writing.new_key("block")
    words = ("limits", "set", "--key", made.key_id, "requests/minute=600")
    ran = await asyncio.to_thread(Egret(writing.facts.postgres_dsn), *words)
    assert ran.code == 0, ran.err
    own = {"x-ratelimit-remaining-tokens": "149984", "x-egret-budget": "95"}
    chunk = base64.b64encode(b"{}").decode()
    async with writing.debug.post("/raw", json={"headers": own, "chunks": [chunk]}) as told:
        assert told.status == 204
    try:
        answers = [await writing.post(chat("hello"), key=key) for key in (made.reveal(), "block")]
    finally:
        await writing.forget()
    limits = [
        {name for name in answer.headers if "ratelimit" in name or "budget" in name}
        for answer in answers
    ]
    ours = {f"x-ratelimit-{what}-requests" for what in ("limit", "remaining", "reset")}
    assert [answer.status for answer in answers] == [200, 200]
    assert limits == [ours, set()]


@pytest.mark.usefixtures("stack")
async def test_egret_can_write_the_timing_of_answers_itself(writing: Stack) -> None:
    """For gateways whose answers cannot be given headers: whole, streamed, refused, no body."""
    headers = writing.credentials("/v1/models", "block", ())
    async with writing.counting(5) as counted:
        answers = [
            await writing.post(chat("hello"), key="block"),
            await writing.post(chat("hello", stream=True), key="block"),
            await writing.post(chat("mail bob@example.com"), key="redact"),
            await writing.request("GET", "/v1/models", headers=headers),
            await writing.post(chat("Bluebird"), key="block"),
        ]
    assert [answer.status for answer in answers] == [200, 200, 200, 200, 400]
    assert [_timing(answer)[4] for answer in answers] == [""] * 5
    assert answers[1].body.endswith(b"data: [DONE]\n\n")
    assert len({answer.request_id for answer in answers}) == 5
    assert counted.faults == {}
    assert counted.outcomes.total() == 5
    assert await writing.received_count() == 4
