"""What is put right once a request is over: more or less was used than was taken for it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from sidecar.domain.limits import Limit, Measure
from sidecar.domain.usage import NO_TOKENS, JudgedRequest, UsageRecord
from sidecar.limits.claims import Calendar, Demand, claims_of, span_of
from sidecar.limits.local import period_start
from sidecar.limits.ports import Change

_USED: Final = {Measure.INPUT_TOKENS, Measure.OUTPUT_TOKENS, Measure.TOKENS, Measure.COST}
"""What is only known in the end. A request stays one request, however it ended."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that is over: what was taken for it, what it used, and when it was judged.

    `demand` is what it was judged by; `at` is in seconds since the epoch.
    """

    demand: Demand
    member: str
    at: float
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0

    @property
    def used(self) -> Demand:
        """The demand as it turned out."""
        return replace(
            self.demand,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cost=self.cost,
        )


def unused(request: JudgedRequest) -> Ended | None:
    """Return the end of a request that came to nothing; None where nothing was taken for it."""
    return ended_with(None, request, cost=None)


def ended_with(
    record: UsageRecord | None, request: JudgedRequest, *, cost: Decimal | None
) -> Ended | None:
    """Return the end of *request* with what its record says it used.

    None where nothing was taken for it. *cost* is in US dollars, None without a price.
    """
    reserved = request.reserved
    if reserved is None:
        return None
    demand = Demand(
        operation=request.operation,
        model=request.model,
        input_tokens=reserved.input_tokens,
        output_tokens=reserved.output_tokens,
        cost=reserved.cost,
    )
    tokens = NO_TOKENS if record is None else record.tokens
    return Ended(
        demand,
        request.request_id,
        request.occurred_at.timestamp(),
        input_tokens=tokens.input,
        output_tokens=tokens.output,
        cost=0 if record is None or cost is None else math.ceil(cost * 1_000_000),
    )


def changes_of(limits: Iterable[Limit], ended: Ended) -> tuple[Change, ...]:
    """Return what is put right of each limit that the request was judged by."""
    # One request's own bounds say nothing here; it was judged by them before.
    counted = tuple(
        limit
        for limit in limits
        if limit.measure not in {Measure.REQUEST_BYTES, Measure.MAX_OUTPUT_TOKENS}
    )
    claims = claims_of(counted, ended.demand, now=ended.at)
    used = ended.used
    changes: list[Change] = []
    for claim in claims if isinstance(claims, tuple) else ():
        limit = claim.limit
        if limit.measure is Measure.CONCURRENT:
            changes.append(Change(limit, 0, member=ended.member))
        elif limit.measure in _USED:
            amount = used.of(limit.measure) - claim.cost
            if amount:
                changes.append(Change(limit, amount, period_start=_start(limit, ended.at)))
    return tuple(changes)


def _start(limit: Limit, at: float) -> int:
    span = span_of(limit, now=at)
    return period_start(span.borders, at) if isinstance(span, Calendar) else 0
