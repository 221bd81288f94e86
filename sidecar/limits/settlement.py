"""Settles the reservation of a request by its actual usage."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import assert_never

from sidecar.domain.limits import MICROS, Limit, Measure, sliding_seconds
from sidecar.domain.usage import NO_TOKENS, JudgedRequest, UsageRecord
from sidecar.limits.limit_check import CalendarWindow, RequestCost, is_for_operation, window_of
from sidecar.limits.local_shares import period_start
from sidecar.limits.store import Adjustment


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """A request that is over: what was taken for it, what it used, and when it was judged.

    `demand` is what it was judged by, with no more of its model than logs may have; `at` is when
    it was taken, in seconds since the epoch. `by_model` names the limits for some models that
    held for it.
    """

    demand: RequestCost
    member: str
    at: float
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    by_model: tuple[str, ...] = ()

    def beyond(self, measure: Measure) -> int:
        """Return how much more of *measure* was used than was taken, below 0 if less."""
        match measure:
            case Measure.INPUT_TOKENS:
                return self.input_tokens - self.demand.input_tokens
            case Measure.OUTPUT_TOKENS:
                return self.output_tokens - self.demand.output_tokens
            case Measure.TOKENS:
                taken = self.demand.input_tokens + self.demand.output_tokens
                return self.input_tokens + self.output_tokens - taken
            case Measure.COST:
                return self.cost - self.demand.cost
            case (
                Measure.REQUESTS  # it stays one request, however it ended
                | Measure.CONCURRENT
                | Measure.REQUEST_BYTES
                | Measure.MAX_OUTPUT_TOKENS
            ):
                return 0
            case _:
                assert_never(measure)


def unused(request: JudgedRequest) -> FinishedRequest | None:
    """Return the end of a request that came to nothing; None where nothing was taken for it."""
    return finished_request(None, request, cost=None)


def finished_request(
    record: UsageRecord | None, request: JudgedRequest, *, cost: Decimal | None
) -> FinishedRequest | None:
    """Return the end of *request* with what its record says it used.

    None where nothing was taken for it. *cost* is in US dollars, None without a price: what was
    taken for it stays taken then.
    """
    reserved = request.reserved
    if reserved is None:
        return None
    demand = RequestCost(
        operation=request.operation,
        model=request.model,
        input_tokens=reserved.input_tokens,
        output_tokens=reserved.output_tokens,
        cost=reserved.cost,
    )
    tokens = NO_TOKENS if record is None else record.tokens
    return FinishedRequest(
        demand,
        request.request_id,
        reserved.taken_us / 1e6 or request.occurred_at.timestamp(),
        input_tokens=tokens.input,
        output_tokens=tokens.output,
        cost=0 if record is None else reserved.cost if cost is None else math.ceil(cost * MICROS),
        by_model=reserved.by_model,
    )


def adjustments_of(limits: Iterable[Limit], ended: FinishedRequest) -> tuple[Adjustment, ...]:
    """Return what is put right of each limit that the request was judged by."""
    changes: list[Adjustment] = []
    for limit in limits:
        if not _was_taken(limit, ended):
            continue
        if limit.measure is Measure.CONCURRENT:
            changes.append(Adjustment(limit, 0, member=ended.member))
        elif amount := ended.beyond(limit.measure):
            start = _start(limit, ended.at)
            taken_at = ended.at if start else 0.0
            changes.append(Adjustment(limit, amount, period_start=start, taken_at=taken_at))
    return tuple(changes)


def _was_taken(limit: Limit, ended: FinishedRequest) -> bool:
    """By name where it is for some models: what is told of the model may be less than it was."""
    if limit.models is not None and limit.id not in ended.by_model:
        return False
    return is_for_operation(limit, ended.demand.operation)


def _start(limit: Limit, at: float) -> int:
    if sliding_seconds(limit.window) is not None:
        return 0
    window = window_of(limit, now=at)
    return period_start(window.borders, at) if isinstance(window, CalendarWindow) else 0
