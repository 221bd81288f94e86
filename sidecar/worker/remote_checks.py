"""Builds the remote checks of a worker."""

from __future__ import annotations

import random
import secrets
import time
from contextlib import AsyncExitStack
from typing import Final

from sidecar.guardrails.remote.checks import RemoteChecks
from sidecar.guardrails.remote.dispatch import CheckDispatcher, open_clients
from sidecar.guardrails.remote.resilience import ResilienceOptions, ResilientChecks
from sidecar.guardrails.remote.verdict_cache import VerdictCache
from sidecar.settings.serving import ExchangeSettings
from sidecar.telemetry.remote_metrics import RemoteMetrics

_SECRET_BYTES: Final = 32
_SHARE_OF_EXCHANGE: Final = 0.95
"""The rest is for the steps before and after, so that a check ends before its exchange has to."""


async def open_remote_checks(
    settings: ExchangeSettings, *, metrics: RemoteMetrics, stack: AsyncExitStack
) -> RemoteChecks:
    """Build the checks within the event loop, to be closed with *stack*. Opens no connection."""
    return ResilientChecks(
        CheckDispatcher(await open_clients(stack)),
        cache=VerdictCache(clock=time.monotonic, secret=secrets.token_bytes(_SECRET_BYTES)),
        options=ResilienceOptions(
            clock=time.monotonic,
            jitter=random.random,
            longest_seconds=settings.inspect_seconds * _SHARE_OF_EXCHANGE,
            on_breaker=metrics.breaker_is,
        ),
    )
