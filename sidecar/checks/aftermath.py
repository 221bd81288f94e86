"""What an exchange leaves behind with others: notes of its use, and what it has taken."""

from __future__ import annotations

from sidecar.checks.ledger import Ledger
from sidecar.checks.parts import Parts
from sidecar.domain.limits import Limit
from sidecar.domain.subject import Route
from sidecar.domain.usage import DecisionKind
from sidecar.limits.settlement import adjustments_of, unused


def note_usage(ledger: Ledger, *, parts: Parts) -> None:
    """Before the request goes on: whatever dies from here on, it is known of."""
    judged = ledger.judged
    if judged is not None and isinstance(ledger.route, Route) and ledger.route.has_body:
        parts.usage.note(judged)


def note_use(ledger: Ledger, *, parts: Parts) -> None:
    """Note that the key was used, where it was good."""
    if ledger.principal is not None:
        is_refused = ledger.refused is not None
        now = parts.clocks.wall()
        parts.uses.note(ledger.principal.key_id, refused=is_refused, at=now)


def keep_in_mind(ledger: Ledger, *, stream: str, parts: Parts) -> None:
    """Remember what Envoy may not hear of, where that would leave anything taken."""
    judged = ledger.judged
    if judged is None or not stream:
        return
    if judged.reserved is not None or judged.decision is not DecisionKind.DENY:
        parts.verdicts.add(stream, judged)


def give_back(ledger: Ledger, *, limits: tuple[Limit, ...], parts: Parts) -> None:
    """Of a request without an answer no access log tells what became of what it took."""
    judged = ledger.judge_usage()
    if judged is not None and (ended := unused(judged)) is not None:
        parts.limiter.settle(judged.organization_id, adjustments_of(limits, ended))
