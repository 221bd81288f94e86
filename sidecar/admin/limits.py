"""Sets and shows limits, their current counts, and the spent part of budgets."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, assert_never

from sidecar.admin.owners import ChangeRefusedError, InvalidValueError, find_team_id
from sidecar.domain.limits import MICROS, Level, Limit, Measure
from sidecar.domain.validation import is_time_zone
from sidecar.limits.budgets import Forecast, forecast, thresholds_passed
from sidecar.limits.limit_check import (
    CalendarWindow,
    ConcurrencyWindow,
    LimitCheck,
    SlidingWindow,
    window_of,
)
from sidecar.limits.limit_syntax import shown
from sidecar.limits.local_shares import period_start
from sidecar.limits.serialization import LimitError, check_limits, read_limits, write_limits
from sidecar.limits.store import LimitReading, LimitsUnavailableError, State
from sidecar.settings.stores import ValkeySettings
from sidecar.storage.pool import Connection
from sidecar.storage.usage_store import Asked, totals_of

# One statement a table: names of tables cannot be parameters.
_READ: Final = {
    Level.KEY: "SELECT public_id, limits FROM api_keys WHERE public_id = $1",
    Level.TEAM: "SELECT id, limits FROM teams WHERE id = $1",
    Level.ORGANIZATION: "SELECT id, limits FROM organizations WHERE name = $1",
}
_WRITE: Final = {
    Level.KEY: "UPDATE api_keys SET limits = $2 WHERE public_id = $1",
    Level.TEAM: "UPDATE teams SET limits = $2 WHERE id = $1",
    Level.ORGANIZATION: "UPDATE organizations SET limits = $2 WHERE id = $1",
}

_MAX_SAID: Final = 500
"""Characters of limits that cannot be read: enough to write them anew."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose limits: `name` as the command line was given it."""

    level: Level
    name: str


@dataclass(frozen=True, slots=True)
class OwnedLimits:
    """The limits of one owner, by its id."""

    owner_id: str
    limits: tuple[Limit, ...]


async def owned_limits(
    connection: Connection, owner: Owner, *, locks: bool = False
) -> OwnedLimits:
    """Return the limits of *owner*, and with *locks* keep other changes of it out.

    Raises:
        ChangeRefusedError: there is no such owner, or its stored limits cannot be read.
    """
    owner_id, text = await _stored(connection, owner, locks=locks)
    try:
        limits = read_limits(text, level=owner.level, owner=owner_id)
    except LimitError as error:
        raise unreadable(owner.level, owner.name, f"{error}: {text[:_MAX_SAID]}") from None
    return OwnedLimits(owner_id, limits)


_LISTED: Final = {Level.KEY: "keys", Level.TEAM: "teams", Level.ORGANIZATION: "orgs"}


def no_such(owner: Owner) -> ChangeRefusedError:
    """Return the error for an unknown name."""
    return ChangeRefusedError(
        f"there is no {owner.level.value} {owner.name}",
        hint=f"see `egret {_LISTED[owner.level]} list`",
    )


def unreadable(level: Level, name: str, reason: str) -> ChangeRefusedError:
    """Return the error for stored limits of *name* that this version cannot read."""
    return ChangeRefusedError(
        f"the limits of {level.value} {name} cannot be read ({reason})",
        hint="no worker lets its keys in: take them away with `egret limits remove --all`",
    )


async def remove_all_limits(connection: Connection, owner: Owner) -> OwnedLimits:
    """Take all limits of *owner* away, whether they can be read or not.

    Raises:
        ChangeRefusedError: there is no such owner.
    """
    owner_id, _ = await _stored(connection, owner, locks=True)
    await connection.execute(_WRITE[owner.level], owner_id, write_limits(()))
    return OwnedLimits(owner_id, ())


async def change_limits(
    connection: Connection,
    owner: Owner,
    change: Callable[[OwnedLimits], tuple[Limit, ...]],
) -> OwnedLimits:
    """Replace the limits of *owner* by the result of *change*, and return it.

    Raises:
        ChangeRefusedError: there is no such owner, its stored limits cannot be read, or the limits
            conflict.
    """
    before = await owned_limits(connection, owner, locks=True)
    limits = change(before)
    try:
        check_limits(limits)
    except LimitError as error:
        raise InvalidValueError(str(error), hint="nothing was changed") from None
    for limit in set(limits).difference(before.limits):
        if not is_time_zone(limit.time_zone):
            raise InvalidValueError(
                f"{limit.time_zone} is the time zone of a machine",
                hint="nothing was changed; write for example Europe/Berlin",
            )
    await connection.execute(_WRITE[owner.level], before.owner_id, write_limits(limits))
    return OwnedLimits(before.owner_id, limits)


async def _stored(connection: Connection, owner: Owner, *, locks: bool) -> tuple[str, str]:
    name = owner.name
    if owner.level is Level.TEAM:
        name = await find_team_id(connection, name)
    row = await connection.fetchrow(_READ[owner.level] + " FOR UPDATE" * locks, name)
    if row is None:
        raise no_such(owner)
    return row[0], row[1]


# Limits of a revoked key apply to no request; if it was named they are shown all the same.
_HOLDERS: Final = """
SELECT * FROM (
    SELECT 'organization' AS level, o.id, o.name, o.limits,
        o.id AS organization_id, NULL AS team_id, NULL AS key_id
    FROM organizations AS o
    UNION ALL
    SELECT 'team', t.id, o.name || '/' || t.name, t.limits, o.id, t.id, NULL
    FROM teams AS t JOIN organizations AS o ON o.id = t.organization_id
    UNION ALL
    SELECT 'key', k.public_id, o.name || '/' || t.name || '/' || k.name, k.limits, o.id, t.id,
        k.public_id
    FROM api_keys AS k
    JOIN teams AS t ON t.id = k.team_id JOIN organizations AS o ON o.id = t.organization_id
    WHERE k.revoked_at IS NULL OR k.public_id = $3
) AS holders
WHERE limits <> '[]' AND ($4::text IS NULL
        OR limits @> jsonb_build_array(jsonb_build_object('measure', $4::text)))
    AND ($1::text IS NULL OR organization_id = $1)
    AND ($2::text IS NULL OR team_id = $2)
    AND ($3::text IS NULL OR key_id = $3)
    AND ($5::text[] IS NULL OR organization_id = ANY($5) OR team_id = ANY($5))
    AND ($7::text IS NULL OR (name, id) > ($7, $8))
ORDER BY name, id LIMIT $6
"""
# A key's own first, as it is judged; of a revoked key as well.
_OF_KEY: Final = """
SELECT k.public_id AS key_id, o.name || '/' || t.name || '/' || k.name AS key_name,
    k.limits AS key_limits,
    t.id AS team_id, o.name || '/' || t.name AS team_name, t.limits AS team_limits,
    o.id AS organization_id, o.name AS organization_name, o.limits AS organization_limits
FROM api_keys AS k
JOIN teams AS t ON t.id = k.team_id JOIN organizations AS o ON o.id = t.organization_id
WHERE k.public_id = $1
"""
_OF_TEAM: Final = """
SELECT t.id AS team_id, o.name || '/' || t.name AS team_name, t.limits AS team_limits,
    o.id AS organization_id, o.name AS organization_name, o.limits AS organization_limits
FROM teams AS t JOIN organizations AS o ON o.id = t.organization_id
WHERE t.id = $1
"""
_OF_ORGANIZATION: Final = """
SELECT id AS organization_id, name AS organization_name, limits AS organization_limits
FROM organizations WHERE name = $1
"""


@dataclass(frozen=True, slots=True)
class Holder:
    """One key, team or organization with its limits; `name` as people call it.

    `team_id` is the team's own id, or that of a key's team. An owner whose stored limits this
    version cannot read has none, and the error as `unreadable`.
    """

    level: Level
    id: str
    name: str
    organization_id: str
    limits: tuple[Limit, ...]
    team_id: str | None = None
    unreadable: ChangeRefusedError | None = None


async def holders_for(connection: Connection, owner: Owner) -> tuple[Holder, ...]:
    """Return whose limits hold for *owner*: its own and those of the levels above it.

    Raises:
        ChangeRefusedError: there is no such owner.
    """
    match owner.level:
        case Level.KEY:
            row = await connection.fetchrow(_OF_KEY, owner.name)
        case Level.TEAM:
            row = await connection.fetchrow(_OF_TEAM, await find_team_id(connection, owner.name))
        case Level.ORGANIZATION:
            row = await connection.fetchrow(_OF_ORGANIZATION, owner.name)
        case _:
            assert_never(owner.level)
    if row is None:
        raise no_such(owner)
    levels, holders = list(Level), []
    for level in levels[levels.index(owner.level) :]:
        team_id = None if level is Level.ORGANIZATION else row["team_id"]
        owner_id, name, text = [row[f"{level.value}_{one}"] for one in ("id", "name", "limits")]
        holder = Holder(level, owner_id, name, row["organization_id"], (), team_id)
        holders.append(_with_limits(holder, text))
    return tuple(holders)


async def readable_holders_for(connection: Connection, owner: Owner) -> tuple[Holder, ...]:
    """Return the same.

    Raises:
        ChangeRefusedError: there is no such owner, or limits cannot be read.
    """
    holders = await holders_for(connection, owner)
    for one in holders:
        if one.unreadable is not None:
            raise one.unreadable
    return holders


async def holders_of_limits(
    connection: Connection,
    owner: Owner | None = None,
    *,
    measure: Measure | None = None,
    within: tuple[str, ...] | None = None,
    after: tuple[str, str] | None = None,
    most: int | None = None,
) -> tuple[Holder, ...]:
    """Return the owners of limits, of *measure* alone if given; of *owner* and those it holds.

    Of these organizations and teams alone with *within*: no limit of others is read. They come by
    name; with *most* that many of them behind *after*, a name and an id.

    Raises:
        ChangeRefusedError: there is no such owner.
    """
    ids: dict[Level, str] = {}
    if owner is not None:
        ids[owner.level] = (await holders_for(connection, owner))[0].id
    rows = await connection.fetch(
        _HOLDERS,
        *map(ids.get, (Level.ORGANIZATION, Level.TEAM, Level.KEY)),
        None if measure is None else measure.value,
        within,
        most,
        *(after or (None, None)),
    )
    holders = []
    for row in rows:
        level, team_id = Level(row["level"]), row["team_id"]
        holder = Holder(level, row["id"], row["name"], row["organization_id"], (), team_id)
        holder = _with_limits(holder, row["limits"])
        chosen = tuple(one for one in holder.limits if measure in {None, one.measure})
        holders.append(replace(holder, limits=chosen))
    return tuple(holders)


def _with_limits(holder: Holder, text: str) -> Holder:
    """Return *holder* with its stored limits, or with the error if they cannot be read."""
    level, name = holder.level, holder.name
    try:
        return replace(holder, limits=read_limits(text, level=level, owner=holder.id))
    except LimitError as error:
        if level is Level.KEY:  # commands take its id
            name = f"{name} ({holder.id})"
        return replace(holder, unreadable=unreadable(level, name, str(error)))


@dataclass(frozen=True, slots=True)
class SpentBudget:
    """One budget in its present period; `spent` is in millionths of a dollar."""

    holder: Holder
    limit: Limit
    period: Forecast
    spent: int

    def exact(self) -> dict[str, Any]:
        """Return every field but the holder; money as text, in dollars to its last digit."""
        limit, period = self.limit, self.period
        return {
            "level": limit.level.value,
            "limit": shown(limit),
            "window": limit.window.value,
            "models": limit.models,
            "operations": limit.operations,
            "time_zone": limit.time_zone,
            "starts_at": _moment(period.start),
            "resets_at": _moment(period.end),
            "spent_usd": _dollars(self.spent),
            "amount_usd": _dollars(limit.amount),
            "projected_usd": None if period.projected is None else _dollars(period.projected),
            "runs_out_at": None if period.runs_out_at is None else _moment(period.runs_out_at),
            "thresholds_passed": thresholds_passed(self.spent, limit.amount),
        }


def _dollars(micros: int) -> str:
    return f"{micros // MICROS}.{micros % MICROS:06d}"


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


async def budgets_of(
    connection: Connection, holders: Iterable[Holder], *, now: float
) -> list[SpentBudget]:
    """Return the budgets of *holders*, by usage records, in the same order."""
    budgets = [
        (holder, limit, period)
        for holder in holders
        for limit in holder.limits
        if (period := forecast(limit, 0, now=now)) is not None
    ]
    asked = [Asked(limit, holder.id, period.start) for holder, limit, period in budgets]
    totals = await totals_of(connection, asked)
    return [
        SpentBudget(holder, limit, forecast(limit, spent, now=now) or period, spent)
        for (holder, limit, period), spent in zip(budgets, totals, strict=True)
    ]


async def has_prices(connection: Connection) -> bool:
    """Return whether any price is set by which a request would cost something."""
    query = "SELECT EXISTS (SELECT FROM prices WHERE valid_from <= now())"
    return bool(await connection.fetchval(query))


PATIENCE_SECONDS: Final = 1.0
"""No request waits for this query, so it may take longer than a worker's."""

_OF_ONE_REQUEST: Final = {Measure.REQUEST_BYTES, Measure.MAX_OUTPUT_TOKENS}


class Source(enum.Enum):
    """Where a number is from."""

    COUNTS = "counts"  # the counters that workers use: includes leased units and estimates
    RECORDS = "records"  # finished requests: the value from which a worker would start counting
    NONE = "none"  # nothing is counted, or the count is unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveLimit:
    """The state of one limit: `used` of `room`, which for a sliding window is its burst.

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
        (holder, LimitCheck(limit, window_of(limit, now=now), cost=0, reserve=0))
        for holder in holders
        for limit in holder.limits
        if limit.measure not in _OF_ONE_REQUEST
    ]
    away = None
    seen = LimitReading(now, (None,) * len(counted))
    try:
        seen = await _look(valkey, counted) or seen
    except LimitsUnavailableError as error:
        away = str(error)
    # Calendar limits without a counter are looked up in the usage records, by their place.
    asked = {
        index: Asked(check.limit, holder.id, period_start(check.window.borders, seen.now))
        for index, (holder, check) in enumerate(counted)
        if isinstance(check.window, CalendarWindow) and seen.states[index] is None
    }
    totals = await totals_of(connection, list(asked.values())) if asked else []
    used = dict(zip(asked, totals, strict=True))
    found = tuple(
        _live(holder, check, state, seen.now, used.get(index))
        for index, ((holder, check), state) in enumerate(zip(counted, seen.states, strict=True))
    )
    bounds = tuple(
        LiveLimit(holder=holder, limit=limit, room=limit.amount)
        for holder in holders
        for limit in holder.limits
        if limit.measure in _OF_ONE_REQUEST
    )
    return LiveLimits((*found, *bounds), away)


async def _look(
    valkey: ValkeySettings, counted: list[tuple[Holder, LimitCheck]]
) -> LimitReading | None:
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
        return await store.look(scope, [check for _, check in counted])


def _live(
    holder: Holder, check: LimitCheck, state: State | None, now: float, recorded: int | None
) -> LiveLimit:
    limit, window = check.limit, check.window
    room = window.at_once if isinstance(window, SlidingWindow) else limit.amount
    live = LiveLimit(holder=holder, limit=limit, room=room)
    if state is not None:
        resets_at = None if isinstance(window, ConcurrencyWindow) else now + state.reset_seconds
        return replace(
            live,
            used=state.used,
            remaining=state.remaining,
            resets_at=resets_at,
            source=Source.COUNTS,
        )
    if recorded is not None and isinstance(window, CalendarWindow):
        return replace(
            live,
            used=recorded,
            remaining=max(0, room - recorded),
            resets_at=next(border for border in window.borders if border > now),
            source=Source.RECORDS,
        )
    return live
