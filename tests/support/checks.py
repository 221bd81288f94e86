"""The checks of an exchange on real parts; only the store and the remote checks are fakes."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry

from sidecar.checks.exchange_checks import ExchangeChecks
from sidecar.checks.ledger import Clocks
from sidecar.checks.load import Load
from sidecar.checks.parts import Parts
from sidecar.domain.finding import Finding
from sidecar.domain.http import Headers
from sidecar.domain.limits import LimitStatus
from sidecar.domain.principal import KeyRecord, Principal
from sidecar.domain.usage import JudgedRequest
from sidecar.guardrails.remote.checks import RemoteAnswer, RemoteRequest, RemoteVerdict
from sidecar.guardrails.runner import GuardrailRunner
from sidecar.keys.cache import KeyCache
from sidecar.keys.credentials import ApiKey
from sidecar.keys.ports import KeyStoreUnavailableError, LoadedKey
from sidecar.limits.limit_check import LimitCheck
from sidecar.limits.limiter import Granted, LimitDecision, Limited
from sidecar.limits.store import Adjustment
from sidecar.policy.parse import parse_policies
from sidecar.policy.snapshot import PolicySnapshot, build_snapshot
from sidecar.settings.serving import RouteByModel, Timing
from sidecar.settings.telemetry import TelemetrySettings
from sidecar.telemetry.logs import configure_logs
from sidecar.telemetry.recorder import Recorder
from sidecar.usage.prices import Price, PriceList
from tests.support.keys import record_of

KEY: Final = ApiKey(key_id="abcdefghijkl", secret="S" * 43)
NOW: Final = 1_700_000_000.0
REQUEST_ID: Final = "5d0c3a0e-6c0e-4a55-9a0e-0d9d6f0f0a01"

_Value = TypeVar("_Value")


@dataclass
class DictStore:
    """The port `KeyStore` over a dictionary; `is_down` makes it unavailable."""

    records: dict[str, KeyRecord] = field(default_factory=dict)
    is_down: bool = False

    async def load(self, key_id: str) -> LoadedKey:
        """Return what the dictionary holds."""
        if self.is_down:
            raise KeyStoreUnavailableError("down")
        return LoadedKey(self.records.get(key_id))


@dataclass
class ScriptedRemote:
    """The port `RemoteChecks`: each guardrail answers what it was told, after one turn."""

    verdict: RemoteVerdict = "pass"
    asked: list[RemoteRequest] = field(default_factory=list)
    findings: tuple[Finding, ...] = ()

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Answer as told."""
        self.asked.append(request)
        await asyncio.sleep(0)
        return RemoteAnswer(self.verdict, self.findings)


@dataclass
class NotedUses:
    """The port `KeyUses`: a list of key, whether refused, and when."""

    noted: list[tuple[str, bool, float]] = field(default_factory=list)

    def note(self, key_id: str, *, refused: bool, at: float) -> None:
        """Keep the use."""
        self.noted.append((key_id, refused, at))


@dataclass
class FixedPolicies:
    """The port `PolicySource`."""

    snapshot: PolicySnapshot | None


class NotedUsage:
    """Keeps what was noted of requests that went to their provider."""

    def __init__(self) -> None:
        self.noted: list[JudgedRequest] = []

    def note(self, request: JudgedRequest) -> None:
        """Keep it."""
        self.noted.append(request)


class NotedVerdicts:
    """Keeps the verdicts that were given, by Envoy's name of the stream."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, JudgedRequest]] = []

    def add(self, stream: str, request: JudgedRequest) -> None:
        """Keep it."""
        self.noted.append((stream, request))


class ScriptedLimits:
    """The port `Limits`: has room until `short` says of which claim it has none.

    `left` is how much is left then of every limit; None tells nothing.
    """

    def __init__(self) -> None:
        self.short: int | None = None
        self.left: int | None = None
        self.is_local = False
        self.waits = False
        self.asked: list[tuple[LimitCheck, ...]] = []
        self.settled: list[tuple[str, tuple[Adjustment, ...]]] = []

    def take(
        self, principal: Principal, checks: tuple[LimitCheck, ...], *, member: str
    ) -> LimitDecision | Awaitable[LimitDecision]:
        """Answer as told, at once or after one turn."""
        del principal, member
        self.asked.append(checks)
        standings: tuple[LimitStatus, ...] = ()
        if self.left is not None:
            standings = tuple(LimitStatus(check.limit, self.left, 1.5) for check in checks)
        outcome: LimitDecision = Granted(standings, self.is_local)
        if self.short is not None:
            outcome = Limited(LimitStatus(checks[self.short].limit, 3, 1.5), self.is_local)
        return self._later(outcome) if self.waits else outcome

    async def _later(self, outcome: LimitDecision) -> LimitDecision:
        await asyncio.sleep(0)
        return outcome

    def settle(self, organization_id: str, changes: Sequence[Adjustment]) -> None:
        """Keep them."""
        self.settled.append((organization_id, tuple(changes)))


class FixedPrices:
    """A dollar for a million tokens of `gpt-5`, whichever way they go."""

    current = PriceList(
        [
            Price(
                model="gpt-5",
                valid_from=datetime(2020, 1, 1, tzinfo=UTC),
                input=Decimal(1),
                output=Decimal(1),
            )
        ]
    )


@lru_cache
def _snapshot(policies: str) -> PolicySnapshot:
    """Compile policies once for all tests: a snapshot does not change."""
    return build_snapshot(parse_policies(policies) if policies else ())


class World:
    """Everything around one worker's checks."""

    def __init__(
        self,
        policies: str = "",
        *,
        timing: Timing = Timing.METADATA,
        route_by_model: RouteByModel = RouteByModel.OFF,
    ) -> None:
        self.store = DictStore({KEY.key_id: record_of(KEY.key_id, digest=KEY.secret_sha256)})
        self.remote = ScriptedRemote()
        self.uses = NotedUses()
        self.usage = NotedUsage()
        self.verdicts = NotedVerdicts()
        self.limiter = ScriptedLimits()
        self.policies = FixedPolicies(_snapshot(policies))
        self.registry = CollectorRegistry()
        configure_logs("error", io.BytesIO())
        self.parts = Parts(
            keys=KeyCache(self.store),
            uses=self.uses,
            usage=self.usage,
            verdicts=self.verdicts,
            policies=self.policies,
            inspector=GuardrailRunner(remote=self.remote, clock=lambda: 0.0),
            recorder=Recorder(TelemetrySettings(), registry=self.registry),
            clocks=Clocks(monotonic=lambda: 0.0, wall=lambda: NOW),
            new_request_id=lambda: "made-up-by-egret",
            timing=timing,
            limiter=self.limiter,
            prices=FixedPrices(),
            load=Load(max_exchanges=1024, max_held_bytes=1 << 28),
            route_by_model=route_by_model,
        )

    def exchange(self, metadata: Mapping[str, str] | None = None) -> ExchangeChecks:
        """Begin an exchange."""
        return ExchangeChecks(self.parts, metadata or {})

    def counted(self) -> dict[tuple[str, str], float]:
        """Return how many exchanges ended with which outcome and error."""
        return {
            (sample.labels["outcome"], sample.labels["error"]): sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if sample.name == "egret_exchanges_total" and sample.value
        }


def headers(
    path: str = "/v1/chat/completions",
    *more: tuple[str, bytes],
    method: str = "POST",
    key: ApiKey | None = KEY,
) -> Headers:
    """Return request headers with the good key."""
    credential = () if key is None else (("authorization", b"Bearer " + key.reveal().encode()),)
    return Headers(
        (
            (":method", method.encode()),
            (":path", path.encode()),
            ("x-request-id", REQUEST_ID.encode()),
            *credential,
            *more,
        )
    )


async def settled(verdict: _Value | Awaitable[_Value]) -> _Value:
    """Return the verdict, waiting for it where it is not there at once."""
    if isinstance(verdict, Awaitable):
        return await verdict
    return verdict
