from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp.abc import ResolveResult
from typing_extensions import override

from sidecar._generated.egret.guardrail.v1 import guardrail_pb2 as guardrail
from sidecar.domain.finding import Finding
from sidecar.domain.guardrail_settings import GrpcSettings, RemoteEndpoint
from sidecar.domain.policy import Stage
from sidecar.guardrails.remote.checks import (
    RemoteAnswer,
    RemoteCheckError,
    RemoteFault,
    RemoteRequest,
    RemoteTimeoutError,
    RequestInfo,
)
from sidecar.guardrails.remote.grpc_client import GrpcChannels, GrpcChecks, check_request
from tests.support.authority import Authority
from tests.support.fixed_resolver import FixedResolver
from tests.support.grpc_guardrail import Answer, Call, grpc_server, saying
from tests.support.remote_checks import asking

PASS = guardrail.CheckResponse(verdict=guardrail.VERDICT_PASS)


def request_to(url: str, *texts: str, **endpoint: Any) -> RemoteRequest:
    return asking(GrpcSettings(RemoteEndpoint(url, **endpoint)), *texts)


async def ask(answer: Answer, *texts: str, **server: Any) -> RemoteAnswer:
    async with grpc_server(answer, **server) as known, GrpcChecks() as checks:
        return await checks.check(request_to(known.url, *texts))


async def error_of(answer: Answer, *texts: str, **server: Any) -> tuple[str, RemoteFault]:
    with pytest.raises(RemoteCheckError) as raised:
        await ask(answer, *texts, **server)
    return raised.value.error_type, raised.value.fault


async def test_a_server_is_sent_every_text_and_whose_request_it_is() -> None:
    """The whole message, with the policy's headers as metadata."""
    async with grpc_server(saying(PASS)) as server, GrpcChecks() as checks:
        request = request_to(server.url, "Grüße", "b", headers=(("Authorization", "Bearer x"),))
        assert await checks.check(request) == RemoteAnswer("pass")
    assert server.requests == [
        guardrail.CheckRequest(
            guardrail="dlp",
            stage=guardrail.STAGE_INPUT,
            request_id="r1",
            key_id="k1",
            model="gpt-5",
            texts=[
                guardrail.Text(role="user", text="Grüße"),
                guardrail.Text(role="user", text="b"),
            ],
        )
    ]
    assert server.metadata[0]["authorization"] == "Bearer x"


def test_a_side_and_a_missing_model_are_said_as_they_are() -> None:
    """Not set is not the empty name."""
    request = replace(
        request_to("grpc://h:1", "a"), stage=Stage.OUTPUT, about=RequestInfo("r", "k")
    )
    message = check_request(request)
    assert (message.stage, message.HasField("model")) == (guardrail.STAGE_OUTPUT, False)


VERDICTS = {
    guardrail.VERDICT_FLAG: "flag",
    guardrail.VERDICT_REDACT: "redact",
    guardrail.VERDICT_BLOCK: "block",
}


@pytest.mark.parametrize("verdict", VERDICTS)
async def test_spans_in_characters_become_spans_in_bytes(verdict: Any) -> None:
    """Servers count as their languages do; findings count bytes."""
    answer = guardrail.CheckResponse(
        verdict=verdict,
        findings=[
            guardrail.Finding(text=1, start=2, end=5, type="NAME"),
            guardrail.Finding(text=0, start=0, end=1, type="NAME"),
        ],
        message="for your log",
    )
    findings = (Finding("dlp", "NAME", 1, 3, 7), Finding("dlp", "NAME", 0, 0, 1))
    said = await ask(saying(answer), "a", "é Zoë 🦩")
    assert said == RemoteAnswer(VERDICTS[verdict], findings)  # type: ignore[arg-type] # one of the four


def finding(**changes: Any) -> guardrail.Finding:
    return guardrail.Finding(**{"text": 0, "start": 0, "end": 1, "type": "NAME", **changes})


def flagging(*findings: guardrail.Finding) -> guardrail.CheckResponse:
    return guardrail.CheckResponse(verdict=guardrail.VERDICT_FLAG, findings=findings)


BAD_ANSWERS: dict[str, tuple[guardrail.CheckResponse | bytes, str]] = {
    "empty": (b"", "answer_invalid"),
    "rubbish": (b"<html>\xff", "answer_invalid"),
    "unknown_verdict": (b"\x08\x63", "answer_invalid"),
    "redact_without_spans": (
        guardrail.CheckResponse(verdict=guardrail.VERDICT_REDACT),
        "answer_invalid",
    ),
    "pass_with_findings": (
        guardrail.CheckResponse(verdict=guardrail.VERDICT_PASS, findings=[finding()]),
        "answer_invalid",
    ),
    "lower_case_type": (flagging(finding(type="name")), "answer_invalid"),
    "too_many": (flagging(*[finding()] * 2_001), "answer_too_large"),
    "long_message": (
        guardrail.CheckResponse(verdict=guardrail.VERDICT_PASS, message="x" * 2_001),
        "answer_too_large",
    ),
    "no_such_text": (flagging(finding(text=9)), "span_out_of_range"),
    "past_the_end": (flagging(finding(end=99)), "span_out_of_range"),
    "large": (
        guardrail.CheckResponse(verdict=guardrail.VERDICT_PASS, message="x" * 200_000),
        "answer_too_large",
    ),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
async def test_an_answer_that_was_not_agreed_is_an_error(case: str) -> None:
    """An answer that nobody has filled in above all: its verdict is unspecified, not a pass."""
    answer, error_type = BAD_ANSWERS[case]
    is_malformed = error_type == "answer_invalid"  # the others can be caused by a text
    fault = RemoteFault.ANSWER if is_malformed else RemoteFault.CONTENT
    assert await error_of(saying(answer), "text") == (error_type, fault)


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (grpc.StatusCode.UNAVAILABLE, RemoteFault.TRANSIENT),
        (grpc.StatusCode.INTERNAL, RemoteFault.SERVER),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, RemoteFault.SERVER),
        (grpc.StatusCode.UNAUTHENTICATED, RemoteFault.ANSWER),
        (grpc.StatusCode.INVALID_ARGUMENT, RemoteFault.CONTENT),
        (grpc.StatusCode.OUT_OF_RANGE, RemoteFault.CONTENT),
    ],
)
async def test_a_status_is_an_error_with_its_name(
    code: grpc.StatusCode, fault: RemoteFault
) -> None:
    """Its text stays here: it could repeat the content."""

    async def answer(_: guardrail.CheckRequest, call: Call) -> guardrail.CheckResponse:
        await call.abort(code, "you said: secret")
        raise AssertionError

    assert await error_of(answer, "text") == (f"grpc_{code.name.lower()}", fault)


async def test_ten_megabytes_are_not_read() -> None:
    """An answer of that size is ended by gRPC itself."""
    large = saying(b"\x1a\x80\x80\x80\x05" + b"x" * 10 * 1024 * 1024)
    assert await error_of(large, "text") == ("grpc_resource_exhausted", RemoteFault.CONTENT)


async def test_a_compressed_bomb_does_not_go_off() -> None:
    """Ten megabytes that are ten kilobytes on the wire."""
    bomb = saying(b"\x1a\x80\x80\x80\x05" + bytes(10 * 1024 * 1024))
    error = await error_of(bomb, "text", compression=grpc.Compression.Gzip)
    assert error == ("grpc_resource_exhausted", RemoteFault.CONTENT)


async def test_a_text_above_the_servers_limit_is_no_failure_of_the_server() -> None:
    """Large requests of one client would open the circuit breaker for all."""
    error = await error_of(saying(PASS), "x" * 5 * 1024 * 1024)
    assert error == ("grpc_resource_exhausted", RemoteFault.CONTENT)


@pytest.mark.parametrize(
    "text",
    [
        "grpc: received message after decompression larger than max 4194304",
        "gRPC message exceeds maximum size 4194304: 5118829",
    ],
)
async def test_servers_in_go_and_java_have_a_limit_as_well(text: str) -> None:
    """Each names it in its own words."""

    async def answer(_: guardrail.CheckRequest, call: Call) -> guardrail.CheckResponse:
        await call.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        raise AssertionError

    assert await error_of(answer, "text") == ("grpc_resource_exhausted", RemoteFault.CONTENT)


async def test_the_server_knows_the_deadline_and_a_late_answer_is_a_timeout() -> None:
    """So that it can stop working on what nobody waits for."""
    left: list[float | None] = []

    async def answer(_: guardrail.CheckRequest, call: Call) -> guardrail.CheckResponse:
        left.append(call.time_remaining())
        await asyncio.sleep(5)
        return PASS

    async with grpc_server(answer) as server, GrpcChecks() as checks:
        request = request_to(server.url, "text")
        slow = replace(request, guardrail=replace(request.guardrail, timeout_seconds=1.0))
        while not left:  # on a busy machine the limit ends before the server has the request
            with pytest.raises(RemoteTimeoutError):
                await checks.check(slow)
    assert left[0] is not None
    assert left[0] < 1.5  # gRPC rounds up on the wire


async def test_a_check_that_is_given_up_is_cancelled_at_the_server() -> None:
    """When another guardrail has blocked, or the client is gone."""
    began, gone = asyncio.Event(), asyncio.Event()

    async def answer(_: guardrail.CheckRequest, __: Call) -> guardrail.CheckResponse:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            gone.set()
        return PASS

    async with grpc_server(answer) as server, GrpcChecks() as checks:
        task = asyncio.ensure_future(checks.check(request_to(server.url, "text")))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), 60)


async def test_channels_nobody_uses_make_room() -> None:
    """Policies come and go; the oldest is closed, and opened anew if it is needed after all."""
    now = 0.0
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(grpc_server(saying(PASS))) for _ in range(3)]
        checks = GrpcChecks(GrpcChannels(clock=lambda: now, max_channels=2))
        for server in (*servers, servers[0]):
            await checks.check(request_to(server.url, "text"))
            now += 1
        await checks.close()
    assert [len(set(server.peers)) for server in servers] == [2, 1, 1]


async def test_a_closed_port_is_told_at_once() -> None:
    """Not when the time limit is over."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with GrpcChecks() as checks:
            request = request_to(f"grpc://127.0.0.1:{port}", "text")
            with pytest.raises(RemoteCheckError, match="grpc_unavailable"):
                await checks.check(request)


async def test_one_connection_serves_many_checks() -> None:
    """A channel is kept, whichever request it was opened for."""
    async with grpc_server(saying(PASS)) as server, GrpcChecks() as checks:
        for _ in range(3):
            await checks.check(request_to(server.url, "text"))
    assert len(set(server.peers)) == 1


@pytest.mark.parametrize(
    "addresses",
    [("169.254.169.254",), ("127.0.0.1", "fd00:ec2::254"), ("::ffff:169.254.169.254",)],
)
async def test_a_name_that_leads_to_a_metadata_server_is_refused(
    addresses: tuple[str, ...],
) -> None:
    """The client is given addresses that were judged, never a name it could look up again."""
    checks = GrpcChecks(GrpcChannels(resolver=FixedResolver(*addresses)))
    with pytest.raises(RemoteCheckError) as raised:
        await checks.check(request_to("grpc://dlp.example.com:443", "text"))
    assert (raised.value.error_type, raised.value.fault) == ("refused_address", RemoteFault.LOCAL)
    await checks.close()


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[::ffff:169.254.169.254]", "0xa9fea9fe", "2852039166"]
)
async def test_a_metadata_address_is_refused_in_any_spelling(host: str) -> None:
    """In the URL itself as well."""
    async with GrpcChecks() as checks:
        with pytest.raises(RemoteCheckError, match="refused_address"):
            await checks.check(request_to(f"grpc://{host}:80", "text"))


async def test_a_name_that_is_at_another_address_now_is_asked_there() -> None:
    """Addresses are looked up again from time to time, and judged again."""
    now = 0.0
    resolver = FixedResolver("127.0.0.1")
    async with grpc_server(saying(PASS)) as server:
        checks = GrpcChecks(GrpcChannels(resolver=resolver, clock=lambda: now))
        request = request_to(f"grpc://dlp.example.com:{server.port}", "text")
        await checks.check(request)
        resolver.addresses = ("127.0.0.2",)
        await checks.check(request)
        now = 10.0
        with pytest.raises(RemoteCheckError, match="grpc_unavailable"):
            await checks.check(request)
        resolver.addresses = ("169.254.169.254",)
        now = 20.0
        with pytest.raises(RemoteCheckError, match="refused_address"):
            await checks.check(request)
        await checks.close()
    assert len(server.requests) == 2


async def test_a_name_that_does_not_resolve_is_an_error() -> None:
    """Told apart from a server that is down."""
    async with GrpcChecks() as checks:
        with pytest.raises(RemoteCheckError, match="name_resolution"):
            await checks.check(request_to("grpc://nobody.invalid:1", "text"))


class SlowResolver(FixedResolver):
    """A resolver that answers once it may, and counts look-ups; without addresses it fails."""

    def __init__(self, *addresses: str) -> None:
        super().__init__(*addresses)
        self.count = 0
        self.is_asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    @override
    async def resolve(
        self, host: str, port: int = 0, family: int = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses."""
        self.count += 1
        self.is_asked.set()
        await self.may_answer.wait()
        if not self.addresses:
            raise OSError("no answer of a name server")
        return await super().resolve(host, port, family)


async def test_checks_that_wait_for_a_name_share_one_look_up() -> None:
    """A check that is given up meanwhile does not end it for the others."""
    now, resolver = 0.0, SlowResolver("127.0.0.1")
    async with grpc_server(saying(PASS)) as server:
        checks = GrpcChecks(GrpcChannels(resolver=resolver, clock=lambda: now))
        request = request_to(f"grpc://dlp.example.com:{server.port}", "text")
        for count in (1, 2):
            resolver.is_asked.clear()
            resolver.may_answer.clear()
            tasks = [asyncio.ensure_future(checks.check(request)) for _ in range(20)]
            await resolver.is_asked.wait()
            tasks[0].cancel()
            await asyncio.sleep(0)
            resolver.may_answer.set()
            answers = await asyncio.gather(*tasks[1:])
            assert (set(answers), resolver.count) == ({RemoteAnswer("pass")}, count)
            now += 10
        await checks.close()
    assert len(set(server.peers)) == 1


async def test_a_server_is_asked_where_it_was_while_its_name_does_not_resolve() -> None:
    """Its addresses were checked; the name is looked up again after the usual time."""
    now, resolver = 0.0, SlowResolver("127.0.0.1")
    resolver.may_answer.set()
    async with grpc_server(saying(PASS)) as server:
        checks = GrpcChecks(GrpcChannels(resolver=resolver, clock=lambda: now))
        request = request_to(f"grpc://dlp.example.com:{server.port}", "text")
        await checks.check(request)
        now, resolver.addresses = 10.0, ()
        assert await checks.check(request) == await checks.check(request) == RemoteAnswer("pass")
        assert resolver.count == 2
        now, resolver.addresses = 20.0, ("169.254.169.254",)
        with pytest.raises(RemoteCheckError, match="refused_address"):
            await checks.check(request)
        await checks.close()


async def test_a_look_up_ends_with_the_channels() -> None:
    """A worker that stops does not wait for a name server."""
    resolver = SlowResolver()
    checks = GrpcChecks(GrpcChannels(resolver=resolver))
    waiting = asyncio.ensure_future(checks.check(request_to("grpc://dlp.example.com:1", "text")))
    await resolver.is_asked.wait()
    await checks.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def server_credentials(files: dict[str, Path], **more: Any) -> grpc.ServerCredentials:
    pair = (files["key_file"].read_bytes(), files["cert_file"].read_bytes())
    return grpc.ssl_server_credentials([pair], **more)


@pytest.mark.parametrize("shows_itself", [True, False])
async def test_a_server_over_tls_is_known_by_its_name_and_knows_its_client(
    tmp_path: Path, *, shows_itself: bool
) -> None:
    """By the policy's authority; a client without its certificate gets no answer."""
    authority = Authority(tmp_path)
    ours = authority.identity("egret.example.com")
    credentials = server_credentials(
        authority.identity("dlp.example.com", file="server"),
        root_certificates=authority.ca_file.read_bytes(),
        require_client_auth=True,
    )
    identity = {name: str(file) for name, file in ours.items()} if shows_itself else {}
    resolver = FixedResolver("127.0.0.1")
    async with grpc_server(saying(PASS), credentials=credentials) as server:
        checks = GrpcChecks(GrpcChannels(resolver=resolver))
        request = request_to(
            f"grpcs://dlp.example.com:{server.port}",
            "text",
            ca_file=str(authority.ca_file),
            **identity,
        )
        if shows_itself:
            assert await checks.check(request) == RemoteAnswer("pass")
        else:
            with pytest.raises(RemoteCheckError, match="grpc_unavailable"):
                await checks.check(request)
        await checks.close()


async def test_a_server_with_another_name_is_not_believed(tmp_path: Path) -> None:
    """The name is the URL's, whatever the address."""
    authority = Authority(tmp_path)
    credentials = server_credentials(authority.identity("other.example.com"))
    async with grpc_server(saying(PASS), credentials=credentials) as server:
        checks = GrpcChecks(GrpcChannels(resolver=FixedResolver("127.0.0.1")))
        url = f"grpcs://dlp.example.com:{server.port}"
        with pytest.raises(RemoteCheckError, match="grpc_unavailable"):
            await checks.check(request_to(url, "text", ca_file=str(authority.ca_file)))
        await checks.close()


async def test_files_that_are_not_there_are_an_error_of_ours(tmp_path: Path) -> None:
    """The server is not to blame, and nothing is sent without the authority that was asked for."""
    async with GrpcChecks() as checks:
        request = request_to("grpcs://127.0.0.1:1", "text", ca_file=str(tmp_path / "none.pem"))
        with pytest.raises(RemoteCheckError) as raised:
            await checks.check(request)
    assert (raised.value.error_type, raised.value.fault) == ("tls_files", RemoteFault.LOCAL)
