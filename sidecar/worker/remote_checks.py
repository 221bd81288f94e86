"""The remote checks of a worker: one asker a type, and the care around all of them."""

from __future__ import annotations

import asyncio
import importlib
import random
import secrets
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from sidecar.guardrails.remote.checks import RemoteAnswer, RemoteChecks, RemoteRequest
from sidecar.guardrails.remote.http import HttpClient
from sidecar.guardrails.remote.llm_judge import LlmJudgeChecks
from sidecar.guardrails.remote.moderation import ModerationChecks
from sidecar.guardrails.remote.presidio import PresidioChecks
from sidecar.guardrails.remote.resilience import (
    CheckDispatcher,
    ResilienceOptions,
    ResilientChecks,
)
from sidecar.guardrails.remote.verdict_cache import VerdictCache
from sidecar.guardrails.remote.webhook import WebhookChecks
from sidecar.settings.serving import ExchangeSettings
from sidecar.telemetry.remote_metrics import RemoteMetrics

if TYPE_CHECKING:
    from sidecar.guardrails.remote.grpc_client import GrpcChecks


_GRPC: Final = "sidecar.guardrails.remote.grpc_client"
_SECRET_BYTES: Final = 32
_SHARE_OF_EXCHANGE: Final = 0.95
"""The rest is for what comes before and after, so that a check ends before its exchange has to."""


async def open_remote_checks(
    settings: ExchangeSettings, *, metrics: RemoteMetrics, stack: AsyncExitStack
) -> RemoteChecks:
    """Build the checks within the event loop, to be closed with *stack*. Connects to nobody."""
    http = await stack.enter_async_context(HttpClient())
    grpc = _GrpcOnDemand()
    stack.push_async_callback(grpc.close)
    return ResilientChecks(
        CheckDispatcher(
            webhook=WebhookChecks(http),
            grpc=grpc,
            moderation=ModerationChecks(http),
            presidio=PresidioChecks(http),
            llm_judge=LlmJudgeChecks(http),
        ),
        cache=VerdictCache(clock=time.monotonic, secret=secrets.token_bytes(_SECRET_BYTES)),
        options=ResilienceOptions(
            clock=time.monotonic,
            jitter=random.random,
            longest_seconds=settings.inspect_seconds * _SHARE_OF_EXCHANGE,
            on_breaker=metrics.breaker_is,
        ),
    )


class _GrpcOnDemand:
    """`GrpcChecks`, loaded for the first check: a worker on h2corn has no other use for gRPC."""

    def __init__(self) -> None:
        self._checks: GrpcChecks | None = None

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        if self._checks is None:
            # Loading takes some 100 ms, which other requests must not wait for.
            await asyncio.to_thread(importlib.import_module, _GRPC)
        return await self._open().check(request)

    def _open(self) -> GrpcChecks:
        if self._checks is None:
            from sidecar.guardrails.remote.grpc_client import GrpcChecks  # noqa: PLC0415

            self._checks = GrpcChecks()
        return self._checks

    async def close(self) -> None:
        if self._checks is not None:
            await self._checks.close()
