from __future__ import annotations

import asyncio
import gzip
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from sidecar.domain.finding import Failure, FailureKind, Finding, GuardrailResult, Verdict
from sidecar.domain.guardrail_settings import RemoteEndpoint, ResilienceSettings, WebhookSettings
from sidecar.domain.policy import Stage
from sidecar.domain.subject import Subject
from sidecar.guardrails.remote.checks import (
    RemoteAnswer,
    RemoteCheckError,
    RemoteFault,
    RemoteRequest,
)
from sidecar.guardrails.remote.http import HttpClient
from sidecar.guardrails.remote.webhook import WebhookChecks, read_answer, request_body
from sidecar.guardrails.runner import GuardrailRunner
from tests.support.fixed_resolver import FixedResolver
from tests.support.guardrails import effective, policy, subject_of
from tests.support.remote_checks import ABOUT, asking, remote_checks
from tests.support.webhook_server import Answer, WebhookServer, webhook_server


def request_to(url: str, *texts: str, headers: tuple[tuple[str, str], ...] = ()) -> RemoteRequest:
    return asking(WebhookSettings(RemoteEndpoint(url, headers)), *texts)


def saying(answer: object) -> Answer:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response(answer)

    return handler


async def ask(server: WebhookServer, *texts: str) -> RemoteAnswer:
    async with remote_checks() as checks:
        return await checks.check(request_to(server.url, *texts))


async def test_a_webhook_is_sent_every_text_and_whose_request_it_is() -> None:
    """The whole wire format, with the policy's own headers."""
    async with webhook_server(saying({"verdict": "pass"})) as server, remote_checks() as checks:
        request = request_to(server.url, "Grüße", "b", headers=(("authorization", "Bearer x"),))
        assert await checks.check(request) == RemoteAnswer("pass")
    assert server.bodies == [
        {
            "guardrail": "dlp",
            "stage": "input",
            "request_id": "r1",
            "key_id": "k1",
            "model": "gpt-5",
            "texts": [{"role": "user", "text": "Grüße"}, {"role": "user", "text": "b"}],
        }
    ]
    (headers,) = server.headers
    lowered = {name.lower(): value for name, value in headers.items()}
    assert lowered["authorization"] == "Bearer x"
    assert lowered["content-type"] == "application/json"


def test_a_webhook_is_told_which_side_the_texts_are_of() -> None:
    """A guardrail for both sides is asked about one at a time."""
    request = replace(request_to("http://h/", "text"), stage=Stage.OUTPUT)
    assert b'"stage":"output"' in request_body(request)


async def test_spans_in_characters_become_spans_in_bytes() -> None:
    """Webhooks count as their languages do; findings count bytes."""
    answer = {
        "verdict": "redact",
        "message": "for your log",
        "findings": [
            {"text": 1, "start": 2, "end": 5, "type": "NAME"},
            {"text": 0, "start": 0, "end": 1, "type": "NAME"},
        ],
    }
    async with webhook_server(saying(answer)) as server:
        assert await ask(server, "a", "é Zoë 🦩") == RemoteAnswer(
            "redact", (Finding("dlp", "NAME", 1, 3, 7), Finding("dlp", "NAME", 0, 0, 1))
        )


def finding(**changes: object) -> dict[str, object]:
    return {"text": 0, "start": 0, "end": 1, "type": "NAME", **changes}


BAD_ANSWERS: dict[str, tuple[Any, str]] = {
    "empty_object": ({}, "answer_invalid"),
    "unknown_verdict": ({"verdict": "allow"}, "answer_invalid"),
    "not_an_object": (["pass"], "answer_invalid"),
    "unknown_field": ({"verdict": "pass", "score": 1}, "answer_invalid"),
    "redact_without_spans": ({"verdict": "redact"}, "answer_invalid"),
    "pass_with_findings": ({"verdict": "pass", "findings": [finding()]}, "answer_invalid"),
    "text_as_string": ({"verdict": "flag", "findings": [finding(text="0")]}, "answer_invalid"),
    "negative_start": ({"verdict": "flag", "findings": [finding(start=-1)]}, "answer_invalid"),
    "lower_case_type": ({"verdict": "flag", "findings": [finding(type="name")]}, "answer_invalid"),
    "no_such_text": ({"verdict": "flag", "findings": [finding(text=9)]}, "span_out_of_range"),
    "past_the_end": ({"verdict": "flag", "findings": [finding(end=99)]}, "span_out_of_range"),
    "long_message": ({"verdict": "pass", "message": "x" * 2_001}, "answer_too_large"),
    "backwards": (
        {"verdict": "flag", "findings": [finding(start=2, end=1)]},
        "span_out_of_range",
    ),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
async def test_an_answer_that_was_not_agreed_is_an_error(case: str) -> None:
    """A webhook that speaks another version must not look like a pass."""
    answer, error_type = BAD_ANSWERS[case]
    async with webhook_server(saying(answer)) as server:
        with pytest.raises(RemoteCheckError) as raised:
            await ask(server, "text")
    is_malformed = error_type == "answer_invalid"  # the others can be caused by a text
    fault = RemoteFault.ANSWER if is_malformed else RemoteFault.CONTENT
    assert (raised.value.error_type, raised.value.fault) == (error_type, fault)


def responding(**kwargs: Any) -> Answer:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(**kwargs)

    return handler


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "application/json"})
    await response.prepare(request)
    for _ in range(200):
        await response.write(b" " * 65_536)
    return response


async def _hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


_JSON = "application/json"
BAD_RESPONSES: dict[str, tuple[Answer, str]] = {
    "rubbish": (responding(body=b"\x00<html>", content_type=_JSON), "answer_invalid"),
    "two_values": (responding(body=b'{"verdict":"pass"}{}', content_type=_JSON), "answer_invalid"),
    "empty": (responding(body=b"", content_type=_JSON), "answer_invalid"),
    "not_json": (responding(text="pass"), "content_type"),
    "status": (responding(status=500), "status_500"),
    "no_content": (responding(status=204), "status_204"),
    "endless": (_endless, "answer_too_large"),
    "compressed": (
        responding(
            body=gzip.compress(b'{"verdict":"pass"}'),
            headers={"content-type": _JSON, "content-encoding": "gzip"},
        ),
        "content_encoding",
    ),
    "hangs_up": (_hang_up, "connection"),
}


@pytest.mark.parametrize("case", BAD_RESPONSES)
async def test_a_response_that_is_no_answer_is_an_error(case: str) -> None:
    """Each has a short name of its own, for the log and the metric."""
    handler, error_type = BAD_RESPONSES[case]
    async with webhook_server(handler) as server:
        with pytest.raises(RemoteCheckError) as raised:
            await ask(server, "text")
    assert raised.value.error_type == error_type


@pytest.mark.parametrize(
    ("status", "fault", "asked"),
    [
        (503, RemoteFault.TRANSIENT, 2),
        (502, RemoteFault.TRANSIENT, 2),
        (500, RemoteFault.SERVER, 1),
        (429, RemoteFault.SERVER, 1),
        (404, RemoteFault.ANSWER, 1),
        (400, RemoteFault.CONTENT, 1),
        (413, RemoteFault.CONTENT, 1),
        (422, RemoteFault.CONTENT, 1),
    ],
)
async def test_a_status_says_whose_fault_it_is(
    status: int, fault: RemoteFault, asked: int
) -> None:
    """Asked again only where the server has taken nothing up."""
    async with webhook_server(responding(status=status)) as server:
        with pytest.raises(RemoteCheckError) as raised:
            await ask(server, "text")
    assert (raised.value.error_type, raised.value.fault) == (f"status_{status}", fault)
    assert len(server.paths) == asked


async def test_a_name_that_does_not_resolve_is_an_error() -> None:
    """Told apart from a server that is down."""
    async with remote_checks() as checks:
        with pytest.raises(RemoteCheckError, match="name_resolution"):
            await checks.check(request_to("http://nobody.invalid/", "text"))


async def test_an_answer_is_kept_where_the_policy_says_so() -> None:
    """The second of two equal questions asks nobody."""
    async with webhook_server(saying({"verdict": "block"})) as server, remote_checks() as checks:
        care = ResilienceSettings(cache_seconds=60.0)
        request = asking(WebhookSettings(RemoteEndpoint(server.url), care), "text")
        answers = [await checks.check(request) for _ in range(2)]
    assert answers == [RemoteAnswer("block")] * 2
    assert len(server.paths) == 1


async def test_a_redirect_is_not_followed() -> None:
    """A webhook cannot send the text on to anybody else."""
    handler = responding(status=307, headers={"location": "/elsewhere"})
    async with webhook_server(handler) as server:
        with pytest.raises(RemoteCheckError, match="status_307"):
            await ask(server, "text")
    assert server.paths == ["/check"]


async def test_a_closed_port_is_a_connection_error() -> None:
    """Nobody listens: told at once, not after the time limit."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    async with remote_checks() as checks:
        with pytest.raises(RemoteCheckError, match="connection"):
            await checks.check(request_to(f"http://127.0.0.1:{port}/", "text"))


async def test_one_connection_serves_checks_that_follow_each_other() -> None:
    """A check pays for no handshake where the last one's connection is free."""
    peers = []

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peers.append(request.transport.get_extra_info("peername"))
        return web.json_response({"verdict": "pass"})

    async with webhook_server(handler) as server, remote_checks() as checks:
        for _ in range(3):
            await checks.check(request_to(server.url, "text"))
    assert len(peers) == 3
    assert len(set(peers)) == 1


async def test_a_connection_that_breaks_is_tried_once_more() -> None:
    """A pooled connection may have been closed by the other side in the meantime."""
    handlers = [_hang_up, saying({"verdict": "pass"})]

    async def handler(request: web.Request) -> web.StreamResponse:
        return await handlers.pop(0)(request)

    async with webhook_server(handler) as server:
        assert await ask(server, "text") == RemoteAnswer("pass")
    assert len(server.paths) == 2


@pytest.mark.parametrize(
    "addresses", [("169.254.169.254",), ("127.0.0.1", "fd00:ec2::254")], ids=["only", "one_of_two"]
)
async def test_a_name_that_leads_to_a_metadata_server_is_refused(
    addresses: tuple[str, ...],
) -> None:
    """The name was fine when the policy was applied; what it resolves to now is what counts."""
    async with HttpClient(resolver=FixedResolver(*addresses)) as http:
        with pytest.raises(RemoteCheckError, match="refused_address"):
            await WebhookChecks(http).check(request_to("http://dlp.example.com/", "text"))


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254", "[::ffff:169.254.169.254]", "[::169.254.169.254]", "0xa9fea9fe",
        "2852039166", "0251.0376.0251.0376", "\uff11\uff16\uff19.254.169.254", "169.254.169.254.",
    ],
)  # fmt: skip
async def test_a_metadata_address_is_refused_in_any_spelling(host: str) -> None:
    """An address in the URL needs no resolver, or gets through it as a number."""
    async with remote_checks() as checks:
        with pytest.raises(RemoteCheckError, match=r"refused_address|url"):
            await checks.check(request_to(f"http://{host}/", "text"))


async def inspect_with(
    guardrails: Callable[[str], str], answer: Answer, *, text: str = "text"
) -> tuple[tuple[GuardrailResult, ...], WebhookServer]:
    async with webhook_server(answer) as server, remote_checks() as checks:
        runner = GuardrailRunner(remote=checks, clock=time.monotonic)
        chosen = effective(policy(guardrails(server.url)))
        results = runner.inspect(chosen, subject_of(text), about=ABOUT)
        assert not isinstance(results, tuple)
        return await results, server


async def test_a_text_with_more_findings_than_an_answer_holds_does_not_pass() -> None:
    """Its sender chooses their number, so that `on_error: allow` would be the sender's choice."""

    async def answer(request: web.Request) -> web.StreamResponse:
        said = (await request.json())["texts"][0]["text"]
        findings = [finding(start=at, end=at + 1) for at in range(len(said))]
        return web.json_response({"verdict": "block", "findings": findings})

    (result,), _ = await inspect_with(
        lambda url: f"  - {{name: a, type: webhook, url: '{url}', on_error: allow}}\n",
        answer,
        text="text" * 400,
    )
    assert result.verdict is Verdict.ERROR_CLOSED
    assert result.failure == Failure(FailureKind.CONTENT, "answer_too_large")


async def test_two_slow_webhooks_are_asked_at_the_same_time() -> None:
    """Neither is answered before both have come: one after the other would time out."""
    both = asyncio.Barrier(2)

    async def slow(_: web.Request) -> web.StreamResponse:
        await both.wait()
        return web.json_response({"verdict": "pass"})

    results, server = await inspect_with(
        lambda url: (
            f"  - {{name: a, type: webhook, url: '{url}'}}\n"
            f"  - {{name: b, type: webhook, url: '{url}'}}\n"
        ),
        slow,
    )
    assert [one.verdict for one in results] == [Verdict.PASS, Verdict.PASS]
    (began, ended), (other_began, other_ended) = server.intervals
    assert max(began, other_began) < min(ended, other_ended)
    first, second = results
    assert second.started_at is not None
    assert first.started_at is not None
    assert first.seconds is not None
    assert second.started_at < first.started_at + first.seconds


async def test_a_webhook_that_hangs_times_out_and_is_let_go() -> None:
    """The limit is the guardrail's own."""
    began, gone = asyncio.Event(), asyncio.Event()

    async def hang(_: web.Request) -> web.StreamResponse:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()
        raise AssertionError

    async def until_gone(request: web.Request) -> web.StreamResponse:
        return await hang(request)

    while not began.is_set():  # on a busy machine the limit ends before the request has come
        results, _ = await inspect_with(
            lambda url: f"  - {{name: a, type: webhook, url: '{url}', timeout: 30ms}}\n",
            until_gone,
        )
        assert [(one.verdict, one.failure and one.failure.error_type) for one in results] == [
            (Verdict.TIMEOUT_CLOSED, "timeout")
        ]
    assert gone.is_set()


async def test_a_block_cuts_the_other_webhook_off() -> None:
    """The slow one's connection is closed; it is neither waited for nor counted as a pass."""

    async def by_guardrail(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body["guardrail"] == "slow":
            await asyncio.Event().wait()
        return web.json_response({"verdict": "block"})

    results, _ = await inspect_with(
        lambda url: (
            f"  - {{name: slow, type: webhook, url: '{url}'}}\n"
            f"  - {{name: quick, type: webhook, url: '{url}'}}\n"
        ),
        by_guardrail,
    )
    assert [one.verdict for one in results] == [Verdict.SKIPPED, Verdict.BLOCK]


def test_many_spans_are_read_in_one_go() -> None:
    """An answer's size bounds the work, whatever it points at."""
    text = "é" * 4_000
    spans = b",".join(
        b'{"text":0,"start":%d,"end":%d,"type":"X"}' % (i, i + 1) for i in range(0, 3_000, 2)
    )
    request = request_to("http://h/", text)
    answer = read_answer(b'{"verdict":"redact","findings":[%s]}' % spans, request)
    assert answer.findings[-1] == Finding("dlp", "X", 0, 2 * 2_998, 2 * 2_999)


def test_a_subject_without_text_has_no_span() -> None:
    """A webhook cannot find something where there is nothing."""
    request = replace(request_to("http://h/"), subject=Subject(None, streamed=False, parts=()))
    body = b'{"verdict":"flag","findings":[{"text":0,"start":0,"end":1,"type":"X"}]}'
    with pytest.raises(RemoteCheckError, match="span_out_of_range"):
        read_answer(body, request)


async def test_texts_of_one_organization_that_make_the_server_fail_leave_it_to_the_others() -> (
    None
):
    """Its own next request is not sent; the others' are, and are judged."""

    async def fails_at_some(request: web.Request) -> web.StreamResponse:
        [text] = (await request.json())["texts"]
        status = 500 if text["text"] == "trap" else 200
        return web.json_response({"verdict": "pass"}, status=status)

    async with webhook_server(fails_at_some) as server, remote_checks() as checks:
        settings = WebhookSettings(
            RemoteEndpoint(server.url), ResilienceSettings(breaker_failures=2)
        )

        async def ask_for(organization: str, text: str) -> RemoteAnswer | str:
            about = replace(ABOUT, organization_id=organization)
            try:
                return await checks.check(replace(asking(settings, text), about=about))
            except RemoteCheckError as error:
                return error.error_type

        answers = [await ask_for("o1", text) for text in ("trap", "trap", "hello")]
        assert answers == ["status_500", "status_500", "breaker_open"]
        assert await ask_for("o2", "hello") == RemoteAnswer("pass")
        assert len(server.bodies) == 3
