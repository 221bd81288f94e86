from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from tests.support.stack import Stack, whole_stack
from tests.support.webhook_server import WebhookServer, webhook_server

POLICIES = """
name: redact
guardrails:
  - {name: secrets, type: secrets, action: redact}
  - {name: pii, type: pii, action: redact}
---
name: block
guardrails:
  - {name: secrets, type: secrets, action: block}
  - {name: words, type: denied_terms, action: block, terms: [Bluebird]}
---
name: flag
guardrails:
  - {name: pii, type: pii, action: flag}
---
name: shadow
guardrails:
  - {name: pii, type: pii, action: redact, mode: shadow}
  - {name: words, type: denied_terms, action: block, mode: shadow, terms: [Bluebird]}
  - {name: hook, type: webhook, url: "HOOK/block", mode: shadow}
---
name: free
unscanned: allow
guardrails: []
---
name: counted
usage: {streams: pass}
guardrails:
  - {name: pii, type: pii, action: redact}
---
name: hidden
usage: {streams: hide}
guardrails: []
---
name: hidden-redact
usage: {streams: hide}
guardrails:
  - {name: pii, type: pii, stage: both, action: redact}
---
name: answers-redact
guardrails:
  - {name: pii, type: pii, stage: output, action: redact}
  - {name: secrets, type: secrets, stage: output, action: redact}
---
name: answers-both
guardrails:
  - {name: pii, type: pii, stage: both, action: redact}
---
name: answers-block
guardrails:
  - {name: pii, type: pii, stage: output, action: block}
---
name: answers-buffer
guardrails:
  - {name: pii, type: pii, stage: output, action: redact, streams: buffer}
---
name: answers-observe
guardrails:
  - {name: pii, type: pii, stage: output, action: block, streams: observe}
---
name: answers-allow
unscanned: allow
guardrails:
  - {name: pii, type: pii, stage: output, action: redact}
---
name: answers-schema
guardrails:
  - name: order
    type: json_schema
    schema:
      type: object
      properties: {to: {type: string}, n: {type: integer}}
      required: [to]
      additionalProperties: false
---
name: answers-schema-flag
guardrails:
  - {name: order, type: json_schema, action: flag, schema: {required: [to]}}
---
name: answers-hook
guardrails:
  - {name: hook, type: webhook, stage: output, url: "HOOK/block", timeout: 5s}
---
name: restore
guardrails:
  - {name: pii, type: pii, stage: input, action: redact, restore: true}
---
name: two-hooks
guardrails:
  - {name: slow-a, type: webhook, url: "HOOK/slow", timeout: 5s}
  - {name: slow-b, type: webhook, url: "HOOK/slow", timeout: 5s}
---
name: first-block
guardrails:
  - {name: endless, type: webhook, url: "HOOK/hang", timeout: 5s}
  - {name: fast, type: webhook, url: "HOOK/block", timeout: 5s}
---
name: late
guardrails:
  - {name: endless, type: webhook, url: "HOOK/hang", timeout: 30s}
---
name: late-allow
guardrails:
  - {name: endless, type: webhook, url: "HOOK/hang", timeout: 30s, on_error: allow}
---
name: hook-hang-block
guardrails: [{name: hook, type: webhook, url: "HOOK/hang", timeout: 200ms, on_error: block}]
---
name: hook-hang-allow
guardrails: [{name: hook, type: webhook, url: "HOOK/hang", timeout: 200ms, on_error: allow}]
---
name: hook-error-block
guardrails: [{name: hook, type: webhook, url: "HOOK/error", timeout: 5s, on_error: block}]
---
name: hook-error-allow
guardrails: [{name: hook, type: webhook, url: "HOOK/error", timeout: 5s, on_error: allow}]
---
name: hook-rubbish-block
guardrails: [{name: hook, type: webhook, url: "HOOK/rubbish", timeout: 5s, on_error: block}]
---
name: hook-rubbish-allow
guardrails: [{name: hook, type: webhook, url: "HOOK/rubbish", timeout: 5s, on_error: allow}]
---
name: search-unknown
provider: {credential: gone}
---
name: search-behind
provider: {credential: search-behind}
---
name: region-unknown
provider: {region: mars}
---
name: order-unknown
provider: {order: [openai, openai-reserved]}
---
name: credential-and-region
provider: {credential: search-openai, region: eu}
---
name: gated
usage: {uncounted: allow}
guardrails: [{name: hook, type: webhook, url: "HOOK/gate", timeout: 5s}]
---
"""
BY_POLICY = Path(__file__).resolve().parents[2] / "examples" / "providers-by-policy"

SETTINGS = {
    "EGRET_EXCHANGE__BODY_SECONDS": "2",
    "EGRET_EXCHANGE__INSPECT_SECONDS": "2",
    "EGRET_EXCHANGE__SHARED_MESSAGES_SECONDS": "600",
    "EGRET_CACHE__NEGATIVE_TTL_SECONDS": "1",
}


class Gate:
    """Where a webhook waits for a test."""

    def __init__(self) -> None:
        self._asked: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def wait(self) -> None:
        """Wait until the test lets go on."""
        may_pass = asyncio.Event()
        self._asked.put_nowait(may_pass)
        await may_pass.wait()

    async def reached(self) -> asyncio.Event:
        """Return what lets the next one go on, once it is there."""
        return await self._asked.get()


GATE = Gate()
BOTH = asyncio.Barrier(2)


@pytest.fixture
def gate() -> Gate:
    """Where the webhook of the policy `gated` waits."""
    return GATE


async def _answer(request: web.Request) -> web.StreamResponse:
    match request.path:
        case "/gate":
            await GATE.wait()
            return web.json_response({"verdict": "pass"})
        case "/slow":
            await BOTH.wait()
            await asyncio.sleep(0.05)
            return web.json_response({"verdict": "pass"})
        case "/block":
            return web.json_response({"verdict": "block"})
        case "/hang":
            await asyncio.sleep(600)
            return web.json_response({"verdict": "pass"})
        case "/rubbish":
            return web.json_response({"verdict": "perhaps"})
        case _:
            return web.Response(status=500)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def webhooks() -> AsyncIterator[WebhookServer]:
    """Answers by path: /slow once two have come, /block, /hang, /rubbish, and 500 for the rest."""
    async with webhook_server(_answer) as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def session_stack(webhooks: WebhookServer) -> AsyncIterator[Stack]:
    """The stack that most tests share; a key for every policy."""
    # Their servers fail on purpose, for many tests in any order: none may open another's breaker.
    policies = re.sub(
        r'"HOOK(/\w+)"',
        rf'"{webhooks.url.removesuffix("/check")}\1", breaker: {{failures: 1000}}',
        POLICIES + (BY_POLICY / "policies.yaml").read_text(encoding="utf-8"),
    )
    async with whole_stack(policies, settings=SETTINGS) as stack:
        yield stack


@pytest_asyncio.fixture(loop_scope="session")
async def stack(session_stack: Stack) -> AsyncIterator[Stack]:
    """The shared stack, with a provider that has received nothing yet and behaves."""
    await session_stack.forget()
    yield session_stack
    await session_stack.forget()
