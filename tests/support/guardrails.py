"""Policies, subjects and remote checks for tests of guardrails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sidecar.domain.policy import Policy
from sidecar.domain.principal import PolicyBinding
from sidecar.domain.subject import Subject, TextPart
from sidecar.guardrails.remote.checks import RemoteAnswer, RemoteRequest
from sidecar.policy.parse import parse_policies
from sidecar.policy.snapshot import EffectivePolicy, build_snapshot


def policy(guardrails: str, name: str = "default") -> Policy:
    """Return a policy of these guardrails, given as YAML flow sequences' items."""
    return parse_policies(f"name: {name}\nguardrails:\n{guardrails}")[0]


snapshot_of = build_snapshot


def effective(*policies: Policy) -> EffectivePolicy:
    """Return what holds for a key without a policy of its own once *policies* are compiled."""
    found = snapshot_of(policies).effective(PolicyBinding())
    assert isinstance(found, EffectivePolicy)
    return found


def parts_of(texts: Sequence[str]) -> tuple[TextPart, ...]:
    """Return *texts* as parts of a user's messages."""
    return tuple(
        TextPart(content=text.encode(), location=(index,), role="user")
        for index, text in enumerate(texts)
    )


def subject_of(*texts: str) -> Subject:
    """Return a request that says *texts*."""
    return Subject(model="gpt-5", streamed=False, parts=parts_of(texts))


class Ticks:
    """A clock that goes on by one second a reading."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        """Read the clock."""
        self._now += 1.0
        return self._now


Script = Callable[[], Awaitable[RemoteAnswer]]


@dataclass
class ScriptedChecks:
    """Remote checks that do as each guardrail's script says, and note what became of them."""

    scripts: Mapping[str, Script]
    asked: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Run the script of the request's guardrail."""
        name = request.guardrail.name
        self.asked.append(name)
        try:
            return await self.scripts[name]()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
