"""The facts of one request, and the verdict, metadata and report that follow from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sidecar.domain.errors import ErrorKind
from sidecar.domain.finding import GuardrailResult, Verdict
from sidecar.domain.limits import Limit, LimitStatus, Priority, Reservation
from sidecar.domain.policy import Mode, UnscannedAction
from sidecar.domain.principal import Principal
from sidecar.domain.report import CacheTier, ExchangeOutcome, ExchangeReport, Step, Timings
from sidecar.domain.subject import Dialect, Route, Subject, UnknownRoute, UnscannedReason
from sidecar.domain.usage import DecisionKind, JudgedRequest
from sidecar.policy.snapshot import EffectivePolicy
from sidecar.telemetry import sanitize


@dataclass(frozen=True, slots=True)
class Clocks:
    """Monotonic seconds for durations, seconds since the epoch for expiry and spans."""

    monotonic: Callable[[], float]
    wall: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Caller:
    """An accepted key: its owner, and the policy and limits that hold for its requests.

    `allowed_models` is the nearest list of globs, None where every model is allowed. `limits` are
    those of key, team and organization.
    """

    principal: Principal
    policy: EffectivePolicy
    allowed_models: tuple[str, ...] | None
    limits: tuple[Limit, ...] = ()
    priority: Priority = Priority.STANDARD


@dataclass(frozen=True, slots=True)
class Allowance:
    """The answer of the limiter: the state of the limits, and the reservation.

    `short` is the limit that has no room. `is_local`: the shared counts were unavailable.
    """

    standings: tuple[LimitStatus, ...] = ()
    short: LimitStatus | None = None
    reserved: Reservation | None = None
    is_local: bool = False


@dataclass(frozen=True, slots=True)
class AnswerFacts:
    """The results of the guardrails on an answer."""

    results: tuple[GuardrailResult, ...] = ()
    unscanned: tuple[UnscannedReason, ...] = ()
    is_redacted: bool = False


NO_ALLOWANCE: Final = Allowance()
NO_ANSWER: Final = AnswerFacts()


class RequestRecord:
    """The facts of one request, each set once, by the stage of the pipeline that finds it.

    `headers`: set by the first stage are `request_id`, `method`, `path`, `route` and `dialect`; by
    admission `tier`, `principal` and `caller`; by reading `subject`, `text_bytes` and
    `body_bytes`; by limits `estimated_tokens` and `allowance`; by guardrails `policy` (that of the
    model), `results` and `is_redacted`; by the answer's side `answer_status` and `answer`.
    """

    __slots__ = (
        "_clocks",
        "_own_seconds",
        "_working_since",
        "allowance",
        "answer",
        "answer_status",
        "authorize",
        "body_bytes",
        "caller",
        "dialect",
        "error_type",
        "estimated_tokens",
        "guardrails",
        "is_counted",
        "is_ended_within",
        "is_redacted",
        "judged",
        "method",
        "path",
        "policy",
        "principal",
        "read",
        "refused",
        "request_id",
        "results",
        "route",
        "started_at",
        "stream_name",
        "subject",
        "text_bytes",
        "tier",
        "traceparent",
        "tracestate",
        "unscanned",
        "wall_ns",
    )

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        self._own_seconds = 0.0
        self._working_since: float | None = None
        self.started_at = clocks.monotonic()
        self.wall_ns = int(clocks.wall() * 1e9)
        self.traceparent: str | None = None
        self.tracestate: str | None = None
        self.stream_name = ""
        self.is_counted = False
        self.request_id = self.path = ""
        self.method: str | None = None
        self.route: Route | UnknownRoute | None = None
        self.dialect = Dialect.OPENAI
        self.tier = CacheTier.NONE
        self.principal: Principal | None = None
        self.caller: Caller | None = None
        self.policy: EffectivePolicy | None = None
        self.subject: Subject | None = None
        self.body_bytes = self.text_bytes = 0
        self.estimated_tokens: int | None = None
        self.allowance = NO_ALLOWANCE
        self.results: tuple[GuardrailResult, ...] = ()
        self.unscanned: tuple[UnscannedReason, ...] = ()
        self.is_redacted = False
        self.answer_status: int | None = None
        self.answer = NO_ANSWER
        self.refused: ErrorKind | None = None
        self.is_ended_within = False
        """The answer was ended after some of it had left."""
        self.error_type: str | None = None
        self.authorize: Step | None = None
        self.read: Step | None = None
        self.guardrails: Step | None = None
        self.judged: JudgedRequest | None = None
        """As in the metadata; None if the key's owner is unknown."""

    def work(self) -> float:
        """Start Egret's own time: waiting for the client's body or the provider is not part."""
        self._working_since = now = self._clocks.monotonic()
        return now

    def rest(self) -> None:
        """Stop Egret's own time."""
        if self._working_since is not None:
            self._own_seconds += self._clocks.monotonic() - self._working_since
            self._working_since = None

    def step(self, since: float | None = None) -> Step:
        """Return the stretch from *since*, or from the start of the own time, until now."""
        now = self._clocks.monotonic()
        if since is None:
            since = now if self._working_since is None else self._working_since
        return Step(since, now - since)

    def spent_seconds(self, now: float) -> tuple[float, float, float]:
        """Return the seconds of authorization, of guardrails, and of all of Egret's own time."""
        running = 0.0 if self._working_since is None else now - self._working_since
        return (
            0.0 if self.authorize is None else self.authorize.seconds,
            0.0 if self.guardrails is None else self.guardrails.seconds,
            self._own_seconds + running,
        )

    def outcome(self) -> ExchangeOutcome:
        """Return the outcome of the request if nothing else happens."""
        if self.refused is not None:
            is_ours = self.refused.http_status >= 500  # noqa: PLR2004 - HTTP server errors
            return ExchangeOutcome.FAILED if is_ours else ExchangeOutcome.REFUSED
        if self.is_redacted or self.answer.is_redacted:
            return ExchangeOutcome.REDACTED
        if self.unscanned or self.answer.unscanned:
            policy = self.policy
            if policy is not None and policy.unscanned is UnscannedAction.FLAG:
                return ExchangeOutcome.FLAGGED
        # A loop, and no generator: each of its steps is a call, and every request is asked twice.
        for result in self.results + self.answer.results:
            if result.verdict is Verdict.FLAG and result.guardrail.mode is Mode.ENFORCE:
                return ExchangeOutcome.FLAGGED
        return ExchangeOutcome.ALLOWED

    def judge(self, outcome: ExchangeOutcome, model: str | None) -> JudgedRequest | None:
        """Return the request as usage and limits account for it; None if its owner is unknown."""
        principal = self.principal
        if principal is None:
            return None
        route = self.route if isinstance(self.route, Route) else None
        seconds, nanoseconds = divmod(self.wall_ns, 1_000_000_000)
        occurred_at = datetime.fromtimestamp(seconds, UTC)
        verdicts: dict[str, str] = {}
        for result in self.results:
            if result.verdict is not Verdict.PASS:
                verdicts[result.guardrail.name] = result.verdict.value
        return JudgedRequest(
            request_id=self.request_id,
            occurred_at=occurred_at.replace(microsecond=nanoseconds // 1000),
            key_id=principal.key_id,
            team_id=principal.team_id,
            organization_id=principal.organization_id,
            decision=_DECISIONS.get(outcome, DecisionKind.ALLOW),
            operation=None if route is None else route.operation.value,
            provider=None if route is None else route.dialect.value,
            model=model,
            is_streamed=self.subject is not None and self.subject.streamed,
            text_bytes=self.text_bytes,
            guardrails=verdicts or None,
            reserved=self.allowance.reserved,
        )

    def judge_now(self) -> JudgedRequest | None:
        """Return the request as it is known now."""
        return self.judge(self.outcome(), sanitize.model_name(self.model))

    @property
    def model(self) -> str | None:
        """Return the model that the request names, as far as it was read."""
        return None if self.subject is None else self.subject.model

    def report(
        self, outcome: ExchangeOutcome, *, processing_modes: tuple[str, ...] = ()
    ) -> ExchangeReport:
        """Return the final report of a request at rest."""
        now = self._clocks.monotonic()
        policy, subject, answer = self.policy, self.subject, self.answer
        is_own_answer = self.refused is not None and not self.is_ended_within
        return ExchangeReport(
            request_id=self.request_id,
            outcome=outcome,
            timings=Timings(
                self.wall_ns,
                self.started_at,
                now - self.started_at,
                self._own_seconds,
                self.authorize,
                self.read,
                self.guardrails,
            ),
            traceparent=self.traceparent,
            tracestate=self.tracestate,
            route=self.route,
            method=self.method,
            model=None if subject is None else subject.model,
            streamed=subject is not None and subject.streamed,
            principal=self.principal,
            policy=None if policy is None else policy.merged,
            error=self.refused,
            error_type=self.error_type,
            status=self.refused.http_status if self.refused and is_own_answer else None,
            results=self.results + answer.results,
            exempted=() if policy is None else policy.exempted,
            unscanned=self.unscanned + answer.unscanned,
            cache_tier=self.tier,
            body_bytes=self.body_bytes,
            processing_modes=processing_modes,
        )


_DECISIONS: Final = {
    ExchangeOutcome.REDACTED: DecisionKind.REDACT,
    ExchangeOutcome.REFUSED: DecisionKind.DENY,
    ExchangeOutcome.FAILED: DecisionKind.DENY,
}
