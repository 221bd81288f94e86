"""What one exchange has come to so far: who, what, how long; the source of its final report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sidecar.domain.errors import ErrorKind
from sidecar.domain.finding import GuardrailResult, Verdict
from sidecar.domain.limits import LimitStatus, Priority, Reservation
from sidecar.domain.mutations import Metadata
from sidecar.domain.policy import Mode, Policy, UnscannedAction
from sidecar.domain.principal import Principal
from sidecar.domain.report import CacheTier, ExchangeOutcome, ExchangeReport, Step, Timings
from sidecar.domain.subject import Route, Subject, UnknownRoute, UnscannedReason
from sidecar.domain.usage import DecisionKind, JudgedRequest
from sidecar.mutations.timing import Spent, timing_metadata
from sidecar.mutations.usage import usage_metadata
from sidecar.policy.snapshot import EffectivePolicy
from sidecar.telemetry import sanitize
from sidecar.telemetry.traceparent import sampled_trace_id


@dataclass(frozen=True, slots=True)
class Clocks:
    """Monotonic seconds for durations, seconds since the epoch for expiry and spans."""

    monotonic: Callable[[], float]
    wall: Callable[[], float]


class Ledger:
    """Mutable notes on one exchange; one writer, the checks of that exchange."""

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        self._started_at = clocks.monotonic()
        self._wall_ns = int(clocks.wall() * 1e9)
        self._own_seconds = 0.0
        self._working_since: float | None = None
        self._authorize: Step | None = None
        self._read: Step | None = None
        self._guardrails: Step | None = None
        self.request_id = ""
        self.traceparent: str | None = None
        self.tracestate: str | None = None
        self.method: str | None = None
        self.route: Route | UnknownRoute | None = None
        self.principal: Principal | None = None
        self.policy: Policy | None = None
        self.exempted: tuple[str, ...] = ()
        self.model: str | None = None
        self.is_streamed = False
        self.body_bytes = 0
        self.text_bytes = 0
        self.cache_tier = CacheTier.NONE
        self.results: tuple[GuardrailResult, ...] = ()
        self.unscanned: tuple[UnscannedReason, ...] = ()
        self.is_redacted = False
        self.answer_status: int | None = None
        self.answer_results: tuple[GuardrailResult, ...] = ()
        self.answer_unscanned: tuple[UnscannedReason, ...] = ()
        self.is_answer_redacted = False
        self.is_ended_within = False
        self.refused: ErrorKind | None = None
        self.error_type: str | None = None
        self.priority: Priority | None = None
        self.estimated_tokens: int | None = None
        """Of input and output together; None where nobody read the request."""
        self.reserved: Reservation | None = None
        self.standings: tuple[LimitStatus, ...] = ()
        self.short: LimitStatus | None = None
        self.limits_are_local = False
        self.judged: JudgedRequest | None = None
        """As the metadata tells it; None where nobody could be charged with the request."""

    def work(self) -> None:
        """Our own time runs from here; waiting for the client's body is not ours."""
        self._working_since = self._clocks.monotonic()

    def rest(self) -> None:
        """Our own time stops here."""
        if self._working_since is not None:
            self._own_seconds += self._clocks.monotonic() - self._working_since
            self._working_since = None

    def authorize_ended(self) -> None:
        """The time since `work` was authorization."""
        self._authorize = self._step()

    def read_ended(self) -> None:
        """The time since `work` was reading the body."""
        self._read = self._step()

    def guardrails_began(self) -> None:
        """The guardrails start here."""
        self._guardrails = Step(self._clocks.monotonic(), 0.0)

    def guardrails_ended(self, results: tuple[GuardrailResult, ...]) -> None:
        """Keep what the guardrails said and how long they took together."""
        self.results = results
        now = self._clocks.monotonic()
        began_at = now if self._guardrails is None else self._guardrails.started_at
        self._guardrails = Step(began_at, now - began_at)

    def take_policy(self, policy: EffectivePolicy) -> None:
        """Keep which policy is in force, as it was merged for this key."""
        self.policy = policy.merged
        self.exempted = policy.exempted

    def take_subject(self, subject: Subject) -> None:
        """Keep what the body said about itself, but none of its text."""
        self.model = subject.model
        self.is_streamed = subject.streamed
        self.unscanned = subject.unscanned
        self.text_bytes = sum(len(part.content) for part in subject.parts)

    def take_answer(
        self,
        results: tuple[GuardrailResult, ...],
        unscanned: tuple[UnscannedReason, ...],
        *,
        is_redacted: bool,
    ) -> None:
        """Keep what the guardrails said of the answer, and what none could read of it."""
        self.answer_results = results
        self.answer_unscanned = unscanned
        self.is_answer_redacted = is_redacted

    def refuse_answer(self, kind: ErrorKind) -> None:
        """The answer was ended after some of it had left."""
        self.refused = kind
        self.is_ended_within = True

    def spent(self) -> Spent:
        """Return the time spent until now."""
        return Spent(
            authorize=_seconds(self._authorize),
            guardrails=_seconds(self._guardrails),
            egret=self._own_until(self._clocks.monotonic()),
        )

    def _own_until(self, now: float) -> float:
        running = 0.0 if self._working_since is None else now - self._working_since
        return self._own_seconds + running

    def since_start_seconds(self) -> float:
        """Return the age of the exchange."""
        return self._clocks.monotonic() - self._started_at

    def metadata(self) -> Metadata:
        """Return what Envoy may write to its access log and to timing headers."""
        outcome = self.outcome()
        named = {"request_id": self.request_id, "verdict": outcome.value}
        if self.refused is not None:
            named["error"] = self.refused.value
            if self.answer_status is not None:
                named["answer_status"] = str(self.answer_status)
        if (model := sanitize.model_name(self.model)) is not None:
            named["model"] = model
        if (trace_id := sampled_trace_id(self.traceparent)) is not None:
            named["trace_id"] = trace_id
        if self.policy is not None:
            named["policy"] = self.policy.name
        self.judged = self._judged(outcome, model)
        usage = () if self.judged is None else usage_metadata(self.judged)
        timing = timing_metadata(self.spent())
        return (*named.items(), *self._holder(), *usage, *timing)

    def _holder(self) -> Metadata:
        """Return whose request it is and what it is taken for."""
        if self.principal is None:
            return ()
        whose = {
            "key_id": self.principal.key_id,
            "team": self.principal.team_name,
            "organization": self.principal.organization_name,
        }
        if self.priority is not None:
            whose["priority"] = self.priority.value
        if self.estimated_tokens is not None:
            # Text, as a descriptor of Envoy's rate limits takes nothing else.
            whose["estimated_tokens"] = str(self.estimated_tokens)
        return tuple(whose.items())

    def judge_usage(self) -> JudgedRequest | None:
        """Return what is known of the request now; None where nobody could be charged with it."""
        return self._judged(self.outcome(), sanitize.model_name(self.model))

    def _judged(self, outcome: ExchangeOutcome, model: str | None) -> JudgedRequest | None:
        if self.principal is None:
            return None
        route = self.route if isinstance(self.route, Route) else None
        return JudgedRequest(
            request_id=self.request_id,
            occurred_at=_moment(self._wall_ns),
            key_id=self.principal.key_id,
            team_id=self.principal.team_id,
            organization_id=self.principal.organization_id,
            decision=_DECISIONS.get(outcome, DecisionKind.ALLOW),
            operation=None if route is None else route.operation.value,
            provider=None if route is None else route.dialect.value,
            model=model,
            is_streamed=self.is_streamed,
            text_bytes=self.text_bytes,
            guardrails={
                result.guardrail.name: result.verdict.value
                for result in self.results
                if result.verdict is not Verdict.PASS
            }
            or None,
            reserved=self.reserved,
        )

    def outcome(self) -> ExchangeOutcome:
        """Return what the exchange comes to if nothing else happens."""
        if self.refused is not None:
            is_ours = self.refused.http_status >= 500  # noqa: PLR2004 - HTTP server errors
            return ExchangeOutcome.FAILED if is_ours else ExchangeOutcome.REFUSED
        if self.is_redacted or self.is_answer_redacted:
            return ExchangeOutcome.REDACTED
        return ExchangeOutcome.FLAGGED if self._is_flagged() else ExchangeOutcome.ALLOWED

    def report(self, outcome: ExchangeOutcome) -> ExchangeReport:
        """Return the final report."""
        now = self._clocks.monotonic()
        return ExchangeReport(
            request_id=self.request_id,
            outcome=outcome,
            timings=Timings(
                wall_ns=self._wall_ns,
                started_at=self._started_at,
                seconds=now - self._started_at,
                overhead_seconds=self._own_until(now),
                authorize=self._authorize,
                read=self._read,
                guardrails=self._guardrails,
            ),
            traceparent=self.traceparent,
            tracestate=self.tracestate,
            route=self.route,
            method=self.method,
            model=self.model,
            streamed=self.is_streamed,
            principal=self.principal,
            policy=self.policy,
            error=self.refused,
            error_type=self.error_type,
            status=self._status(),
            results=(*self.results, *self.answer_results),
            exempted=self.exempted,
            unscanned=(*self.unscanned, *self.answer_unscanned),
            cache_tier=self.cache_tier,
            body_bytes=self.body_bytes,
        )

    def _is_flagged(self) -> bool:
        flags = self.policy is not None and self.policy.unscanned is UnscannedAction.FLAG
        if flags and (self.unscanned or self.answer_unscanned):
            return True
        return any(
            result.verdict is Verdict.FLAG and result.guardrail.mode is Mode.ENFORCE
            for result in (*self.results, *self.answer_results)
        )

    def _status(self) -> int | None:
        """Return the status of our own answer; one that was ended within has its upstream's."""
        return None if self.refused is None or self.is_ended_within else self.refused.http_status

    def _step(self) -> Step:
        now = self._clocks.monotonic()
        since = now if self._working_since is None else self._working_since
        return Step(since, now - since)


_DECISIONS: Final = {
    ExchangeOutcome.REDACTED: DecisionKind.REDACT,
    ExchangeOutcome.REFUSED: DecisionKind.DENY,
    ExchangeOutcome.FAILED: DecisionKind.DENY,
}


def _moment(wall_ns: int) -> datetime:
    moment = datetime.fromtimestamp(wall_ns // 1_000_000_000, UTC)
    return moment.replace(microsecond=wall_ns // 1000 % 1_000_000)


def _seconds(step: Step | None) -> float:
    return 0.0 if step is None else step.seconds
