"""What bites in Envoy's ext_proc, each against the real Envoy.

Above all: whatever goes wrong on our side, a request that was not judged never reaches the
provider. Tests whose names say «Envoy» pin behaviour of Envoy that the product is built around.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import pytest_asyncio

from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import HeaderMutation, Refusal
from sidecar.extproc.stream import Budgets, Call, StreamEnd
from sidecar.server.grpc_server import GrpcServer
from sidecar.server.options import ServerOptions
from tests.support import events as on
from tests.support.http2 import http2_request
from tests.support.scripted import (
    BodyAnswer,
    Endless,
    HeadersAnswer,
    ScriptedHandler,
    at_once,
    failing,
    failing_later,
    next_message,
    refusal_of,
)
from tests.support.scripted import scripted as serving
from tests.support.scripted_processor import Script, ScriptedProcessor, Side, scripted_processor
from tests.support.second_gateway import (
    Adapt,
    Config,
    Gateway,
    ext_proc_filters,
    judged_by,
    processing_mode,
    second_gateway,
)
from tests.support.stack import CHAT, MESSAGES, Answer, Stack, as_json, chat, message

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

EMAIL: Final = "bob.builder@example.com"


def impatient(config: Config) -> None:
    """Wait for a processor for a fraction of a second only."""
    for settings in ext_proc_filters(config):
        settings["message_timeout"] = "0.3s"


def listener_buffer(size: int) -> Callable[[Config], None]:
    """Set how much of a connection Envoy buffers."""

    def adapt(config: Config) -> None:
        for listener in config["static_resources"]["listeners"]:
            listener["per_connection_buffer_limit_bytes"] = size

    return adapt


# Our server with judges that fail.


@dataclass
class OwnServer:
    """Our server in this process, whose judge a test chooses; and an Envoy that asks it."""

    gateway: Gateway
    judge: Callable[[], ScriptedHandler] = lambda: ScriptedHandler(
        failing(OSError()), failing(OSError())
    )
    converse: Callable[[Call], Awaitable[StreamEnd]] | None = None
    judges: tuple[ScriptedHandler, ...] = ()

    async def talk(self, stream: Call, metadata: Mapping[str, str]) -> StreamEnd:
        """Hold one conversation."""
        if self.converse is not None:
            return await self.converse(stream)
        judge = self.judge()
        self.judges = (*self.judges, judge)
        budgets = Budgets(
            authorize_seconds=0.2, body_seconds=0.2, body_idle_seconds=0.2, inspect_seconds=0.2
        )
        return await serving(judge, budgets, max_body_bytes=1000)(stream, metadata)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own_server(session_stack: Stack) -> AsyncIterator[OwnServer]:
    """Our server behind an Envoy of the usual configuration."""
    with tempfile.TemporaryDirectory(prefix="egret-own-") as place:
        socket = Path(place) / "worker.sock"
        async with second_gateway(session_stack, judged_by(socket)) as gateway:
            own = OwnServer(gateway)
            options = ServerOptions(
                socket_path=socket,
                socket_mode=0o600,
                max_message_bytes=1 << 20,
                drain_delay_seconds=0,
                drain_grace_seconds=1,
            )
            serves = GrpcServer(options, own.talk)
            await serves.start()
            serves.set_ready(is_ready=True)
            yield own
            await serves.drain()


def unencodable() -> on.RequestRefused:
    """Return a refusal the codec cannot write."""
    return on.RequestRefused(Refusal(status=1 << 70, headers=(), body=b"", details=""))


def unencodable_pass() -> on.RequestCleared:
    """Return a pass the codec cannot write."""
    headers: Any = HeaderMutation(set_headers=(("x-egret-a", 1),))  # type: ignore[arg-type] # that is the point
    return on.RequestCleared(on.RequestMutations(headers=headers))


def nothing() -> Any:
    """Return no verdict at all."""
    return None


async def nothing_later() -> Any:
    """Return no verdict at all, later."""


def of_the_other_side() -> Any:
    """Return the verdict on a response."""
    return on.ResponseCleared(HeaderMutation())


async def cancelled_within() -> Any:
    """Be cancelled from within, as by a look-up that is shared."""
    raise asyncio.CancelledError


def failing_words(_: ErrorKind) -> Refusal:
    """Fail to word the refusal of a failure."""
    raise RuntimeError


FAULTS: Final[dict[str, Callable[[], Any]]] = {
    "raises": failing(RuntimeError("secret")),
    "raises later": failing_later(RuntimeError("secret")),
    "is cancelled within": cancelled_within,
    "never answers": Endless(),
    "returns nothing": nothing,
    "returns nothing later": nothing_later,
    "returns what is no verdict on a request": of_the_other_side,
    "refuses in a way that cannot be encoded": unencodable,
    "lets pass in a way that cannot be encoded": unencodable_pass,
}
NEEDS_BODY: Final = at_once(on.BodyRequired())


@pytest.mark.parametrize("words", ["words", "no words"])
@pytest.mark.parametrize("where", ["headers", "body"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_judge_that_fails_lets_nothing_pass(
    stack: Stack, own_server: OwnServer, fault: str, *, where: str, words: str
) -> None:
    """Not on the headers, not on the body, not even when the refusal itself fails."""
    fails = FAULTS[fault]
    headers: HeadersAnswer = fails if where == "headers" else NEEDS_BODY
    body: BodyAnswer = fails
    wording = refusal_of if words == "words" else failing_words
    own_server.judge = lambda: ScriptedHandler(headers, body, wording=wording)
    answer = await stack.post(chat("hello"), url=own_server.gateway.https_url)
    assert answer.status >= 500
    assert b"secret" not in answer.body
    assert await stack.received_count() == 0


async def _raise(_: Call) -> StreamEnd:
    raise RuntimeError("secret")


async def _abort(_: Call) -> StreamEnd:
    return StreamEnd.ABORTED


async def _talk_rubbish(stream: Call) -> StreamEnd:
    await next_message(stream)
    await stream.write([b"\xff\xff\xff"], ends=True)
    return StreamEnd.COMPLETED


@pytest.mark.parametrize("converse", [_raise, _abort, _talk_rubbish])
async def test_a_server_whose_conversation_fails_lets_nothing_pass(
    stack: Stack, own_server: OwnServer, converse: Callable[[Call], Awaitable[StreamEnd]]
) -> None:
    """The stream ends with an error, which Envoy takes for a no."""
    own_server.converse = converse
    try:
        answer = await stack.post(chat("hello"), url=own_server.gateway.https_url)
    finally:
        own_server.converse = None
    assert answer.status == 500
    assert _own_error(answer) == "gateway_unavailable"
    assert b"secret" not in answer.body
    assert await stack.received_count() == 0


def _own_error(answer: Answer) -> str:
    """Return the code of an error that Envoy has written in a form that clients read."""
    written = json.loads(answer.body)
    request_id = answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["request-id"] == request_id
    assert written["request_id"] == request_id
    assert written["error"]["message"].endswith(f"Request id: {request_id}.")
    return str(written["error"]["code"])


# Envoy itself, with a processor that does as a script says.


@dataclass(frozen=True, slots=True)
class Scripted:
    """A processor with a script, and an Envoy that asks it."""

    gateway: Gateway
    processor: ScriptedProcessor
    stack: Stack

    async def post(self, script: Script) -> Answer:
        """Send a chat to a processor that does so."""
        self.processor.script = script
        headers = [("x-ratelimit-there", "client")]
        return await self.stack.post(chat("hello"), headers=headers, url=self.gateway.https_url)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def scripted(session_stack: Stack) -> AsyncIterator[Scripted]:
    """An impatient Envoy with a scripted processor."""
    with tempfile.TemporaryDirectory(prefix="egret-scr-") as place:
        socket = Path(place) / "worker.sock"
        async with (
            scripted_processor(socket) as processor,
            second_gateway(session_stack, judged_by(socket), impatient) as gateway,
        ):
            yield Scripted(gateway, processor, session_stack)


def passing(**more: Any) -> ext.ProcessingResponse:
    """Return the answer to request headers that lets them pass."""
    response = ext.ProcessingResponse(**more)
    response.request_headers.SetInParent()
    return response


def to_body(body: bytes, *, ends: bool) -> ext.ProcessingResponse:
    """Return a piece of body for the provider."""
    response = ext.ProcessingResponse()
    streamed = response.request_body.response.body_mutation.streamed_response
    streamed.body, streamed.end_of_stream = body, ends
    return response


async def _end_with_an_error(side: Side) -> None:
    await side.read()
    await side.abort()


async def _send_rubbish(side: Side) -> None:
    await side.read()
    await side.write(b"\xff\xff\xff")


async def _answer_what_was_not_asked(side: Side) -> None:
    await side.read()
    response = ext.ProcessingResponse()
    response.response_headers.SetInParent()
    await side.write(response)
    await side.abort()


async def _wait(side: Side) -> None:
    await side.read()
    await asyncio.sleep(5)


async def _override_and_end_with_an_error(side: Side) -> None:
    await _override(side)
    await side.abort()


async def _override(side: Side) -> None:
    """Ask for the body while the headers are held."""
    await side.read()
    response = ext.ProcessingResponse()
    response.mode_override.request_body_mode = response.mode_override.FULL_DUPLEX_STREAMED
    response.mode_override.request_trailer_mode = response.mode_override.SEND
    response.mode_override.response_header_mode = response.mode_override.SKIP
    await side.write(response)


@pytest.mark.parametrize(
    "script",
    [
        _end_with_an_error,
        _send_rubbish,
        _answer_what_was_not_asked,
        _wait,
        _override_and_end_with_an_error,
    ],
)
async def test_a_processor_that_misbehaves_lets_nothing_pass(
    stack: Stack, scripted: Scripted, script: Script
) -> None:
    """Whatever it does short of ending the stream as if all were well."""
    answer = await scripted.post(script)
    assert answer.status >= 500
    assert await stack.received_count() == 0


async def _return(side: Side) -> None:
    await side.read()


async def test_envoy_lets_a_request_pass_when_the_stream_ends_well_without_an_answer(
    stack: Stack, scripted: Scripted
) -> None:
    """The one way to fail open, and why our server never merely returns."""
    answer = await scripted.post(_return)
    assert answer.status == 200
    assert await stack.received_count() == 1


async def test_envoy_lets_nothing_pass_when_the_stream_ends_well_while_headers_are_held(
    stack: Stack, scripted: Scripted
) -> None:
    """After a standalone mode_override: the client waits for Envoy's idle timer, five minutes."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await scripted.post(_override)
    assert await stack.received_count() == 0


async def test_envoy_ignores_value_and_append_action_of_a_header(
    stack: Stack, scripted: Scripted
) -> None:
    """A header set by `value` is empty; one to be added only if absent is overwritten."""

    async def script(side: Side) -> None:
        await side.read()
        response = passing()
        headers = response.request_headers.response.header_mutation.set_headers
        headers.add().header.key = "x-ratelimit-value"
        headers[0].header.value = "lost"
        headers.add().header.key = "x-ratelimit-raw"
        headers[1].header.raw_value = b"kept"
        headers.add().header.key = "x-ratelimit-there"
        headers[2].header.raw_value = b"ours"
        headers[2].append_action = headers[2].ADD_IF_ABSENT
        await side.write(response)

    answer = await scripted.post(script)
    (received,) = await stack.received()
    assert answer.status == 200
    assert received.all("x-ratelimit-value") == [""]
    assert received.all("x-ratelimit-raw") == ["kept"]
    assert received.all("x-ratelimit-there") == ["ours"]


async def test_envoy_sends_a_body_twice_when_trailers_follow_and_a_retry_is_allowed(
    stack: Stack, scripted: Scripted
) -> None:
    """Why a request that ends in trailers is refused where its body is judged."""

    async def script(side: Side) -> None:
        await _override(side)
        while (request := await side.read()) and not request.HasField("request_trailers"):
            pass
        response = passing()
        response.request_headers.response.header_mutation.remove_headers.append("content-length")
        await side.write(response)
        await side.write(to_body(b"{}", ends=False))
        last = ext.ProcessingResponse()
        last.request_trailers.SetInParent()
        await side.write(last)

    scripted.processor.script = script
    await http2_request(
        scripted.gateway.https_port,
        stack.facts.ca_file,
        fields=_fields(CHAT, "none"),
        body=[b"{}"],
        trailers=[("x-checksum", "1")],
    )
    (received,) = await stack.received()
    assert received.body == b"{}{}"


def _fields(path: str, key: str) -> list[tuple[str, str]]:
    return [
        *((":method", "POST"), (":scheme", "https"), (":path", path)),
        *((":authority", "localhost"), ("x-api-key", key), ("content-type", "application/json")),
    ]


# The workers, in every mode of the filter that can guard a request.

MODES: Final[dict[str, dict[str, str]]] = {
    "default": {},
    "buffered": {"request_body_mode": "BUFFERED"},
    "buffered with trailers": {"request_body_mode": "BUFFERED", "request_trailer_mode": "SEND"},
    "full duplex": {"request_body_mode": "FULL_DUPLEX_STREAMED", "request_trailer_mode": "SEND"},
}


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=MODES)
async def gateway(request: pytest.FixtureRequest, session_stack: Stack) -> AsyncIterator[Gateway]:
    """An Envoy in one of the modes, with the stack's own workers."""
    mode = processing_mode(**MODES[request.param])
    async with second_gateway(session_stack, mode, listener_buffer(8 << 20)) as gateway:
        yield gateway


async def test_what_may_pass_passes_untouched(stack: Stack, gateway: Gateway) -> None:
    """With a body, without one, in chunks, of five megabytes; none of it twice."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"model":"gpt-4o",'
        yield b'"messages":[]}'

    large = as_json(chat("x" * 5_000_000))
    headers = stack.credentials(CHAT, "block", ())
    async with stack.counting(5) as counted:
        answers = [
            await stack.post(chat("hello"), key="block", url=gateway.https_url),
            await stack.post(message("hi"), path=MESSAGES, key="block", url=gateway.https_url),
            await stack.post(chunks(), key="block", url=gateway.https_url),
            await stack.post(large, key="block", url=gateway.https_url),
            await stack.request("GET", "/v1/models", headers=headers, url=gateway.https_url),
        ]
    assert [answer.status for answer in answers] == [200] * 5
    assert {outcome for outcome, _, _ in counted.outcomes} == {"allowed"}
    assert [one.body for one in await stack.received()] == [
        as_json(chat("hello")),
        as_json(message("hi")),
        b'{"model":"gpt-4o","messages":[]}',
        large,
        b"",
    ]
    assert all("server-timing" in answer.headers for answer in answers)


async def test_a_redacted_body_is_framed_as_long_as_it_is(stack: Stack, gateway: Gateway) -> None:
    """And the request after it, on the same connection, is whole."""
    large = f"{EMAIL} {'word ' * 40}" * 1_000
    bodies = [chat(f"{EMAIL} é"), chat("plain"), chat(large), chat("plain")]
    for body in bodies:
        answer = await stack.post(body, key="redact", url=gateway.https_url)
        assert answer.status == 200
    received = await stack.received()
    assert [one.body for one in received] == [
        as_json(body).replace(EMAIL.encode(), b"[EMAIL_1]") for body in bodies
    ]
    assert [one.framing for one in received] == [
        {"content-length": [str(len(one.body))]} for one in received
    ]


@pytest.mark.parametrize(
    ("body", "key", "status", "code"),
    [
        pytest.param(chat("Bluebird"), "block", 400, "content_blocked", id="blocked"),
        pytest.param(b"", "block", 400, "invalid_body", id="no body"),
        pytest.param(b"{", "block", 400, "invalid_body", id="invalid body"),
        pytest.param(chat("x"), "egk_x", 401, "invalid_api_key", id="bad key"),
        pytest.param(chat("x"), "hook-error-block", 503, "guardrail_unavailable", id="no webhook"),
    ],
)
async def test_what_may_not_pass_is_refused(
    stack: Stack, gateway: Gateway, body: object, key: str, *, status: int, code: str
) -> None:
    """By the same answer in every mode."""
    async with stack.counting() as counted:
        answer = await stack.post(body, key=key, url=gateway.https_url)
    kind = "server_error" if status >= 500 else "invalid_request_error"
    assert answer.openai_error == (status, kind, code)
    assert [error for _, _, error in counted.outcomes] == [code]
    assert await stack.received_count() == 0


async def test_trailers_never_bring_a_body_to_the_provider_twice(
    stack: Stack, gateway: Gateway
) -> None:
    """Refused where Envoy streams the body to us, passed where it holds it."""
    body = as_json(chat("hello"))
    answer = await http2_request(
        gateway.https_port,
        stack.facts.ca_file,
        fields=_fields(CHAT, stack.keys["block"]),
        body=[body],
        trailers=[("x-checksum", "1")],
    )
    received = [one.body for one in await stack.received()]
    assert (answer.status, received) in [(400, []), (200, [body])]


@pytest.mark.parametrize("mode", ["STREAMED", "BUFFERED_PARTIAL"])
async def test_a_mode_that_cannot_guard_is_refused(stack: Stack, mode: str) -> None:
    """The headers or the rest of a body would be gone before any verdict."""
    async with (
        second_gateway(stack, processing_mode(request_body_mode=mode)) as gateway,
        stack.counting() as counted,
    ):
        answer = await stack.post(chat("hello"), key="free", url=gateway.https_url)
    assert answer.openai_error == (500, "server_error", "unsupported_processing_mode")
    assert [error for _, _, error in counted.outcomes] == ["unsupported_processing_mode"]
    assert counted.faults == {"unsupported_mode": 1}
    assert await stack.received_count() == 0


async def test_a_body_larger_than_envoys_buffers_is_judged_and_passed(stack: Stack) -> None:
    """Two megabytes through 32 KiB, over both versions of HTTP, redacted or not."""
    body = chat("x" * 2_000_000 + " " + EMAIL)
    async with second_gateway(stack, listener_buffer(32768)) as gateway:
        for key in ("block", "redact"):
            answer = await stack.post(body, key=key, url=gateway.https_url)
            assert answer.status == 200
            over_h2 = await http2_request(
                gateway.https_port,
                stack.facts.ca_file,
                fields=_fields(CHAT, stack.keys[key]),
                body=[as_json(body)],
            )
            assert over_h2.status == 200
    redacted = as_json(body).replace(EMAIL.encode(), b"[EMAIL_1]")
    received = [one.body for one in await stack.received()]
    assert received == [as_json(body)] * 2 + [redacted] * 2


async def test_a_local_reply_that_overtakes_the_judgement_is_no_pass(stack: Stack) -> None:
    """BUFFERED and too large for Envoy: its 413, without a body for Egret, and no fault."""
    mode = processing_mode(request_body_mode="BUFFERED", response_header_mode="SEND")
    async with (
        second_gateway(stack, mode, listener_buffer(32768)) as gateway,
        stack.counting() as counted,
    ):
        answer = await stack.post(chat("x" * 200_000), key="block", url=gateway.https_url)
    assert answer.status == 413
    assert [outcome for outcome, _, _ in counted.outcomes] == ["aborted"]
    assert counted.faults == {}
    assert await stack.received_count() == 0


def _no_provider(config: Config) -> None:
    for cluster in config["static_resources"]["clusters"]:
        if cluster["name"] == "openai":
            endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
            endpoint["address"]["socket_address"]["port_value"] = 1


async def test_a_provider_that_is_gone_is_no_fault_of_egrets(stack: Stack) -> None:
    """Envoy's 503 passes through the phases a request may still be in."""
    modes = [processing_mode(), processing_mode(response_header_mode="SEND")]
    for mode in modes:
        async with (
            second_gateway(stack, mode, _no_provider) as gateway,
            stack.counting() as counted,
        ):
            answer = await stack.post(chat("hello"), key="block", url=gateway.https_url)
        assert answer.status == 503
        assert _own_error(answer) == "provider_unavailable"
        assert b"127.0.0.1" not in answer.body
        assert counted.outcomes == {("allowed", "chat", "none"): 1}
        assert counted.faults == {}


async def test_streams_end_cleanly_and_every_worker_gets_its_share(stack: Stack) -> None:
    """No resets between Envoy and the workers; one socket a worker, none of them idle."""
    async with second_gateway(stack) as gateway:
        for at in range(20):
            body = chat("Bluebird" if at % 2 else "hello")
            await stack.post(body, key="block", url=gateway.https_url)
        async with aiohttp.ClientSession(gateway.admin_url) as admin:
            stats = await _stats(admin)
            hosts = await _requests_by_host(admin)
    assert stats["cluster.egret.upstream_rq_tx_reset"] == 0
    assert stats["cluster.egret.upstream_rq_rx_reset"] == 0
    assert len(hosts) == stack.workers
    assert min(hosts) > 0


def _without_graceful_close(config: Config) -> None:
    static = config["layered_runtime"]["layers"][0]["static_layer"]
    del static["envoy.reloadable_features.ext_proc_graceful_grpc_close"]


@pytest.mark.parametrize(
    "change",
    [_without_graceful_close, processing_mode(request_body_mode="BUFFERED")],
    ids=["no graceful close", "buffered bodies"],
)
async def test_an_envoy_that_resets_its_streams_keeps_its_connections(
    stack: Stack, change: Adapt
) -> None:
    """HTTP/2 servers may close one after many resets, and every request on it fails."""
    resets = rounds = 0
    async with (
        second_gateway(stack, change) as gateway,
        aiohttp.ClientSession(gateway.admin_url) as admin,
    ):
        while resets < 500 and rounds < 100:  # how many ends come in time differs
            rounds += 1
            posts = (
                stack.post(chat("hello"), key="block", url=gateway.https_url) for _ in range(20)
            )
            assert [answer.status for answer in await asyncio.gather(*posts)] == [200] * 20
            stats = await _stats(admin)
            assert stats["cluster.egret.upstream_cx_destroy"] == 0
            resets = stats["cluster.egret.upstream_rq_tx_reset"]
    assert resets >= 500


async def _stats(admin: aiohttp.ClientSession) -> dict[str, int]:
    async with admin.get("/stats", params={"format": "json"}) as answer:
        stats = (await answer.json(content_type=None))["stats"]
    return {one["name"]: one["value"] for one in stats if "name" in one}


async def _requests_by_host(admin: aiohttp.ClientSession) -> list[int]:
    async with admin.get("/clusters", params={"format": "json"}) as answer:
        clusters = (await answer.json(content_type=None))["cluster_statuses"]
    return [
        int(next(stat["value"] for stat in host["stats"] if stat["name"] == "rq_total"))
        for cluster in clusters
        if cluster["name"] == "egret"
        for host in cluster["host_statuses"]
    ]
