"""Egret next to another ext_proc server in one chain: its verdicts hold in each order and mode."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from sidecar._generated.envoy.extensions.filters.http.ext_proc.v3 import (
    processing_mode_pb2 as modes,
)
from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from tests.support.scripted_processor import ScriptedProcessor, Side, scripted_processor
from tests.support.second_gateway import Config, beside_processor, second_gateway
from tests.support.stack import Stack, as_json, chat

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

EMAIL: Final = "bob.builder@example.com"
SECRET: Final = "Use ghp_16C7e42F292c6912E7710c838347Ae178B4a for it."
DUPLEX: Final = "FULL_DUPLEX_STREAMED"
LONG_BYTES: Final = 600_000
"""Above every buffer on the way that streams, and below that of BUFFERED."""


async def passes(side: Side) -> None:
    """Answer each message so that everything goes on unchanged."""
    config = ext.ProtocolConfiguration()
    while (message := await side.read()) is not None:
        if message.HasField("protocol_config"):
            config = message.protocol_config
        kind = message.WhichOneof("request")
        assert kind is not None
        response = ext.ProcessingResponse()
        answer = getattr(response, kind)
        answer.SetInParent()
        is_body = kind.endswith("_body")
        if (
            is_body
            and getattr(config, f"{kind}_mode") == modes.ProcessingMode.FULL_DUPLEX_STREAMED
        ):
            body = getattr(message, kind)
            streamed = answer.response.body_mutation.streamed_response
            streamed.body, streamed.end_of_stream = body.body, body.end_of_stream
        await side.write(response)


@asynccontextmanager
async def chain(
    stack: Stack, mode: str, *, before: bool
) -> AsyncIterator[tuple[str, ScriptedProcessor]]:
    """Run a gateway with another processor in this body mode, in both directions."""
    bodies = {"request_body_mode": mode, "response_body_mode": mode}
    if mode != "NONE":
        bodies["response_header_mode"] = "SEND"
    with tempfile.TemporaryDirectory(prefix="egret-ch-") as place:
        socket = Path(place) / "other.sock"
        async with scripted_processor(socket) as processor:
            processor.script = passes
            second = beside_processor(socket, before=before, **bodies)
            async with second_gateway(stack, second) as gateway:
                yield gateway.https_url, processor


def seen_by(processor: ScriptedProcessor) -> bytes:
    """Return everything that the other processor received."""
    messages = (message for side in processor.sides for message in side.received)
    return b"".join(message.SerializeToString() for message in messages)


@pytest.mark.parametrize("mode", ["NONE", "BUFFERED", "STREAMED", DUPLEX])
@pytest.mark.parametrize("before", [True, False], ids=["before-egret", "behind-egret"])
async def test_egrets_verdicts_hold_next_to_another_processor(
    stack: Stack, mode: str, *, before: bool
) -> None:
    """Redacted, blocked, and without the client's key; behind Egret, the other sees no more."""
    key = stack.facts.key.get_secret_value()
    async with chain(stack, mode, before=before) as (url, processor):
        redacted = await stack.post(chat(f"Write to {EMAIL}."), key=key, url=url)
        blocked = await stack.post(chat(SECRET), key=key, url=url)
        missing = await stack.post(chat("hello"), url=url)
    (received,) = await stack.received()
    assert redacted.status == 200
    assert blocked.openai_error == (400, "invalid_request_error", "content_blocked")
    assert missing.openai_error == (401, "invalid_request_error", "missing_api_key")
    assert b"[EMAIL_1]" in received.body
    assert EMAIL.encode() not in received.body
    assert all(key not in value for _, value in received.headers)
    seen = seen_by(processor)
    assert (key.encode() in seen) is before
    assert (EMAIL.encode() in seen) is (before and mode != "NONE")
    assert (b"[EMAIL_1]" in seen) is (not before and mode != "NONE")


@pytest.mark.parametrize("before", [True, False], ids=["before-egret", "behind-egret"])
async def test_envoy_sends_a_snapshot_of_a_body_instead_of_the_one_that_egret_redacted(
    stack: Stack, *, before: bool
) -> None:
    """As Envoy AI Gateway does: it keeps the body in the listener and writes it at the cluster.

    Behind Egret it keeps the redacted one. Before Egret the redaction is lost; blocking holds.
    """
    key = stack.facts.key.get_secret_value()
    kept: list[bytes] = []

    async def keep_and_write(side: Side) -> None:
        """Keep the body where one is sent; at the cluster, write the one that was kept."""
        first = await side.read()
        assert first is not None
        response = ext.ProcessingResponse()
        response.request_headers.SetInParent()
        if first.protocol_config.request_body_mode == modes.ProcessingMode.NONE:
            common = response.request_headers.response
            common.status = common.CONTINUE_AND_REPLACE
            common.body_mutation.body = kept[-1]
            await side.write(response)
            return
        await side.write(response)
        body = await side.read()
        assert body is not None
        kept.append(body.request_body.body)
        response = ext.ProcessingResponse()
        response.request_body.SetInParent()
        await side.write(response)

    with tempfile.TemporaryDirectory(prefix="egret-ai-") as place:
        socket = Path(place) / "other.sock"
        async with scripted_processor(socket) as processor:
            processor.script = keep_and_write
            in_listener = beside_processor(socket, before=before, request_body_mode="BUFFERED")
            async with second_gateway(stack, in_listener, at_cluster) as gateway:
                url = gateway.https_url
                redacted = await stack.post(chat(f"Write to {EMAIL}."), key=key, url=url)
                blocked = await stack.post(chat(SECRET), key=key, url=url)
    (received,) = await stack.received()
    assert redacted.status == 200
    assert blocked.openai_error[2] == "content_blocked"
    assert (EMAIL.encode() in received.body) is before
    assert (b"[EMAIL_1]" in received.body) is not before


def at_cluster(config: Config) -> None:
    """Call the second processor from each provider's cluster too, for headers only."""
    settings = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        "grpc_service": {"envoy_grpc": {"cluster_name": "second"}},
        "message_timeout": "10s",
        "processing_mode": {"response_header_mode": "SKIP"},
    }
    for cluster in config["static_resources"]["clusters"]:
        for options in cluster.get("typed_extension_protocol_options", {}).values():
            if "http_filters" in options:
                options["http_filters"].insert(0, {"name": "second", "typed_config": settings})


@pytest.mark.parametrize("mode", ["STREAMED", DUPLEX])
@pytest.mark.parametrize("before", [True, False], ids=["before-egret", "behind-egret"])
async def test_a_long_body_arrives_whole_through_two_processors_that_stream(
    stack: Stack, mode: str, *, before: bool
) -> None:
    """Envoy before 1.39 sends some of these requests without their body (EGR524)."""
    key = stack.facts.key.get_secret_value()
    body = as_json(chat("heron " * (LONG_BYTES // 6)))
    async with chain(stack, mode, before=before) as (url, _):
        answers = [await stack.post(body, key=key, url=url) for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3
    assert [one.body for one in await stack.received()] == [body] * 3
