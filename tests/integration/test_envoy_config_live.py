"""The rendered configuration at work: a real Envoy between a client, a processor and a mock."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from egret_tools.devstack.credentials import (
    Certificates,
    write_certificate,
    write_certificates,
    write_credential,
)
from egret_tools.devstack.envoy import EnvoyAddress, EnvoyRun, running_envoy
from egret_tools.devstack.envoy_config import (
    DescriptorLimit,
    EnvoyParameters,
    Hits,
    OtlpCollector,
    Provider,
    SelfHosted,
    render_envoy_config,
)
from egret_tools.devstack.processes import Children
from egret_tools.devstack.trace_receiver import running_trace_receiver
from egret_tools.mock_llm.server import MockAddress, MockSettings, running_mock
from pydantic import SecretStr
from yarl import URL

from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from tests.support.placeholder_processor import Answer, allow, refuse, running_processor

pytestmark = pytest.mark.stack

OPENAI_KEY = "sk-of-the-provider"
ANTHROPIC_KEY = "sk-ant-of-the-provider"
GEMINI_KEY = "of-the-provider-too"
CLIENT_KEY = "key-of-the-client"
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
MESSAGE = {**CHAT, "max_tokens": 9}


@dataclass(frozen=True, slots=True)
class Gateway:
    """Envoy with its mock upstream, and a client for each of them."""

    run: Path
    envoy: EnvoyAddress
    http: aiohttp.ClientSession
    debug: aiohttp.ClientSession
    certificates: Certificates

    async def last(self) -> dict[str, Any]:
        """Return what the provider last received."""
        async with self.debug.get("/last") as answer:
            assert answer.status == 200
            last: dict[str, Any] = await answer.json()
            return last

    async def count(self) -> int:
        """Return how many requests reached the provider."""
        async with self.debug.get("/count") as answer:
            count: int = (await answer.json())["count"]
            return count

    async def log_lines(self, wanted: int) -> list[dict[str, Any]]:
        """Return the access log once it has as many lines as wanted."""
        for _ in range(1_200):
            lines = (self.run / "access.jsonl").read_text().splitlines()
            if len(lines) >= wanted:
                return [json.loads(line) for line in lines]
            await asyncio.sleep(0.05)
        pytest.fail("the access log stays short")


@pytest.fixture
def run() -> Path:
    """Return a directory with a path short enough for Unix sockets."""
    return Path(tempfile.mkdtemp(prefix="egret-"))


Adapt = Callable[[EnvoyParameters], EnvoyParameters]


def as_it_is(parameters: EnvoyParameters) -> EnvoyParameters:
    """Change nothing."""
    return parameters


@asynccontextmanager
async def gateway(
    run: Path,
    answer: Answer,
    *,
    workers: int = 1,
    live_workers: int = 1,
    adapt: Adapt = as_it_is,
) -> AsyncIterator[Gateway]:
    """Start a mock, processors on the first sockets, and Envoy with all of them."""
    certificates = write_certificates(run / "certificates")
    sockets = [run / f"worker-{number}.sock" for number in range(workers)]
    mock_settings = MockSettings(
        certificate_chain=certificates.provider.chain,
        private_key=certificates.provider.private_key,
        openai_key=SecretStr(OPENAI_KEY),
        anthropic_key=SecretStr(ANTHROPIC_KEY),
        azure_key=SecretStr(GEMINI_KEY),
        gemini_key=SecretStr(GEMINI_KEY),
        bedrock_key=SecretStr(GEMINI_KEY),
    )
    try:
        async with (
            running_mock(mock_settings) as mock,
            _processors(answer, sockets[:live_workers]),
        ):
            parameters = adapt(_parameters(run, certificates, mock=mock, sockets=sockets))
            envoy = running_envoy(
                Children(), run=EnvoyRun(run, run), config=render_envoy_config(parameters)
            )
            async with (
                envoy as address,
                aiohttp.ClientSession(f"http://127.0.0.1:{address.http_port}") as http,
                aiohttp.ClientSession(mock.debug_url) as debug,
            ):
                yield Gateway(run, address, http, debug, certificates)
    finally:
        shutil.rmtree(run)


@asynccontextmanager
async def _processors(answer: Answer, sockets: list[Path]) -> AsyncIterator[None]:
    if not sockets:
        yield
        return
    async with (
        running_processor(answer, socket=sockets[0]),
        _processors(answer, sockets[1:]),
    ):
        yield


def _parameters(
    run: Path, certificates: Certificates, *, mock: MockAddress, sockets: list[Path]
) -> EnvoyParameters:
    secrets = run / "sds"
    secrets.mkdir()
    write_certificate(secrets, name="server_certificate", certificate=certificates.gateway)
    write_credential(secrets, name="openai", header_value=SecretStr(f"Bearer {OPENAI_KEY}"))
    write_credential(secrets, name="anthropic", header_value=SecretStr(ANTHROPIC_KEY))
    provider = Provider(
        host="localhost",
        address="127.0.0.1",
        port=mock.port,
        ca_file=str(certificates.provider_ca),
        credential_header="authorization",
    )
    return EnvoyParameters(
        worker_sockets=tuple(map(str, sockets)),
        sds_directory=str(secrets),
        openai=provider,
        anthropic=replace(provider, credential_header="x-api-key"),
        https_address="127.0.0.1",
        https_port=0,
        http_port=0,
        access_log_path=str(run / "access.jsonl"),
    )


STRIP = (
    *("authorization", "x-api-key", "api-key", "x-goog-api-key", "ocp-apim-subscription-key"),
    *("x-ms-oai-image-generation-deployment", "x-http-method-override", "x-goog-fieldmask"),
    "x-egret-made-up",
)


async def test_the_provider_sees_its_own_key_and_nothing_of_the_client_or_of_us(run: Path) -> None:
    """No client credential, no trace, no forwarding header, no header of Envoy's or Egret's."""
    async with gateway(run, allow(remove=STRIP, request_id="r1", server_timing="a;dur=1")) as gate:
        headers = {
            "authorization": f"Bearer {CLIENT_KEY}",
            "x-goog-api-key": CLIENT_KEY,
            "ocp-apim-subscription-key": CLIENT_KEY,
            "x-ms-oai-image-generation-deployment": "dear",
            "x-http-method-override": "DELETE",
            "x-goog-fieldmask": "candidates",
            "openai-organization": "org-of-the-clients-choice",
            "openai-project": "proj_of_the_clients_choice",
            "chatgpt-account-id": "account-of-the-clients-choice",
            "x-goog-user-project": "project-of-the-clients-choice",
            "cookie": f"session={CLIENT_KEY}",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "baggage": "user=1",
            "x-request-id": "chosen-by-the-client",
            "x-forwarded-for": "192.0.2.1",
            "x-envoy-upstream-rq-timeout-ms": "1",
            "x-egret-made-up": "1",
        }
        async with gate.http.post("/v1/chat/completions", json=CHAT, headers=headers) as answer:
            assert answer.status == 200
        last = await gate.last()
    assert set(last["headers"]) == {
        *("host", "authorization", "accept", "accept-encoding", "content-type", "user-agent"),
        "content-length",
    }
    assert last["headers"]["authorization"] == f"Bearer {OPENAI_KEY}"
    assert last["headers"]["host"].startswith("localhost:")
    assert CLIENT_KEY not in json.dumps(last)
    assert json.loads(base64.b64decode(last["body_base64"])) == CHAT


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        pytest.param("/v1/messages", {}, id="messages"),
        pytest.param("/v1/messages/count_tokens", {}, id="below messages"),
        pytest.param("/v1/models", {"anthropic-version": "2023-06-01"}, id="models"),
    ],
)
async def test_anthropics_paths_go_to_anthropic_with_its_own_key(
    run: Path, path: str, headers: dict[str, str]
) -> None:
    """The mock answers 401 to the key of the other provider."""
    async with gateway(run, allow()) as gate:
        method, body = ("GET", None) if path == "/v1/models" else ("POST", MESSAGE)
        async with gate.http.request(method, path, json=body, headers=headers) as answer:
            assert answer.status == 200
        last = await gate.last()
    assert last["headers"]["x-api-key"] == ANTHROPIC_KEY
    assert "authorization" not in last["headers"]


async def test_models_of_ones_own_are_asked_for_by_their_name(run: Path) -> None:
    """The same path by another host, with another credential; every other host as before."""

    def adapt(parameters: EnvoyParameters) -> EnvoyParameters:
        secrets = Path(parameters.sds_directory)
        write_credential(secrets, name="self_hosted", header_value=SecretStr("Bearer of-our-own"))
        servers = replace(parameters.openai, is_many=True)
        return replace(parameters, self_hosted=SelfHosted("models.internal", servers))

    async with gateway(run, allow(remove=STRIP), adapt=adapt) as gate:
        seen = {}
        for host in ("models.internal", "models.internal:8443", "api.example"):
            path, headers = "/v1/chat/completions", {"host": host, "x-api-key": CLIENT_KEY}
            async with gate.http.post(path, json=CHAT, headers=headers):
                seen[host] = (await gate.last())["headers"]
    keys = {host: headers["authorization"] for host, headers in seen.items()}
    assert keys == {
        "models.internal": "Bearer of-our-own",
        "models.internal:8443": "Bearer of-our-own",
        "api.example": f"Bearer {OPENAI_KEY}",
    }
    assert CLIENT_KEY not in json.dumps(seen)


async def test_an_answer_carries_timing_written_by_envoy(run: Path) -> None:
    """From Egret's dynamic metadata and Envoy's own clock."""
    answer_with = allow(request_id="r-1", server_timing="authorize;dur=0.100, egret;dur=0.200")
    async with gateway(run, answer_with) as gate:
        await gate.debug.post("/delay", json={"ms": 60})
        async with gate.http.post("/v1/chat/completions", json=CHAT) as answer:
            headers = answer.headers.copy()
    total = re.fullmatch(r"(\d+)ms", headers["x-response-time"])
    spent = re.fullmatch(
        r"authorize;dur=0\.100, egret;dur=0\.200, upstream;dur=(\d+)", headers["server-timing"]
    )
    assert total is not None
    assert spent is not None
    assert int(total[1]) >= int(spent[1]) >= 60
    assert headers["x-egret-request-id"] == "r-1"


PROVIDERS_OWN = {
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-remaining-project-tokens": "149984",
    "anthropic-ratelimit-tokens-remaining": "80000",
    "x-egret-budget": "95",
    "retry-after": "3",
}
"""What a provider says of the account that all clients share, and one lie."""


@pytest.mark.parametrize(
    ("path", "written", "ours"),
    [
        (
            "/v1/chat/completions",
            {"x-ratelimit-limit-requests": "60", "x-ratelimit-reset-tokens": "1m2s"},
            {"x-ratelimit-limit-requests", "x-ratelimit-reset-tokens"},
        ),
        (
            "/v1/messages",
            {"anthropic-ratelimit-tokens-remaining": "5", "x-egret-budget": "80"},
            {"anthropic-ratelimit-tokens-remaining", "x-egret-budget"},
        ),
        ("/v1/chat/completions", {"anthropic-ratelimit-tokens-remaining": "5"}, set()),
        ("/v1/chat/completions", {}, set()),
    ],
    ids=["openai", "anthropic", "of another API", "a key without limits"],
)
async def test_limits_of_ours_are_written_in_place_of_the_providers(
    run: Path, path: str, written: dict[str, Any], ours: set[str]
) -> None:
    """Once each, and none that is empty; when to come back is the provider's to say."""
    async with gateway(run, allow(**written)) as gate:
        chunk = base64.b64encode(b"{}").decode()
        raw = {"headers": PROVIDERS_OWN, "chunks": [chunk]}
        await gate.debug.post("/raw", json=raw)
        async with gate.http.post(path, json=CHAT) as answer:
            assert answer.status == 200
            found = [
                (name.lower(), value)
                for name, value in answer.headers.items()
                if "ratelimit" in name.lower() or name.lower() in {"x-egret-budget", "retry-after"}
            ]
    expected = {name: written[name] for name in ours} | {"retry-after": "3"}
    assert sorted(found) == sorted(expected.items())


async def test_a_refusal_keeps_the_timing_egret_wrote(run: Path) -> None:
    """One value of each header, Egret's, and nothing reaches the provider."""
    own = (
        ("x-response-time", "1.500ms"),
        ("server-timing", "egret;dur=1.5"),
        ("x-egret-request-id", "r-2"),
        ("retry-after", "3"),
    )
    async with gateway(run, refuse(403, write=own)) as gate:
        async with gate.http.post("/v1/chat/completions", json=CHAT) as answer:
            status = answer.status
            values = {name: answer.headers.getall(name, []) for name, _ in own}
        assert await gate.count() == 0
    assert status == 403
    assert values == {name: [value] for name, value in own}


async def test_a_change_egret_has_no_business_with_fails_the_request(run: Path) -> None:
    """Ignored in silence it could be a credential left in place."""
    async with gateway(run, allow(write=(("host", "evil.example"),))) as gate:
        async with gate.http.post("/v1/chat/completions", json=CHAT) as answer:
            assert answer.status == 500
        assert await gate.count() == 0


async def test_the_content_length_can_be_taken_away(run: Path) -> None:
    """A changed body of another length could otherwise smuggle a second request."""
    async with gateway(run, allow(remove=("content-length",))) as gate:
        async with gate.http.post("/v1/chat/completions", json=CHAT) as answer:
            assert answer.status == 200
        last = await gate.last()
    assert "content-length" not in last["headers"]
    assert json.loads(base64.b64decode(last["body_base64"])) == CHAT


async def test_an_error_of_the_provider_carries_timing_as_well(run: Path) -> None:
    """It is an answer like any other."""
    async with gateway(run, allow(server_timing="egret;dur=1", request_id="r")) as gate:
        await gate.debug.post("/status", json={"status": 503})
        async with gate.http.post("/v1/chat/completions", json=CHAT) as answer:
            assert (answer.status, answer.headers["x-egret-request-id"]) == (503, "r")
            assert answer.headers["server-timing"].startswith("egret;dur=1, upstream;dur=")


def _of_a_stranger(parameters: EnvoyParameters) -> EnvoyParameters:
    stranger = str(Path(parameters.sds_directory).parent / "certificates" / "ca.pem")
    return replace(parameters, openai=replace(parameters.openai, ca_file=stranger))


def _of_another_name(parameters: EnvoyParameters) -> EnvoyParameters:
    return replace(parameters, openai=replace(parameters.openai, host="llm.example"))


@pytest.mark.parametrize(
    "adapt",
    [
        pytest.param(_of_a_stranger, id="an authority we do not trust"),
        pytest.param(_of_another_name, id="a certificate for another name"),
    ],
)
async def test_a_provider_that_cannot_prove_who_it_is_gets_nothing(
    run: Path, adapt: Adapt
) -> None:
    """Neither the prompt nor the provider's key leaves."""
    async with gateway(run, allow(), adapt=adapt) as gate:
        async with gate.http.post("/v1/chat/completions", json=CHAT) as answer:
            assert answer.status == 503
        assert await gate.count() == 0


async def test_a_provider_key_is_rotated_without_a_restart(run: Path) -> None:
    """The file is replaced by a rename; Envoy watches its directory."""
    async with gateway(run, allow()) as gate:
        write_credential(run / "sds", name="openai", header_value=SecretStr("Bearer revoked"))
        assert await _until_status(gate, 401)
        new = SecretStr(f"Bearer {OPENAI_KEY}")
        write_credential(run / "sds", name="openai", header_value=new)
        assert await _until_status(gate, 200)


async def _until_status(gate: Gateway, wanted: int) -> bool:
    for _ in range(1_200):
        async with gate.http.post("/v1/chat/completions", json=CHAT) as answer:
            if answer.status == wanted:
                return True
        await asyncio.sleep(0.05)
    return False


async def test_a_stream_is_passed_on_event_by_event(run: Path) -> None:
    """The first words are here while the mock still waits to say the next."""
    async with gateway(run, allow()) as gate:
        await gate.debug.post("/delay", json={"event_ms": 600_000})
        body = {**CHAT, "stream": True}
        async with gate.http.post("/v1/chat/completions", json=body) as answer:
            first = await answer.content.readline()
            assert first.startswith(b'data: {"id":"chatcmpl-mock')
            assert not answer.content.at_eof()


TEAM_LIMIT = DescriptorLimit(by=("organization", "team"), amount=2, seconds=60)
TOKEN_LIMIT = DescriptorLimit(by=("key_id",), amount=1_000, seconds=60, hits=Hits.ESTIMATED_TOKENS)


@pytest.mark.parametrize(
    ("metadata", "statuses"),
    [
        pytest.param({"organization": "acme", "team": "search"}, [200, 200, 429], id="a team"),
        pytest.param({"organization": "acme"}, [200] * 3, id="no team"),
        pytest.param(
            {"key_id": "k1", "estimated_tokens": "600"}, [200, 429, 429], id="tokens of a key"
        ),
    ],
)
async def test_envoys_own_limits_act_on_what_egret_tells(
    run: Path, metadata: dict[str, Any], statuses: list[int]
) -> None:
    """By descriptors of dynamic metadata; what is refused there reaches no provider."""
    limits = (TEAM_LIMIT, TOKEN_LIMIT)
    limited = lambda parameters: replace(parameters, descriptor_limits=limits)  # noqa: E731
    async with gateway(run, allow(**metadata), adapt=limited) as gate:
        seen = []
        for _ in statuses:
            async with gate.http.post("/v1/chat/completions", json=CHAT) as answer:
                seen.append(answer.status)
        assert seen == statuses
        assert await gate.count() == statuses.count(200)


async def test_each_team_has_its_own_count_in_envoy(run: Path) -> None:
    """None is named in the configuration."""
    teams = iter(["search", "search", "ads", "search"])

    def of_the_next(request: ext.ProcessingRequest) -> ext.ProcessingResponse:
        return allow(organization="acme", team=next(teams))(request)

    limited = lambda parameters: replace(parameters, descriptor_limits=(TEAM_LIMIT,))  # noqa: E731
    async with gateway(run, of_the_next, adapt=limited) as gate:
        seen = []
        for _ in range(4):
            async with gate.http.post("/v1/chat/completions", json=CHAT) as answer:
                seen.append(answer.status)
    assert seen == [200, 200, 200, 429]


async def test_a_dead_worker_costs_no_request(run: Path) -> None:
    """The other socket is tried at once."""
    async with gateway(run, allow(), workers=2, live_workers=1) as gate:
        statuses = []
        for _ in range(20):
            async with gate.http.post("/v1/chat/completions", json=CHAT) as answer:
                statuses.append(answer.status)
    assert statuses == [200] * 20


async def test_without_any_worker_nothing_passes(run: Path) -> None:
    """An error, never an unjudged request."""
    async with gateway(run, allow(), live_workers=0) as gate:
        async with gate.http.post("/v1/chat/completions", json=CHAT) as answer:
            assert answer.status >= 500
            assert "x-response-time" not in answer.headers
        assert await gate.count() == 0


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        pytest.param("/v1%2Fchat/completions", {}, id="escaped slash"),
        pytest.param("/v1/models", {"x_api_key": "k"}, id="underscore in a header's name"),
    ],
)
async def test_what_two_parsers_could_read_differently_is_refused_at_the_edge(
    run: Path, path: str, headers: dict[str, str]
) -> None:
    """400 before anybody is asked."""
    async with gateway(run, allow()) as gate:
        url = f"http://127.0.0.1:{gate.envoy.http_port}{path}"
        async with gate.http.get(URL(url, encoded=True), headers=headers) as answer:
            assert answer.status == 400
        assert await gate.count() == 0


@pytest.mark.parametrize("path", ["/v1/realtime?model=gpt-realtime", "/v1/models"])
async def test_a_websocket_reaches_no_provider(run: Path, path: str) -> None:
    """After an upgrade nothing would be judged, so there is none (`egret lint`: EGR406)."""
    upgrade = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    async with gateway(run, allow()) as gate:
        async with gate.http.get(path, headers=upgrade) as answer:
            assert answer.status == 403
            assert answer.content_type == "application/json"
            document = await answer.json()
        assert document["error"]["code"] == "upgrade_not_supported"
        assert document["request_id"] == answer.headers["x-request-id"]
        assert await gate.count() == 0
        (line,) = await gate.log_lines(1)
    assert (line["status"], line["details"]) == (403, "upgrade_failed")


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
async def test_the_tls_listener_speaks_both_versions_of_http(run: Path, protocol: str) -> None:
    """Chosen by ALPN, with a certificate the throw-away CA vouches for."""
    async with gateway(run, allow()) as gate:
        tls = ssl.create_default_context(cafile=str(gate.certificates.gateway_ca))
        tls.set_alpn_protocols([protocol])
        _, writer = await asyncio.open_connection("localhost", gate.envoy.https_port, ssl=tls)
        chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        writer.close()
        await writer.wait_closed()
    assert chosen == protocol


async def test_the_access_log_joins_envoys_and_egrets_view_and_holds_no_secret(run: Path) -> None:
    """Status, durations, the time ext_proc took, and the metadata; no credential, no query."""
    answer_with = allow(request_id="r-3", team="payments", verdict="allow", egret_us=310.0)
    async with gateway(run, answer_with) as gate:
        headers = {"authorization": f"Bearer {CLIENT_KEY}"}
        path = f"/v1/chat/completions?key={CLIENT_KEY}"
        async with gate.http.post(path, json=CHAT, headers=headers) as answer:
            assert answer.status == 200
        (line,) = await gate.log_lines(1)
        written = (run / "access.jsonl").read_text()
    assert (line["status"], line["path"]) == (200, "/v1/chat/completions")
    assert line["egret"] == {
        "request_id": "r-3",
        "team": "payments",
        "verdict": "allow",
        "egret_us": 310,
    }
    assert line["ext_proc"]["request_header_latency_us"] > 0
    assert {"duration_ms", "time_to_first_byte_ms", "upstream_host"} <= set(line)
    assert CLIENT_KEY not in written
    assert OPENAI_KEY not in written


async def test_spans_of_envoy_reach_the_collector_and_not_the_provider(run: Path) -> None:
    """The call to Egret is a child of the request, in one trace."""
    async with (
        running_trace_receiver(run / "traces.jsonl") as port,
        gateway(run, allow(), adapt=lambda parameters: _traced(parameters, port)) as gate,
    ):
        path = f"/v1/chat/completions?key={CLIENT_KEY}"
        async with gate.http.post(path, json=CHAT) as answer:
            assert answer.status == 200
        last = await gate.last()
        spans = await _spans(run / "traces.jsonl", wanted=3)
    assert "traceparent" not in last["headers"]
    server = next(span for span in spans if span["kind"] == "SERVER")
    call = next(span for span in spans if "ext_proc" in span["name"])
    assert call["parent_span_id"] == server["span_id"]
    assert {span["trace_id"] for span in spans} == {server["trace_id"]}
    assert server["service"] == "egret-envoy"
    assert server["attributes"]["http.url"] == "/v1/chat/completions"
    assert CLIENT_KEY not in json.dumps(spans)


def _traced(parameters: EnvoyParameters, port: int) -> EnvoyParameters:
    return replace(parameters, otlp=OtlpCollector("127.0.0.1", port), span_flush_ms=50)


async def _spans(file: Path, *, wanted: int) -> list[dict[str, Any]]:
    for _ in range(1_200):
        spans = _json_lines(file)
        if len(spans) >= wanted:
            return spans
        await asyncio.sleep(0.05)
    pytest.fail("too few spans")


def _json_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]
