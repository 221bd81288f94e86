"""Reserves a request's share of its limits, before its content is judged."""

from __future__ import annotations

import math
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Final, assert_never

from sidecar.domain.errors import ClientError
from sidecar.domain.limits import MICROS, Measure, Reservation
from sidecar.domain.subject import Route, Subject
from sidecar.domain.usage import TokenCounts
from sidecar.extproc.stream import ExtProcStream
from sidecar.limits.limit_check import Exceeded, LimitCheck, RequestCost, limit_checks
from sidecar.limits.limiter import Granted, LimitDecision, Limited
from sidecar.pipeline.dependencies import Worker
from sidecar.pipeline.record import Allowance, Caller, RequestRecord
from sidecar.pipeline.refusals import budget_error, limit_error, single_request_error

BYTES_A_TOKEN: Final = 4
"""Rather too many tokens than too few: the surplus is given back in the end."""


async def take_limits(
    caller: Caller, stream: ExtProcStream, record: RequestRecord, worker: Worker
) -> ClientError | None:
    """Reserve the request's share of its limits; return the refusal if there is no room.

    Waits for the shared counts, and only if the leases of this worker are not enough.
    """
    route = record.route if isinstance(record.route, Route) else None
    tokens_in, tokens_out = _tokens(record, route, worker.default_output_tokens)
    if record.subject is not None:  # for rate limits of Envoy's own as well
        record.estimated_tokens = tokens_in + tokens_out
    if not caller.limits:
        return None
    subject = record.subject
    has_one_model = subject is not None and not subject.other_models
    demand = RequestCost(
        operation=None if route is None else route.operation.value,
        model=subject.model if subject is not None and has_one_model else None,
        priority=caller.priority,
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        cost=_cost(subject, tokens_in, tokens_out, worker),
        request_bytes=record.body_bytes,
    )
    claims = limit_checks(caller.limits, demand, now=worker.clocks.wall())
    if isinstance(claims, Exceeded):
        return single_request_error(claims.limit)
    if not claims:
        return None
    taken = worker.limiter.take(caller.principal, claims, member=record.request_id)
    if isinstance(taken, Awaitable):
        taken = await stream.wait_for(taken)
    record.allowance = _allowance(taken, demand, claims, worker)
    if record.allowance.short is None:
        worker.recorder.limit_granted(is_local=taken.is_local)
        return None
    limit, seconds = record.allowance.short.limit, record.allowance.short.reset_seconds
    worker.recorder.limit_refused(limit.measure, limit.level, is_local=taken.is_local)
    error = budget_error if limit.measure is Measure.COST else limit_error
    return error(limit, retry_after_seconds=max(1, math.ceil(seconds)))


def _allowance(
    taken: LimitDecision, demand: RequestCost, claims: tuple[LimitCheck, ...], worker: Worker
) -> Allowance:
    match taken:
        case Granted(standings, is_local):
            reserved = Reservation(
                demand.input_tokens,
                demand.output_tokens,
                demand.cost,
                int(worker.clocks.wall() * 1e6),
                tuple([one.limit.id for one in claims if one.limit.models is not None]),
            )
            return Allowance(standings, None, reserved, is_local)
        case Limited(standing, is_local):
            return Allowance((), standing, None, is_local)
        case _:
            assert_never(taken)


def _tokens(record: RequestRecord, route: Route | None, default_output: int) -> tuple[int, int]:
    """Estimate the input, and the most output that is allowed."""
    subject = record.subject
    text = record.body_bytes if subject is None else record.text_bytes
    tokens_in = -(-text // BYTES_A_TOKEN)
    if route is not None and not route.operation.spec.reserves_output:
        return tokens_in, 0
    bound = None if subject is None else subject.max_output_tokens
    return tokens_in, default_output if bound is None else bound


def _cost(subject: Subject | None, tokens_in: int, tokens_out: int, worker: Worker) -> int:
    """Return the estimated cost in millionths of a dollar, rounded up.

    Of several models it is unknown which one runs: the dearest counts.
    """
    if subject is None:
        return 0
    at = datetime.fromtimestamp(worker.clocks.wall(), UTC)
    prices, tokens = worker.prices.current, TokenCounts(tokens_in, tokens_out)
    dearest = 0
    for model in (subject.model, *subject.other_models):
        price = None if model is None else prices.price_of(model, at=at)
        if price is not None:
            dearest = max(dearest, math.ceil(price.cost_of(tokens) * MICROS))
    return dearest
