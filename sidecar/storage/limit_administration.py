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

_MAX_SAID: Final = 500
"""Characters of limits that cannot be read: enough for whoever has to write them anew."""


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
        ChangeRefusedError: there is no such owner, or what is stored with it cannot be read.
    """
    owner_id, text = await _stored(connection, owner)
    try:
        limits = read_limits(text, level=owner.level, owner=owner_id)
    except LimitError as error:
        raise unreadable(owner.level, owner.name, f"{error}: {text[:_MAX_SAID]}") from None
    return OwnedLimits(owner_id, limits)


_LISTED: Final = {Level.KEY: "keys", Level.TEAM: "teams", Level.ORGANIZATION: "orgs"}


def no_such(owner: Owner) -> ChangeRefusedError:
    """Return what is said where nobody of that name is known."""
    return ChangeRefusedError(
        f"there is no {owner.level.value} {owner.name}",
        mend=f"see `egret {_LISTED[owner.level]} list`",
    )


def unreadable(level: Level, name: str, reason: str) -> ChangeRefusedError:
    """Return what is said where the limits of *name* are not what is written today."""
    return ChangeRefusedError(
        f"the limits of {level.value} {name} cannot be read ({reason})",
        mend="no worker lets its keys in: take them away with `egret limits remove --all`",
    )


async def remove_all_limits(connection: Connection, owner: Owner) -> OwnedLimits:
    """Take all limits of *owner* away, whether they can be read or not.

    Raises:
        ChangeRefusedError: there is no such owner.
    """
    owner_id, _ = await _stored(connection, owner)
    await connection.execute(_WRITE[owner.level], owner_id, write_limits(()))
    return OwnedLimits(owner_id, ())


async def change_limits(
    connection: Connection,
    owner: Owner,
    change: Callable[[OwnedLimits], tuple[Limit, ...]],
) -> OwnedLimits:
    """Replace the limits of *owner* by what *change* makes of them, and return those.

    Raises:
        ChangeRefusedError: there is no such owner, what is stored with it cannot be read, or the
            limits do not go together.
    """
    before = await owned_limits(connection, owner)
    limits = change(before)
    try:
        check_limits(limits)
    except LimitError as error:
        raise ChangeRefusedError(str(error), mend="nothing was changed") from None
    await connection.execute(_WRITE[owner.level], before.owner_id, write_limits(limits))
    return OwnedLimits(before.owner_id, limits)


async def _stored(connection: Connection, owner: Owner) -> tuple[str, str]:
    name = owner.name
    if owner.level is Level.TEAM:
        name = await find_team_id(connection, name)
    row = await connection.fetchrow(_READ[owner.level], name)
    if row is None:
        raise no_such(owner)
    return row[0], row[1]
