from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import get_args

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
    RemoteFault,
    RemoteRequest,
)
from sidecar.guardrails.remote.dispatch import CheckDispatcher, open_clients
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
    checks = CheckDispatcher({type(settings): Named(one) for one, settings in SETTINGS.items()})
    with pytest.raises(RemoteCheckError) as raised:
        await checks.check(asking(SETTINGS[name], "text"))
    assert raised.value.error_type == name


async def test_every_type_of_remote_guardrail_has_a_client() -> None:
    """A new type of settings without a client would fail its first check."""
    async with AsyncExitStack() as stack:
        assert set(await open_clients(stack)) == set(get_args(RemoteSettings))


@pytest.mark.parametrize("name", SETTINGS)
async def test_a_guardrail_of_another_type_is_an_error(name: str) -> None:
    """A mistake in the program must not look like a pass."""
    other = next(settings for one, settings in SETTINGS.items() if one != name)
    async with AsyncExitStack() as stack:
        clients = await open_clients(stack)
        with pytest.raises(RemoteCheckError) as raised:
            await clients[type(SETTINGS[name])].check(asking(other, "text"))
    assert raised.value.fault is RemoteFault.LOCAL
