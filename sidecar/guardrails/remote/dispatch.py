"""Dispatches remote checks to the client of their type: the table of remote guardrails."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from sidecar.domain.guardrail_settings import (
    GrpcSettings,
    LlmJudgeSettings,
    ModerationSettings,
    PresidioSettings,
    RemoteSettings,
    WebhookSettings,
)
from sidecar.guardrails.remote.checks import (
    RemoteAnswer,
    RemoteChecks,
    RemoteRequest,
    remote_settings,
)
from sidecar.guardrails.remote.http import HttpClient
from sidecar.guardrails.remote.llm_judge import LlmJudgeChecks
from sidecar.guardrails.remote.moderation import ModerationChecks
from sidecar.guardrails.remote.presidio import PresidioChecks
from sidecar.guardrails.remote.webhook import WebhookChecks

if TYPE_CHECKING:
    from sidecar.guardrails.remote.grpc_client import GrpcChecks

_GRPC_CLIENT: Final = "sidecar.guardrails.remote.grpc_client"
_HTTP_CLIENTS: Final[Mapping[type[RemoteSettings], Callable[[HttpClient], RemoteChecks]]] = {
    WebhookSettings: WebhookChecks,
    ModerationSettings: ModerationChecks,
    PresidioSettings: PresidioChecks,
    LlmJudgeSettings: LlmJudgeChecks,
}

Clients = Mapping[type[RemoteSettings], RemoteChecks]


async def open_clients(stack: AsyncExitStack) -> Clients:
    """Return a client for every type, to be closed with *stack*. Opens no connection."""
    http = await stack.enter_async_context(HttpClient())
    grpc = LazyGrpcChecks()
    stack.push_async_callback(grpc.close)
    return {GrpcSettings: grpc} | {kind: of(http) for kind, of in _HTTP_CLIENTS.items()}


class CheckDispatcher:
    """Asks the client for the guardrail's type."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Return the client's answer.

        Raises:
            RemoteCheckError: the guardrail is a local one, or the client has no answer.
        """
        return await self._clients[type(remote_settings(request.guardrail))].check(request)


class LazyGrpcChecks:
    """Loads `GrpcChecks` for the first check: a worker has no other use for the library."""

    def __init__(self) -> None:
        self._checks: GrpcChecks | None = None

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Return the answer of `GrpcChecks`.

        Raises:
            RemoteCheckError: it has none.
        """
        if self._checks is None:
            # Loading takes some 100 ms, which other requests must not wait for.
            loaded = await asyncio.to_thread(importlib.import_module, _GRPC_CLIENT)
            if self._checks is None:  # another check may have been first meanwhile
                self._checks = loaded.GrpcChecks()
        return await self._checks.check(request)

    async def close(self) -> None:
        """Close every connection."""
        if self._checks is not None:
            await self._checks.close()
