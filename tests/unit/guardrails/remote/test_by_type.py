from __future__ import annotations

from dataclasses import dataclass

import pytest

from sidecar.domain.guardrail_settings import (
    GrpcSettings,
    LlmJudgeSettings,
    ModerationSettings,
    PresidioSettings,
    RemoteEndpoint,
    RemoteSettings,
    WebhookSettings,
)
from sidecar.guardrails.remote.checks import (
    RemoteAnswer,
    RemoteCheckError,
    RemoteChecks,
    RemoteFault,
    RemoteRequest,
)
from sidecar.guardrails.remote.grpc_client import GrpcChecks
from sidecar.guardrails.remote.http import HttpClient
from sidecar.guardrails.remote.llm_judge import LlmJudgeChecks
from sidecar.guardrails.remote.moderation import ModerationChecks
from sidecar.guardrails.remote.presidio import PresidioChecks
from sidecar.guardrails.remote.resilience import CheckDispatcher
from sidecar.guardrails.remote.webhook import WebhookChecks
from tests.support.remote_checks import asking

ENDPOINT = RemoteEndpoint("http://h/")
SETTINGS: dict[str, RemoteSettings] = {
    "webhook": WebhookSettings(ENDPOINT),
    "grpc": GrpcSettings(ENDPOINT),
    "moderation": ModerationSettings(ENDPOINT),
    "presidio": PresidioSettings(ENDPOINT),
    "llm_judge": LlmJudgeSettings(ENDPOINT, model="m", rubric="r"),
}


@dataclass
class Named:
    """Says who it is."""

    name: str

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Raise the name."""
        del request
        raise RemoteCheckError(self.name)


@pytest.mark.parametrize("name", SETTINGS)
async def test_each_type_is_asked_by_its_own(name: str) -> None:
    """And by no other."""
    checks = CheckDispatcher(**{one: Named(one) for one in SETTINGS})
    with pytest.raises(RemoteCheckError) as raised:
        await checks.check(asking(SETTINGS[name], "text"))
    assert raised.value.error_type == name


@pytest.mark.parametrize("name", SETTINGS)
async def test_a_guardrail_of_another_type_is_an_error(name: str) -> None:
    """A mistake in the program must not look like a pass."""
    async with HttpClient() as http, GrpcChecks() as grpc:
        checks: dict[str, RemoteChecks] = {
            "webhook": WebhookChecks(http),
            "grpc": grpc,
            "moderation": ModerationChecks(http),
            "presidio": PresidioChecks(http),
            "llm_judge": LlmJudgeChecks(http),
        }
        other = next(settings for one, settings in SETTINGS.items() if one != name)
        with pytest.raises(RemoteCheckError) as raised:
            await checks[name].check(asking(other, "text"))
    assert raised.value.fault is RemoteFault.LOCAL
