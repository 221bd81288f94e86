"""Walks the tour: sends each case through Envoy over TLS and looks at all three sides."""

from __future__ import annotations

import asyncio
import base64
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

import aiohttp
import orjson

from egret_tools.devstack.demo_setup import TourKeys
from egret_tools.devstack.stack import StackFacts
from egret_tools.devstack.tour import MODEL, Case, Credential, Observation
from sidecar.domain.http import HeaderName
from sidecar.keys.credentials import generate

REVOCATION_SECONDS: Final = 3.0
LOG_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.05


class GuideError(Exception):
    """The tour itself cannot go on; says why."""


@dataclass(frozen=True, slots=True)
class Guide:
    """One client of a running stack, with keys for each case."""

    facts: StackFacts
    keys: Mapping[Credential, str]
    client: aiohttp.ClientSession
    tls: ssl.SSLContext

    async def observe(self, case: Case) -> Observation:
        """Send the case and say what came of it."""
        await self._forget_received()
        async with self.send(case) as answer:
            body = await answer.read()
            given = answer.headers
        line = await self._log_line(given.get(HeaderName.EGRET_REQUEST_ID, ""))
        return Observation(
            status=answer.status,
            verdict=str(line.get("error") or line.get("verdict") or ""),
            server_timing=given.get(HeaderName.SERVER_TIMING, ""),
            response_time=given.get(HeaderName.RESPONSE_TIME, ""),
            events=body.count(b"data: "),
            received=await self._received(),
        )

    def send(self, case: Case) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Send the request of a case, over TLS."""
        return self.client.post(
            f"{self.facts.https_url}/v1/chat/completions",
            data=orjson.dumps(case.body),
            headers={
                HeaderName.AUTHORIZATION: f"Bearer {self.keys[case.credential]}",
                HeaderName.CONTENT_TYPE: "application/json",
            },
            ssl=self.tls,
        )

    async def _forget_received(self) -> None:
        await self.client.delete(f"{self.facts.mock_debug_url}/requests")

    async def _received(self) -> str | None:
        async with self.client.get(f"{self.facts.mock_debug_url}/last") as answer:
            if answer.status == HTTPStatus.NOT_FOUND:
                return None
            last = await answer.json()
        return base64.b64decode(last["body_base64"]).decode("utf-8", "replace")

    async def _log_line(self, request_id: str) -> Mapping[str, object]:
        """Return what Egret told Envoy about the request; Envoy logs a little later."""
        deadline = time.monotonic() + LOG_SECONDS
        while time.monotonic() < deadline:
            for line in _lines(self.facts.access_log):
                told = line.get("egret")
                if isinstance(told, dict) and told.get("request_id") == request_id:
                    return told
            await asyncio.sleep(POLL_SECONDS)
        return {}


@asynccontextmanager
async def guide(facts: StackFacts) -> AsyncIterator[Guide]:
    """Make the keys of the tour and a client that trusts the gateway.

    Raises:
        GuideError: a new key is refused, or a revoked one goes on working.
    """
    tls = ssl.create_default_context(cafile=str(facts.ca_file))
    async with aiohttp.ClientSession() as client:
        tour_keys = TourKeys(facts.postgres_dsn)
        good, revoked = await tour_keys.create(model=MODEL)
        walk = Guide(
            facts=facts,
            keys={
                Credential.GOOD: good.reveal(),
                Credential.UNKNOWN: generate(secrets.token_bytes).reveal(),
                Credential.REVOKED: revoked.reveal(),
            },
            client=client,
            tls=tls,
        )
        await _check_use(walk)
        await tour_keys.revoke(revoked)
        await _check_revocation(walk)
        yield walk


REVOKED: Final = Case(title="", status=0, verdict="", credential=Credential.REVOKED)


async def _check_use(walk: Guide) -> None:
    """Use the key once, so that a cache holds it when it is taken away."""
    async with walk.send(REVOKED) as answer:
        if answer.status != HTTPStatus.OK:
            raise GuideError(f"a new key was answered with status {answer.status}")


async def _check_revocation(walk: Guide) -> None:
    deadline = time.monotonic() + REVOCATION_SECONDS
    while time.monotonic() < deadline:
        async with walk.send(REVOKED) as answer:
            if answer.status == HTTPStatus.UNAUTHORIZED:
                return
        await asyncio.sleep(POLL_SECONDS)
    raise GuideError(f"a revoked key still worked after {REVOCATION_SECONDS:g} s")


def _lines(file: Path) -> list[dict[str, object]]:
    if not file.exists():
        return []
    return [
        orjson.loads(line)
        for line in file.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    ]
