"""Clients that go on while parts are replaced: what was not answered, and when it was asked."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

CHAT: Final = "/v1/chat/completions"
OK: Final = 200
PAUSE_SECONDS: Final = 0.01
REQUEST_SECONDS: Final = 30.0
PATIENCE_SECONDS: Final = 60.0
END: Final = b"data: [DONE]"


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that was not answered as it should have been, when it was sent and given up."""

    what: str
    begun: float
    ended: float


@dataclass(frozen=True, slots=True)
class Sending:
    """How many clients send: short requests one after another, and streams that take a while."""

    short: int = 8
    streams: int = 8


@dataclass
class RestartLoad:
    """Clients of a service, as balancers have it: each stays where it is until it is sent away."""

    url: str
    key: str = field(repr=False)
    answered: int = 0
    failures: list[Failed] = field(default_factory=list)
    _at: Counter[str] = field(default_factory=Counter)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def at(self, url: str) -> int:
        """Return how many clients hold a connection to *url*."""
        return self._at[url]

    async def answers(self, count: int) -> None:
        """Wait for so many more good answers."""
        wanted = self.answered + count
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.answered < wanted:  # noqa: ASYNC110 - counted by many
                await asyncio.sleep(PAUSE_SECONDS)

    async def run(self, sending: Sending, done: asyncio.Event) -> None:
        """Send until *done*, and let what is under way end."""
        kinds = [False] * sending.short + [True] * sending.streams
        async with asyncio.TaskGroup() as group:
            for is_stream in kinds:
                group.create_task(self._client(done, is_stream=is_stream))

    async def _client(self, done: asyncio.Event, *, is_stream: bool) -> None:
        headers = {"authorization": f"Bearer {self.key}"}
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        while not done.is_set():
            url = self.url
            self._at[url] += 1
            async with aiohttp.ClientSession(url, headers=headers, timeout=timeout) as client:
                while not done.is_set() and await self._stays(client, is_stream=is_stream):  # noqa: ASYNC110 - its pace
                    await asyncio.sleep(PAUSE_SECONDS)
            self._at[url] -= 1

    async def _stays(self, client: aiohttp.ClientSession, *, is_stream: bool) -> bool:
        """Send one request; tell whether its answer lets the connection live."""
        begun = time.monotonic()
        try:
            async with client.post(CHAT, json=self._body(is_stream=is_stream)) as answer:
                body = await answer.read()
                if answer.status != OK:
                    self._fail(f"{answer.status} {_code(body)}".strip(), begun)
                elif is_stream and END not in body:
                    self._fail("a stream without its end", begun)
                else:
                    self.answered += 1
                return answer.headers.get("connection") != "close"
        except (aiohttp.ClientError, OSError) as error:
            self._fail(type(error).__name__, begun)
            return False

    def _fail(self, what: str, begun: float) -> None:
        self.failures.append(Failed(what, begun, time.monotonic()))

    def _body(self, *, is_stream: bool) -> Mapping[str, Any]:
        text = f"Number {next(self._numbers)}: write to bob.builder@example.com about herons."
        message = {"role": "user", "content": text}
        return {"model": "gpt-4o", "messages": [message], "stream": is_stream}


def _code(body: bytes) -> str:
    """Return the code of Egret's refusal; what Envoy says itself has none."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""
