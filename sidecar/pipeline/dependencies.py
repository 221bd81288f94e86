"""Everything that the requests of one worker share; built once, passed down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sidecar.domain.finding import FindingCount
from sidecar.domain.principal import PolicyBinding, Principal
from sidecar.domain.report import Clocks
from sidecar.extproc.stream import Budgets, OverloadGuard
from sidecar.guardrails.message_table import MessageTable
from sidecar.guardrails.runner import GuardrailRunner
from sidecar.keys.cache import KeyCache
from sidecar.limits.limit_check import LimitCheck
from sidecar.limits.limiter import LimitDecision
from sidecar.limits.store import Adjustment
from sidecar.policy.snapshot import PolicySnapshot
from sidecar.settings.serving import RouteByModel, Timing
from sidecar.settings.stores import ReadAnswers, UsageSource
from sidecar.telemetry.recorder import Recorder
from sidecar.usage.prices import PriceList
from sidecar.usage.records import OwnEnds, UsageNotes, VerdictNotes


class PolicySource(Protocol):
    """Holds the policies in force."""

    @property
    def snapshot(self) -> PolicySnapshot | None:
        """Return the policies in force; None while none could be loaded yet."""
        ...

    async def compiled(self, binding: PolicyBinding) -> bool:
        """Wait until the policies of *binding* are compiled; return False if they cannot be."""
        ...


class KeyUses(Protocol):
    """Records that a key was used."""

    def note(self, key_id: str, *, refused: bool, at: float) -> None:
        """Note one use at *at*, seconds since the epoch. Must not wait and does not raise."""
        ...


class FindingNotes(Protocol):
    """Records the findings of guardrails."""

    def note(
        self, policy: str, counts: Iterable[FindingCount], *, of: Principal, at: float
    ) -> None:
        """Note those of one request, *at* seconds since the epoch. As `KeyUses.note`."""
        ...


class Limits(Protocol):
    """Decides whether there is room for a request."""

    def take(
        self, principal: Principal, claims: tuple[LimitCheck, ...], *, member: str
    ) -> LimitDecision | Awaitable[LimitDecision]:
        """Reserve all *claims*, or none; *member* names the request."""
        ...

    def settle(
        self,
        organization_id: str,
        changes: Sequence[Adjustment],
        *,
        name: str | None = None,
        part: str = "",
    ) -> None:
        """Correct a reservation later, without waiting; of a *name*, by one of all workers.

        That worker settles each *part* of a request's use.
        """
        ...


class Prices(Protocol):
    """Holds the prices of models."""

    @property
    def current(self) -> PriceList:
        """Return the prices in force."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """The dependencies and settings of a worker.

    `redaction_key` keys the hashes of values. `contact` is the operator's line in refusals.
    Without `messages` everything is searched each time. With `own_ends` this worker accounts for
    the ends of its requests itself, by `usage_source`; `read_answers` are those it reads for that.
    """

    keys: KeyCache
    key_activity: KeyUses
    findings: FindingNotes
    usage: UsageNotes
    verdicts: VerdictNotes
    policies: PolicySource
    guardrail_runner: GuardrailRunner
    recorder: Recorder
    clocks: Clocks
    new_request_id: Callable[[], str]
    timing: Timing
    limiter: Limits
    prices: Prices
    guard: OverloadGuard
    budgets: Budgets
    max_body_bytes: int
    route_by_model: RouteByModel = RouteByModel.OFF
    default_output_tokens: int = 1_024
    limits_in_metadata: bool = False
    redaction_key: bytes | None = field(default=None, repr=False)
    contact: str = ""
    messages: MessageTable | None = None
    own_ends: OwnEnds | None = None
    usage_source: UsageSource = UsageSource.ACCESS_LOG
    read_answers: ReadAnswers = ReadAnswers.ALL
