"""The record of one finished request: outcome, timings, results and faults."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from sidecar.domain.errors import ErrorKind
from sidecar.domain.finding import FindingCount, GuardrailResult
from sidecar.domain.policy import UnscannedAction
from sidecar.domain.principal import Principal
from sidecar.domain.subject import Route, UnknownRoute, UnscannedReason


class ExchangeOutcome(enum.Enum):
    """The outcome of a request, as seen from Egret; the value is a metric label."""

    ALLOWED = "allowed"
    REDACTED = "redacted"
    FLAGGED = "flagged"
    """Went on unchanged, although a guardrail or unread content was flagged."""
    REFUSED = "refused"
    """Answered by Egret on purpose; not a failure."""
    ABORTED = "aborted"
    """The client or Envoy went away before there was an answer."""
    FAILED = "failed"
    """Egret could not decide and failed closed."""


class CacheTier(enum.Enum):
    """The store that answered for the key."""

    L1 = "l1"
    NEGATIVE = "negative"
    L2 = "l2"
    STORE = "store"
    STALE = "stale"
    """The store did not answer: the last known record was used."""
    NONE = "none"
    """No look-up took place: there was no well-formed key to look up."""


class FaultKind(enum.Enum):
    """A fault around a request, whatever its outcome; the value is a metric label."""

    PROTOCOL_VIOLATION = "protocol_violation"
    EXCEPTION = "exception"
    DEADLINE = "deadline"
    UNREADABLE_MESSAGE = "unreadable_message"
    UNSUPPORTED_MODE = "unsupported_mode"
    TOO_MANY_EXCHANGES = "too_many_exchanges"
    TOO_MANY_BYTES = "too_many_bytes"
    TELEMETRY = "telemetry"


Step = tuple[float, float]
"""One stretch of an exchange: monotonic seconds at its start, and its length in seconds."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Monotonic seconds for durations, seconds since the epoch for calendars, expiry and spans."""

    monotonic: Callable[[], float]
    wall: Callable[[], float]


class AppliedPolicy(Protocol):
    """The facts about a policy that telemetry shows."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def version(self) -> int:
        """Its version."""
        ...

    @property
    def unscanned(self) -> UnscannedAction:
        """The action on content that cannot be read."""
        ...


class ExchangeReport(msgspec.Struct, kw_only=True):
    """One exchange as telemetry reads it, once it has ended.

    `wall_ns` (since the epoch) and `started_at` (monotonic seconds) are the same instant: steps
    are placed by their distance from it, so that a wall clock set back moves none of them.
    `seconds` is the whole exchange; `overhead_seconds` is Egret's own share of it, without the
    wait for the client's body or the provider's answer. `authorize`, `read` (parsing, not that
    wait) and `guardrails` are None if they did not take place.

    `traceparent` and `tracestate` are the strings of the gRPC metadata, unchecked. `status` is
    that of Egret's own answer, None if the request went on. `processing_modes` are Envoy's
    names of the body modes of this stream, for example `FULL_DUPLEX_STREAMED`. `error_type` is the
    class name of an exception behind a failure, never its text. `limit` is the one that refused
    the request, after its level: `team requests/minute=60`. `findings` counts those of
    `results`. `exempted` are the guardrails that an exception of the policy took out.
    `billed_tools` are as in the request's `Subject`.
    """

    request_id: str
    outcome: ExchangeOutcome
    wall_ns: int
    started_at: float
    seconds: float
    overhead_seconds: float
    authorize: Step | None = None
    read: Step | None = None
    guardrails: Step | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    route: Route | UnknownRoute | None = None
    method: str | None = None
    model: str | None = None
    streamed: bool = False
    principal: Principal | None = None
    policy: AppliedPolicy | None = None
    error: ErrorKind | None = None
    error_type: str | None = None
    limit: str | None = None
    status: int | None = None
    results: tuple[GuardrailResult, ...] = ()
    findings: tuple[FindingCount, ...] = ()
    exempted: tuple[str, ...] = ()
    unscanned: tuple[UnscannedReason, ...] = ()
    billed_tools: tuple[str, ...] = ()
    cache_tier: CacheTier = CacheTier.NONE
    body_bytes: int = 0
    processing_modes: tuple[str, ...] = ()

    def step_of(self, result: GuardrailResult) -> Step:
        """Return the time of a guardrail: its own, or that of the pass it was part of."""
        if result.started_at is not None and result.seconds is not None:
            return result.started_at, result.seconds
        return self.guardrails or (self.started_at, 0.0)

    @property
    def unscanned_action(self) -> UnscannedAction:
        """Return the action on unread content; without a policy, the default that blocks."""
        return UnscannedAction.BLOCK if self.policy is None else self.policy.unscanned
