"""How limits stand now, for people: the counts that workers share, else the records of usage."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sidecar.domain.limits import Limit, Measure
from sidecar.limits.claims import Calendar, Claim, Sliding, Slots, span_of
from sidecar.limits.local import period_start
from sidecar.limits.ports import LimitsUnavailableError, Seen, State
from sidecar.settings.stores import ValkeySettings
from sidecar.storage.limit_holders import Holder
from sidecar.storage.pool import Connection
from sidecar.storage.usage_totals import Asked, totals_of

PATIENCE_SECONDS: Final = 1.0
"""Nobody's request waits for this look, so it may take longer than a worker's."""

_OF_ONE_REQUEST: Final = {Measure.REQUEST_BYTES, Measure.MAX_OUTPUT_TOKENS}


class Source(enum.Enum):
    """Where a number is from."""

    COUNTS = "counts"  # what workers judge by: units held ahead and estimates are in it
    RECORDS = "records"  # of requests that have ended: what a worker would begin to count with
    NONE = "none"  # nothing is counted, or nobody can tell now


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveLimit:
    """How one limit stands: `used` of `room`, which of a sliding window is what fits at once.

    `resets_at`, in seconds since the epoch, is when a period ends, or all of a window is free.
    """

    holder: Holder
    limit: Limit
    room: int
    used: int | None = None
    remaining: int | None = None
    resets_at: float | None = None
    source: Source = Source.NONE


@dataclass(frozen=True, slots=True)
class LiveLimits:
    """How limits stand; `away` says why the shared counts could not be asked, if so."""

    limits: tuple[LiveLimit, ...]
    away: str | None = None


async def live_limits(
    connection: Connection, valkey: ValkeySettings, holders: Sequence[Holder], *, now: float
) -> LiveLimits:
    """Look at every limit of *holders*, who belong to one organization; change nothing."""
    counted = [
        (holder, Claim(limit, span_of(limit, now=now), cost=0, reserve=0))
        for holder in holders
        for limit in holder.limits
        if limit.measure not in _OF_ONE_REQUEST
    ]
    away = None
    seen = Seen(now, (None,) * len(counted))
    try:
        seen = await _look(valkey, counted) or seen
    except LimitsUnavailableError as error:
        away = str(error)
    used = await _by_records(connection, counted, seen)
    found = tuple(
        _live(holder, claim, state, seen.now, used.get(index))
        for index, ((holder, claim), state) in enumerate(zip(counted, seen.states, strict=True))
    )
    bounds = tuple(
        LiveLimit(holder=holder, limit=limit, room=limit.amount)
        for holder in holders
        for limit in holder.limits
        if limit.measure in _OF_ONE_REQUEST
    )
    return LiveLimits((*found, *bounds), away)


async def _look(valkey: ValkeySettings, counted: list[tuple[Holder, Claim]]) -> Seen | None:
    if valkey.url is None:
        raise LimitsUnavailableError("no EGRET_VALKEY__URL is set")
    if not counted:
        return None
    # Here, since a client of Valkey takes its time to import, and most commands need none.
    from sidecar.storage.valkey import open_valkey  # noqa: PLC0415
    from sidecar.storage.valkey_limits import ValkeyLimits  # noqa: PLC0415

    patient = valkey.model_copy(update={"operation_seconds": PATIENCE_SECONDS})
    async with open_valkey(patient) as client:
        store = ValkeyLimits(client, operation_seconds=PATIENCE_SECONDS)
        scope = counted[0][0].organization_id
        return await store.look(scope, [claim for _, claim in counted])


async def _by_records(
    connection: Connection, counted: list[tuple[Holder, Claim]], seen: Seen
) -> dict[int, int]:
    """Return what was used of those calendar limits that nobody counts, by their place."""
    asked = {
        index: Asked(claim.limit, holder.id, period_start(claim.span.borders, seen.now))
        for index, (holder, claim) in enumerate(counted)
        if isinstance(claim.span, Calendar) and seen.states[index] is None
    }
    if not asked:
        return {}
    return dict(zip(asked, await totals_of(connection, list(asked.values())), strict=True))


def _live(
    holder: Holder, claim: Claim, state: State | None, now: float, recorded: int | None
) -> LiveLimit:
    limit, span = claim.limit, claim.span
    room = span.at_once if isinstance(span, Sliding) else limit.amount
    if state is not None:
        resets_at = None if isinstance(span, Slots) else now + state.reset_seconds
        return LiveLimit(
            holder=holder,
            limit=limit,
            room=room,
            used=state.used,
            remaining=state.remaining,
            resets_at=resets_at,
            source=Source.COUNTS,
        )
    if recorded is not None and isinstance(span, Calendar):
        return LiveLimit(
            holder=holder,
            limit=limit,
            room=room,
            used=recorded,
            remaining=max(0, room - recorded),
            resets_at=next(border for border in span.borders if border > now),
            source=Source.RECORDS,
        )
    return LiveLimit(holder=holder, limit=limit, room=room)
