from __future__ import annotations

import json

import pytest
from egret_tools.policy_replay import KeptRequest, PolicyReplay, ReplayResult

from tests.support.events import BodyRequired
from tests.support.pipeline import World, chat, headers

POLICIES = {
    "redacts and blocks": """
name: default
guardrails:
  - {name: pii, type: pii, action: redact}
  - {name: secrets, type: secrets, action: block}
""",
    "flags": """
name: default
unscanned: flag
guardrails:
  - {name: pii, type: pii, action: flag}
""",
    "in shadow": """
name: default
unscanned: allow
guardrails:
  - {name: pii, type: pii, action: block, mode: shadow}
  - {name: secrets, type: secrets, action: flag, mode: shadow}
""",
    "nothing": "name: default\nguardrails: []",
    "answers alone": """
name: default
guardrails:
  - {name: pii, type: pii, action: block, stage: output}
""",
    "by model and operation": """
name: default
unscanned: flag
allowed_models: ['gpt-*', 'titan']
guardrails:
  - {name: pii, type: pii, action: block, models: ['gpt-5*']}
  - {name: secrets, type: secrets, action: block, routes: [embeddings]}
""",
}

CHAT = "/v1/chat/completions"
EMAIL = "write to bob.builder@example.com"
SECRET = "use AKIA2E0A8F3B244C9986 for it"


REQUESTS = {
    "plain": KeptRequest("POST", CHAT, chat("hello")),
    "an address": KeptRequest("POST", CHAT, chat(EMAIL)),
    "a secret": KeptRequest("POST", CHAT, chat(SECRET)),
    "both": KeptRequest("POST", CHAT, chat(f"{EMAIL}, {SECRET}")),
    "another model": KeptRequest("POST", CHAT, chat(EMAIL, model="gpt-4")),
    "a model not allowed": KeptRequest("POST", CHAT, chat("hello", model="o3")),
    "several models": KeptRequest("POST", CHAT, chat(EMAIL, models=["gpt-4", "gpt-5"])),
    "a picture": KeptRequest(
        "POST",
        CHAT,
        json.dumps(
            {
                "model": "gpt-5",
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "https://e.x/i"}}],
                    }
                ],
            }
        ).encode(),
    ),
    "no JSON": KeptRequest("POST", CHAT, b"{"),
    "no messages": KeptRequest("POST", CHAT, b'{"model": "gpt-5"}'),
    "another operation": KeptRequest(
        "POST", "/v1/embeddings", json.dumps({"model": "gpt-5", "input": SECRET}).encode()
    ),
    "a list": KeptRequest("GET", "/v1/models", b""),
    "a list with a body": KeptRequest("GET", "/v1/models", chat(EMAIL)),
    "an unknown path": KeptRequest("POST", "/v1/unheard/of", chat(EMAIL)),
    "another API": KeptRequest(
        "POST",
        "/model/titan/converse",
        json.dumps({"messages": [{"role": "user", "content": [{"text": SECRET}]}]}).encode(),
    ),
    "a body of its own kind": KeptRequest("POST", "/model/titan/invoke", b'{"inputText": "hi"}'),
}


async def judged_in_an_exchange(policy: str, request: KeptRequest) -> tuple[str, str]:
    """Return outcome and error as the metrics have them."""
    world = World(policy)
    exchange = world.exchange()
    sent = headers(request.path, ("content-type", b"application/json"), method=request.method)
    verdict = await exchange.judge_headers(sent, has_body=bool(request.body))
    if isinstance(verdict, BodyRequired):
        await exchange.judge_body(request.body)
    await exchange.end()
    (counted,) = world.counted()
    return counted


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_rehearsal_comes_to_what_an_exchange_comes_to(policy: str) -> None:
    """Refused for the same reason, redacted, flagged or let through alike."""
    rehearsal = await PolicyReplay.compile(POLICIES[policy])
    rehearsed = {name: told(await rehearsal.judge(one)) for name, one in REQUESTS.items()}
    assert rehearsed == {
        name: await judged_in_an_exchange(POLICIES[policy], one) for name, one in REQUESTS.items()
    }


def told(rehearsed: ReplayResult) -> tuple[str, str]:
    error = "none" if rehearsed.error is None else rehearsed.error.value
    return rehearsed.outcome.value, error
