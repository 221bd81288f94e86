"""Limits of keys, teams and organizations, as the command line reads and writes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sidecar.domain.limits import Level, Limit
from sidecar.limits.written import LimitError, check_limits, read_limits, write_limits
from sidecar.storage.administration import ChangeRefusedError, find_team_id
from sidecar.storage.pool import Connection

# One statement a table: names of tables cannot be parameters.
_READ: Final = {
    Level.KEY: "SELECT public_id, limits FROM api_keys WHERE public_id = $1 FOR UPDATE",
    Level.TEAM: "SELECT id, limits FROM teams WHERE id = $1 FOR UPDATE",
    Level.ORGANIZATION: "SELECT id, limits FROM organizations WHERE name = $1 FOR UPDATE",
}
_WRITE: Final = {
    Level.KEY: "UPDATE api_keys SET limits = $2 WHERE public_id = $1",
    Level.TEAM: "UPDATE teams SET limits = $2 WHERE id = $1",
    Level.ORGANIZATION: "UPDATE organizations SET limits = $2 WHERE id = $1",
}


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


async def owned_limits(connection: Connection, owner: Owner) -> OwnedLimits:
    """Return the limits of *owner*.

    Raises:
        ChangeRefusedError: there is no such owner.
    """
    name = owner.name
    if owner.level is Level.TEAM:
        name = await find_team_id(connection, name)
    row = await connection.fetchrow(_READ[owner.level], name)
    if row is None:
        raise no_such(owner)
    limits = read_limits(row[1], level=owner.level, owner=row[0])
    return OwnedLimits(row[0], limits)


_LISTED: Final = {Level.KEY: "keys", Level.TEAM: "teams", Level.ORGANIZATION: "orgs"}


def no_such(owner: Owner) -> ChangeRefusedError:
    """Return what is said where nobody of that name is known."""
    return ChangeRefusedError(
        f"there is no {owner.level.value} {owner.name}",
        mend=f"see `egret {_LISTED[owner.level]} list`",
    )


async def change_limits(
    connection: Connection,
    owner: Owner,
    change: Callable[[OwnedLimits], tuple[Limit, ...]],
) -> OwnedLimits:
    """Replace the limits of *owner* by what *change* makes of them, and return those.

    Raises:
        ChangeRefusedError: there is no such owner, or the limits do not go together.
    """
    before = await owned_limits(connection, owner)
    limits = change(before)
    try:
        check_limits(limits)
    except LimitError as error:
        raise ChangeRefusedError(str(error), mend="nothing was changed") from None
    await connection.execute(_WRITE[owner.level], before.owner_id, write_limits(limits))
    return OwnedLimits(before.owner_id, limits)
