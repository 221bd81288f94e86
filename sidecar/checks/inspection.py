"""Second step: read the body, look at what it says, and decide."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import assert_never

from sidecar.apis.request_text import read_request
from sidecar.apis.stream_usage import ask_for_usage, can_ask_for_usage
from sidecar.checks.admission import Admitted
from sidecar.checks.answer_judgement import AnswerSetting
from sidecar.checks.ledger import Ledger
from sidecar.checks.limiting import Limiting, Read
from sidecar.checks.parts import Parts
from sidecar.checks.unread import judge_unread
from sidecar.decision.decide import decide, decide_unscanned
from sidecar.domain.errors import ClientError, ErrorKind, client_error
from sidecar.domain.finding import (
    NOTHING_REDACTED,
    Allow,
    Deny,
    Finding,
    GuardrailResult,
    Redact,
    Restoration,
)
from sidecar.domain.http import Headers
from sidecar.domain.limits import Limit
from sidecar.domain.policy import StreamUsage
from sidecar.domain.subject import Malformed, Route, Subject, Unreadable, UnscannedReason
from sidecar.guardrails.runner import RequestInfo
from sidecar.keys.authorize import is_model_allowed
from sidecar.mutations.placeholders import Placeholders
from sidecar.mutations.redaction import RedactionRules, redact


@dataclass(frozen=True, slots=True)
class Passed:
    """The request may go on; `body` replaces its body, None leaves it.

    `restoration` says what the answer is to name again; nothing, mostly. `model` is what the
    provider will read as the one that is asked for, None where nobody can tell.
    """

    body: bytes | None = None
    restoration: Restoration = NOTHING_REDACTED
    model: str | None = None


Inspected = Passed | ClientError


class Inspection:
    """Judges the content of one admitted request."""

    def __init__(self, admitted: Admitted, *, parts: Parts, ledger: Ledger) -> None:
        self._admitted = admitted
        self._policy = admitted.policy
        self._model: str | None = None
        self._parts = parts
        self._ledger = ledger
        self._limiting = Limiting(admitted, parts=parts, ledger=ledger)
        self._route: Route | None = None
        self._may_judge_answer = False
        self.hides_usage = False
        """Whether the answer must lose the counts that its request was made to ask for."""

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits of key, team and organization."""
        return self._admitted.limits

    def inspect(
        self, body: bytes, *, route: Route, headers: Headers, may_judge_answer: bool
    ) -> Inspected | Awaitable[Inspected]:
        """Judge *body*; awaits remote guardrails only, and only where the policy has any."""
        self._ledger.body_bytes = len(body)
        self._route = route
        self._may_judge_answer = may_judge_answer
        read = read_request(route, headers, body)
        self._ledger.read_ended()
        if isinstance(read, Malformed):
            return ClientError(ErrorKind.INVALID_BODY, read.problem)
        subject = read if isinstance(read, Subject) else None
        if subject is not None:
            self._ledger.take_subject(subject)
        limited = self._limiting.take(Read(subject, len(body)), route)
        if isinstance(limited, ClientError):
            return limited
        if limited is None:
            return self._look(read, route, body)
        return self._look_later(limited, lambda: self._look(read, route, body))

    def without_body(
        self, route: Route | None, *, reasons: tuple[UnscannedReason, ...] = ()
    ) -> Inspected | Awaitable[Inspected]:
        """Judge by the headers alone; *reasons* say what of it cannot be read."""
        limited = self._limiting.take(Read(), route)
        if isinstance(limited, ClientError):
            return limited
        if limited is None:
            return self._pass(route, reasons)
        return self._look_later(limited, lambda: self._pass(route, reasons))

    def _pass(self, route: Route | None, reasons: tuple[UnscannedReason, ...]) -> Inspected:
        if reasons:
            return self._pass_unscanned(reasons)
        return Passed(model=None if route is None else route.model)

    async def _look_later(
        self,
        limited: Awaitable[ClientError | None],
        look: Callable[[], Inspected | Awaitable[Inspected]],
    ) -> Inspected:
        error = await limited
        if error is not None:
            return error
        looked = look()
        return looked if isinstance(looked, (Passed, ClientError)) else await looked

    def _look(
        self, read: Subject | Unreadable, route: Route, body: bytes
    ) -> Inspected | Awaitable[Inspected]:
        match read:
            case Unreadable(reason):
                return self._pass_unscanned((reason,), model=route.model)
            case Subject():
                return self._judge(read, body)
            case _:
                assert_never(read)

    def _pass_unscanned(
        self, reasons: tuple[UnscannedReason, ...], *, model: str | None = None
    ) -> Inspected:
        self._ledger.unscanned = reasons
        error = judge_unread(
            reasons,
            action=self._admitted.policy.unscanned,
            model=model,
            allowed_models=self._admitted.allowed_models,
        )
        return Passed(model=model) if error is None else error

    def _judge(self, subject: Subject, body: bytes) -> Inspected | Awaitable[Inspected]:
        allowed = self._admitted.allowed_models
        if allowed is not None:
            named = (subject.model, *subject.other_models)
            if not all(is_model_allowed(one, allowed) for one in named):
                return client_error(ErrorKind.MODEL_NOT_ALLOWED)
        self._model = subject.model
        # Of several models nobody knows which one runs: what is for any of them holds.
        model = None if subject.other_models else subject.model
        self._policy = policy = self._admitted.policy.for_model(model)
        if policy is not self._admitted.policy:
            self._ledger.take_policy(policy)
        if subject.unscanned:
            unscanned = decide_unscanned(subject.unscanned, policy.unscanned)
            if isinstance(unscanned, Deny):
                return unscanned.error
        self._ledger.guardrails_began()
        results = self._parts.inspector.inspect(policy, subject, about=self._about())
        if isinstance(results, tuple):
            return self._decide(results, subject, body)
        return self._decide_later(results, subject, body)

    def answer_setting(self, restoration: Restoration) -> AnswerSetting | None:
        """Return what the answer is judged by; None where nobody looks at it.

        Placeholders of the request are given to nothing else in the answer.
        """
        answers = self._policy.answers
        if not answers.guardrails and not restoration.originals:
            return None
        taken = frozenset(restoration.originals)
        return AnswerSetting(
            policy=answers,
            unscanned=self._policy.unscanned,
            restoration=restoration,
            placeholders=Placeholders(hash_key=self._hash_key(), taken=taken),
            inspector=self._parts.inspector,
            about=self._about(),
            clock=self._parts.clocks.monotonic,
            hides_usage=self.hides_usage,
        )

    def _about(self) -> RequestInfo:
        principal = self._ledger.principal
        return RequestInfo(
            request_id=self._ledger.request_id,
            key_id="" if principal is None else principal.key_id,
            model=self._model,
        )

    async def _decide_later(
        self, results: Awaitable[tuple[GuardrailResult, ...]], subject: Subject, body: bytes
    ) -> Inspected:
        return self._decide(await results, subject, body)

    def _decide(
        self, results: tuple[GuardrailResult, ...], subject: Subject, body: bytes
    ) -> Inspected:
        self._ledger.guardrails_ended(results)
        decision = decide(results)
        match decision:
            case Allow():
                asking = self._asking_for_usage(subject, body)
                return Passed(None if asking is body else asking, model=subject.model)
            case Redact(findings):
                self._ledger.is_redacted = True
                guardrails = {result.guardrail.name: result.guardrail for result in results}
                rules = RedactionRules(guardrails, self._hash_key())
                redacted = redact(body, subject.parts, findings, rules=rules)
                asking = self._asking_for_usage(subject, redacted.body)
                model = self._model_after(findings, subject)
                return Passed(asking, redacted.restoration, model)
            case Deny(error):
                return error
            case _:
                assert_never(decision)

    def _model_after(self, findings: tuple[Finding, ...], subject: Subject) -> str | None:
        """Return the model, unless some of its name is replaced in the body that goes on."""
        if subject.model is None or (self._route is not None and self._route.model is not None):
            return subject.model
        name = subject.model.encode()
        is_changed = any(subject.parts[found.part].content == name for found in findings)
        return None if is_changed else subject.model

    def _asking_for_usage(self, subject: Subject, body: bytes) -> bytes:
        """Return *body*, or one that asks for the counts of its stream where they are wanted."""
        if not subject.streamed or subject.asks_for_usage or self._route is None:
            return body
        if not can_ask_for_usage(self._route):
            return body
        wanted = self._admitted.stream_usage
        match wanted:
            case StreamUsage.ESTIMATE:
                return body
            case StreamUsage.PASS:
                return ask_for_usage(body)
            case StreamUsage.HIDE:
                asking = ask_for_usage(body) if self._may_judge_answer else body
                self.hides_usage = asking is not body
                return asking
            case _:
                assert_never(wanted)

    def _hash_key(self) -> bytes | None:
        """Return the organization's own key, so that none can look for another's values."""
        key, principal = self._parts.redaction_key, self._ledger.principal
        if key is None or principal is None:
            return None
        return hmac.digest(key, principal.organization_id.encode(), "sha256")
