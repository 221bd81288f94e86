from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from sidecar._generated.envoy.extensions.filters.http.ext_proc.v3 import (
    processing_mode_pb2 as modes,
)
from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from sidecar.domain.limits import Level, Limit, Measure, Window
from sidecar.settings.serving import Timing
from sidecar.settings.stores import UsageSource
from tests.support.events import RequestCleared, RequestRefused
from tests.support.pipeline import KEY, Exchange, World, headers

BUFFER = "x-egret-body-buffer-bytes"
TEXT = "word " * 40_000
CHECKED = """
name: default
guardrails:
  - {name: pii, type: pii, action: redact}
  - {name: words, type: denied_terms, action: block, terms: [Bluebird]}
"""
ANSWERS = "name: default\nguardrails: [{name: pii, type: pii, stage: both, action: redact}]\n"
TOKENS = Limit(
    id="lim_1",
    level=Level.KEY,
    measure=Measure.TOKENS,
    window=Window.MINUTE,
    amount=10**9,
)


def chat(text: str = TEXT, **fields: Any) -> bytes:
    """Return a chat request's body."""
    message = {"role": "user", "content": text}
    return json.dumps({"model": "gpt-5", "messages": [message], **fields}).encode()


async def begun(
    world: World, body: bytes, path: str = "/v1/chat/completions", stated: str = "1048576"
) -> tuple[Exchange, bool]:
    """Send headers of a request; return whether Envoy is to keep the body."""
    exchange = world.exchange({BUFFER: stated} if stated else {})
    more = (("content-length", b"%d" % len(body)), (BUFFER, b"9999999"))
    await exchange.judge_headers(headers(path, *more), has_body=True)
    asked = ext.ProcessingResponse.FromString(exchange.stream.written[0]).mode_override
    return exchange, asked.request_body_mode == modes.ProcessingMode.BUFFERED


async def test_a_long_body_is_kept_judged_and_redacted() -> None:
    """As a streamed one is; an unchanged body does not go back."""
    world = World(CHECKED)
    for text, sent in ((TEXT, None), (TEXT + "ann@example.org", chat(TEXT + "[EMAIL_1]"))):
        exchange, is_kept = await begun(world, chat(text))
        assert is_kept
        verdict = await exchange.judge_body(chat(text))
        assert isinstance(verdict, RequestCleared)
        assert verdict.mutations.body == sent
        assert dict(verdict.mutations.metadata)["policy"] == "default"
    exchange, _ = await begun(world, chat(TEXT + "Bluebird"))
    assert isinstance(await exchange.judge_body(chat(TEXT + "Bluebird")), RequestRefused)
    assert world.worker.guard.held_bytes == 0


@pytest.mark.parametrize("stated", ["", "1000", "unlimited"])
async def test_only_the_metadata_of_the_call_state_a_buffer(stated: str) -> None:
    """The request's header of the same name is the client's."""
    assert not (await begun(World(CHECKED), chat(), stated=stated))[1]


@pytest.mark.parametrize(
    ("policies", "options"),
    [
        pytest.param(ANSWERS, {}, id="answers are judged"),
        pytest.param(CHECKED, {"usage_source": UsageSource.ANSWERS}, id="usage from answers"),
        pytest.param(
            CHECKED + "aliases: {best: gpt-5}\nrestore_aliases: true\n", {}, id="aliases restored"
        ),
        pytest.param(CHECKED + "usage: {streams: hide}\n", {}, id="counts hidden"),
        pytest.param(CHECKED, {"timing": Timing.MUTATION}, id="timing headers by Egret"),
    ],
)
async def test_a_body_is_streamed_if_its_answer_may_be_needed(
    policies: str, options: dict[str, Any]
) -> None:
    """Envoy takes no change of mode in the answer to a body."""
    assert not (await begun(World(policies, **options), chat()))[1]


async def test_limits_on_tokens_need_the_answer_only_where_streams_hide_counts() -> None:
    """They need exact counts; OpenAI's streams send none unless they are asked for."""
    world = World(CHECKED)
    record = world.store.records[KEY.key_id]
    world.store.records[KEY.key_id] = replace(record, limits=(TOKENS,))
    assert not (await begun(world, chat()))[1]
    assert (await begun(world, chat(max_tokens=9), "/v1/embeddings"))[1]
