"""Usage without an access log: workers read the answers, behind the filters of other gateways."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator

import anthropic
import httpx2
import pytest
import pytest_asyncio
import yaml

from sidecar.domain.usage import USAGE_NAMESPACE
from tests.e2e.test_usage import TOKENS, recorded, told
from tests.support.engines import COUNTS
from tests.support.more_workers import more_workers
from tests.support.second_gateway import (
    Config,
    connection_managers,
    ext_proc_filters,
    processing_mode,
)
from tests.support.stack import MESSAGES, Stack, chat, message

pytestmark = [pytest.mark.stack, COUNTS, pytest.mark.asyncio(loop_scope="session")]

ENVOY_GATEWAY = processing_mode(
    request_header_mode="SEND",
    request_body_mode="FULL_DUPLEX_STREAMED",
    request_trailer_mode="SEND",
    response_header_mode="SEND",
    response_body_mode="FULL_DUPLEX_STREAMED",
    response_trailer_mode="SEND",
)
"""As Envoy Gateway renders `body: FullDuplexStreamed` of request and response."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def answers(session_stack: Stack, engine: str) -> AsyncIterator[Stack]:
    """A worker that reads the answers, behind a filter with modes of its own; a log comes too."""

    def with_log(config: Config) -> None:
        own: Config = yaml.safe_load((session_stack.run.path / "envoy.yaml").read_text())
        for manager, with_logs in zip(
            connection_managers(config), connection_managers(own), strict=True
        ):
            logs = with_logs.get("access_log", ())
            manager["access_log"] = [one for one in logs if "open_telemetry" in one["name"]]

    settings = {"EGRET_USAGE__SOURCE": "answers", "EGRET_SERVER__ENGINE": engine}
    async with more_workers(
        session_stack, ENVOY_GATEWAY, with_log, workers=1, settings=settings
    ) as stack:
        yield stack


AI_FILTER = "envoy.filters.http.ai_protocol_manager"


def counted_by_envoy(config: Config) -> None:
    """Let Envoy's AI filter send the counts to ext_proc, with trailers of its own making.

    It is in the chain of each provider's cluster: trailers that a filter of the listener's chain
    adds never reach ext_proc.
    """
    for manager in connection_managers(config):
        (counting,) = (one for one in manager["http_filters"] if one["name"] == AI_FILTER)
        manager["http_filters"].remove(counting)
        counting["typed_config"]["response_handling"]["token_usage"]["usage_signal"] = (
            "SYNTHESIZE_TRAILERS"
        )
        for cluster in config["static_resources"]["clusters"]:
            for options in cluster.get("typed_extension_protocol_options", {}).values():
                if "http_filters" in options:
                    options["http_filters"].insert(0, counting)
    for settings in ext_proc_filters(config):
        settings["metadata_options"]["forwarding_namespaces"] = {"typed": [USAGE_NAMESPACE]}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def trailers(session_stack: Stack, engine: str) -> AsyncIterator[Stack]:
    """A worker that gets Envoy's counts with the trailers of an answer."""
    settings = {"EGRET_USAGE__SOURCE": "ai_protocol_manager", "EGRET_SERVER__ENGINE": engine}
    async with more_workers(
        session_stack, counted_by_envoy, workers=1, settings=settings
    ) as stack:
        yield stack


@pytest.mark.parametrize("key", ["free", "redact", "answers-redact"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_envoy_s_own_counts_come_with_the_trailers(
    trailers: Stack, key: str, *, streamed: bool
) -> None:
    """Without a byte of the answer's body, unless a guardrail reads it."""
    body = chat("Count me.", stream=streamed)
    if streamed:
        body["stream_options"] = {"include_usage": True}
    async with asyncio.timeout(10):
        answer = await trailers.post(body, key=key)
    record = await recorded(trailers, answer.request_id)

    assert told(record, *TOKENS) == (3, 7, False, "completed", 200)


@pytest.mark.parametrize("key", ["free", "answers-redact"], ids=["unjudged", "judged"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_an_answer_is_counted_as_its_provider_counts(
    answers: Stack, key: str, *, streamed: bool
) -> None:
    """Whole and streamed, judged or not; nothing else reports these requests."""
    body = chat("Count me.", stream=streamed)
    if streamed:
        body["stream_options"] = {"include_usage": True}
    answer = await answers.post(body, key=key)
    record = await recorded(answers, answer.request_id)

    assert told(record, *TOKENS) == (3, 7, False, "completed", 200)


async def test_anthropics_own_client_is_counted_as_its_events_count_it(answers: Stack) -> None:
    """Input from the first event, output from the last."""
    tls = ssl.create_default_context(cafile=str(answers.facts.ca_file))
    async with anthropic.AsyncAnthropic(
        base_url=answers.facts.https_url,
        api_key=answers.keys["answers-redact"],
        http_client=httpx2.AsyncClient(verify=tls),
        max_retries=0,
    ) as client:
        raw = await client.messages.with_raw_response.create(
            model="claude-mock",
            max_tokens=16,
            messages=[{"role": "user", "content": "Count me."}],
            stream=True,
        )
        async for _ in await raw.parse():
            pass
    record = await recorded(answers, raw.headers["x-egret-request-id"])

    assert told(record, *TOKENS) == (3, 7, False, "completed", 200)


async def test_a_client_that_leaves_is_estimated_by_what_had_passed(answers: Stack) -> None:
    """The worker cannot see whether the client or the provider ended it."""
    await answers.tell_provider("delay", event_ms=100)
    headers = answers.credentials(MESSAGES, "free", [("content-type", "application/json")])
    async with answers.client.post(
        f"{answers.facts.https_url}{MESSAGES}",
        json=message("Tell me a story.", stream=True),
        headers=headers,
        ssl=answers.tls,
    ) as answer:
        await answer.content.readany()
        await answer.content.readany()
        request_id = answer.headers["x-egret-request-id"]
    record = await recorded(answers, request_id)

    assert told(record, "ended", "is_estimated") == ("client_aborted", True)
    assert record["input_tokens"] > 0


@pytest.mark.parametrize(
    ("status", "key", "text", "row"),
    [
        pytest.param(429, "free", "Fail.", (0, 0, False, "completed", 429), id="provider's error"),
        pytest.param(0, "block", "Bluebird", (0, 0, False, "refused", 400), id="refused"),
    ],
)
async def test_a_request_without_use_is_recorded_without_tokens(
    answers: Stack, status: int, key: str, text: str, row: tuple[object, ...]
) -> None:
    """An error is no completion, and a refused request reached no provider."""
    if status:
        await answers.tell_provider("status", status=status, count=1)
    answer = await answers.post(chat(text), key=key)
    record = await recorded(answers, answer.request_id)

    assert told(record, *TOKENS) == row


async def test_a_request_is_counted_once_if_an_access_log_comes_as_well(answers: Stack) -> None:
    """Its metadata names the source that counts; limits would be settled twice otherwise."""
    answer = await answers.post(chat("Count me."), key="free")
    record = await recorded(answers, answer.request_id)
    metrics = ""
    async with asyncio.timeout(15):
        while "egret_access_log_ignored_total 0" in metrics or not metrics:
            async with answers.client.get(answers.facts.metrics_url) as page:
                metrics = await page.text()

    assert told(record, *TOKENS) == (3, 7, False, "completed", 200)
    assert 'egret_usage_requests_total{source="access_log"}' not in metrics
