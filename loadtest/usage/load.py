"""Requests of every kind: whole, streamed, broken off, refused and failing."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

CHAT: Final = "/v1/chat/completions"
MESSAGES: Final = "/v1/messages"
EMBEDDINGS: Final = "/v1/embeddings"
RESPONSES: Final = "/v1/responses"
REQUEST_ID: Final = "x-egret-request-id"
PROVIDER_ID: Final = "x-request-id"
REQUEST_SECONDS: Final = 60.0
FAILED: Final = 500
PAUSE_SECONDS: Final = 0.25
"""After a failure: a client that goes on at once would spend all its requests on one outage."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request. `reads` is how many pieces of its answer are read; None: all."""

    name: str
    weight: int
    path: str
    body: Callable[[str], Mapping[str, Any]]
    reads: int | None = None


def _chat(text: str, **more: object) -> Mapping[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": text}], **more}


def _message(text: str, **more: object) -> Mapping[str, Any]:
    return {**_chat(text, **more), "model": "claude-mock", "max_tokens": 64}


_WITH_USAGE: Final = {"include_usage": True}

KINDS: Final = (
    Kind("whole", 36, CHAT, _chat),
    Kind("whole anthropic", 8, MESSAGES, _message),
    Kind("embeddings", 6, EMBEDDINGS, lambda t: {"model": "text-embedding-3-small", "input": t}),
    Kind("responses", 4, RESPONSES, lambda t: {"model": "gpt-4o", "input": t}),
    Kind(
        "stream with usage", 12, CHAT, lambda t: _chat(t, stream=True, stream_options=_WITH_USAGE)
    ),
    Kind("stream anthropic", 12, MESSAGES, lambda t: _message(t, stream=True)),
    Kind(
        "stream responses", 4, RESPONSES, lambda t: {"model": "gpt-4o", "input": t, "stream": True}
    ),
    Kind("stream without usage", 6, CHAT, lambda t: _chat(t, stream=True)),
    Kind("aborted", 5, MESSAGES, lambda t: _message(t, stream=True), reads=1),
    Kind("error", 4, MESSAGES, _chat),  # without max_tokens: the provider's 400
    Kind("refused", 3, CHAT, lambda t: _chat(f"{t} sk-ant-api03-{'A1b2' * 23}AA-xyzxyzAA")),
)


@dataclass
class Load:
    """Answers as clients received them. `url` may change meanwhile: the gateway may move."""

    url: str
    key: str
    answered: set[str] = field(default_factory=set)
    statuses: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    done: int = 0

    async def run(self, requests: int, *, concurrency: int) -> None:
        """Send them, so many at once."""
        kinds = self._kinds(requests)
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(concurrency):
                group.create_task(self._client(kinds, client))

    def _kinds(self, requests: int) -> Iterator[Kind]:
        chance = random.Random(20_261_125)  # noqa: S311 - the same mix in every run
        weights = [kind.weight for kind in KINDS]
        return iter(chance.choices(KINDS, weights, k=requests))

    async def _client(self, kinds: Iterator[Kind], client: aiohttp.ClientSession) -> None:
        for kind in kinds:
            self.sent += 1
            text = "Count me. " * (1 + self.sent % 40)
            try:
                outcome = await self._send(kind, text, client)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                outcome = type(error).__name__
            if not outcome.isdigit() or int(outcome) >= FAILED:
                await asyncio.sleep(PAUSE_SECONDS)
            self.statuses[f"{kind.name}: {outcome}"] += 1
            self.done += 1

    async def _send(self, kind: Kind, text: str, client: aiohttp.ClientSession) -> str:
        name = "x-api-key" if kind.path == MESSAGES else "authorization"
        value = self.key if name == "x-api-key" else f"Bearer {self.key}"
        async with client.post(
            f"{self.url}{kind.path}", json=kind.body(text), headers={name: value}
        ) as answer:
            # The provider's own name for it: it has seen the request. A refusal repeats Egret's.
            request_id = answer.headers.get(REQUEST_ID)
            if answer.headers.get(PROVIDER_ID) in {None, request_id}:
                request_id = None
            if kind.reads is None:
                await answer.read()
            else:
                for _ in range(kind.reads):
                    await answer.content.readany()
                answer.close()
            if request_id is not None:
                self.answered.add(request_id)
            return str(answer.status)
