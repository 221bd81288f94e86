"""What every exchange of a worker shares; built once, passed down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sidecar.checks.ledger import Clocks
from sidecar.checks.load import Load
from sidecar.domain.principal import Principal
from sidecar.guardrails.runner import GuardrailRunner
from sidecar.keys.cache import KeyCache
from sidecar.limits.limit_check import LimitCheck
from sidecar.limits.limiter import LimitDecision
from sidecar.limits.store import Adjustment
from sidecar.policy.snapshot import PolicySnapshot
from sidecar.settings.serving import RouteByModel, Timing
from sidecar.telemetry.recorder import Recorder
from sidecar.usage.prices import PriceList
from sidecar.usage.records import UsageNotes, VerdictNotes


class PolicySource(Protocol):
    """Where the policies in force come from."""

    @property
    def snapshot(self) -> PolicySnapshot | None:
        """The policies in force now; None while none could be loaded yet."""
        ...


class KeyUses(Protocol):
    """Where it is noted that a key was used."""

    def note(self, key_id: str, *, refused: bool, at: float) -> None:
        """Note one use at *at*, seconds since the epoch. Must not wait and does not raise."""
        ...


class Limits(Protocol):
    """Where it is decided whether there is room for a request."""

    def take(
        self, principal: Principal, checks: tuple[LimitCheck, ...], *, member: str
    ) -> LimitDecision | Awaitable[LimitDecision]:
        """Take what *checks* ask for, all or nothing; *member* names the request."""
        ...

    def settle(self, organization_id: str, changes: Sequence[Adjustment]) -> None:
        """Put right what was taken; later, and without waiting."""
        ...


class Prices(Protocol):
    """Where prices come from."""

    @property
    def current(self) -> PriceList:
        """The prices as they are known now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The shared parts of a worker. `redaction_key` is what hashes of values are made with."""

    keys: KeyCache
    uses: KeyUses
    usage: UsageNotes
    verdicts: VerdictNotes
    policies: PolicySource
    inspector: GuardrailRunner
    recorder: Recorder
    clocks: Clocks
    new_request_id: Callable[[], str]
    timing: Timing
    limiter: Limits
    prices: Prices
    load: Load
    route_by_model: RouteByModel = RouteByModel.OFF
    default_output_tokens: int = 1_024
    redaction_key: bytes | None = field(default=None, repr=False)
