from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sidecar.admin.attachment import (
    ATTACHED,
    BODIES,
    KEY,
    REDACTION,
    TIMING,
    Gateway,
    check_attachment,
    textfile,
)
from sidecar.admin.diagnostics import CheckState, failed, ok, skipped

GATEWAY = Gateway(url="", key="egk_canary", model="m", blocked="a secret", redacted="bob@x.test")
Handler = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Gateway]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)
    async with TestServer(app) as server:
        yield replace(GATEWAY, url=str(server.make_url("")))


def egret(status: int, code: str) -> web.Response:
    """Return a refusal of Egret's."""
    headers = {"x-egret-request-id": "r-1"}
    return web.json_response({"error": {"code": code}}, status=status, headers=headers)


def sound(answer: str) -> Handler:
    """Return a gateway that works, in front of a model that answers so."""

    async def handle(request: web.Request) -> web.Response:
        if "authorization" not in request.headers:
            return egret(401, "missing_api_key")
        if GATEWAY.blocked in await request.text():
            return egret(400, "content_blocked")
        return web.json_response({"choices": [{"message": {"content": answer}}]})

    return handle


async def states(handler: Handler) -> dict[str, tuple[CheckState, str]]:
    async with serving(handler) as gateway:
        found = await check_attachment(gateway)
    return {one.check: (one.state, one.found) for one in found}


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ("NO.", CheckState.OK),
        ("yes", CheckState.FAILED),
        ("I cannot say", CheckState.SKIPPED),
        ("YES or NO", CheckState.SKIPPED),
    ],
)
async def test_without_a_test_provider_the_models_own_word_shows_a_redaction(
    answer: str, state: CheckState
) -> None:
    """A redaction of the answer does not change it, and any other answer proves nothing."""
    found = await states(sound(answer))
    assert found[REDACTION][0] is state
    assert found[BODIES][0] is CheckState.OK
    assert found[TIMING][0] is CheckState.WARNING


def always(status: int, code: str = "") -> Handler:
    async def handle(_: web.Request) -> web.Response:
        return egret(status, code) if code else web.Response(status=status)

    return handle


def with_key(status: int, code: str = "") -> Handler:
    """Return a gateway that answers each request with a key so."""

    async def handle(request: web.Request) -> web.Response:
        if "authorization" not in request.headers:
            return egret(401, "missing_api_key")
        return await always(status, code)(request)

    return handle


def passing(status: int, code: str = "") -> Handler:
    """Return a gateway that blocks, and answers the canary that should pass so."""

    async def handle(request: web.Request) -> web.Response:
        if GATEWAY.redacted in await request.text():
            return await always(status, code)(request)
        return await sound("")(request)

    return handle


@pytest.mark.parametrize(
    ("handler", "check", "about"),
    [
        (always(200), ATTACHED, "requests pass unchecked"),
        (always(401), ATTACHED, "the provider or another filter answered"),
        (always(404), ATTACHED, "the provider or another filter answered"),
        (always(500), ATTACHED, "it fails closed"),
        (always(401, "invalid_api_key"), ATTACHED, "to a request without a key"),
        (always(503, "authorization_unavailable"), ATTACHED, "503 authorization_unavailable"),
        (with_key(401, "revoked_api_key"), KEY, "the canary key is revoked"),
        (with_key(401, "expired_api_key"), KEY, "the canary key is expired"),
        (with_key(403, "model_not_allowed"), KEY, "not allowed to use this model"),
        (with_key(429, "budget_exhausted"), KEY, "without budget"),
        (with_key(401, "conflicting_credentials"), KEY, "401 conflicting_credentials"),
        (with_key(500, "unsupported_processing_mode"), BODIES, "the gateway does not send it"),
        (with_key(504), BODIES, "the gateway does not send it"),
        (passing(400, "content_blocked"), REDACTION, "Egret answered 400 content_blocked"),
        (passing(401), REDACTION, "the provider answered 401"),
        (passing(404), REDACTION, "the provider answered 404"),
        (passing(502), REDACTION, "the provider answered 502"),
    ],
    ids=count(),
)
async def test_each_answer_of_a_gateway_is_told_apart(
    handler: Handler, check: str, about: str
) -> None:
    """By Egret's own mark, status and code; all later checks are skipped."""
    found = await states(handler)
    broken = {name: text for name, (state, text) in found.items() if state is CheckState.FAILED}
    assert list(broken) == [check]
    assert about in broken[check]
    assert GATEWAY.key not in str(found)


async def test_a_redirect_is_an_answer_and_gets_no_key() -> None:
    """The key is for the gateway that was named."""
    followed: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        followed.append(request.path)
        return web.Response()

    async def moved(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"location": "/elsewhere"})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", moved)
    app.router.add_post("/elsewhere", elsewhere)
    async with TestServer(app) as server:
        first, *_ = await check_attachment(replace(GATEWAY, url=str(server.make_url(""))))
    assert "got 307, not from Egret" in first.found
    assert followed == []


async def test_a_text_that_no_policy_blocks_does_not_hide_the_other_checks() -> None:
    """The body may still be redacted, and is looked at."""
    found = await states(with_key(200))
    assert found[BODIES] == (
        CheckState.FAILED,
        "a text that must be refused was answered with 200",
    )
    assert found[REDACTION][0] is CheckState.SKIPPED
    assert found[REDACTION][1].startswith("the model's answer does not say")


async def test_a_gateway_that_does_not_answer_is_not_called_unattached() -> None:
    """The address may be wrong."""
    gateway = replace(GATEWAY, url="http://127.0.0.1:9")
    first, *rest = await check_attachment(gateway)
    assert first.found == "no answer from http://127.0.0.1:9 (ClientConnectorError)"
    assert {one.state for one in rest} == {CheckState.SKIPPED}


@pytest.mark.parametrize("shown", [b"", b"[]", b'{"body_base64": "eA=="}', b"{}"])
async def test_a_record_that_is_not_the_canarys_is_no_proof(shown: bytes) -> None:
    """Of another request, or of none."""

    async def last(_: web.Request) -> web.Response:
        return web.Response(body=shown)

    app = web.Application()
    app.router.add_get("/last", last)
    async with TestServer(app) as provider, serving(sound("NO")) as gateway:
        seen_at = str(provider.make_url("/last"))
        found = {
            one.check: one for one in await check_attachment(replace(gateway, seen_at=seen_at))
        }
    assert found[REDACTION].state is CheckState.FAILED
    assert "does not show the canary" in found[REDACTION].found


def test_the_file_for_node_exporter_has_a_sample_for_each_check_that_was_made() -> None:
    """A gateway's name cannot break out of its label."""
    found: Any = (ok("a", ""), failed("b", "", hint="h"), skipped("c", ""))
    lines = [
        line for line in textfile('http://x/"\n', found, now=7).splitlines() if line[0] != "#"
    ]
    assert lines == [
        r'egret_attached{check="a",gateway="http://x/\"\n"} 1.0',
        r'egret_attached{check="b",gateway="http://x/\"\n"} 0.0',
        r'egret_attached_timestamp_seconds{gateway="http://x/\"\n"} 7.0',
    ]
