"""Who is asked: the one that knows the type of the guardrail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from sidecar.domain.remote_guardrails import (
    GrpcSettings,
    LlmJudgeSettings,
    ModerationSettings,
    PresidioSettings,
    WebhookSettings,
)
from sidecar.guardrails.remote import RemoteAnswer, RemoteChecks, RemoteRequest
from sidecar.guardrails.remote_checks.servers import settings_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ChecksByType:
    """`RemoteChecks` of every type."""

    webhook: RemoteChecks
    grpc: RemoteChecks
    moderation: RemoteChecks
    presidio: RemoteChecks
    llm_judge: RemoteChecks

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Return the answer of the one that knows the type.

        Raises:
            RemoteCheckError: there is none.
        """
        return await self._of(request).check(request)

    def _of(self, request: RemoteRequest) -> RemoteChecks:
        settings = settings_of(request.guardrail)
        match settings:
            case WebhookSettings():
                return self.webhook
            case GrpcSettings():
                return self.grpc
            case ModerationSettings():
                return self.moderation
            case PresidioSettings():
                return self.presidio
            case LlmJudgeSettings():
                return self.llm_judge
            case _:
                assert_never(settings)
