"""Settles the reservation of a request by its actual usage."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from typing import Final, assert_never

import msgspec
from msgspec.structs import replace

from sidecar.domain.limits import MICROS, Limit, Measure, sliding_seconds, slot_name
from sidecar.domain.metadata import EPOCH
from sidecar.domain.usage import NO_TOKENS, JudgedRequest, UsageRecord
from sidecar.limits.limit_check import CalendarWindow, RequestCost, is_for_operation, window_of
from sidecar.limits.local_shares import period_start
from sidecar.limits.store import Adjustment

_MICROSECOND: Final = timedelta(microseconds=1)


class FinishedRequest(msgspec.Struct, frozen=True, gc=False):
    """A request that is over: the units taken for it, the units used, and the time.

    `demand` was taken `at`, in seconds since the epoch; its model is named as in logs. `by_model`
    names the limits for some models that held for it.
    """

    demand: RequestCost
    member: str
    at: float
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    by_model: tuple[str, ...] = ()

    def beyond(self, measure: Measure) -> int:
        """Return how much more of *measure* was used than taken, below 0 if less."""
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


def unreported(request: JudgedRequest, *, is_used: bool) -> FinishedRequest | None:
    """Return an end of which no record comes: all that was taken is used, or nothing of it.

    None if nothing was taken.
    """
    ended, reserved = finished_request(None, request, cost=None), request.reserved
    if ended is None or reserved is None or not is_used:
        return ended
    return replace(
        ended,
        input_tokens=reserved.input_tokens,
        output_tokens=reserved.output_tokens,
        cost=reserved.cost,
    )


def finished_request(
    record: UsageRecord | None, request: JudgedRequest, *, cost: Decimal | None
) -> FinishedRequest | None:
    """Return the end of *request* with the use that its record holds.

    None if nothing was taken for it. *cost* is in US dollars, None without a price: the reserved
    cost stays taken then.
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
    used = reserved.cost
    if cost is not None:
        # Up or down by a part that no client chooses: always up, a hundred embeddings for 30
        # millionths would count as 100.
        used = int(cost * MICROS + Decimal(request.occurred_at.microsecond % 1000) / 1000)
    return FinishedRequest(
        demand,
        slot_name(request.request_id, (request.occurred_at - EPOCH) // _MICROSECOND),
        reserved.taken_us / 1e6 or request.occurred_at.timestamp(),
        input_tokens=tokens.input,
        output_tokens=tokens.output,
        cost=0 if record is None else used,
        by_model=reserved.by_model,
    )


def adjustments_of(
    limits: Iterable[Limit], finished: FinishedRequest, *, now: float
) -> tuple[Adjustment, ...]:
    """Return the adjustments of each limit from which the request took units.

    *now* is in seconds since the epoch: what a sliding limit has drained is not returned to it.
    """
    at, age = finished.at, max(0.0, now - finished.at)
    changes: list[Adjustment] = []
    for limit in limits:
        # Limits for some models are named: logs may hold less of the model than was judged by.
        is_of_it = limit.models is None or limit.id in finished.by_model
        if not is_of_it or not is_for_operation(limit, finished.demand.operation):
            continue
        if limit.measure is Measure.CONCURRENT:
            changes.append(Adjustment(limit, 0, member=finished.member))
        elif amount := finished.beyond(limit.measure):
            start = 0
            if sliding_seconds(limit.window) is None:
                window = window_of(limit, now=at)
                if isinstance(window, CalendarWindow):
                    start = period_start(window.borders, at)
            changes.append(
                Adjustment(limit, amount, period_start=start, age_seconds=age, taken_at=at)
            )
    return tuple(changes)
