"""The remote checks of a worker: one asker a type, and the care around all of them."""

from __future__ import annotations

import random
import secrets
import time
from contextlib import AsyncExitStack
from typing import Final

from sidecar.guardrails.remote import RemoteChecks
from sidecar.guardrails.remote_checks.answer_cache import AnswerCache
from sidecar.guardrails.remote_checks.by_type import ChecksByType
from sidecar.guardrails.remote_checks.care import CarefulChecks, Surroundings
from sidecar.guardrails.remote_checks.http import HttpClient
from sidecar.guardrails.remote_checks.llm_judge import LlmJudgeChecks
from sidecar.guardrails.remote_checks.moderation import ModerationChecks
from sidecar.guardrails.remote_checks.presidio import PresidioChecks
from sidecar.guardrails.remote_checks.webhook import WebhookChecks
from sidecar.settings import ExchangeSettings
from sidecar.telemetry.remote_metrics import RemoteMetrics
from sidecar.transport.clients.grpc_guardrail import GrpcChecks

_SECRET_BYTES: Final = 32
_SHARE_OF_EXCHANGE: Final = 0.95
"""The rest is for what comes before and after, so that a check ends before its exchange has to."""


async def open_remote_checks(
    settings: ExchangeSettings, *, metrics: RemoteMetrics, stack: AsyncExitStack
) -> RemoteChecks:
    """Build the checks within the event loop, to be closed with *stack*. Connects to nobody."""
    http = await stack.enter_async_context(HttpClient())
    grpc = await stack.enter_async_context(GrpcChecks())
    return CarefulChecks(
        ChecksByType(
            webhook=WebhookChecks(http),
            grpc=grpc,
            moderation=ModerationChecks(http),
            presidio=PresidioChecks(http),
            llm_judge=LlmJudgeChecks(http),
        ),
        cache=AnswerCache(clock=time.monotonic, secret=secrets.token_bytes(_SECRET_BYTES)),
        surroundings=Surroundings(
            clock=time.monotonic,
            jitter=random.random,
            longest_seconds=settings.inspect_seconds * _SHARE_OF_EXCHANGE,
            on_breaker=metrics.breaker_is,
        ),
    )
