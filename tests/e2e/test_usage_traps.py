"""Why usage is read in the way it is: what Envoy does otherwise (decision 17)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.second_gateway import Config, connection_managers, second_gateway
from tests.support.stack import Stack, chat

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

JSON_TO_METADATA: dict[str, Any] = {
    "name": "envoy.filters.http.json_to_metadata",
    "typed_config": {
        "@type": (
            "type.googleapis.com/envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata"
        ),
        "response_rules": {
            "rules": [
                {
                    "selectors": [{"key": "usage"}, {"key": "prompt_tokens"}],
                    "on_present": {"metadata_namespace": "counted", "key": "input"},
                }
            ]
        },
    },
}


def read_by_json_to_metadata(config: Config) -> None:
    """Let the filter that holds answers back read them, as they are when decompressed."""
    for manager in connection_managers(config):
        manager["http_filters"].insert(1, JSON_TO_METADATA)


async def test_behind_a_decompressor_such_a_filter_never_lets_go(stack: Stack) -> None:
    """The decompressor ends an answer with trailers, which the other filter never sees."""
    async with stack.debug.post("/compression", json={"gzip": True}) as told:
        assert told.status == 204
    async with second_gateway(stack, read_by_json_to_metadata) as gateway:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await stack.post(chat("Hello"), key="free", url=gateway.https_url)
    passed = await stack.post(chat("Hello"), key="free")

    assert passed.status == 200


async def test_a_filter_that_holds_answers_back_fails_those_larger_than_a_buffer(
    stack: Stack,
) -> None:
    """Envoy 1.40 answers 500 to a client whose provider had answered; ours pass them on."""
    body = {"model": "text-embedding-3-small", "input": ["a" * 8] * 1000}
    async with second_gateway(stack, read_by_json_to_metadata) as gateway:
        held = await stack.post(body, path="/v1/embeddings", key="free", url=gateway.https_url)
    passed = await stack.post(body, path="/v1/embeddings", key="free")

    assert (held.status, passed.status) == (500, 200)
    assert len(passed.body) > 65536
