"""Requests of every kind, so that every panel has something to show."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp

POLICIES: Final = (
    "redact", "block", "flag", "shadow", "free", "answers-redact",
    "hook-error-allow", "hook-error-block",
)  # fmt: skip
"""Policies that a key is wanted for, and with one more, `limited`, a key that has a limit."""

_MODELS: Final = ("gpt-4o", "gpt-4o-mini", "o4-mini")
_HARMLESS: Final = "Say in one sentence what a sidecar is."
_TEXTS: Final = {
    "redact": "Write to ann@example.org about it.",
    "block": "What is new in project Bluebird?",
    "flag": "Write to bob@example.org about it.",
    "shadow": "Write to cem@example.org about Bluebird.",
}
_PICTURE: Final = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where requests go, and the keys by policy."""

    client: aiohttp.ClientSession
    url: str
    tls: ssl.SSLContext
    keys: Mapping[str, str]

    async def ask(
        self, key: str, content: object, *, model: str = _MODELS[0], is_streamed: bool = False
    ) -> int:
        """Send one request and read its answer to the end; return its status."""
        body: dict[str, object] = {
            "model": model, "stream": is_streamed,
            "messages": [{"role": "user", "content": content}],
        }  # fmt: skip
        if is_streamed:
            body["stream_options"] = {"include_usage": True}
        headers = {"authorization": f"Bearer {self.keys.get(key, key)}"}
        async with self.client.post(
            f"{self.url}/v1/chat/completions", json=body, headers=headers, ssl=self.tls
        ) as answer:
            await answer.read()
            return answer.status


async def mixed_requests(gateway: Gateway, *, seed: int = 0) -> None:
    """Send some thirty requests of every kind, all at once."""
    chance = random.Random(seed)  # noqa: S311 - a mixture, not a secret
    asks = [
        gateway.ask(policy, _TEXTS.get(policy, _HARMLESS), model=chance.choice(_MODELS))
        for policy in POLICIES
    ]
    asks += [
        gateway.ask("redact", _HARMLESS, model=chance.choice(_MODELS), is_streamed=True)
        for _ in range(chance.randint(4, 8))
    ]
    asks += [gateway.ask("redact", _HARMLESS) for _ in range(chance.randint(2, 10))]
    asks += [gateway.ask("limited", _HARMLESS) for _ in range(3)]
    asks += [gateway.ask("a-key-that-is-none", _HARMLESS)]
    asks += [
        gateway.ask(policy, [{"type": "text", "text": _HARMLESS}, _PICTURE])
        for policy in ("redact", "flag")
    ]
    await asyncio.gather(*asks)
