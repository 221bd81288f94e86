"""Limits as bars: used, the room, and for calendar periods the forecast of their end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self

from sidecar.admin.limits import (
    Holder,
    LiveLimit,
    LiveLimits,
    Owner,
    Source,
    holders_for,
    live_limits,
)
from sidecar.admin.owners import ChangeRefusedError
from sidecar.admin_api.access import Access
from sidecar.admin_api.roles import Permission
from sidecar.domain.limits import Limit
from sidecar.limits.limit_check import CalendarWindow, window_of
from sidecar.limits.limit_syntax import shown, shown_amount, shown_for, shown_span
from sidecar.limits.local_shares import period_start
from sidecar.settings.process import Settings
from sidecar.storage.pool import Connection

FORECAST_FROM: Final = 0.03
"""Share of a period that must be over: of an hour of a month nothing follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitBar:
    """One limit as a page draws it; shares are of its room, None where nothing is counted.

    `forecast` is the share at the end of the period if it goes on as so far. If the room
    `is_at_once`, it is the burst of a sliding window.
    """

    id: str
    level: str
    whose: str
    kind: str
    limit: str
    scope: str
    used: str | None
    room: str
    share: float | None
    forecast: float | None
    forecast_amount: str | None
    resets_in: str | None
    resets_at: datetime | None
    is_from_records: bool
    is_at_once: bool

    @classmethod
    def of(cls, live: LiveLimit, *, now: float) -> Self:
        """Return the bar of a limit as it stands."""
        limit, used = live.limit, live.used
        share = None if used is None else (used / live.room if live.room else 1.0)
        forecast = None if used is None else forecast_of(limit, used, now=now)
        resets_at = live.resets_at
        return cls(
            id=limit.id,
            level=limit.level.value,
            whose=live.holder.name,
            kind=shown(limit).partition("=")[0],
            limit=shown(limit),
            scope=shown_for(limit),
            used=None if used is None else shown_amount(limit.measure, used),
            room=shown_amount(limit.measure, live.room),
            share=share,
            forecast=None if forecast is None or not live.room else forecast / live.room,
            forecast_amount=None
            if forecast is None
            else shown_amount(limit.measure, round(forecast)),
            resets_in=None if resets_at is None else shown_span(max(0.0, resets_at - now)),
            resets_at=None if resets_at is None else datetime.fromtimestamp(resets_at, UTC),
            is_from_records=live.source is Source.RECORDS,
            is_at_once=live.room != limit.amount,
        )


@dataclass(frozen=True, slots=True)
class LimitBars:
    """Bars, and why the shared counts could not be read, if so.

    `unreadable` has an error for each owner whose limits this version cannot read.
    """

    bars: Sequence[LimitBar]
    away: str | None
    unreadable: Sequence[ChangeRefusedError]


async def limit_bars(access: Access, owner: Owner) -> LimitBars:
    """Return the limits that hold for *owner*, with those above it that the person may view.

    Raises:
        ChangeRefusedError: there is no such owner.
    """
    holders = await holders_for(access.connection, owner)
    viewed = [
        one for one in holders if access.allows(Permission.VIEW, one.organization_id, one.team_id)
    ]
    return await bars_of(access.connection, access.settings, viewed)


async def bars_of(
    connection: Connection, settings: Settings, holders: Sequence[Holder]
) -> LimitBars:
    """Return the limits of *holders*, who belong to one organization."""
    now = time.time()
    found: LiveLimits = await live_limits(connection, settings.valkey, holders, now=now)
    return LimitBars(
        [LimitBar.of(one, now=now) for one in found.limits],
        found.away,
        [one.unreadable for one in holders if one.unreadable is not None],
    )


def forecast_of(limit: Limit, used: int, *, now: float) -> float | None:
    """Return the amount at the end of a calendar period at the present pace; None for others."""
    window = window_of(limit, now=now)
    if not isinstance(window, CalendarWindow):
        return None
    began_at = period_start(window.borders, now)
    ends_at = next(border for border in window.borders if border > now)
    passed = (now - began_at) / (ends_at - began_at)
    return used / passed if passed >= FORECAST_FROM else None
