"""The facts of one request, and the verdict, metadata and report that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from operator import attrgetter
from typing import Final

from sidecar.domain.finding import GuardrailResult, Verdict, count_findings
from sidecar.domain.limits import LimitStatus, Reservation
from sidecar.domain.metadata import EPOCH
from sidecar.domain.policy import Mode, UnscannedAction
from sidecar.domain.principal import KeyRecord
from sidecar.domain.report import Clocks, ExchangeOutcome, ExchangeReport, Step
from sidecar.domain.subject import Dialect, Route, Subject, UnscannedReason
from sidecar.domain.usage import DecisionKind, JudgedRequest
from sidecar.policy.snapshot import EffectivePolicy


@dataclass(frozen=True, slots=True)
class Allowance:
    """The answer of the limiter: the state of the limits, and the reservation.

    `short` is the limit that has no room, and `never_passes` means that it will have none for the
    request at any time. `is_local`: the shared counts were unavailable.
    """

    standings: tuple[LimitStatus, ...] = ()
    short: LimitStatus | None = None
    reserved: Reservation | None = None
    is_local: bool = False
    never_passes: bool = False


@dataclass(frozen=True, slots=True)
class AnswerFacts:
    """The results of the guardrails on an answer."""

    results: tuple[GuardrailResult, ...] = ()
    unscanned: tuple[UnscannedReason, ...] = ()
    is_redacted: bool = False
    is_flagged: bool = False


NO_ALLOWANCE: Final = Allowance()
NO_ANSWER: Final = AnswerFacts()


class RequestRecord(ExchangeReport, kw_only=True):
    """The facts of one request, each set once, by the stage of the pipeline that finds it.

    Set by the first stage are `request_id`, `method`, `path`, `route` and `dialect`; by admission
    `cache_tier`, `principal`, `key` and `policy`; by reading `subject`, `alias` (the requested
    name of the model, if the policy has another for it), `text_bytes` (1 at least) and
    `body_bytes`; by limits `estimated_tokens` and `allowance`; by guardrails `policy` (that of the
    model), `results`, `is_flagged` and `is_redacted`; by the answer's side `answer_status` and
    `answer`.
    `judged` is the verdict as in the metadata, None if the key's owner is unknown.
    `is_counted` while the request has a place among those under judgement, as one of `owner`: the
    organization, empty until the key is known.
    `is_ended_within`: the answer was ended after some of it had left. `working_since` is when
    Egret's own time was started, None while it waits. `usage_source` is the source by which this
    worker accounts for the request itself.
    """

    # Built in C, with a value for every fact, as a request may end in any stage.
    clocks: Clocks
    request_id: str = ""
    outcome: ExchangeOutcome = ExchangeOutcome.ALLOWED
    seconds: float = 0.0
    overhead_seconds: float = 0.0
    policy: EffectivePolicy | None = None  # type: ignore[mutable-override]  # pyright: ignore[reportIncompatibleVariableOverride]  # only the pipeline sets it
    working_since: float | None = None
    stream_name: str = ""
    path: str = ""
    is_counted: bool = False
    owner: str = ""
    usage_source: str | None = None
    dialect: Dialect = Dialect.OPENAI
    key: KeyRecord | None = None
    subject: Subject | None = None
    alias: str | None = None
    text_bytes: int = 0
    estimated_tokens: int | None = None
    allowance: Allowance = NO_ALLOWANCE
    is_redacted: bool = False
    is_flagged: bool = False
    answer_status: int | None = None
    answer: AnswerFacts = NO_ANSWER
    is_ended_within: bool = False
    judged: JudgedRequest | None = None

    def work(self) -> float:
        """Start Egret's own time: waiting for the client's body or the provider is not part."""
        self.working_since = now = self.clocks.monotonic()
        return now

    def rest(self) -> None:
        """Stop Egret's own time."""
        if self.working_since is not None:
            self.overhead_seconds += self.clocks.monotonic() - self.working_since
            self.working_since = None

    def step(self, since: float | None = None) -> Step:
        """Return the stretch from *since*, or from the start of the own time, until now."""
        now = self.clocks.monotonic()
        if since is None:
            since = now if self.working_since is None else self.working_since
        return since, now - since

    def spent_seconds(self, now: float) -> tuple[float, float, float]:
        """Return the seconds of authorization, of guardrails, and of all of Egret's own time."""
        running = 0.0 if self.working_since is None else now - self.working_since
        return (
            0.0 if self.authorize is None else self.authorize[1],
            0.0 if self.guardrails is None else self.guardrails[1],
            self.overhead_seconds + running,
        )

    def outcome_now(self) -> ExchangeOutcome:
        """Return the outcome of the request if nothing else happens."""
        if self.error is not None:
            is_ours = self.error.spec.status >= 500  # noqa: PLR2004 - HTTP server errors
            return ExchangeOutcome.FAILED if is_ours else ExchangeOutcome.REFUSED
        if self.is_redacted or self.answer.is_redacted:
            return ExchangeOutcome.REDACTED
        if self.unscanned or self.answer.unscanned:
            policy = self.policy
            if policy is not None and policy.unscanned is UnscannedAction.FLAG:
                return ExchangeOutcome.FLAGGED
        is_flagged = self.is_flagged or self.answer.is_flagged
        return ExchangeOutcome.FLAGGED if is_flagged else ExchangeOutcome.ALLOWED

    def judged_request(self, outcome: ExchangeOutcome, model: str | None) -> JudgedRequest | None:
        """Return the request as usage and limits account for it; None if its owner is unknown."""
        principal = self.principal
        if principal is None:
            return None
        route = self.route if isinstance(self.route, Route) else None
        verdicts: dict[str, str] = {}
        for result in self.results:
            # A failure in shadow has let nothing pass unchecked, and refuses nothing.
            if result.verdict is not Verdict.PASS and (
                result.failure is None or result.guardrail.mode is not Mode.SHADOW
            ):
                verdicts[result.guardrail.name] = result.verdict._value_
        return JudgedRequest(
            request_id=self.request_id,
            # Without a float, which could be a microsecond off; by position, for speed.
            occurred_at=EPOCH + timedelta(0, 0, self.wall_ns // 1000),
            key_id=principal.key_id,
            team_id=principal.team_id,
            organization_id=principal.organization_id,
            decision=_DECISIONS.get(outcome._value_, DecisionKind.ALLOW),
            operation=None if route is None else route.operation._value_,
            provider=None if route is None else route.dialect._value_,
            model=model,
            is_streamed=self.streamed,
            text_bytes=self.text_bytes,
            guardrails=verdicts or None,
            reserved=self.allowance.reserved,
            service_tier=None if self.subject is None else self.subject.service_tier,
        )

    def complete(self, outcome: ExchangeOutcome) -> None:
        """Set the facts that only the end of the request shows."""
        self.rest()
        self.outcome = outcome
        self.seconds = self.clocks.monotonic() - self.started_at
        if self.policy is not None:
            self.exempted = self.policy.exempted
        if self.error is not None and not self.is_ended_within:
            self.status = self.error.spec.status
        self.results += self.answer.results
        if any(map(_findings_of, self.results)):
            parts = () if self.subject is None else self.subject.parts
            self.findings = count_findings(self.results, parts)
        self.unscanned += self.answer.unscanned


_findings_of: Final = attrgetter("findings")
_DECISIONS: Final[dict[str, DecisionKind]] = {
    ExchangeOutcome.REDACTED.value: DecisionKind.REDACT,
    ExchangeOutcome.REFUSED.value: DecisionKind.DENY,
    ExchangeOutcome.FAILED.value: DecisionKind.DENY,
}
