"""Between reading a request and judging its content: is there room for it?"""

from __future__ import annotations

import math
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, assert_never

from sidecar.checks.admission import Admitted
from sidecar.checks.ledger import Ledger
from sidecar.checks.parts import Parts
from sidecar.checks.wording import budget_error, limit_error, single_request_error
from sidecar.domain.errors import ClientError
from sidecar.domain.limits import MICROS, Measure, Reservation
from sidecar.domain.subject import Route, Subject
from sidecar.domain.usage import TokenCounts
from sidecar.limits.limit_check import Exceeded, LimitCheck, RequestCost, limit_checks
from sidecar.limits.limiter import Granted, LimitDecision, Limited

BYTES_A_TOKEN: Final = 4
"""Rather too many tokens than too few: what is too much is given back in the end."""


@dataclass(frozen=True, slots=True)
class Read:
    """What is known of a request's content: nothing but its size where it was not read."""

    subject: Subject | None = None
    body_bytes: int = 0


class Limiting:
    """Takes what one admitted request needs of its limits."""

    def __init__(self, admitted: Admitted, *, parts: Parts, ledger: Ledger) -> None:
        self._admitted = admitted
        self._parts = parts
        self._ledger = ledger

    def take(
        self, read: Read, route: Route | None
    ) -> ClientError | Awaitable[ClientError | None] | None:
        """Take it; return what the client is told where there is no room.

        Awaits the shared counts, and only where what was taken ahead is not enough.
        """
        tokens = self._tokens(read, route)
        if read.subject is not None:  # for limits of Envoy's own as well
            self._ledger.estimated_tokens = sum(tokens)
        limits = self._admitted.limits
        principal = self._ledger.principal
        if not limits or principal is None:
            return None
        demand = self._demand(read, route, tokens)
        checks = limit_checks(limits, demand, now=self._parts.clocks.wall())
        if isinstance(checks, Exceeded):
            return single_request_error(checks.limit)
        if not checks:
            return None
        outcome = self._parts.limiter.take(principal, checks, member=self._ledger.request_id)
        if isinstance(outcome, (Granted, Limited)):
            return self._conclude(outcome, demand, checks)
        return self._conclude_later(outcome, demand, checks)

    async def _conclude_later(
        self,
        outcome: Awaitable[LimitDecision],
        demand: RequestCost,
        checks: tuple[LimitCheck, ...],
    ) -> ClientError | None:
        return self._conclude(await outcome, demand, checks)

    def _conclude(
        self, outcome: LimitDecision, demand: RequestCost, checks: tuple[LimitCheck, ...]
    ) -> ClientError | None:
        self._ledger.limits_are_local = outcome.is_local
        match outcome:
            case Granted(standings):
                self._ledger.standings = standings
                self._parts.recorder.limit_granted(is_local=outcome.is_local)
                self._ledger.reserved = Reservation(
                    demand.input_tokens,
                    demand.output_tokens,
                    demand.cost,
                    int(self._parts.clocks.wall() * 1e6),
                    tuple([one.limit.id for one in checks if one.limit.models is not None]),
                )
                return None
            case Limited(standing):
                self._ledger.short = standing
                limit = standing.limit
                self._parts.recorder.limit_refused(
                    limit.measure, limit.level, is_local=outcome.is_local
                )
                seconds = max(1, math.ceil(standing.reset_seconds))
                if limit.measure is Measure.COST:
                    return budget_error(limit, retry_after_seconds=seconds)
                return limit_error(limit, retry_after_seconds=seconds)
            case _:
                assert_never(outcome)

    def _demand(self, read: Read, route: Route | None, tokens: tuple[int, int]) -> RequestCost:
        subject = read.subject
        is_of_one = subject is not None and not subject.other_models
        model = subject.model if subject is not None and is_of_one else None
        tokens_in, tokens_out = tokens
        return RequestCost(
            operation=None if route is None else route.operation.value,
            model=model,
            priority=self._admitted.priority,
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            cost=self._cost(subject, tokens_in, tokens_out),
            request_bytes=read.body_bytes,
        )

    def _tokens(self, read: Read, route: Route | None) -> tuple[int, int]:
        """Estimate input, and the most output that is allowed."""
        subject = read.subject
        text = read.body_bytes if subject is None else self._ledger.text_bytes
        tokens_in = -(-text // BYTES_A_TOKEN)
        if route is not None and not route.operation.spec.reserves_output:
            return tokens_in, 0
        bound = None if subject is None else subject.max_output_tokens
        return tokens_in, self._parts.default_output_tokens if bound is None else bound

    def _cost(self, subject: Subject | None, tokens_in: int, tokens_out: int) -> int:
        """Return the estimated cost in millionths of a dollar, rounded up.

        Of several models nobody knows which one runs: it is that of the dearest.
        """
        if subject is None:
            return 0
        at = datetime.fromtimestamp(self._parts.clocks.wall(), UTC)
        prices, tokens = self._parts.prices.current, TokenCounts(tokens_in, tokens_out)
        dearest = 0
        for model in (subject.model, *subject.other_models):
            price = None if model is None else prices.price_of(model, at=at)
            if price is not None:
                dearest = max(dearest, math.ceil(price.cost_of(tokens) * MICROS))
        return dearest
